"""TensorBoard's events: nothing twice after a resumed run, nothing lost where a disk was full for a while."""

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from time import time
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

log = logging.getLogger("impasto")


class Events(Logger):
    """One file of TensorBoard's events in `folder`, begun with the first event; steps are images seen.

    TensorBoard forgets what earlier files have from `start` on. An event is in the file once it is logged, so that a
    killed process loses none; one that the disk has no room for waits in memory. Rank 0 writes.

    Differs: torch's `SummaryWriter` writes in a thread, which a full disk ends with a traceback.
    """

    def __init__(self, folder: Path, start: int) -> None:
        super().__init__()
        self.folder, self.start = folder, start
        name = f"events.out.tfevents.{int(time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self.path = folder / name
        self._waiting = BytesIO()
        self._written = 0  # bytes of whole events in the file
        self._full = False

    @property
    def name(self) -> str:
        """Nothing: the run folder has the name."""
        return ""

    @property
    def version(self) -> str:
        """Nothing."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Scalars by tag, at one step."""
        self._add(step or 0, Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in metrics.items()]))

    @rank_zero_only
    def add_image(self, tag: str, image: Tensor, step: int) -> None:
        """An image, shape (3, height, width), in [0, 1]."""
        self._add(step, summary.image(tag, image, dataformats="CHW"))  # type: ignore[no-untyped-call]  # torch

    @rank_zero_only
    def add_hparams(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Settings beside the metrics that they led to, for TensorBoard's HPARAMS."""
        for part in summary.hparams(dict(settings), dict(metrics)):  # type: ignore[no-untyped-call]  # torch
            self._add(0, part)
        self.log_metrics(metrics, 0)

    @rank_zero_only
    def settle(self) -> None:
        """Have all events on the disk, also after a power cut, as far as there is room."""
        self._append()
        with suppress(OSError), self.path.open("rb") as file:
            os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what has waited."""
        self._append()

    def _add(self, step: int, values: Any) -> None:
        if not self._written and not self._waiting.tell():
            self._encode(file_version="brain.Event:2")
            self._encode(step=self.start, session_log=SessionLog(status=SessionLog.START))
        self._encode(step=step, summary=values)
        self._append()

    def _encode(self, **content: Any) -> None:
        RecordWriter(self._waiting).write(Event(wall_time=time(), **content).SerializeToString())

    def _append(self) -> None:
        if not self._waiting.tell():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() > self._written:  # half an event, of a disk that became full
                    file.truncate(self._written)
                file.write(self._waiting.getbuffer())
        except OSError as error:
            if not self._full:
                log.warning("TensorBoard's events wait for room: cannot write %s: %s", self.path, error.strerror)
            self._full = True
            return
        self._written += self._waiting.tell()
        self._waiting, self._full = BytesIO(), False
