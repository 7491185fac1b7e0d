"""Two minutes that save an hour: what strengths and strokes would make of one photo."""

import logging
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.assets import PHOTOS
from impasto.checks import check_names
from impasto.data.pack import is_pack
from impasto.errors import UserError
from impasto.files import check_absent
from impasto.hardware import choose_device, heed_quota
from impasto.image import check_writable, find_images, read_image, save_image, to_image, with_long_side
from impasto.losses.objective import LARGEST, SMALLEST, build_objectives, check_strength, check_stroke, read_painting
from impasto.machine import choose_precision, first_device
from impasto.optimization import optimize
from impasto.progress import progress_bar
from impasto.sheet import contact_sheet, wrapped
from impasto.tensors import to_tensor

log = logging.getLogger("impasto")

STRENGTHS = (0.3, 1.0, 3.0)  # times the strength asked for
STROKES = (0.6, 1.0, 1.6)  # times the stroke asked for
SIZE = 320  # px, long side of the photo
ITERATIONS = 30  # from the photo: what a well-trained network comes near to


def preview(config: dict[str, Any], run_dir: Path) -> Path:
    """Paint one photo with the optimiser for each strength and stroke; returns the sheet, `run_dir/preview_sheet.jpg`.

    The photo is the first of the training data's folder, or one of those that ship. Raises `UserError`.
    """
    heed_quota()
    device = choose_device("cpu" if config["trainer"]["accelerator"] == "cpu" else "auto")
    if device.type == "cuda":
        device = choose_device(first_device(config["trainer"]))
    check_names(config["style"]["name"], run_dir)
    path = run_dir / "preview_sheet.jpg"
    check_writable(path)
    check_absent(path)
    check_strength(config["strength"])
    check_stroke(config["stroke"])
    bfloat16 = str(choose_precision(config["trainer"])).startswith("bf16")
    photo = _photo(Path(config["data"]["root"]))
    content = to_tensor(photo).to(device)
    strokes = [min(max(SMALLEST, round(config["stroke"] * factor)), LARGEST) for factor in STROKES]
    strengths = [config["strength"] * factor for factor in STRENGTHS]
    paintings = [read_painting(config["style"]["image"], stroke) for stroke in strokes]
    objectives = build_objectives(paintings, config["loss"], config["vgg"], 1.0, device)
    cases = [objective.at(strength) for strength in strengths for objective in objectives]
    pictures = []
    with progress_bar("Preview", "pictures", quiet=False) as progress:
        for objective in progress.track(cases):
            steps = list(optimize(objective, content, content, ITERATIONS, bfloat16=bfloat16))
            if not steps:
                raise UserError("the objective is not finite: lower strength or loss.weights")
            pictures.append(to_image(steps[-1].image.cpu().numpy()))
    captions = [f"strength={strength:g} stroke={stroke}" for strength in strengths for stroke in strokes]
    rows = wrapped(list(zip(captions, pictures, strict=True)), len(strokes))
    sheet = contact_sheet([[("photo", photo), ("painting", paintings[1])], *rows], SIZE)
    save_image(sheet, path)
    log.info("Wrote %s; then train with the strength= and stroke= that you like", path)
    return path


def _photo(root: Path) -> Image.Image:
    """The first of the user's that is large enough; ours where training takes those, or has the user's packed.

    Of small ones the first, enlarged, if there are no others.
    """
    ours = root.resolve() == PHOTOS.resolve() or is_pack(root)
    paths = [PHOTOS / "picos_de_europa.jpg"] if ours else find_images(root)
    small: Image.Image | None = None
    for path in paths:
        try:
            photo = read_image(path)
        except UserError as error:
            log.warning("skipped: %s", error)
            continue
        brought = with_long_side(photo, SIZE)
        if min(brought.size) < SMALLEST:
            log.warning("skipped: %r is too narrow: %d×%d px", str(path), *photo.size)
        elif max(photo.size) >= SIZE:
            return brought
        else:
            small = small or brought
    if small is None:
        raise UserError(f"none of the {len(paths)} photos in {str(root)!r} will do")
    return small
