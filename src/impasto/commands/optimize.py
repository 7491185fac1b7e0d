"""`python scripts/optimize.py`: the image itself optimised, as Gatys et al. did: slow, and the best quality."""

import csv
import logging
import shlex
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impasto import cli
from impasto.commands.configuration import check_hydras, compose, plain
from impasto.errors import UserError
from impasto.stopping import StopSignals

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from impasto.losses.objective import Objective
    from impasto.optimization import Iteration

log = logging.getLogger("impasto")

USAGE = """
Paint one photo by optimising the picture itself: minutes instead of milliseconds, and the best quality.

  python scripts/optimize.py content=photo.jpg style=starry_night
  python scripts/optimize.py content=photo.jpg style.image=my_painting.jpg output=painted.png size=1024 scales=4
  python scripts/optimize.py content=photo.jpg style=great_wave start=noise optimizer=adam iterations=1000

  content=PATH              the photo; size= (long side of the picture, px, default 512; on a CPU 1024 take 5 GB, with
                            optimizer=adam 2.5 GB, in float32 1 GB more)
  style=NAME                one of the paintings in configs/style, or style.image=PATH
  output=PATH               default: picture.png in the run's folder, which also gets trace.csv (all terms of every
                            iteration), TensorBoard's events (terms, and pictures every= iterations) and config.yaml
  strength= stroke=         of the style (default 1) and px of the painting's short side (320), as in train.py
  loss.weights.content= loss.weights.style= loss.weights.tv=   the papers' alpha, beta and gamma;
                            loss=default|gatys|johnson, vgg=oxford|torchvision|file, vgg.pooling=max|average
  start=content|noise       optimizer=lbfgs|adam, learning_rate=, iterations= (of each scale)
  scales=N                  from coarse to fine, each √2 times the size before: larger shapes, and faster
  device=auto|cpu|cuda|mps  precision=auto|float32|bfloat16, every=, seed=
  hydra.run.dir=DIR         default: runs/<style>_optimized/<when>

An iteration looks at a picture, its colours not yet clipped, and makes the next: the first looks at the start. Ctrl-C,
SIGTERM and a closed terminal keep the best picture so far. Paths need no quoting beyond your shell's own.
"""

LITERAL = ("content", "output", "style.image", "style.name", "vgg.path", "hydra.run.dir")


def main(config_dir: Path) -> None:
    """Run the optimiser on the command line, with the configuration in `config_dir`."""

    def command(words: list[str]) -> None:
        check_hydras(words)
        keys = [word.partition("=")[0].lstrip("+") for word in words]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise UserError(f"{twice}= is said twice: say it once")
        config = compose(config_dir, "optimize", [cli.literal(word, LITERAL) for word in words])
        with StopSignals():
            optimize(plain(config), Path(config.hydra.run.dir))

    cli.run(command, USAGE)


def optimize(config: dict[str, Any], run_dir: Path) -> None:
    """Optimise a picture as the configuration says; write it, its trace, TensorBoard's events. Raises `UserError`."""
    _check(config)

    # torch takes seconds: mistakes above are answered at once
    import yaml
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    from impasto.engines.eager import memory_errors
    from impasto.events import Events
    from impasto.files import check_absent, whole_file, write_text
    from impasto.hardware import choose_device, heed_quota, takes_bfloat16
    from impasto.image import check_not_input, check_writable, read_image, save_image, to_image
    from impasto.losses.objective import BLURRED_FROM, SMALLEST, build_objectives, read_painting
    from impasto.optimization import check_optimizer, coarse_to_fine, memory_shortage
    from impasto.progress import passing

    check_optimizer(config["optimizer"])
    output = run_dir / "picture.png" if config["output"] is None else Path(config["output"])
    check_writable(output)
    check_not_input(output, [Path(config["content"]), Path(config["style"]["image"])])
    check_absent(run_dir / "config.yaml", run_dir / "trace.csv", *([output] if config["output"] is None else []))
    heed_quota()
    device = choose_device(str(config["device"]))
    photo = read_image(config["content"])
    if (factor := config["size"] / max(photo.size)) >= BLURRED_FROM:
        log.warning("the photo has %d×%d px: enlarged %.1f times, it is blurred", *photo.size, factor)
    sides = coarse_to_fine(config["size"], config["scales"])
    # so that strokes come out as large as asked for, they shrink with the picture
    strokes = [max(min(SMALLEST, config["stroke"]), round(config["stroke"] * side / sides[-1])) for side in sides]
    bfloat16 = takes_bfloat16(config["precision"], device.type)
    (least_width, least_height), (width, height) = (
        [max(1, round(side * long_side / max(photo.size))) for side in photo.size]
        for long_side in (sides[0], sides[-1])
    )
    if min(least_width, least_height) < SMALLEST:
        words = f"size={config['size']}" + f" with scales={config['scales']} begins with" * (config["scales"] > 1)
        raise UserError(f"{words}: {least_width}×{least_height} px, and {SMALLEST} are the least of a side")
    if shortage := memory_shortage(height, width, config["iterations"], config["optimizer"], bfloat16, device):
        raise UserError(shortage + ", and optimizer=adam takes less" * (config["optimizer"] == "lbfgs"))
    paintings = [read_painting(config["style"]["image"], stroke) for stroke in strokes]
    too_large = UserError(
        f"size={config['size']} with stroke={config['stroke']} takes more memory than there is: "
        f"try size={config['size'] // 2}"
    )
    try:
        with memory_errors():
            objectives = build_objectives(paintings, config["loss"], config["vgg"], config["strength"], device)
    except MemoryError:
        raise too_large from None
    steps = _iterations(config, photo, list(zip(sides, objectives, strict=True)), device, bfloat16)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"), TimeRemainingColumn())
    events = Events(run_dir, start=0)
    rows, picture = list[dict[str, float]](), None
    stopped: BaseException | None = None
    try:
        with passing(*columns) as progress, memory_errors():
            bar = progress.add_task("", total=config["scales"] * config["iterations"])
            for number, (side, step) in enumerate(steps, 1):
                if number == 1:  # of which something can come
                    write_text(run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
                rows.append({"iteration": number, "size": side, **step.terms})
                picture = step.image
                events.log_metrics({f"optimize/{name}": value for name, value in step.terms.items()}, number)
                if number % config["every"] == 0:
                    events.add_image("optimize/picture", picture[0].cpu(), number)
                shown = " ".join(f"{name} {step.terms[name]:.3g}" for name in ("total", "content", "style", "tv"))
                progress.update(bar, completed=number, description=f"{side} px: {shown}")
    except MemoryError:
        stopped = too_large
    except (KeyboardInterrupt, SystemExit) as stop:
        stopped = stop
    if picture is not None:
        save_image(to_image(picture.cpu().numpy()), output)
        height, width = picture.shape[2:]
        log.info("Wrote %s, %d×%d px", output, width, height)
        with whole_file(run_dir / "trace.csv") as temporary, temporary.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        events.settle()
        log.info("  terms of every iteration: %s", run_dir / "trace.csv")
        log.info("  tensorboard --logdir %s", shlex.quote(str(run_dir)))
    if stopped is not None:
        raise stopped
    if picture is None:
        raise UserError("the objective was not finite from the start: lower strength or loss.weights")


def _check(config: dict[str, Any]) -> None:
    for key in ("size", "iterations", "scales", "every"):
        if config[key] < 1:
            raise UserError(f"{key}={config[key]} should be at least 1")
    if config["start"] not in ("content", "noise"):
        raise UserError(f"start is content or noise, not {config['start']!r}")
    if not 0 <= config["seed"] < 2**32:
        raise UserError(f"seed={config['seed']} should be in 0…{2**32 - 1}")
    rate = config["learning_rate"]
    if rate is not None and not (type(rate) in (int, float) and 0 < rate < inf):
        raise UserError(f"learning_rate={rate} should be above 0, and finite")


def _iterations(
    config: dict[str, Any],
    photo: "Image",
    scales: list[tuple[int, "Objective"]],
    device: "torch.device",
    bfloat16: bool,
) -> "Iterator[tuple[int, Iteration]]":
    """The long side (px) and each iteration, scale after scale, each begun with what the one before came to.

    `scales` are long sides (px), each with the objective of the painting at its stroke size.
    """
    from torch.nn import functional as F

    from impasto.image import with_long_side
    from impasto.optimization import optimize as iterations
    from impasto.optimization import white_noise
    from impasto.tensors import to_tensor

    picture = None
    for side, objective in scales:
        content = to_tensor(with_long_side(photo, side)).to(device)
        start = content if config["start"] == "content" else white_noise(content, config["seed"])
        if picture is not None:
            start = F.interpolate(picture, content.shape[-2:], mode="bicubic").clamp(0, 1)
        best, done = float("inf"), 0
        for step in iterations(
            objective,
            content,
            start,
            config["iterations"],
            config["optimizer"],
            config["learning_rate"],
            bfloat16,
        ):
            picture, best, done = step.image, min(best, step.terms["total"]), step.number
            yield side, step
        if done == 0 and picture is None:  # of which the caller tells
            return
        if done < config["iterations"]:
            log.warning("%d px: the objective was not finite after %d iterations: kept the best before", side, done)
        log.info("%d px: objective %.4g after %d iterations", side, best, done)
