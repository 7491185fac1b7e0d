"""Hydra's configuration for the entry points that use it, with every mistake in one line."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from impasto import cli
from impasto.assets import PHOTOS, nearest, painting
from impasto.errors import UserError, one_line
from impasto.files import STYLE_BYTES

# values without a default, and how to give them
EXAMPLES = {
    "content": "content=photo.jpg",
    "style.image": "style=starry_night, or style.image=my_painting.jpg",
    "data.root": "data.root=DIR",
    "vgg.path": "vgg.path=FILE",
}

# kind of a default → kinds that may replace it, and their name
NUMBERS = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
}

# numbers that may also be left to the program: by a word, or by null, which is their default and shows no kind
AUTOMATIC = ("data.batch_size",)
OPTIONAL = {"data.smallest_size": int, "data.workers": int, "trainer.gradient_clip": float}

# paths and names, which files of the user's could have as lists, numbers or empty
TEXT: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("style.image", "style.name", "data.name", "data.root", "data.packs", "data.keep"), str),
    **dict.fromkeys(("data.validation_root", "vgg.path"), (str, NoneType)),
}

# name → weight: any names, or none
LAYERS = ("loss.style_layers", "loss.content_layers")


def _register_resolvers() -> None:
    """What the configuration files may say: `${painting:NAME}`, `${photos:}`, `${stem:PATH}`."""
    OmegaConf.register_new_resolver("painting", lambda name: str(painting(name)), replace=True)
    OmegaConf.register_new_resolver("photos", lambda: str(PHOTOS), replace=True)
    OmegaConf.register_new_resolver("stem", stem, replace=True)


def compose(config_dir: Path, name: str, words: Sequence[str]) -> DictConfig:
    """Hydra's configuration `name` with its `hydra` node. Raises `UserError` for a word that does not fit."""
    _register_resolvers()
    words = [f"++{word}" if word.partition("=")[0].startswith(LAYERS) else word for word in words]  # Hydra's to add
    with hydra.initialize_config_dir(str(config_dir), version_base="1.3"):
        try:
            config = hydra.compose(name, list(words), return_hydra_config=True)
            choices = [
                word
                for word in words
                if (config_dir / word.partition("=")[0]).is_dir() or word.startswith("hydra.searchpath=")
            ]
            _check_types(config, hydra.compose(name, choices))
            _check_own_files(config, config_dir, name, choices)
            return config
        except MissingConfigException as error:
            group, _, option = (error.missing_cfg_file or "").partition("/")
            known = list(error.options or [])
            own = f"; style.image={option} would be a painting of yours" if group == "style" else ""
            raise UserError(
                f"{group} {option!r} is unknown{nearest(option, known)}; known: {', '.join(known)}{own}"
            ) from None
        except OverrideParseException as error:
            word = str(error.override).removeprefix("++")
            raise UserError(f"{word!r} is not understood: write key=value, see --help") from None
        except UserError:
            raise
        except yaml.YAMLError as error:
            raise UserError(f"a configuration file is no YAML: {one_line(error)}") from None
        except (OmegaConfBaseException, ValueError) as error:  # of ~key, group=null
            raise UserError(f"the configuration does not hold together: {one_line(error)}") from None
        except HydraException as error:
            problem = str(error).splitlines()[0].removesuffix(".")
            key = problem.split("'")[1] if "'" in problem else ""
            known = cli.flatten(OmegaConf.to_container(hydra.compose(name)))
            if problem.startswith(("Sweep parameters", "Ambiguous value")):  # which only train.py -m takes
                raise UserError(f"{key} are several values: say one") from None
            if key and key not in known:
                problem = f"{key!r} is unknown"
            raise UserError(f"{problem}{nearest(key, known)}; --help lists the options") from None


def check_hydras(words: Sequence[str]) -> None:
    """Raise `UserError` for a word that is Hydra's own, and would have it do what we do without it."""
    ours = ("hydra.run.dir", "hydra.searchpath")
    if others := [word for word in words if word.startswith("hydra.") and word.partition("=")[0] not in ours]:
        raise UserError(f"{others[0]} has no say: of Hydra's own words there is hydra.run.dir=DIR")


def combinations(words: Sequence[str]) -> list[list[str]]:
    """The words of each run of a multirun: every combination of values given with commas, in Hydra's grammar."""
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException as error:
        raise UserError(f"{error.override!r} is not understood: write key=value, see --help") from None
    try:
        return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
    except HydraException as error:  # its own grammar has more sweeps than it can expand
        raise UserError(f"{one_line(error)}: write key=value,value") from None


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, all interpolations resolved."""
    for key, example in EXAMPLES.items():
        group, _, leaf = key.rpartition(".")
        node = OmegaConf.select(config, group) if group else config
        if node is not None and OmegaConf.is_missing(node, leaf):
            raise UserError(f"{key}=… is missing: say {example}")
    try:
        ours = OmegaConf.masked_copy(
            config, [key for key in map(str, config) if key != "hydra"]
        )  # whose values need a job
        container: Any = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration does not resolve: {str(error).splitlines()[0]}") from None
    return {str(key): value for key, value in container.items()}


def _check_own_files(config: DictConfig, config_dir: Path, name: str, choices: Sequence[str]) -> None:
    """Compare what files of the user's, in --config-dir, say with the files that ship in their place: one is to fit."""
    for choice in choices:
        group, _, option = choice.partition("=")
        shipped = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
        if not shipped or option in shipped:
            continue
        default = hydra.compose(name, return_hydra_config=True).hydra.runtime.choices[group]
        problem = None
        for other in sorted(shipped, key=lambda other: other != default):
            try:
                _check_types(config, hydra.compose(name, [*choices, f"{group}={other}"]))
                break
            except UserError as error:
                problem = problem or error
        else:
            raise UserError(f"{group}/{option}.yaml: {problem}; configs/{group}/{default}.yaml is one that fits")


def _check_types(config: DictConfig, defaults: DictConfig, prefix: str = "") -> None:
    """Compare the configuration's keys, and the kinds of its values, with those of its defaults."""
    known = [str(key) for key in defaults if key != "hydra"]  # which is Hydra's to check
    there = [str(key) for key in config]  # also those without a value, which `in` does not find
    for key in there:
        if key not in (*known, "hydra") and prefix.removesuffix(".") not in LAYERS:
            raise UserError(f"'{prefix}{key}' is unknown{nearest(key, known)}; --help lists the options")
    for key in known:
        name = f"{prefix}{key}"
        if key not in there:
            if prefix.removesuffix(".") in LAYERS:
                continue
            raise UserError(f"{name!r} is missing")
        given, known_here = (
            not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key)
            for node in (config, defaults)
        )
        if given and name in TEXT and not isinstance(config[key], TEXT[name]):
            raise UserError(f"{name}={config[key]!r} should be text")
        if not (given and known_here):
            continue
        value, default = config[key], defaults[key]
        if isinstance(default, DictConfig):
            if isinstance(value, DictConfig):
                _check_types(value, default, f"{name}.")
            elif value is not None or name not in LAYERS:
                raise UserError(
                    f"{name}={value!r} should be {{name: value, …}}, as in {{{next(iter(default))!s}: 1.0}}"
                )
        if value is None and name in OPTIONAL:
            continue
        allowed, description = NUMBERS.get(OPTIONAL.get(name, type(default)), ((type(value),), ""))
        if type(value) not in allowed and not (name in AUTOMATIC and value == "auto"):
            raise UserError(f"{name}={value!r} should be {description}{' or auto' * (name in AUTOMATIC)}")


def stem(path: str) -> str:
    """A name for files and folders from a path: `My painting (1).jpg` → `My_painting_1`; as long as files may have."""
    words = "".join(letter if letter.isalnum() or letter in "-_" else " " for letter in Path(path).stem).split()
    return os.fsencode("_".join(words))[:STYLE_BYTES].decode("utf-8", "ignore") or "style"
