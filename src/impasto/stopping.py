"""Ctrl-C, SIGTERM, a scheduler's SIGUSR1 and a closed terminal's SIGHUP: wishes to stop, granted between two steps."""

import multiprocessing
import os
import signal
import stat
import threading
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
AGAIN = 1.0  # s: launchers pass on at once what a terminal has sent to every process


class StopSignals:
    """A context in which a signal is a wish to stop: `wish` is its number, 0 where there is none.

    Where nobody is `patient` enough to see to the wish, and at a second signal, the process exits at once. Its exit
    status is 128 + the signal's number in every case: 130, 143, 138, 129.
    """

    def __init__(self) -> None:
        self.wish, self.patient = 0, False
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # others get no signals
            # what is ignored stays so: nohup, and jobs in the background of a shell
            self._before = {number: now for number in SIGNALS if (now := signal.getsignal(number)) != signal.SIG_IGN}
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is not None:  # a worker whose loader was only being made ignores its end, which Python waits for
            for child in multiprocessing.active_children():
                child.kill()

    def install(self) -> None:
        """Take the signals, from a library that has taken them meanwhile."""
        for number in self._before:
            signal.signal(number, self._handle)

    def exit(self, number: int) -> None:
        """Leave with the exit status that says so."""
        raise SystemExit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            leave_terminal()
        now = monotonic()
        if not self.wish:
            self.wish, self._since = number, now
            if not self.patient:
                self.exit(number)
        elif now - self._since > AGAIN:
            os._exit(128 + number)


def leave_terminal() -> None:
    """What is said to a closed terminal would be an error; files and pipes still listen."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def ignore_stops(worker: int) -> None:
    """Leave signals to the process that a loader's `worker` works for: it ends with it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
