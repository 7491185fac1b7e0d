"""A run's configuration, checked before its photos are looked at and batch sizes are tried."""

import os
from pathlib import Path
from typing import Any

from impasto.data.choices import check_choices
from impasto.errors import UserError
from impasto.files import STYLE_BYTES, is_utf8
from impasto.image import check_folder
from impasto.losses.objective import check_strength, check_stroke
from impasto.machine import check_devices, check_precision
from impasto.models.vgg import LAYERS, smallest_input
from impasto.schedule import Schedule


def check_names(style: object, run_dir: Path) -> None:
    """Raise `UserError` where a style's name cannot be that of files, or torch could not open those of the run."""
    if not isinstance(style, str) or style != Path(style).name or not style.strip("."):
        raise UserError(f"style.name={style!r} should do as a file name")
    if len(os.fsencode(style)) > STYLE_BYTES:
        raise UserError(f"style.name={style!r} is too long for a file name: it may have {STYLE_BYTES} bytes")
    for option, value in (("style.name", style), ("hydra.run.dir", str(run_dir))):
        if not is_utf8(value):
            raise UserError(f"{option}={value!r} is not UTF-8: torch cannot open files of that name")


def check_words(config: dict[str, Any]) -> None:
    """Raise `UserError` for what would else be found out once all photos have been looked through, hours later."""
    check_strength(config["strength"])
    check_stroke(config["stroke"])
    options = config["trainer"]
    for group, key in (("trainer", "log_every"), ("validation", "every")):
        if config[group][key] < 1:
            raise UserError(f"{group}.{key}={config[group][key]} should be at least 1")
    if options["strategy"] not in ("auto", "ddp"):
        raise UserError(f"trainer.strategy={options['strategy']} is neither auto nor ddp")
    check_precision(options)
    check_devices(options)
    if (clip := options["gradient_clip"]) is not None and not clip > 0:
        raise UserError(f"trainer.gradient_clip={clip} should be above 0; inf for none")
    schedule_of(config)
    data = config["data"]
    check_choices(**{**data, "batch_size": 1 if data["batch_size"] == "auto" else data["batch_size"]})
    for root in (data["root"], data["validation_root"]):
        if root is not None:
            check_folder(root)
    layers = {name for kind in ("style", "content") for name in config["loss"][f"{kind}_layers"] or {}}
    margin = config["model"]["margin"]
    smallest = (smallest_input(known) if (known := layers & {*LAYERS}) else 0) + 2 * margin
    for option in ("image_size", "smallest_size"):
        if data[option] is not None and data[option] < smallest:
            raise UserError(
                f"data.{option}={data[option]} is too small for VGG19: it takes {smallest} px"
                + (f", of which model.margin={margin} twice" if margin else "")
            )


def schedule_of(config: dict[str, Any]) -> Schedule:
    """The run's schedule. Raises `UserError` for a value out of its range."""
    return Schedule(**{key: value for key, value in config["schedule"].items() if key != "name"})
