import signal
import subprocess
import sys

import pytest

from impasto.errors import UserError
from impasto.lock import held

from .conftest import when_told

CHILD = """
import sys, time
from pathlib import Path
from filelock import FileLock
with FileLock(Path(sys.argv[1]) / ".lock"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder for some seconds."""
    children = []

    def hold(seconds):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(seconds)], stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield hold
    for child in children:
        with child:
            child.kill()


def test_what_another_process_holds_is_refused_and_once_it_is_killed_no_more(tmp_path, holder):
    child = holder(60)
    with pytest.raises(UserError, match="^busy$"), held(tmp_path, "busy"):
        pass
    child.kill()
    with held(tmp_path, "busy", 30):
        pass


def test_without_end_to_its_patience_it_says_so_and_waits(tmp_path, holder, caplog):
    caplog.set_level("INFO")
    child = holder(60)
    when_told(caplog, "Waiting", child.kill)
    with held(tmp_path, "Waiting", patience=None):
        assert child.wait(5) == -signal.SIGKILL
    assert caplog.messages == ["Waiting"]


def test_a_folder_is_made_and_one_that_cannot_be_is_named(tmp_path):
    with held(tmp_path / "new" / "folder", "busy"):
        assert (tmp_path / "new" / "folder" / ".lock").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write '.*file'"), held(tmp_path / "file", "busy"):
        pass
