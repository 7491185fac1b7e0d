import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import sleep

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: several tests run at once, with commands of their own
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")  # the code around the kernels: sooner compiled

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.assets import PHOTOS
from impasto.checkpoint import save_network
from impasto.image import read_image
from impasto.models.transformer_net import TransformerNet
from impasto.models.vgg import LAYERS, VGG19Features
from impasto.tensors import to_tensor

from . import commands, ranks

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def vgg() -> VGG19Features:
    return VGG19Features(LAYERS)


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    return to_tensor(read_image(PHOTOS / "cat.jpg", 96))


@pytest.fixture
def small_net() -> TransformerNet:
    return TransformerNet(width=4, depth=1).eval()


def grown(net: TransformerNet) -> TransformerNet:
    """A sized network whose norms depend on sizes much, and whose waves, where it has some, can be seen."""
    for name, parameter in net.named_parameters():
        if name.endswith("_growth") or name == "waves.weight":
            torch.nn.init.normal_(parameter, std=0.3)
    return net


@pytest.fixture
def network_file(tmp_path: Path, small_net: TransformerNet) -> Path:
    path = tmp_path / "networks" / "test.safetensors"
    save_network(path, small_net, {"style": {"name": "test"}})
    return path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables, having removed what torchrun or Slurm may have set for the tests themselves."""
    others = ("NTASKS_PER_NODE", "CPUS_PER_TASK", "STEP_NUM_TASKS", "STEP_NUM_NODES")
    slurm = [f"SLURM_{name}" for name in others]
    for name in [*ranks.torchrun(0, 1), *ranks.srun(0, 1), *slurm, "MASTER_PORT", "OMP_NUM_THREADS"]:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the test sets
        monkeypatch.delenv(name)

    def environment(variables: dict[str, str], **others: str) -> None:
        for name, value in {**variables, **others}.items():
            monkeypatch.setenv(name, value)

    return environment


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with nesting, several formats, and nothing else."""
    folder = tmp_path / "photos"
    (folder / "deeper" / "still").mkdir(parents=True)
    for index, name in enumerate(["a.jpg", "b.PNG", "deeper/c.jpeg", "deeper/d.webp", "deeper/still/e.bmp", "f.jpg"]):
        noise_image(80 + index, 72, index).save(folder / name)
    return folder


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of the repository as a user would, with a GPU hidden where there is one."""

    def run(script: str, *words: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / script), *map(str, words)],
            cwd=cwd,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
            capture_output=True,
            text=True,
            timeout=280,
        )

    return run


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `run`, in a fork of a process that has imported everything."""

    def forked(script: str, *words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        told, environment = [str(word) for word in words], {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = commands.run(script, told, cwd, environment, tmp_path_factory.mktemp("output"))
        return subprocess.CompletedProcess([script, *told], *done)

    return forked


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> None:
    commands.preload()


def when_told(caplog: pytest.LogCaptureFixture, words: str, act: Callable[[], object]) -> None:
    """Act, in a thread, once these words have been logged."""

    def wait() -> None:
        while words not in caplog.text:
            sleep(0.01)
        act()

    Thread(target=wait, daemon=True).start()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serve a folder over HTTP on a free local port; gives its address."""
    servers = []

    def serve(folder: Path, handler: type[SimpleHTTPRequestHandler] = SimpleHTTPRequestHandler) -> str:
        class Quiet(handler):  # type: ignore[misc, valid-type]  # a base chosen at run time
            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
