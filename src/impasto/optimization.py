"""Style transfer by optimising the image itself: the slow way, the best quality, and the yardstick for networks.

Source: Gatys et al. 2015 (arXiv:1508.06576); coarse to fine as in Gatys et al. 2017 (arXiv:1611.07865), section 6.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite

import torch
from jaxtyping import Float
from rich.filesize import decimal
from torch import Tensor

from impasto.errors import UserError
from impasto.losses.objective import Objective
from impasto.memory import free_memory

OPTIMIZERS = {"lbfgs": 1.0, "adam": 0.02}  # and their learning rates
HISTORY = 100  # gradients that L-BFGS remembers
# the sum of the start's gradient to which a smaller one is brought, and all after it alike: both methods have absolute
# thresholds. The default loss's is 50 to 1,200.
LEAST_GRADIENT = 10.0
FIRST_STEP = 0.05  # mean change of a value by L-BFGS's first step, which no curvature guides yet

# Peak of a process on a CPU less what it held before, torch 2.15, from 448 to 896 px of long side: 2,980 bytes a pixel
# in float32 and 1,420 in bfloat16; and 33 for each gradient that L-BFGS remembers, which are two images and the gaps
# that glibc leaves between them.
PASS_BYTES = {False: 3100, True: 1500}  # in bfloat16 or not
HISTORY_BYTES = 33
FIXED_BYTES = 1 << 30  # VGG19, and the photos that terms are relative to
SMALLEST = 64  # px: smaller pictures are no advice


@dataclass(frozen=True)
class Iteration:
    """One evaluation of the objective: its number from 1 on, the terms, and the best image so far."""

    number: int
    terms: dict[str, float]
    image: Tensor  # (1, 3, height, width), RGB, [0, 1]


def white_noise(content: Float[Tensor, "1 3 height width"], seed: int = 0) -> Float[Tensor, "1 3 height width"]:
    """Uniform white noise in [0, 1], of the photo's size: the same for a seed on every device."""
    return torch.rand(content.shape, generator=torch.Generator().manual_seed(seed)).to(content.device)


def optimize(
    objective: Objective,
    content: Float[Tensor, "1 3 height width"],
    start: Float[Tensor, "1 3 height width"],
    iterations: int,
    optimizer: str = "lbfgs",
    learning_rate: float | None = None,
    bfloat16: bool = False,
    first_step: float | None = FIRST_STEP,
) -> Iterator[Iteration]:
    """Optimise an image, from `start`; yields each iteration, which is one evaluation of the objective.

    L-BFGS takes no line search, as in the papers' own programs. Its `first_step` changes values by so much on average;
    None is torch's and theirs, of one millionth, from which rounding makes a false curvature: begun with a photo of
    512 px, the objective then rises from 6 to 2,436, and comes down three iterations later. The image is free to leave
    [0, 1] on its way, which lowers the objective a little: the yardstick is the harder for it; what is yielded is
    clipped.
    Ends early where the objective stops being finite. Raises `UserError` for an unknown optimiser.
    """
    check_optimizer(optimizer)
    rate = OPTIMIZERS[optimizer] if learning_rate is None else learning_rate
    image = start.clone(memory_format=torch.contiguous_format).requires_grad_()
    method: torch.optim.Optimizer
    if optimizer == "lbfgs":  # one evaluation a step; its tolerances are for objectives of another scale
        method = torch.optim.LBFGS(
            [image], lr=rate, max_iter=1, history_size=HISTORY, tolerance_grad=0, tolerance_change=0
        )
    else:
        method = torch.optim.Adam([image], lr=rate)
    terms: dict[str, Tensor] = {}
    with torch.autocast(image.device.type, torch.bfloat16, enabled=bfloat16):
        judge = objective.of(content)
    best, best_image, scale = inf, start, 0.0  # not known yet

    def evaluate() -> Tensor:
        nonlocal terms, scale
        method.zero_grad()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bfloat16):
            terms = judge(image.to(memory_format=torch.channels_last))
        terms["total"].backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert image.grad is not None
        if not scale:
            length = float(image.grad.abs().sum())
            scale = max(1.0, LEAST_GRADIENT / length) if length else 1.0
        image.grad *= scale
        return terms["total"].detach()

    for number in range(1, iterations + 1):
        before = image.detach().clone()
        if optimizer == "lbfgs" and first_step is not None:  # else the gradient over its sum, times the rate
            method.param_groups[0]["lr"] = rate * (first_step * image.numel() if number == 1 else 1)
        method.step(evaluate)  # type: ignore[no-untyped-call]  # as L-BFGS, too
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not isfinite(values["total"]):
            return
        if values["total"] < best:
            best, best_image = values["total"], before.clamp(0, 1)
        yield Iteration(number, values, best_image)


def check_optimizer(optimizer: str) -> None:
    """Raises `UserError` for one that is not known."""
    if optimizer not in OPTIMIZERS:
        raise UserError(f"optimizer is {' or '.join(OPTIMIZERS)}, not {optimizer!r}")


def memory_shortage(
    height: int, width: int, iterations: int, optimizer: str, bfloat16: bool, device: torch.device
) -> str | None:
    """A sentence where `optimize` would not fit into a CPU's memory: Linux kills without a word, and late."""
    if device.type != "cpu":  # others say so themselves
        return None
    pixel = PASS_BYTES[bfloat16] + HISTORY_BYTES * min(iterations, HISTORY) * (optimizer == "lbfgs")
    needed, free = FIXED_BYTES + pixel * height * width, free_memory(device)
    if needed <= free:
        return None
    size = max(height, width)
    fits = int(size * (max(0, free - FIXED_BYTES) / (needed - FIXED_BYTES)) ** 0.5)
    mend = f"size {fits} fits" if fits >= SMALLEST else "end other programs"
    return f"size {size} takes {decimal(needed)} of memory, and {decimal(free)} are free: {mend}"


def coarse_to_fine(size: int, scales: int) -> list[int]:
    """Long sides (px) of `scales` rounds, each √2 times as large as the one before, the last `size`."""
    return [max(1, round(size * 2 ** (-step / 2))) for step in reversed(range(scales))]
