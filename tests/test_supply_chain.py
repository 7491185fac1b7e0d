"""What the product may install, import, fetch and execute: read from its sources, not run."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *ROOT.glob("*.py")]
# serialisations that execute what they load, and Hydra's way to call whatever a configuration names
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "hydra.utils"}


def wanted(*extras: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for with these extras, by name."""
    found = {}
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra_lines(extra))]:
        requirement = Requirement(line)
        found[canonicalize_name(requirement.name)] = requirement
    return found


def extra_lines(extra: str) -> Iterator[str]:
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == "impasto":
            for other in sorted(requirement.extras):
                yield from extra_lines(other)
        else:
            yield line


@pytest.mark.parametrize(("lock", "extras"), [("requirements.txt", ()), ("requirements-dev.txt", ("dev",))])
def test_the_lock_is_of_this_pyproject(lock, extras):
    """`bash .ci/lock` renews it."""
    text = (ROOT / ".ci" / lock).read_text()
    assert not re.search("://|file:|find-links|index-url", text)
    entries = re.findall(r"^([\w.-]+)==(\S+)(.*(?:\n    .*)*)", text, re.MULTILINE)
    assert all("--hash=sha256:" in rest for _, _, rest in entries)
    direct = {name: version for name, version, rest in entries if "impasto (pyproject.toml)" in rest}
    assert direct.keys() == wanted(*extras).keys(), "the lock is stale: bash .ci/lock renews it"
    for name, version, rest in entries:
        if "impasto (pyproject.toml)" in rest:
            assert wanted(*extras)[name].specifier.contains(version), f"{name} is stale: bash .ci/lock renews it"


def test_every_package_that_is_imported_is_asked_for():
    """Not only there because another package happens to need it."""
    distributions = packages_distributions()
    asked = wanted(*(extra for extra in PROJECT["optional-dependencies"] if extra != "dev")).keys()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            for module in imported(node):
                name = module.partition(".")[0]
                if name not in sys.stdlib_module_names and name != "impasto":
                    provided = {canonicalize_name(one) for one in distributions.get(name, [name])}
                    assert provided & asked, f"{path.name}:{node.lineno} imports {name}, which pyproject.toml lacks"


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def offences(source: str) -> list[str]:
    """What in a source may execute what it loads, or fetch what others on the way can change."""
    found = []
    for node in ast.walk(ast.parse(source)):
        found += [module for module in imported(node) if module in UNSAFE]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in ("eval", "exec", "__import__") or name.endswith((".instantiate", ".get_class")):
                found.append(name)
            if name.endswith("load_from_checkpoint") or (name == "torch.load" and words.get("weights_only") != "True"):
                found.append(f"{name} without weights_only=True")
            if name in ("yaml.load", "yaml.unsafe_load", "torch.hub.load", "torch.jit.load"):
                found.append(name)
            for option, value in (("allow_pickle", "True"), ("shell", "True"), ("verify", "False")):
                if words.get(option) == value:
                    found.append(f"{name}({option}={value})")
            if words.get("weights_only", "True") != "True":
                found.append(f"{name}(weights_only={words['weights_only']})")
        if (
            isinstance(node, ast.Constant)
            and str(node.value).startswith(("http://", "ftp://"))
            and node.value != "http://"
        ):
            found.append(str(node.value))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_opened_is_executed_or_fetched_in_the_open(path):
    assert not offences(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import hydra.utils",
        "from hydra.utils import instantiate",
        "hydra.utils.instantiate(config)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "trainer.fit(module, weights_only=False)",
        "Module.load_from_checkpoint(path)",
        "eval(header['name'])",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "URL = 'http://images.cocodataset.org'",
        "requests.get(url, verify=False)",
    ],
)
def test_offences_are_seen(source):
    assert offences(source)
