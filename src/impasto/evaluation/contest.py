"""A network against the optimiser, on held-out photos and the same objective (Johnson et al. 2016, figure 5)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from pathlib import Path
from statistics import median, median_low
from typing import Any

import torch
from PIL import Image
from rich.progress import TextColumn, TimeElapsedColumn
from torch import Tensor

from impasto.engines.eager import memory_errors
from impasto.errors import UserError
from impasto.evaluation.worth import Worth, terms_of, worth
from impasto.image import image_size, read_image, to_image, with_long_side
from impasto.losses.objective import Objective
from impasto.memory import give_freed_memory_back
from impasto.optimization import memory_shortage
from impasto.progress import passing
from impasto.tensors import to_tensor

log = logging.getLogger("impasto")

STARTS = ("noise", "content")
NAMED = 3  # photos, of those that are passed over for one reason
COMPARED = 512  # px: at the largest size up to this the optimiser is run to its end, for terms and pictures


@dataclass(frozen=True)
class Comparison:
    """All terms of a photo (identity), the network's and the optimiser's picture of it; and the three pictures."""

    photo: str
    terms: dict[str, dict[str, float]]
    pictures: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Plan:
    """What to measure: `photos[i]` photos at a long side of `sizes[i]` px, against up to `limit` iterations."""

    sizes: Sequence[int]
    photos: Sequence[int]
    limit: int
    device: torch.device
    precision: str = "auto"


class HeldOut:
    """Held-out photos, by what each measure takes; one that cannot be read is said once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.unreadable = paths, set[Path]()

    def of_long_side(self, size: int, count: int) -> tuple[list[tuple[Path, Image.Image]], list[str]]:
        """The first `count` photos that have a long side of `size` px, brought to it, and why others are passed over.

        One at a time is held at its full size.
        """
        return self._first(count, size, max, lambda path: with_long_side(read_image(path), size))

    def of_short_side(
        self, least: int, count: int, most: int | None = None
    ) -> tuple[list[tuple[Path, Image.Image]], list[str]]:
        """As `of_long_side`, of a short side of at `least` so many px; larger ones brought to `most`, or to that."""
        return self._first(count, least, min, lambda path: read_image(path, most or least))

    def _first(
        self, count: int, size: int, side: Callable[[tuple[int, int]], int], read: Callable[[Path], Image.Image]
    ) -> tuple[list[tuple[Path, Image.Image]], list[str]]:
        usable, small, damaged = list[tuple[Path, Image.Image]](), list[str](), list[str]()
        for path in self.paths:
            if len(usable) == count:
                break
            if path in self.unreadable:
                damaged.append(path.name)
                continue
            try:
                if side(image_size(path)) < size:  # before it is decoded: a folder can have thousands
                    small.append(path.name)
                else:
                    usable.append((path, read(path)))
            except UserError as error:
                log.warning("skipped: %s", error)
                self.unreadable.add(path)
                damaged.append(path.name)
        which = "long" if side is max else "short"
        passed_over = [
            *([f"{_few(small)} for {size} px: smaller on the {which} side"] if small else []),
            *([f"{_few(damaged)} for {size} px: cannot be read"] if damaged else []),
        ]
        if small:
            log.warning("skipped: %s", passed_over[0])
        return usable, passed_over


class Contest:
    """The network against the optimiser, photo by photo, on the same objective."""

    def __init__(self, network: Callable[[Tensor], Tensor], objective: Objective, plan: Plan, bfloat16: bool) -> None:
        self.network, self.objective, self.plan, self.bfloat16 = network, objective, plan, bfloat16
        self.worths, self.compared, self.skipped = list[dict[str, Any]](), list[Comparison](), list[str]()

    def run(self, photos: HeldOut) -> None:
        """Fill `worths`, and what is `compared` and `skipped` on the way. Raises `UserError` where no photo is left."""
        sizes = self.plan.sizes
        comparable = max(COMPARED, min(sizes))
        with passing(TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
            tell = partial(progress.update, progress.add_task(""))
            # the largest first: a size without photos, or memory, leaves the comparison to the next
            for size, count in sorted(zip(sizes, self.plan.photos, strict=True), reverse=True):
                usable, passed_over = photos.of_long_side(size, count)
                self.skipped += passed_over
                for start in STARTS:
                    compare = start == "content" and size <= comparable and not self.compared
                    trials = [self._trial(path.name, image, size, start, compare, tell) for path, image in usable]
                    if lines := [line for line in trials if line is not None]:
                        self.worths.append(_summary(size, start, lines, self.plan.limit))
                        log.info("%s", sentence(self.worths[-1]))
        if not self.worths:
            raise UserError(f"none of the {len(photos.paths)} photos can be used: {'; '.join(self.skipped[-NAMED:])}")
        self.worths.sort(key=lambda line: line["size"])

    def _trial(
        self, name: str, image: Image.Image, size: int, start: str, compare: bool, tell: Callable[..., None]
    ) -> dict[str, Any] | None:
        """A photo's objectives and iterations; None where the optimiser takes too much memory, or dies."""
        photo = to_tensor(image)
        height, width = photo.shape[2:]
        where = f"{name} at {size} px from {start}"
        limit, device = self.plan.limit, self.plan.device
        give_freed_memory_back()  # the process keeps what the trial before had
        if shortage := memory_shortage(height, width, limit + 1, "lbfgs", self.bfloat16, device):
            self.skip(where, shortage)
            return None
        try:
            with memory_errors():
                photo = photo.to(device)
                stylized = self.network(photo)
                terms = terms_of(self.objective, stylized, photo, self.bfloat16)
                found = Worth(terms["total"])
                if isfinite(terms["total"]):
                    for found in worth(self.objective, photo, terms["total"], start, limit, self.bfloat16, compare):
                        tell(description=f"{where}: {len(found.trace) - 1} iterations")
        except MemoryError:
            self.skip(where, "it takes more memory than there is")
            return None
        except UserError as error:  # a panorama is too low for VGG19
            self.skip(where, str(error))
            return None
        if not isfinite(terms["total"]):
            raise UserError(f"what the network paints of {name} at {size} px is not finite")
        if found.iterations is None and len(found.trace) <= limit:
            self.skip(where, "the optimiser came to nothing finite")
            return None
        if compare and found.picture is not None:
            identity = terms_of(self.objective, photo, photo, self.bfloat16)
            pictures = tuple(map(_image, (photo, stylized, found.picture)))
            sides = {"identity": identity, "network": terms, "optimizer": found.end}
            self.compared.append(Comparison(name, sides, pictures))
        trace = [float(f"{value:.5g}") for value in found.trace]
        return {"photo": name, "objective": terms["total"], "iterations": found.iterations, "trace": trace}

    @contextmanager
    def skipping(self, where: str) -> Iterator[None]:
        """What takes too much memory is skipped: scores that took minutes are not lost for it."""
        try:
            with memory_errors():
                yield
        except MemoryError:
            self.skip(where, "it takes more memory than there is")

    def skip(self, where: str, why: str) -> None:
        """Remember, and say, what is not measured."""
        self.skipped.append(f"{where}: {why}")
        log.warning("skipped: %s", self.skipped[-1])


def sentence(line: dict[str, Any]) -> str:
    """One worth summary in words."""
    few, middle, many = (_count(line[key], line["limit"]) for key in ("least", "median", "most"))
    begin = "noise" if line["start"] == "noise" else "the photo"
    count = len(line["photos"])
    spread = f" ({few} to {many})" if count > 1 else ""
    return f"{line['size']} px, from {begin}: worth {middle} iterations{spread}, {count} photo{'s' * (count > 1)}"


def _count(value: float | None, limit: int) -> str:
    return f"more than {limit}" if value is None else f"{value:g}"


def _summary(size: int, start: str, found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    # a network that the optimiser never reached is worth more than any number
    counts = sorted(inf if line["iterations"] is None else line["iterations"] for line in found)
    middle = median(counts) if median(counts) < inf else median_low(counts)  # 3 and more than 100 have no known mean
    least, middle, most = (None if value == inf else value for value in (counts[0], middle, counts[-1]))
    return {
        "size": size,
        "start": start,
        "least": least,
        "median": middle,
        "most": most,
        "limit": limit,
        "photos": found,
    }


def _few(names: Sequence[str]) -> str:
    """Some names of many."""
    others = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + others


def _image(tensor: Tensor) -> Image.Image:
    return to_image(tensor.detach().float().cpu().clamp(0, 1).numpy())
