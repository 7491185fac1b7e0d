import errno
import io
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import MISSING, OmegaConf

from impasto import cli
from impasto.errors import UserError
from impasto.files import whole_file

from .conftest import ROOT, noise_image

NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1)
AWKWARD = [
    "a b",
    "a(1),b=c",
    "it's",
    'say "x"',
    "ends\\",
    "a\\'b",
    "\\\\'",
    "${x}",
    "\\${x}",
    "a\\\\${",
    "naïve 画.jpg",
    "[1]",
    "{a:b}",
    "'q'",
    "-1",
    "null",
]


def through_hydra(word: str) -> str:
    override = OverridesParser.create().parse_override(cli.literal(word, ["path"]))
    return OmegaConf.create({"value": override.value()}).value


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_names_pass_hydra_unchanged(name):
    assert str(through_hydra(f"path={name}")) == name


@settings(deadline=None, max_examples=200)
@given(NAMES)
def test_any_name_passes_hydra_unchanged(name):
    assert str(through_hydra(f"path={name}")) == cli.at_home(name)  # as ~ and ~/… are


def test_other_words_are_left_to_hydra():
    for word in ("seed=1", "-m", "style=a,b", "path"):
        assert cli.literal(word, ["path"]) == word


@dataclass
class Options:
    path: str = MISSING
    size: int | None = None
    fast: bool = False


@pytest.mark.parametrize("name", AWKWARD)
def test_values_are_taken_as_they_are(name):
    assert cli.parse([f"path={name}", "size=3", "fast=true"], Options) == Options(name, 3, True)


def test_a_tilde_is_the_home_folder_and_nothing_is_no_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path, meant in (("~/a", f"{tmp_path}/a"), ("~", str(tmp_path)), ("a~", "a~"), ("~a", "~a"), ("b/~/c", "b/~/c")):
        assert cli.parse([f"path={path}"], Options).path == meant
        assert through_hydra(f"path={path}") == meant
    with pytest.raises(UserError, match="path=… is missing"):
        cli.literal("path=", ["path"])
    assert cli.literal("data.keep=", ["data.keep"]) == "data.keep=''"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["path=a", "sise=3"], "'sise=3' is not understood; did you mean 'size'"),
        (["a.jpg"], "'a.jpg' is not understood"),
        (["path=a", "size=big"], "'size=big' does not do"),
        (["path", "=", "a"], "'path' is not understood: write path=value without spaces around ="),
        ([], "path=… is missing"),
        (["path=a", "path=b"], "^'path=b' comes after 'path=a': say one of them$"),
        (["path="], "path=… is missing"),  # as of an unset variable of the shell
    ],
)
def test_wrong_words_are_named(words, message):
    with pytest.raises(UserError, match=message):
        cli.parse(words, Options)


def fail(error: BaseException):
    def command(words: list[str]) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no such thing"), "error: no such thing"),
        (OSError(28, "No space left on device", "/full"), "error: No space left on device: '/full'"),
    ],
)
def test_mistakes_become_one_line(monkeypatch, error, line):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as exit:
        cli.run(fail(error), "usage")
    assert exit.value.code == line


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        cli.run(fail(ZeroDivisionError()), "usage")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_is_half_written_vanishes_when_a_signal_ends_it(monkeypatch, tmp_path, number, status):
    def command(words: list[str]) -> None:
        with whole_file(tmp_path / "network.onnx") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), number)
            time.sleep(10)

    monkeypatch.setattr(sys, "argv", ["command"])
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as exit:
            cli.run(command, "usage")
    finally:
        signal.signal(number, before)
    assert exit.value.code == status
    assert not list(tmp_path.iterdir())


def test_signals_that_are_ignored_stay_so(monkeypatch):
    """As nohup has SIGHUP."""
    monkeypatch.setattr(sys, "argv", ["command"])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        cli.run(lambda words: os.kill(os.getpid(), signal.SIGHUP), "usage")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interruption_has_its_status(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as exit:
        cli.run(fail(KeyboardInterrupt()), "usage")
    assert exit.value.code == 130


@pytest.mark.parametrize(("number", "ends"), [(errno.ENOSPC, False), (errno.EPIPE, False), (errno.EIO, True)])
def test_a_log_on_a_full_disk_or_to_nobody_ends_nothing(monkeypatch, number, ends):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(number, "said the system")

    log = logging.getLogger("impasto")
    monkeypatch.setattr(log, "handlers", log.handlers)  # to be put back
    cli.log_to(Broken())
    with pytest.raises(OSError, match="said the system") if ends else nullcontext():
        log.info("a line")


@pytest.mark.parametrize(
    ("script", "words", "error"),
    [
        ("stylize.py", ["--help"], ""),
        ("stylize.py", ["ckpt=starry_night", "input=a.png", "output=b.png"], ""),
        ("stylize.py", ["ckpt=starry_night", "input=a.png", "output=b.png", "json=true"], ""),
        ("train.py", ["style.image=gone.jpg"], "error: there is no image 'gone.jpg'"),
    ],
)
def test_a_reader_that_goes_ends_no_work(tmp_path, script, words, error):
    """As in `stylize.py … | head -1`, of the help, and of what train.py says first."""
    noise_image(20, 16).save(tmp_path / "a.png")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(ROOT / script), *words]
    result = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Style: ", "Wrote "))]
    assert (result.returncode, lines) == (int(bool(error)), [error] * bool(error))
    assert (tmp_path / "b.png").is_file() == ("output=b.png" in words)


@pytest.mark.parametrize("script", ["train.py", "stylize.py", "scripts/export.py", "scripts/fetch_coco.py"])
def test_help_is_short_and_shows_examples(run, script):
    result = run(script, "--help")
    assert result.returncode == 0
    assert result.stdout.count(f"python {script}") >= 1
    assert len(result.stdout.splitlines()) < 50
    assert not result.stderr
