"""Ranks of train.py, forked from a process that has imported everything, as torchrun or srun would start them."""

import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import CONTEXT, ROOT

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Rank:
    """How a rank ended, where it trained, what it opened for writing or made, and its weights, last validated."""

    status: int
    stdout: str
    stderr: str
    positions: list[int]
    written: list[str]
    weights: str  # their SHA-256


def train(
    words: Sequence[str], ranks: int, folder: Path, starter: str = "torchrun", own: Sequence[str] = ()
) -> list[Rank]:
    """Run train.py in `folder` on so many ranks of one node; `own` are words of the last rank only."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        mine = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        mine |= torchrun(rank, ranks) if starter == "torchrun" else srun(rank, ranks)
        told = [*words, *(own if rank == ranks - 1 else [])]
        processes.append(CONTEXT.Process(target=_rank, args=(told, mine, str(folder), rank)))
        processes[-1].start()
    try:
        for process in processes:
            process.join(120)
    finally:
        for process in processes:
            process.kill()
    return [_told(folder, rank, process.exitcode) for rank, process in enumerate(processes)]


def torchrun(rank: int, ranks: int) -> dict[str, str]:
    """The environment of one rank, all of them on one node."""
    local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1}
    values = {"TORCHELASTIC_RUN_ID": "test", "RANK": rank, "WORLD_SIZE": ranks, **local}
    return {name: str(value) for name, value in values.items()}


def srun(rank: int, ranks: int) -> dict[str, str]:
    """The environment of one task of a step of Slurm's, all of them on one node."""
    job = {"JOB_ID": 4711, "STEP_ID": 0, "NTASKS": ranks, "NNODES": 1, "NODELIST": "localhost", "JOB_NAME": "test"}
    task = {"PROCID": rank, "LOCALID": rank, "NODEID": 0}
    return {f"SLURM_{name}": str(value) for name, value in {**job, **task}.items()}


def _rank(words: list[str], environment: dict[str, str], folder: str, rank: int) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from impasto.commands.train import main
    from impasto.data.photos import TrainingPhotos
    from impasto.module import StyleTransferModule

    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{name}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    rank_zero_only.rank = rank  # which Lightning reads from the environment when it is imported
    sys.argv = ["train.py", *words]
    positions: list[int] = []
    written: list[str] = []
    weights = ""
    take = TrainingPhotos.__getitem__

    def taking(self: TrainingPhotos, position: int) -> object:
        positions.append(position)
        return take(self, position)

    def noting(event: str, arguments: tuple) -> None:
        made = event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.truncate")
        if made or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            written.append(os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else "")

    def weighing(self: StyleTransferModule) -> None:
        nonlocal weights
        values = (parameter.detach().contiguous().numpy().tobytes() for parameter in self.net.parameters())
        weights = hashlib.sha256(b"".join(values)).hexdigest()

    TrainingPhotos.__getitem__ = taking
    StyleTransferModule.on_validation_start = weighing
    sys.addaudithook(noting)
    try:
        main(ROOT / "configs")
    finally:
        Path(f"rank.{rank}").write_text(json.dumps([positions, list(written), weights]))


def _told(folder: Path, rank: int, status: int | None) -> Rank:
    assert status is not None, "a rank hangs"
    positions, written, weights = json.loads((folder / f"rank.{rank}").read_text())
    said = [(folder / f"{name}.{rank}").read_text() for name in ("stdout", "stderr")]
    here = [path for path in written if Path(folder, path).is_relative_to(folder)]
    return Rank(status, *said, positions, here, weights)
