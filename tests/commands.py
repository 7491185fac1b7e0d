"""Commands of the repository, forked from a process that has imported everything: importing takes longer than they do.

Besides Python's and the packages' start, all is as in a process of its own: arguments, environment, folder, output,
exit status.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRELOADED = ["impasto.training", "impasto.commands.train", "impasto.launcher", "impasto.benchmark.contestants"]
CONTEXT = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Have what is forked later begin with these packages; of no use once anything has been."""
    CONTEXT.set_forkserver_preload(PRELOADED)


def run(script: str, words: list[str], cwd: Path, environment: dict[str, str], folder: Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error, which `folder` is for."""
    process = CONTEXT.Process(target=_main, args=(str(ROOT / script), words, str(cwd), environment, str(folder)))
    process.start()
    process.join(280)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired([script, *words], 280)
    return process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text()


def _main(script: str, words: list[str], cwd: str, environment: dict[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)  # of a process of its own: as a child it has its server's
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
