import subprocess
import sys
import time

from impasto.data.lock import alone

CHILD = """
import sys, time
from pathlib import Path
from filelock import FileLock
with FileLock(Path(sys.argv[1]) / ".lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_the_lock_no_more(tmp_path, caplog):
    caplog.set_level("INFO")
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        child.kill()
    start = time.monotonic()
    with alone(tmp_path):
        assert time.monotonic() - start < 30
    with alone(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder" / ".lock").exists()
