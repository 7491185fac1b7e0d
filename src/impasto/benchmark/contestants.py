"""What is measured: each function builds something to run, Impasto's way and the reference's."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from impasto.assets import PHOTOS, STYLES, painting
from impasto.benchmark.measure import peak_memory_of_commands
from impasto.benchmark.reference import ReferenceLoss, ReferenceNet, ReferenceVGG
from impasto.data.photos import PhotoFiles, PositionBatches, TrainingPhotos, source_size, split
from impasto.engines import load_engine
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.hardware import bfloat16_is_fast
from impasto.image import find_images, read_image
from impasto.initialisation import initialise
from impasto.losses.perceptual import LossWeights, PerceptualLoss
from impasto.models.layers import Waves
from impasto.models.transformer_net import TransformerNet
from impasto.models.vgg import VGG19Features
from impasto.schedule import Schedule
from impasto.tensors import to_tensor

# the papers' terms, levelled; what the default objective costs, without its scales, which a textbook has not
STYLE_LAYERS = {"relu1_1": 150.0, "relu2_1": 8.0, "relu3_1": 15.0, "relu4_1": 0.4, "relu5_1": 1000.0}
CONTENT_LAYERS = {"relu4_2": 1.0}
WEIGHTS = {"content": 7.5, "style": 45.0, "tv": 5e7, "grid": 0.0}
# of configs/data/bundled.yaml: a test holds them equal
AUGMENTATION = {"min_scale": 0.1, "colour": 0.3, "patches": 0.1}
HELD_OUT = 3  # photos


def best_device() -> str:
    """Where everything runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Learner:
    """A network, its loss and its optimiser: `reference` in the textbook manner, else as `train.py` does it.

    Both have the same objective, and start from the same weights unless ours has a `start`. `compiled` and `precision`
    (auto, float32) are levers of ours alone.
    """

    def __init__(
        self,
        reference: bool,
        *,
        width: int = 32,
        batch_size: int = 4,
        style_size: int = 320,
        style: str = "starry_night",
        precision: str = "auto",
        compiled: bool = False,
        start: str | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.reference, self.device = reference, best_device()
        self.bfloat16 = not reference and precision == "auto" and bfloat16_is_fast(self.device)
        net = TransformerNet(width, sized=start is not None, waves=start is not None)
        if start:  # as training takes it
            initialise(str(STYLES / start), net, painting="")  # which only init=auto looks at
            net.learn_growth(False)
        vgg = VGG19Features([*STYLE_LAYERS, *CONTENT_LAYERS])
        target = to_tensor(read_image(painting(style), style_size))
        self.weights = LossWeights(**WEIGHTS)
        self.net: torch.nn.Module
        self.loss: torch.nn.Module
        if reference:
            self.net = ReferenceNet(width).take(net)
            self.loss = ReferenceLoss(vgg, target, STYLE_LAYERS, CONTENT_LAYERS, self.weights, batch_size)
        else:
            self.net = net.to(memory_format=torch.channels_last)
            self.loss = PerceptualLoss(vgg, target, STYLE_LAYERS, CONTENT_LAYERS).to(memory_format=torch.channels_last)
            if self.bfloat16:
                vgg.round_kernels(torch.bfloat16)
            if compiled:
                self.net.compile()
                self.loss.compile()
        self.net.to(self.device)
        self.loss.to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.images_seen = 0

    def total(self, content: Tensor, place: Tensor | None = None) -> Tensor:
        """The weighted loss of the stylized content, ours at a `place` of the network's waves."""
        if self.reference:
            return self.loss(self.net(content), content)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            terms = self.loss(self.net(content, place=place).to(memory_format=torch.channels_last), content)
        return self.weights.total(terms)

    def step(self, crops: Tensor, learning_rate: float = 1e-3) -> Tensor:
        """One step on uint8 crops; returns the loss before it."""
        content, place = crops.to(self.device).float() / 255, None
        if not self.reference:
            content = content.to(memory_format=torch.channels_last)
            place = Waves.place(self.images_seen).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        total = self.total(content, place)
        self.images_seen += len(crops)
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if torch.nn.utils.clip_grad_norm_(self.net.parameters(), float("inf")).isfinite():
            self.optimizer.step()
        return total.detach()


def train_step(*, reference: bool, image_size: int, batch_size: int, **options: Any) -> Callable[[], float]:
    """A training step, all of it, on crops that are there already; gives the loss."""
    learner = Learner(reference, batch_size=batch_size, **options)
    crops = next(iter(photos(image_size, batch_size, batch_size)))

    def run() -> float:
        return float(learner.step(crops))

    return run


def photos(image_size: int, batch_size: int, images: int, workers: int = 0) -> Iterator[Tensor]:
    """Batches of crops of the photos that ship, as training with the default data sees them."""
    training, _ = split(find_images(PHOTOS), PHOTOS, HELD_OUT, 0)
    files = PhotoFiles(training, source_size(image_size, AUGMENTATION["min_scale"]))
    dataset = TrainingPhotos(files, image_size, 0, **AUGMENTATION)
    return iter(DataLoader(dataset, batch_sampler=PositionBatches(0, images, batch_size), num_workers=workers))


def validation_crops(size: int) -> Tensor:
    """Eighteen uint8 crops of the photos held out: whole, and from their corners and middle at twice the scale."""
    _, held_out = split(find_images(PHOTOS), PHOTOS, HELD_OUT, 0)
    crops = []
    for path in held_out:
        for side in (size, 2 * size):
            image = torch.from_numpy(np.array(read_image(path, side))).permute(2, 0, 1)
            height, width = image.shape[1] - size, image.shape[2] - size
            corners = [(0, 0), (0, width), (height, 0), (height, width)] if side > size else []
            for top, left in [(height // 2, width // 2), *corners]:
                crops.append(image[:, top : top + size, left : left + size])
    return torch.stack(crops)


def learner(
    *, reference: bool, image_size: int, batch_size: int, images: int, schedule: dict[str, Any], **options: Any
) -> Callable[..., dict[str, float]]:
    """Training on a stream of photos; each run goes on for `count` images."""
    learning = Learner(reference, batch_size=batch_size, **options)
    judge = Learner(False, **{**options, "precision": "float32"})
    plan = Schedule(images=images, **schedule)
    stream = photos(image_size, batch_size, images, workers=1)
    held_out = validation_crops(image_size).float() / 255
    seen = 0

    def run(count: int = 0, validate: bool = False) -> dict[str, float]:
        nonlocal seen
        if validate:
            with torch.no_grad():
                judge.net.load_state_dict(
                    dict(zip(judge.net.state_dict(), learning.net.state_dict().values(), strict=True))
                )
                totals = [judge.total(part.to(judge.device)) for part in torch.split(held_out, 6)]
            return {"images": seen, "loss": float(torch.stack(totals).mean())}
        until = min(images, seen + count)
        while seen < until:
            learning.step(next(stream), plan.rate(seen))
            seen += batch_size
        return {"images": seen}

    return run


def stylize_pass(
    *, kind: str, size: int, width: int = 32, file: str | None = None, on: str | None = None
) -> Callable[[], np.ndarray]:
    """One image of `size` squared: `reference`, or ours in a precision, of a `file` or untrained, `on` a device.

    Where none is named, all are where the reference is.
    """
    torch.manual_seed(0)
    on = on or best_device()
    net = TransformerNet(width).eval()
    content = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    if kind == "reference":
        reference = ReferenceNet(width).take(net).eval().to(on)

        def run() -> np.ndarray:
            with torch.no_grad():
                return reference(torch.from_numpy(content).to(on)).cpu().numpy()

        return run
    engine = load_engine(Path(file), on, kind) if file else EagerEngine(net, device=on, precision=kind)
    return lambda: engine(content)


def command(*, words: list[str], result: str) -> Callable[[], int]:
    """A whole Python process, from its start to the file or folder that it writes; gives its peak memory in MB.

    Resident memory, wherever the tensors are. The run raises `UserError`, with the last line that the process wrote,
    where it fails.
    """
    path = Path(result)

    def run() -> int:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise UserError(f"python {words[0]} failed: {(done.stderr.strip() or 'no result').splitlines()[-1]}")
        return peak_memory_of_commands()

    return run


def textbook_gflop(image_size: int, width: int = 32, training: bool = True) -> float:
    """Billions of floating-point operations that an image takes in the textbook's form, counted by torch.

    Stylizing is a pass of the network. A training step is three (forward, and backward to features and to weights),
    two of VGG19 to relu5_1 (forward, and backward to features) and one to relu4_2.
    """
    with torch.device("meta"):
        image, net = torch.rand(1, 3, image_size, image_size), ReferenceNet(width)
    forward = _counted(lambda: net(image))
    if not training:
        return forward
    deep, shallow = (ReferenceVGG(VGG19Features([layer])).to("meta") for layer in ("relu5_1", "relu4_2"))
    return 3 * forward + 2 * _counted(lambda: deep(image)) + _counted(lambda: shallow(image))


def _counted(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 1e9
