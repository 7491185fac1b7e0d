"""All scores of one network, as plain data, and the pictures that go with them."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from math import isfinite, nan
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from impasto.benchmark.contestants import stylize_pass
from impasto.benchmark.measure import Contestant, alternate, machine
from impasto.diagnosis import ALEXNET
from impasto.errors import UserError
from impasto.evaluation.artefacts import FLAT, Finding, artefacts, luminance
from impasto.evaluation.contest import COMPARED, Contest, HeldOut, Plan
from impasto.hardware import takes_bfloat16
from impasto.losses.objective import Objective
from impasto.models.transformer_net import TransformerNet
from impasto.sheet import contact_sheet
from impasto.tensors import to_tensor

log = logging.getLogger("impasto")

SUITE_SIZE = 384  # px, short side of the photos that the artefact suite sees
SSIM_LEAST = 16  # px, short side: its window takes 11
LPIPS_LEAST = 31  # px: AlexNet's
ALEXNET_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"


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

    photos, contest = HeldOut(content), Contest(network, objective.to(plan.device), plan, bfloat16)
    contest.run(photos)
    suite = []
    judging = photos.of_short_side(FLAT, 3, SUITE_SIZE)[0]
    if not judging:
        contest.skip("the artefact suite", f"no photo has {FLAT} px on its short side")
    for path, photo in judging:
        with contest.skipping(f"the artefact suite on {path.name}"):
            suite.append(artefacts(lambda image: network(image).cpu(), to_tensor(photo), to_tensor(painting)))
    similarity: dict[str, Any] = {"ssim": "skipped: it takes more memory than there is", "photos": 0}
    with contest.skipping("the similarity to the photo"):
        similarity = _similarity(network, photos, max(SSIM_LEAST, min(plan.sizes)))
    scores = {
        "worth": contest.worths,
        "skipped": contest.skipped,
        "compared": [each.photo for each in contest.compared],
        "terms": _means([each.terms for each in contest.compared]),
        "similarity": similarity,
        "artefacts": [_typical(findings) for findings in zip(*suite, strict=True)],
        "machine": machine(plan.device),
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


def _means(compared: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean terms of the photo, the network's and the optimiser's picture."""
    return {
        name: {who: mean(each[who][name] for each in compared) for who in ("identity", "network", "optimizer")}
        for name in (compared[0]["identity"] if compared else {})
    }


def _similarity(network: Callable[[Tensor], Tensor], photos: HeldOut, short_side: int) -> dict[str, Any]:
    """SSIM on luminance, and LPIPS where torchvision's AlexNet has been downloaded, to the photo at a `short_side`.

    Both depend on it: smaller photos count only where none is as large, and then the least side is told.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as structural_similarity

    pairs = []
    large = photos.of_short_side(short_side, 8)[0]
    for _, image in large or photos.of_short_side(SSIM_LEAST, 8, short_side)[0]:
        photo = to_tensor(image)
        pairs.append((photo, network(photo).cpu().float()))
    ssim: list[Any] = [
        structural_similarity(luminance(stylized), luminance(photo), data_range=1.0) for photo, stylized in pairs
    ]
    if not pairs:
        return {"ssim": "skipped: the photos are too small", "photos": 0}
    found: dict[str, Any] = {"ssim": _shown(map(float, ssim)), "photos": len(pairs)}
    found["short side"] = min(min(photo.shape[2:]) for photo, _ in pairs)
    pairs = [(photo, stylized) for photo, stylized in pairs if min(photo.shape[2:]) >= LPIPS_LEAST]
    if not pairs:
        return {**found, "lpips": f"skipped: no photo has {LPIPS_LEAST} px on its short side"}
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not weights.is_file():
        return {**found, "lpips": f"skipped: it takes torchvision's {ALEXNET} in torch's cache folder"}
    with weights.open("rb") as file:  # which torchvision would execute
        if hashlib.file_digest(file, "sha256").hexdigest() != ALEXNET_SHA256:
            return {**found, "lpips": f"skipped: {weights} is not torchvision's AlexNet"}
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as lpips

    distances = (float(lpips(stylized.clamp(0, 1), photo, "alex", normalize=True)) for photo, stylized in pairs)
    return {**found, "lpips": _shown(distances)}


def _shown(values: Iterable[float]) -> float | str:
    """Their mean; JSON has no word for one that is no number."""
    value = mean(values)
    return round(value, 3) if isfinite(value) else "skipped: not a number"


def _typical(findings: Sequence[Finding]) -> dict[str, Any]:
    """One measure over several photos: their median, by which it passes, and the worst.

    Both are None where any is not finite, which JSON cannot say.
    """
    values = [finding.value for finding in findings]
    sound = all(map(isfinite, values))
    typical = replace(findings[0], value=median(values) if sound else nan)
    rounded = (
        {"value": round(typical.value, 3), "worst": round(max(values), 3)} if sound else {"value": None, "worst": None}
    )
    return {**asdict(typical), **rounded, "passed": typical.passed}
