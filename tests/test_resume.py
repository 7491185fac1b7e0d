import logging
import shutil
import subprocess
import sys
import zipfile
from unittest.mock import Mock

import pytest
import torch
import yaml

from impasto import resume
from impasto.errors import UserError
from impasto.resume import Resumed, alone, checkpoints, find, write_checkpoint


@pytest.fixture
def run_dir(tmp_path):
    """A run with three checkpoints."""
    for images in (8, 16, 24):
        content = {
            "impasto": {"images_seen": images, "architecture": {}, "style": {}},
            "state_dict": {"net.a": torch.full((100, 100), float(images))},
            "global_step": images // 2,
            "validated_at": 8,
            **{"loops": {"fit_loop": {}}, "pytorch-lightning_version": "2.6.6"},
            **{key: [] for key in ("optimizer_states", "lr_schedulers")},
        }
        write_checkpoint(content, tmp_path / "run" / "checkpoints" / f"{images:09d}.ckpt")
    return tmp_path / "run"


def test_the_newest_checkpoint_is_found(run_dir):
    newest = run_dir / "checkpoints" / "000000024.ckpt"
    for choice in ("true", True, str(run_dir), str(newest)):
        resumed = find(choice, run_dir)
        assert resumed is not None
        assert (resumed.path, resumed.images_seen, resumed.step, resumed.validated_at) == (newest, 24, 12, 8)
    assert find("true", run_dir.parent / "new") is None


def zeroed_page(content: bytearray) -> None:
    content[20_000:24_096] = bytes(4096)


def one_bit(content: bytearray) -> None:
    content[20_000] ^= 1


def half(content: bytearray) -> None:
    del content[len(content) // 2 :]


def empty(content: bytearray) -> None:
    content.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_checkpoints_under_a_name_that_torch_cannot_open_are_left_as_they_are(run_dir):
    moved = run_dir.rename(run_dir.with_name("caf\udce9"))
    with pytest.raises(UserError, match="cannot be read: its path is not UTF-8"):
        find("true", moved)
    assert len(checkpoints(moved)) == 3


@pytest.mark.parametrize("damage", [zeroed_page, one_bit, half, empty])
def test_damaged_checkpoints_are_passed_over_and_set_aside(run_dir, caplog, damage):
    for path in checkpoints(run_dir)[:2]:
        content = bytearray(path.read_bytes())
        damage(content)
        path.write_bytes(content)
        assert zipfile.is_zipfile(path) == (damage in (zeroed_page, one_bit))  # as zip goes, all is well
    resumed = find("true", run_dir)
    assert resumed is not None
    assert resumed.images_seen == 8
    assert len(caplog.messages) == 2
    assert all(message.startswith("passed over: '") for message in caplog.messages)
    assert [path.name for path in checkpoints(run_dir)] == ["000000008.ckpt"]  # the others are not among those kept
    assert len(list((run_dir / "checkpoints").glob("*.ckpt.damaged"))) == 2
    for path in checkpoints(run_dir):
        path.write_bytes(b"nothing")
    assert find("true", run_dir) is None
    assert caplog.messages[-1] == f"no whole checkpoint is left in {run_dir}: starting anew"


def test_a_checkpoint_that_rank_0_sets_aside_meanwhile_is_passed_over(run_dir, monkeypatch):
    read = resume._read

    def late(path):
        if path.name == "000000024.ckpt":
            path.rename(f"{path}.damaged")
            path.stat()
        return read(path)

    monkeypatch.setattr(resume, "_read", late)
    monkeypatch.setattr(resume, "rank", lambda: 1)
    resumed = find("true", run_dir)
    assert resumed is not None
    assert resumed.images_seen == 16


def test_the_same_words_go_on_with_a_run_that_began_from_another(run_dir, tmp_path, caplog):
    """As a scheduler gives them again when it starts a job anew."""
    caplog.set_level("INFO")
    ours = shutil.copytree(run_dir, tmp_path / "ours")
    with pytest.raises(UserError, match="ours' holds a run: resume=true goes on with it"):
        find(str(run_dir), ours)
    (ours / "config.yaml").write_text(yaml.safe_dump({"resume": str(run_dir)}))
    resumed = find(str(run_dir), ours)
    assert resumed is not None
    assert resumed.path == ours / "checkpoints" / "000000024.ckpt"
    assert f"{ours} began from {run_dir}: going on with it" in caplog.text
    with pytest.raises(UserError, match="ours' holds a run: resume=true goes on with it"):
        find(str(run_dir / "checkpoints" / "000000016.ckpt"), ours)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "more memory than"),
        (RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"), "more memory than"),
        (RuntimeError("unable to mmap 9 bytes from file <a>: No such device (19)"), "No such device"),
    ],
)
def test_a_system_that_fails_sets_nothing_aside(run_dir, monkeypatch, error, line):
    before = checkpoints(run_dir)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UserError, match=f"000000024.ckpt' cannot be read: .*{line}"):
        find("true", run_dir)
    assert checkpoints(run_dir) == before


@pytest.mark.parametrize(
    ("error", "line"), [(OSError(5, "Input/output error"), "Input/output"), (MemoryError(), "more")]
)
def test_sums_that_cannot_be_compared_set_nothing_aside(run_dir, monkeypatch, error, line):
    before = checkpoints(run_dir)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", Mock(side_effect=error))
    with pytest.raises(UserError, match=f"000000024.ckpt' cannot be read: .*{line}"):
        find("true", run_dir)
    assert checkpoints(run_dir) == before


def test_what_cannot_be_gone_on_with_is_one_line(run_dir, tmp_path):
    older = run_dir / "checkpoints" / "000000008.ckpt"
    torch.save({"impasto": {"images_seen": 1, "architecture": {}}, "state_dict": {}, "global_step": 1}, tmp_path / "w")
    for choice, place, message in (
        ("false", run_dir, "holds a run: resume=true goes on with it"),
        (str(tmp_path / "w"), run_dir, "holds a run"),
        (str(tmp_path / "none"), run_dir, "there is no such checkpoint or run folder"),
        (str(tmp_path), tmp_path / "new", "there is no checkpoint in that folder"),
        (str(older), run_dir, "its run went on to 000000024.ckpt: remove what came later"),
        (str(tmp_path / "w"), tmp_path / "new", "without its optimizer"),
    ):
        with pytest.raises(UserError, match=message):
            find(choice, place)
    for changed in ({"images_seen": "x"}, {"architecture": 5}, {"schedule": 3}, {"schedule": {"images": "x"}}):
        record = {"images_seen": 1, "architecture": {}, "style": {}, **changed}
        torch.save({"impasto": record, "state_dict": {}, "global_step": 1, "loops": []}, tmp_path / "odd.ckpt")
        with pytest.raises(UserError, match="but not one that Impasto's training wrote"):
            find(str(tmp_path / "odd.ckpt"), tmp_path / "new")
    for odd in ({"loops": {}}, {"loops": 5}):
        whole = torch.load(older, weights_only=True)
        torch.save({**whole, **odd}, tmp_path / "odd.ckpt")
        with pytest.raises(UserError, match="does not say how far its training had come"):
            find(str(tmp_path / "odd.ckpt"), tmp_path / "new")
    copied = shutil.copy(older, run_dir / "checkpoints" / "good.ckpt")  # its own name hides no later ones
    with pytest.raises(UserError, match="its run went on to 000000024.ckpt: remove what came later"):
        find(str(copied), run_dir)
    branch = find(str(older), tmp_path / "new")
    assert branch is not None
    assert branch.images_seen == 8


def test_changes_are_named_and_others_refused(tmp_path, caplog):
    before = {"seed": 0, "loss": {"weights": {"tv": 1, "style": 2}}, "images_seen": 8, "init": {"weights": "random"}}
    content = {**before, "architecture": {"name": "TransformerNet", "width": 4}, "style": {"stroke": 320}}
    resumed = Resumed(tmp_path / "a.ckpt", content, 8)
    with caplog.at_level(logging.WARNING):
        resumed.warn_of_changes({**before, "init": {}, "precision": "new in this version"}, 4)
        assert not caplog.messages
        resumed.warn_of_changes({**before, "seed": 1, "loss": {"weights": {"tv": 1, "style": 3}}}, 4)
    assert "so not as an uninterrupted run would: seed 0 → 1, loss.weights.style 2 → 3" in caplog.text
    resumed.check({"name": "TransformerNet", "width": 4}, {"stroke": 320})
    with pytest.raises(UserError, match="stroke=None, not 320"):
        Resumed(tmp_path / "a.ckpt", {"images_seen": 8, "architecture": {}}, 8).check({}, {"stroke": 320})
    for architecture, style, message in (
        ({"width": 8}, {}, "was trained with model.width=4, not 8: model.width=4 goes on"),
        ({"width": 4}, {"stroke": 1}, "stroke=320, not 1"),
        ({}, {"stroke": 320}, "width=4, not 0"),
        ({"width": 4, "margin": 8}, {"stroke": 320}, "margin=0, not 8: model.margin=0 goes on"),
        ({"width": 4, "waves": True}, {}, "waves=false, not true: model.waves=false goes on"),
    ):
        with pytest.raises(UserError, match=message):
            resumed.check({"name": "TransformerNet", **architecture}, style)
    with caplog.at_level(logging.WARNING):
        resumed.warn_of_changes({**before, "loss": {"weights": {"tv": 1, "content": 3}}}, 4)
    assert "loss.weights.content none → 3, loss.weights.style 2 → none" in caplog.text


def test_a_network_without_what_the_run_has_is_told_as_words_say_it(tmp_path):
    resumed = Resumed(
        tmp_path / "a.ckpt", {"images_seen": 8, "architecture": {"name": "TransformerNet", "waves": True}}, 8
    )
    with pytest.raises(UserError, match="was trained with model.waves=true, not false: model.waves=true goes on$"):
        resumed.check({"name": "TransformerNet"}, {})


def test_what_comes_too_late_is_named(tmp_path, caplog):
    before = {"strength": 1.0, "precision": "32-true", "schedule": {"images": 8}, "versions": {"torch": "2.11"}}
    resumed = Resumed(tmp_path / "a.ckpt", {**before, "images_seen": 8}, 8)
    with caplog.at_level(logging.WARNING):
        resumed.warn_of_changes({**before, "versions": {"torch": "2.12"}, "precision": "bf16-mixed"}, 0)
        assert not caplog.messages
        resumed.warn_of_changes({**before, "strength": 3.0}, 0)
    told = "the run has seen its 8 images, so this has no say: strength 1.0 → 3.0; more schedule.images= go on"
    assert caplog.messages == [told]


def test_two_processes_do_not_train_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "PATIENCE", 0.1)
    held = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True)"
    held += "; input()"
    with subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process trains in .*: wait for it"), alone(tmp_path):
            pass
        other.kill()
    with alone(tmp_path):
        pass
