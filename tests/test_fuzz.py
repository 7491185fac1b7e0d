import errno
import mmap
import os
import sys
import warnings

import pytest

from impasto.commands.fuzz import fuzz
from impasto.errors import UserError
from impasto.fuzz import hunt, trial
from impasto.fuzz.trial import Limits, generated

from .conftest import noise_image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and measures are Linux's")


def test_what_is_not_read_is_refused_in_one_line(run, tmp_path):
    result = run("scripts/fuzz.py", "count=300", f"output={tmp_path}")
    said = "\n\n".join(path.read_text() for path in tmp_path.glob("*.txt"))
    assert result.returncode == 0, f"{result.stdout}{result.stderr}\n{said}"
    assert ".safetensors" in result.stdout


@pytest.fixture
def sound(tmp_path):
    """A folder with the one image that workers need."""
    (tmp_path / "sound").mkdir()
    noise_image(9, 7).save(tmp_path / "sound" / "rgb.png")
    return tmp_path / "sound"


def test_the_same_number_gives_the_same_input(sound):
    files = {"rgb.png": (sound / "rgb.png").read_bytes()}
    first, again, other = (
        [made for index in range(60) if (made := generated(files, seed, index))[0] != "old.pth"]  # it holds addresses
        for seed in (0, 0, 1)
    )
    assert len({name for name, _ in first}) > 3
    assert first == again != other


def test_sound_files_are_read(sound, tmp_path, monkeypatch):
    """Undamaged, every checkpoint is; what is told of damaged ones means something."""
    monkeypatch.setattr(trial, "mutated", lambda content, *_: content)
    monkeypatch.setattr(trial, "odd_record", lambda record, *_: record)
    found = list(hunt.outcomes(range(60), 0, tmp_path / "place", sound, Limits()))
    unlike = {(each.name, each.verdict, each.detail) for each in found if each.verdict != "read"}
    assert {name for name, *_ in unlike} <= {"code.pt2"}  # for another machine


def end():
    os._exit(3)


def spin():
    while True:
        pass


def fail():
    raise KeyError("x")


def warn():
    warnings.warn("beware", stacklevel=1)


def write():
    os.write(2, b"libsomething: beware")


def fill():
    with mmap.mmap(-1, 100 << 20) as pages:  # fresh ones: the heap may have some to give
        for place in range(0, len(pages), mmap.PAGESIZE):
            pages[place] = 1


def litter(room):
    (room / ".left").write_text("x")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("deed", "verdict"),
    [
        (lambda room: end(), "crash"),
        (lambda room: spin(), "too slow|hangs"),  # on a busy machine
        (lambda room: fail(), "KeyError in judge"),
        (lambda room: warn(), "UserWarning shown"),
        (lambda room: write(), "text on stderr"),
        (litter, "stray file"),
        (lambda room: fill(), "memory"),
    ],
)
def test_every_kind_of_finding_is_told_of_its_input(sound, tmp_path, monkeypatch, deed, verdict):
    """The worker is forked, so it does what is patched here."""

    def paint(room, path, random):
        if path.read_bytes() == b"second":
            deed(room)
        return []

    monkeypatch.setattr(trial, "_paint", paint)
    monkeypatch.setattr(
        trial, "generated", lambda files, seed, index: ("a.png", (b"first", b"second", b"third")[index])
    )
    seen = []
    for outcome in hunt.outcomes(range(3), 0, tmp_path / "place", sound, Limits(seconds=1, megabytes=50)):
        seen.append(outcome.verdict)
        if not outcome.sound:
            assert (tmp_path / "place" / "found" / "1").read_bytes() == b"second"
    assert (seen[0], seen[2]) == ("read", "read")
    assert seen[1] in verdict.split("|")


@pytest.mark.parametrize("word", ["count=0", "workers=0", "seconds=0", "megabytes=-1"])
def test_mistakes_are_one_line(word, tmp_path):
    with pytest.raises(UserError, match=f"{word} should be at least 1"):
        fuzz([word, f"output={tmp_path}"])


def test_a_finding_is_kept_on_another_disk(tmp_path, monkeypatch):
    """As where /tmp is one of its own."""

    def outcomes(indices, seed, place, *rest):
        (place / trial.FOUND).mkdir(parents=True)
        (place / trial.FOUND / "0").write_bytes(b"input")
        yield trial.Outcome(0, "a.png", "traceback", "why")

    def rename(source, target, **_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(hunt, "outcomes", outcomes)
    monkeypatch.setattr(os, "rename", rename)
    hunt.hunt(0, 1, 0, tmp_path / "findings", 1, Limits())
    assert (tmp_path / "findings" / "0-0-a.png").read_bytes() == b"input"
    assert (tmp_path / "findings" / "0-0-a.png.txt").read_text() == "traceback\nwhy\n"
