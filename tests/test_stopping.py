import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from impasto import stopping
from impasto.stopping import SIGNALS, StopSignals, ignore_stops


@pytest.fixture(autouse=True)
def handlers():
    """The signals' own handlers, whatever the shell that runs the tests has set."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_process_where_nobody_sees_to_it(number, status):
    with pytest.raises(SystemExit) as error, StopSignals():
        os.kill(os.getpid(), number)
    assert error.value.code == status
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_signal_is_a_wish_where_somebody_does_and_a_second_one_ends_at_once(monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    with StopSignals() as stops:
        stops.patient = True
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # passed on by a launcher
        assert (stops.wish, ends) == (signal.SIGTERM, [])
        monkeypatch.setattr(stopping, "AGAIN", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        assert ends == [130]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="has no pseudoterminals")
def test_a_closed_terminal_is_no_longer_spoken_to():
    """Nor is what goes on an error; a pipe still listens."""
    code = (
        "import os, signal, sys, time; from impasto.stopping import StopSignals\n"
        "with StopSignals() as stops:\n"
        "    stops.patient = True; print('ready', flush=True)\n"
        "    while not stops.wish: time.sleep(0.01)\n"
        "    print('words to nobody', flush=True); print('words to a pipe', file=sys.stderr)\n"
        "    stops.exit(stops.wish)\n"
    )
    ours, theirs = os.openpty()
    options = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", code], **options)
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"ready")
    os.close(ours)
    process.send_signal(signal.SIGHUP)  # as the system does to what a terminal has started
    assert process.communicate(timeout=20)[1] == b"words to a pipe\n"
    assert process.returncode == 129


def test_what_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as stops:
        stops.install()
        os.kill(os.getpid(), signal.SIGINT)
    assert stops.wish == 0


def test_a_loaders_worker_leaves_signals_to_its_process():
    ignore_stops(0)
    for number in SIGNALS:
        os.kill(os.getpid(), number)


def test_no_worker_that_ignores_its_end_is_waited_for():
    """As where a signal comes while a loader starts its workers."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def work():
        ignore_stops(0)
        ready.set()
        time.sleep(60)

    worker = context.Process(target=work, daemon=True)
    with pytest.raises(SystemExit), StopSignals():
        worker.start()
        assert ready.wait(20)
        os.kill(os.getpid(), signal.SIGTERM)
    worker.join(20)
    assert worker.exitcode == -signal.SIGKILL
