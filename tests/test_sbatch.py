"""scripts/train.sbatch, with stand-ins for Slurm's commands."""

import os
import signal
import subprocess
import sys
import time

import pytest

from .conftest import ROOT, noise_image
from .test_train import SMALL

# starts as many tasks as the script asks for, as srun does: SIGTERM goes to all of them, the highest status counts
SRUN = """#!{python}
import os, signal, subprocess, sys
from tests import ranks
command = [word for word in sys.argv[1:] if not word.startswith("--")]
print("srun", *sys.argv[1:], flush=True)
tasks = []
for rank in range(2):
    tasks.append(subprocess.Popen(command, env={{**os.environ, **ranks.srun(rank, 2)}}))
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() if task.returncode is None else task.returncode for task in tasks))
"""


@pytest.fixture
def cluster(tmp_path):
    """Runs the script in a folder, as job 4711, with stand-ins for srun, scontrol and, unless it is real, python."""

    def cluster(*words, python=None, state="RUNNING"):
        scontrol = f'#!/bin/sh\ncase $1 in show) echo "   JobState={state} $@";; *) echo "$@" >> scontrol.log;; esac\n'
        programs = {"scontrol": scontrol, "srun": SRUN.format(python=sys.executable)}
        programs["python"] = python or f'#!/bin/sh\nexec {sys.executable} "$@"\n'
        for name, text in programs.items():
            (tmp_path / "bin").mkdir(exist_ok=True)
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "train.py").unlink(missing_ok=True)
        (tmp_path / "train.py").symlink_to(ROOT / "train.py")
        paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "train.sbatch"), *words],
            cwd=tmp_path,
            env={**os.environ, **paths, "SLURM_JOB_ID": "4711", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return cluster


def test_tasks_train_together_in_the_folder_of_the_job(cluster, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        noise_image(40, 36, index).save(tmp_path / "photos" / f"{index}.png")
    words = ["style=great_wave", "data=folder", "data.root=photos", *SMALL, "stroke=64", "schedule.images=4"]
    words += ["trainer.devices=3"]
    process = cluster(*words)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "trainer.devices=3 has no say: srun started 2 processes on each of 1 nodes" in said
    assert said.count("now paint") == 1
    assert (tmp_path / "runs" / "slurm" / "4711" / "great_wave.safetensors").is_file()
    assert not (tmp_path / "scontrol.log").exists()


@pytest.mark.parametrize(
    ("status", "state", "requeued"),
    [(143, "RUNNING", True), (143, "CANCELLED", False), *((status, "RUNNING", False) for status in (137, 1, 0))],
)
def test_what_was_preempted_and_nothing_else_is_requeued(cluster, tmp_path, status, state, requeued):
    """SIGTERM comes to the tasks, two minutes early, and perhaps to the shell, which outlives them; by scancel, too."""
    task = f"#!/bin/sh\ntrap 'kill $!; exit {status}' TERM\necho \"$SLURM_PROCID $@\" > told$SLURM_PROCID\n"
    process = cluster("style=poppies", "style.name=two words", python=task + "sleep 10 & wait $!\n", state=state)
    while len(list(tmp_path.glob("told?"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    srun = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(srun[0]), signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == status, said
    words = "train.py trainer=ddp resume=true hydra.run.dir=runs/slurm/4711 style=poppies style.name=two words"
    assert [(tmp_path / f"told{rank}").read_text() for rank in range(2)] == [f"{rank} {words}\n" for rank in range(2)]
    assert "--kill-on-bad-exit=1" in said
    requests = (tmp_path / "scontrol.log").read_text() if (tmp_path / "scontrol.log").exists() else ""
    assert requests == ("requeue 4711\n" if requeued else "")
