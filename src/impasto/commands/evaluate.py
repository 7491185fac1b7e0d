"""`python scripts/evaluate.py`: one command, one report on how good a network is."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from impasto import cli
from impasto.errors import UserError

log = logging.getLogger("impasto")

USAGE = """
Score a network on photos that it has not learned from; writes a model card beside the weights.

  python scripts/evaluate.py ckpt=starry_night
  python scripts/evaluate.py ckpt=runs/mine/2026-01-31_12-00-00-000000/mine.safetensors content=holiday/ photos=20,10,5
  python scripts/evaluate.py ckpt=old.safetensors painting=starry_night

  ckpt=FILE|NAME        a .safetensors, a training checkpoint, a peer's .pth, or a style as in stylize.py
  content=DIR           photos; default: those that ship; without those that the network learned from, where DIR is
                        still the folder it was trained on
  sizes=256,512,1024    long sides (px); a photo smaller than a size is left out there, and said
  photos=6,3,2          how many photos at each size
  iterations=100        of the optimiser, at most; L-BFGS from noise, and from the photo
  painting=PATH|NAME    where the network's own is not known; vgg=FILE: the VGG19 of a network trained with vgg=file
  output=DIR            for FILE's name with .md, .json and _sheet.jpg, and TensorBoard's hparams; default: beside the
                        weights, or runs/<style>/scores of a style that ships
  device=auto|cpu|cuda|mps   precision=auto|float32|bfloat16

The report: how many iterations one pass is worth, terms by layer against the photo's and the optimiser's, SSIM and
LPIPS to the photo, the artefact suite, milliseconds and memory. About a quarter of an hour on two cores.
"""


# what an objective takes, of a network's record and of the loss in it; of a VGG19 also what tells files apart
RECORD = {"loss": dict, "vgg": dict, "strength": int | float, "stroke": int}
VGG = ("source", "path", "preprocessing", "pooling", "sha256")
LOSS = {"relative": bool, "weights": dict, "style_layers": dict, "content_layers": dict, "content_reduction": str}


@dataclass
class EvaluateOptions:
    """Options of the command line, as in `USAGE`."""

    ckpt: str = MISSING
    content: str | None = None
    sizes: str = "256,512,1024"
    photos: str = "6,3,2"
    iterations: int = 100
    painting: str | None = None
    vgg: str | None = None
    output: str | None = None
    device: str = "auto"
    precision: str = "auto"


def main(config_dir: Path) -> None:
    """Run the evaluation on the command line; `config_dir` has the weights for networks without a record of theirs."""

    def command(words: list[str]) -> None:
        evaluate(config_dir, cli.parse(words, EvaluateOptions))

    cli.run(command, USAGE)


def evaluate(config_dir: Path, options: EvaluateOptions) -> dict[str, Any]:
    """Score a network and write its card. Raises `UserError`."""
    sizes, photos = _numbers("sizes", options.sizes), _numbers("photos", options.photos)
    if len(sizes) != len(photos):
        raise UserError(f"photos={options.photos} should have as many numbers as sizes={options.sizes}")
    cli.check_counts(options, "iterations")

    from impasto.assets import STYLES, credit, provenance
    from impasto.evaluation.card import check_card, check_free, write_card
    from impasto.evaluation.contest import Plan
    from impasto.evaluation.scores import score, speed
    from impasto.export import load_any
    from impasto.files import check_place
    from impasto.hardware import choose_device, heed_quota, takes_bfloat16
    from impasto.losses.objective import build_objective, read_painting
    from impasto.peers import precision_for
    from impasto.styles import find_checkpoint

    path = find_checkpoint(options.ckpt)
    net, metadata = load_any(path)
    check_card(metadata)
    precision = precision_for(net, options.precision)
    heed_quota()
    plan = Plan(sizes, photos, options.iterations, choose_device(options.device), precision)
    takes_bfloat16(precision, plan.device.type)  # mistakes before VGG19 takes its time
    ships = path.resolve().parent == STYLES.resolve()  # the package is no place for it
    beside = Path("runs", path.stem, "scores") if ships else path.parent
    folder = beside if options.output is None else Path(options.output)
    check_place(folder / f"{path.stem}.json")
    check_free(folder / path.stem)
    content = _content(options, metadata)
    objective_options, recorded = _objective(config_dir, metadata)
    painted_as = _painting(options, metadata)
    painting = read_painting(painted_as, objective_options["stroke"])
    vgg = {key: value for key, value in objective_options["vgg"].items() if key != "sha256"}
    vgg |= _vgg_file(options, objective_options["vgg"])
    objective = build_objective(painting, objective_options["loss"], vgg, objective_options["strength"])
    scores, sheet = score(net, objective, painting, content, plan)
    judged = [size for size in sizes if any(line["size"] == size for line in scores["worth"])]
    timed = speed(path, judged, options.device, precision) if path.suffix != ".ckpt" else []
    skipped = list(scores["skipped"])
    if path.suffix == ".ckpt":
        skipped.append("milliseconds and memory, which are an inference file's")
    elif untimed := {*judged} - {line["size"] for line in timed}:
        skipped.append(f"milliseconds and memory at {', '.join(map(str, sorted(untimed)))} px: it failed")
    card = {
        "network": metadata,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "objective": {**objective_options, "recorded": recorded, "painting": provenance(painted_as)},
        "iterations": options.iterations,
        "content": "the photos given" if options.content else "photos that its record does not name as learned from",
        "credits": [] if options.content else [credit(photo) for photo in scores["compared"]],
        "scores": {**scores, "skipped": skipped},
        "speed": timed,
    }
    written = write_card(folder / path.stem, card, sheet)
    _to_tensorboard(folder / f"{path.stem}_scores", card)
    for finding in scores["artefacts"]:
        verdict = "passed" if finding["passed"] else "FAILED"
        log.info("%s: %s (%s, at most %s)", finding["name"], verdict, finding["value"], finding["limit"])
    log.info("Wrote %s", ", ".join(map(str, written)))
    return card


def _numbers(key: str, value: str) -> list[int]:
    words = value.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"{key}={value} should be whole numbers above 0 with commas between them")
    return [int(word) for word in words]


def _objective(config_dir: Path, metadata: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """What the network was trained for, and whether it says so; else the default."""
    said: dict[str, Any] = {key: metadata.get(key) for key in ("loss", "vgg", "strength")}
    said["stroke"] = metadata.get("style", {}).get("stroke")
    if _is_of(RECORD, said) and _is_of(LOSS, said["loss"]) and "source" in said["vgg"]:
        vgg = {key: said["vgg"][key] for key in VGG if key in said["vgg"]}
        return {**said, "vgg": vgg}, True
    from impasto.commands.configuration import compose, plain

    log.warning("the network does not say what it was trained for: it is measured by the default objective")
    defaults = plain(compose(config_dir, "optimize", ["content=none", "style.image=none"]))
    return {key: defaults[key] for key in ("loss", "vgg", "strength", "stroke")}, False


def _is_of(kinds: dict[str, Any], record: dict[str, Any]) -> bool:
    return all(isinstance(record.get(key), kind) for key, kind in kinds.items())


def _vgg_file(options: EvaluateOptions, vgg: dict[str, Any]) -> dict[str, str]:
    """Where a VGG19 that is the user's own lies, which the network's record does not say."""
    if vgg["source"] != "file":
        if options.vgg is not None:
            raise UserError(
                f"vgg={options.vgg}: the network was trained with the VGG19 of {vgg['source']}, leave it out"
            )
        return {}
    if options.vgg is None:
        raise UserError("the network was trained with a VGG19 of your own: vgg=FILE, as it was for training")
    from impasto.models.vgg import vgg_record

    if vgg.get("sha256") not in (None, vgg_record("file", options.vgg)["sha256"]):
        log.warning("vgg=%s is not the file that the network was trained with: scored by it", options.vgg)
    return {"path": options.vgg}


def _painting(options: EvaluateOptions, metadata: dict[str, Any]) -> Path:
    """The file of the network's painting: as named, or one of ours, known by its content."""
    from impasto.assets import painting, painting_of, provenance

    sha256 = metadata.get("style", {}).get("sha256")
    if options.painting is not None:
        file = Path(options.painting) if Path(options.painting).is_file() else painting(options.painting)
        if sha256 not in (None, provenance(file)["sha256"]):
            log.warning("painting=%s is not the file that the network was trained with: scored by it", options.painting)
        return file
    if ours := painting_of(sha256):
        return ours
    raise UserError("the network's painting is none of those that ship: painting=FILE, as it was for training")


def _content(options: EvaluateOptions, metadata: dict[str, Any]) -> list[Path]:
    """The photos given, or those that ship, the large ones first; without those that it is known to have learned from.

    Sheets of evaluations are no photos. Raises `UserError` where these are all.
    """
    from PIL import Image

    from impasto.assets import PHOTOS
    from impasto.checkpoint import learned_in_all
    from impasto.data.scan import fingerprint, short_key
    from impasto.evaluation.card import is_sheet
    from impasto.image import find_images

    root = PHOTOS if options.content is None else Path(options.content)
    photos = [photo for photo in find_images(root) if not is_sheet(photo)]
    folder, unseen = fingerprint(photos, root, times=False)[:16], photos
    keys = {photo: short_key(photo, root) for photo in photos}
    here, sure = {*keys.values()}, True
    for learned in learned_in_all(metadata):
        held_out = set(learned.get("held_out", []))
        same = learned.get("folder") == folder
        if same or held_out and held_out <= here:  # or to which photos have been added since
            sure = sure and same
            unseen = [photo for photo in unseen if keys[photo] in held_out]
        elif options.content is None and learned.get("name") == "bundled":  # as they once were: nobody knows which
            unseen = []
    if not unseen:
        which = "that ship" if options.content is None else f"in content={options.content}"
        raise UserError(f"the network has learned from all photos {which}: content=DIR says others to judge it by")
    if len(unseen) < len(photos):
        seems = "has" if sure else "seems, by the names in it, to have"
        log.info("The network %s learned from %s: judged by the %d photos that were held out", seems, root, len(unseen))
    if options.content is not None:
        return unseen

    def long_side(path: Path) -> int:
        with Image.open(path) as image:
            return max(image.size)

    return sorted(unseen, key=lambda path: (-long_side(path), path.name))  # so that all sizes have the same


def _to_tensorboard(folder: Path, card: dict[str, Any]) -> None:
    """Settings and scores, side by side with other networks' in TensorBoard's HPARAMS; in place of earlier ones."""
    from impasto.checkpoint import images_in_all
    from impasto.events import Events
    from impasto.styles import style_name

    metadata, scores = card["network"], card["scores"]
    settings = {
        "style": style_name(metadata, "unknown"),
        "strength": card["objective"]["strength"],
        "stroke": card["objective"]["stroke"],
        "images in all": images_in_all(metadata),
        "parameters": card["parameters"],
    }
    values = {f"worth/{line['size']}/{line['start']}": line["median"] for line in scores["worth"]}
    values |= {f"artefacts/{finding['name']}": finding["value"] for finding in scores["artefacts"]}
    values |= {name: scores["similarity"].get(name) for name in ("ssim", "lpips")}
    # others were skipped, or never reached
    values = {name: value for name, value in values.items() if isinstance(value, int | float)}
    for before in folder.glob("events.out.tfevents.*"):
        before.unlink()
    Events(folder, 0).add_hparams(settings, values)
