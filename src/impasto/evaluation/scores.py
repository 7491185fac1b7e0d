"""All scores of one network, as plain data, and the pictures that go with them."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf, isfinite, isnan, nan
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from PIL import Image
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from impasto.benchmark.contestants import stylize_pass
from impasto.benchmark.measure import Contestant, alternate, machine
from impasto.engines.eager import memory_errors
from impasto.errors import UserError
from impasto.evaluation.artefacts import Finding, artefacts, luminance
from impasto.evaluation.worth import Worth, terms_of, worth
from impasto.hardware import takes_bfloat16
from impasto.image import read_image, resize, to_image
from impasto.losses.objective import Objective
from impasto.memory import give_freed_memory_back
from impasto.models.transformer_net import TransformerNet
from impasto.optimization import memory_shortage
from impasto.sheet import contact_sheet
from impasto.tensors import to_tensor

log = logging.getLogger("impasto")

STARTS = ("noise", "content")
COMPARED = 512  # px: up to this size the optimiser is run to its end on the first photos, for terms and pictures
SUITE_SIZE = 384  # px, short side of the photos that the artefact suite sees
SUITE_LEAST = 256  # px, short side: its crops and patches take so many
SSIM_LEAST = 16  # px, short side: its window takes 11
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's, which LPIPS stands on
ALEXNET_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"


@dataclass(frozen=True)
class Comparison:
    """All terms of a photo (identity), the network's and the optimiser's picture of it; and the three pictures."""

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


def score(
    net: TransformerNet,
    objective: Objective,
    painting: Image.Image,
    content: Sequence[Path],
    plan: Plan,
) -> tuple[dict[str, Any], Image.Image]:
    """Scores and contact sheet of a network on photos that it has not learned from. Raises `UserError`."""
    bfloat16 = takes_bfloat16(plan.precision, plan.device.type)
    net = net.eval().to(plan.device).to(memory_format=torch.channels_last)

    def network(image: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(plan.device.type, torch.bfloat16, enabled=bfloat16):
            stylized: Tensor = net(image.to(plan.device).contiguous(memory_format=torch.channels_last))
            return stylized.float()

    photos, contest = _Photos(content), _Contest(network, objective.to(plan.device), plan, bfloat16)
    contest.run(photos)
    skipped = contest.skipped
    suite = [
        artefacts(lambda image: network(image).cpu(), to_tensor(photo), to_tensor(painting))
        for _, photo in photos.at_least(SUITE_LEAST, 3, min, SUITE_SIZE)[0]
    ]
    if not suite:
        skipped.append(f"the artefact suite: no photo has {SUITE_LEAST} px on its short side")
        log.warning("skipped: %s", skipped[-1])
    scores = {
        "worth": contest.worths,
        "skipped": skipped,
        "terms": _means([each.terms for each in contest.compared]),
        "similarity": _similarity(network, photos, min(plan.sizes)),
        "artefacts": [_typical(findings) for findings in zip(*suite, strict=True)],
        "machine": machine(),
        "precision": "bfloat16" if bfloat16 else "float32",
    }
    names = ("photo", "network", "optimizer")
    rows = [list(zip(names, each.pictures, strict=True)) for each in contest.compared]
    sheet = contact_sheet(rows or [[("painting", painting)]], COMPARED * 3 // 4)
    return scores, sheet


def speed(
    file: Path, sizes: Sequence[int], device: str = "auto", precision: str = "auto", repeats: int = 5
) -> list[dict[str, Any]]:
    """Milliseconds and peak memory of one pass per size, each in a process of its own; what fails is left out."""
    lines = []
    for size in sizes:
        with Contestant(f"{size}", stylize_pass, kind=precision, size=size, file=str(file), on=device) as contestant:
            try:
                alternate([contestant], repeats)
            except UserError as error:  # scores that took minutes are not lost for it
                log.warning("skipped: the time of one pass at %d px: %s", size, error)
                continue
        lines.append({"size": size, "ms": round(median(contestant.seconds) * 1000, 1), "peak MB": contestant.peak_mb})
    return lines


def sentence(line: dict[str, Any]) -> str:
    """One worth summary in words."""
    few, middle, many = (_count(line[key], line["limit"]) for key in ("least", "median", "most"))
    begin = "noise" if line["start"] == "noise" else "the photo"
    count = len(line["photos"])
    spread = f" ({few} to {many})" if count > 1 else ""
    return f"{line['size']} px, from {begin}: worth {middle} iterations{spread}, {count} photo{'s' * (count > 1)}"


def _count(value: float | None, limit: int) -> str:
    return f"more than {limit}" if value is None else f"{value:g}"


class _Photos:
    """Held-out photos, by what each measure takes; one that cannot be read is said once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.unreadable = paths, set[Path]()

    def at_least(
        self,
        size: int,
        count: int,
        side: Callable[[tuple[int, int]], int] = max,
        short_side: int | None = None,
    ) -> tuple[list[tuple[Path, Image.Image]], list[str]]:
        """The first `count` photos, read at a `short_side`, of at least `size` px, and the names of those passed over.

        The `side` that counts is the long one, or with `min` the short one. What cannot be read is passed over, too.
        """
        usable, passed_over = list[tuple[Path, Image.Image]](), []
        for path in self.paths:
            if len(usable) == count:
                break
            image = self._read(path, short_side)
            if image is not None and side(image.size) >= size:
                usable.append((path, image))
                continue
            if image is not None:
                log.warning("skipped: %s is smaller than %d px", path.name, size)
            passed_over.append(f"{path.name} at {size} px")
        return usable, passed_over

    def _read(self, path: Path, short_side: int | None) -> Image.Image | None:
        if path in self.unreadable:
            return None
        try:
            return read_image(path, short_side)
        except UserError as error:
            log.warning("skipped: %s", error)
            self.unreadable.add(path)
            return None


class _Contest:
    """The network against the optimiser, photo by photo, on the same objective."""

    def __init__(self, network: Callable[[Tensor], Tensor], objective: Objective, plan: Plan, bfloat16: bool) -> None:
        self.network, self.objective, self.plan, self.bfloat16 = network, objective, plan, bfloat16
        self.worths, self.compared, self.skipped = list[dict[str, Any]](), list[Comparison](), list[str]()

    def run(self, photos: _Photos) -> None:
        """Fill `worths`, and what is `compared` and `skipped` on the way. Raises `UserError` where no photo is left."""
        sizes = self.plan.sizes
        largest = max((size for size in sizes if size <= COMPARED), default=sizes[0])
        with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), transient=True) as progress:
            tell = partial(progress.update, progress.add_task(""))
            for size, count in zip(sizes, self.plan.photos, strict=True):
                usable, small = photos.at_least(size, count)
                self.skipped += small
                for start in STARTS:
                    compare = size == largest and start == "content"
                    trials = [self._trial(path.name, image, size, start, compare, tell) for path, image in usable]
                    if lines := [line for line in trials if line is not None]:
                        self.worths.append(_summary(size, start, lines, self.plan.limit))
                        log.info("%s", sentence(self.worths[-1]))
        if not self.worths:
            least = f"{min(sizes)} px of long side, and the memory for it"
            raise UserError(f"none of the {len(photos.paths)} photos can be used: they need {least}")

    def _trial(
        self, name: str, image: Image.Image, size: int, start: str, compare: bool, tell: Callable[..., None]
    ) -> dict[str, Any] | None:
        """A photo's objectives and iterations; None where the optimiser takes too much memory, or dies."""
        photo = to_tensor(resize(image, size / max(image.size)))
        height, width = photo.shape[2:]
        where = f"{name} at {size} px from {start}"
        limit, device = self.plan.limit, self.plan.device
        give_freed_memory_back()  # the process keeps what the trial before had
        if shortage := memory_shortage(height, width, limit + 1, "lbfgs", self.bfloat16, device):
            self._skip(where, shortage)
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
            self._skip(where, "it takes more memory than there is")
            return None
        except UserError as error:  # a panorama is too low for VGG19
            self._skip(where, str(error))
            return None
        if not isfinite(terms["total"]):
            raise UserError(f"what the network paints of {name} at {size} px is not finite")
        if found.iterations is None and len(found.trace) <= limit:
            self._skip(where, "the optimiser came to nothing finite")
            return None
        if compare and found.picture is not None:
            identity = terms_of(self.objective, photo, photo, self.bfloat16)
            pictures = tuple(map(_image, (photo, stylized, found.picture)))
            self.compared.append(Comparison({"identity": identity, "network": terms, "optimizer": found.end}, pictures))
        trace = [float(f"{value:.5g}") for value in found.trace]
        return {"photo": name, "objective": terms["total"], "iterations": found.iterations, "trace": trace}

    def _skip(self, where: str, why: str) -> None:
        self.skipped.append(where)
        log.warning("skipped: %s: %s", where, why)


def _summary(size: int, start: str, found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    # a network that the optimiser never reached is worth more than any number
    counts = sorted(inf if line["iterations"] is None else line["iterations"] for line in found)
    least, middle, most = (None if value == inf else value for value in (counts[0], median(counts), counts[-1]))
    return {
        "size": size,
        "start": start,
        "least": least,
        "median": middle,
        "most": most,
        "limit": limit,
        "photos": found,
    }


def _means(compared: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean terms of the photo, the network's and the optimiser's picture."""
    return {
        name: {who: mean(each[who][name] for each in compared) for who in ("identity", "network", "optimizer")}
        for name in (compared[0]["identity"] if compared else {})
    }


def _similarity(network: Callable[[Tensor], Tensor], photos: _Photos, short_side: int) -> dict[str, Any]:
    """SSIM on luminance, and LPIPS where torchvision's AlexNet has been downloaded, to the photo at a `short_side`."""
    from torchmetrics.functional.image import structural_similarity_index_measure as structural_similarity

    pairs = []
    for _, image in photos.at_least(SSIM_LEAST, 8, min, short_side)[0]:
        photo = to_tensor(image)
        pairs.append((photo, network(photo).cpu().float()))
    ssim: list[Any] = [
        structural_similarity(luminance(stylized), luminance(photo), data_range=1.0) for photo, stylized in pairs
    ]
    if not pairs:
        return {"ssim": "skipped: the photos are too small", "photos": 0}
    found: dict[str, Any] = {"ssim": round(mean(map(float, ssim)), 3), "photos": len(pairs), "short side": short_side}
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not weights.is_file():
        return {**found, "lpips": f"skipped: it takes torchvision's {ALEXNET} in torch's cache folder"}
    with weights.open("rb") as file:  # which torchvision would execute
        if hashlib.file_digest(file, "sha256").hexdigest() != ALEXNET_SHA256:
            return {**found, "lpips": f"skipped: {weights} is not torchvision's AlexNet"}
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as lpips

    distance = mean(float(lpips(stylized.clamp(0, 1), photo, "alex", normalize=True)) for photo, stylized in pairs)
    return {**found, "lpips": round(distance, 3)}


def _typical(findings: Sequence[Finding]) -> dict[str, Any]:
    """One measure over several photos: their median, or None where any is not a number, which JSON cannot say."""
    values = [finding.value for finding in findings]
    typical = replace(findings[0], value=nan if any(map(isnan, values)) else median(values))
    value = None if isnan(typical.value) else round(typical.value, 3)
    return {**asdict(typical), "value": value, "passed": typical.passed}


def _image(tensor: Tensor) -> Image.Image:
    return to_image(tensor.detach().float().cpu().clamp(0, 1).numpy())
