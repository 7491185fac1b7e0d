"""`python scripts/train_gallery.py`: many styles, one per GPU, resumable; with their cards, into the package."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from impasto import cli
from impasto.assets import STYLES, painting
from impasto.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from impasto.sheet import Captioned

log = logging.getLogger("impasto")
Number = TypeVar("Number", int, float)

SHIPPED = "starry_night,great_wave,cafe_terrace,composition_viii,night_cafe,summertime"

# what a machine can take, which may be another one than before
FREE = ("trainer", "data.batch_size", "data.workers", "data.timeout", "data.pack", "checkpoint.", "hydra.", "-")
BOUND = ("trainer.gradient_clip",)  # of these, what the network depends on
CELL = 224  # px, long side of the sheet's pictures
CHOSEN = ("data", "schedule")  # by train.py, where no word does

USAGE = f"""
Train a gallery of styles: one per GPU, or as many at once as a CPU's cores permit. Go on by running it again.

  python scripts/train_gallery.py data=folder data.root=photos/ ship=true
  python scripts/train_gallery.py styles=poppies,night_cafe strengths=0.3,1,3 sheet=holiday/ schedule.images=250

  styles=LIST       default: {SHIPPED}
  strengths=1 strokes=320   several with commas between them: a run for each combination
  output=DIR        runs, their logs and the sheet; default: runs/gallery
  ship=true         scores each style, and puts it, in half precision, with its card into the package; what has been
                    scored is not again: delete the run's half/ for that. One that is worth less than the one before
                    it, or has artefacts, stays in half/, unless anyway=true
  sheet=PATH        a photo or a folder of some: painted by all runs, on output's sheet.jpg

All other words go to train.py, whose --help lists them.
"""


@dataclass
class GalleryOptions:
    """Options of the command line, as in `USAGE`."""

    styles: str = SHIPPED
    strengths: str = "1"
    strokes: str = "320"
    output: str = "runs/gallery"
    ship: bool = False
    anyway: bool = False
    sheet: str | None = None


@dataclass(frozen=True)
class Run:
    """One network to train."""

    style: str
    strength: str
    stroke: str
    folder: Path
    settings: str = ""  # of those that there are several of

    @property
    def network(self) -> Path:
        """What the run leaves when it is done."""
        return self.folder / f"{self.style}.safetensors"

    @property
    def words(self) -> list[str]:
        """Of train.py's command line."""
        return [f"style={self.style}", f"strength={self.strength}", f"stroke={self.stroke}", "resume=true"]


def main(root: Path) -> None:
    """Train a gallery on the command line, with the scripts and the configuration under `root`."""
    cli.run(lambda words: train_gallery(root, words), USAGE)


def train_gallery(root: Path, words: list[str]) -> None:
    """Train what is missing, then score, ship and draw as asked for. Raises `UserError` naming the runs that failed."""
    from impasto.commands.training_words import trainer_of, with_search_path
    from impasto.files import check_place
    from impasto.image import read_images, save_image
    from impasto.multirun import places_for, run_all  # torch takes seconds
    from impasto.picture_files import check_sides
    from impasto.ranks import check_alone
    from impasto.sheet import contact_sheet, sheet_size
    from impasto.stylizer import Stylizer

    check_alone("train_gallery.py")
    names = {field.name for field in fields(GalleryOptions)}
    options = cli.parse([word for word in words if word.partition("=")[0] in names], GalleryOptions)
    rest = with_search_path([word for word in words if word.partition("=")[0] not in names])
    named = _for_training(rest)
    runs = planned(options)
    for run in runs:
        painting(run.style)  # mistakes before hours are spent
        if options.ship:
            check_place(STYLES / run.network.name)
    photos = [] if options.sheet is None else read_images(Path(options.sheet), 384)
    sheet = Path(options.output) / "sheet.jpg"
    check_place(sheet)
    if options.anyway and not options.ship:
        raise UserError("anyway=true is of ship=true: say it, too")
    if options.sheet is not None and sheet.resolve().is_relative_to(Path(options.sheet).resolve()):
        raise UserError(f"sheet={options.sheet}: {str(sheet)!r} would be written over it, or be a photo the next time")
    if photos:
        rows = _rows(runs, photos, lambda _: lambda photo: photo)
        try:
            check_sides(str(sheet), *sheet_size(rows, CELL), sheet.suffix)
        except UserError:
            raise UserError(f"sheet={options.sheet}: rows of {len(rows[0])} pictures are too long: say fewer") from None
    trainer = trainer_of(root / "configs", runs[0].folder, [*runs[0].words, *rest])
    todo = [run for run in runs if not _done(run, rest)]
    log.info("%d of %d runs to do; logs: %s/*.log", len(todo), len(runs), options.output)
    words_of = {run.folder: [*run.words, *rest] for run in todo}
    failed = run_all(root / "train.py", words_of, places_for(trainer))
    trained = [run for run in runs if run.network.is_file()]
    if photos and trained:
        rows = _rows(trained, photos, lambda run: Stylizer.load(str(run.network)))
        save_image(contact_sheet(rows, CELL), sheet)
        log.info("Wrote %s", sheet)
    if options.ship:
        vgg = named.get("vgg.path", "").partition("=")[2]
        failed += [run.folder for run in trained if not _ship(root, run, cli.at_home(vgg) or None, options.anyway)]
    if failed:
        raise UserError(f"failed: {', '.join(map(str, failed))}")


def _for_training(words: Sequence[str]) -> dict[str, str]:
    """Words for train.py, by their keys. Raises `UserError` for those that have no place in a gallery."""
    named = {word.partition("=")[0].lstrip("+"): word for word in words}
    for key, plural in (
        ("strength", "strengths"),
        ("stroke", "strokes"),
        ("style", "styles"),
        ("hydra.run.dir", "output"),
    ):
        if key in named:
            raise UserError(f"{key}= is {plural}= here")
    if "resume" in named:
        raise UserError(f"{named['resume']}: runs are gone on with anyway; another output=DIR begins anew")
    if one := next((word for key, word in named.items() if key in ("style.image", "style.name", "preview")), None):
        raise UserError(f"{one} is for python train.py: a gallery has paintings that ship, styles=")
    return named


def _done(run: Run, rest: Sequence[str]) -> bool:
    """Whether there is a run's network. Raises `UserError` where the run was begun with other words than these."""
    from impasto.checkpoint import load_network
    from impasto.resume import begun_with

    asked = {word.partition("=")[0]: word for word in (*run.words, *rest) if word != "resume=true"}
    begun = {word.partition("=")[0]: word for word in begun_with(run.folder)}
    for key in {**begun, **asked} if begun else ():
        # where nothing is said of them, data and schedule are chosen for the machine
        free = (key.startswith(FREE) and key not in BOUND) or (key in CHOSEN and key not in asked)
        if asked.get(key) != begun.get(key) and not free:
            before, now = (words.get(key, f"no {key}=") for words in (begun, asked))
            raise UserError(
                f"{str(run.folder)!r} was begun with {before}, not {now}: say the same, or another output=DIR"
            )
    if not run.network.is_file():
        return False
    log.info("%s is there already, after %s images", run.network, load_network(run.network)[1].get("images_seen"))
    return True


def planned(options: GalleryOptions) -> list[Run]:
    """A run for each combination of style, strength and stroke; folders name what there are several of."""
    from impasto.losses.objective import check_stroke  # and with it torch

    styles, strengths, strokes = (
        list(dict.fromkeys(several.split(","))) for several in (options.styles, options.strengths, options.strokes)
    )
    if options.ship and len(strengths) * len(strokes) > 1:
        raise UserError("ship=true takes one strength and one stroke: a style ships once")
    if not all(0 < strength < inf for strength in _numbers("strengths", strengths, float)):
        raise UserError(f"strengths={options.strengths} should be above 0")
    for pixels in _numbers("strokes", strokes, int):
        check_stroke(pixels)
    runs = []
    for style, strength, stroke in product(styles, strengths, strokes):
        extra = [f"strength_{strength}"] * (len(strengths) > 1) + [f"stroke_{stroke}"] * (len(strokes) > 1)
        folder = Path(options.output, "-".join([style, *extra]))
        runs.append(Run(style, strength, stroke, folder, ", ".join(extra).replace("_", " ")))
    return runs


def _numbers(key: str, values: Sequence[str], kind: type[Number]) -> list[Number]:
    try:
        return [kind(value) for value in values]
    except ValueError:
        whole = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{key}={','.join(values)} should be {whole} with commas between them") from None


def _rows(
    runs: Sequence[Run], photos: Sequence["Image"], stylizer: Callable[[Run], Callable[["Image"], "Image"]]
) -> list[list["Captioned"]]:
    """A row for each painting, and in it each photo at each setting; captions name what there are several of."""
    from impasto.image import read_image

    rows: dict[str, list[Captioned]] = {}
    for run in runs:
        row = rows.setdefault(run.style, [(run.style, read_image(painting(run.style)))])
        stylize = stylizer(run)
        row += [(run.settings, stylize(photo)) for photo in photos]
    return list(rows.values())


def _ship(root: Path, run: Run, vgg: str | None, anyway: bool) -> bool:
    """Into the package: half precision, the scores taken of what ships, before it does; not again of the same.

    False where it cannot be, or should not for its scores, which is said: other styles are not kept waiting for it.
    """
    from impasto.checkpoint import load_network, save_network
    from impasto.commands.evaluate import EvaluateOptions, evaluate
    from impasto.files import whole_file

    half = run.folder / "half" / run.network.name
    card = half.with_suffix(".json")
    sheet = half.with_name(f"{run.style}_sheet.jpg")  # the last that scoring writes
    try:
        net, metadata = load_network(run.network)
        kept = {key: value for key, value in metadata.items() if key not in ("format", "architecture")}
        if not sheet.is_file() or sheet.stat().st_mtime < run.network.stat().st_mtime:
            save_network(half, net.half(), kept)
            evaluate(root / "configs", EvaluateOptions(ckpt=str(half), output=str(half.parent), vgg=vgg))
        short = _shortfalls(json.loads(card.read_text())["scores"], STYLES / card.name)
        if short and not anyway:
            raise UserError(f"{'; '.join(short)}: it is in {str(half.parent)!r}, and anyway=true ships it")
        for path in (half, card, card.with_suffix(".md"), sheet):
            with whole_file(STYLES / path.name) as temporary:  # every training and painting may start from it
                shutil.copyfile(path, temporary)
    except UserError as error:
        log.warning("%s does not ship: %s", run.style, error)
        return False
    for line in short:
        log.warning("%s ships: %s", run.style, line)
    log.info("Wrote %s", STYLES / half.name)
    return True


def _shortfalls(scores: dict[str, Any], shipped: Path) -> list[str]:
    """What speaks against shipping a network: its artefacts, and what it is worth less than one with a card."""
    beyond = [finding["name"] for finding in scores["artefacts"] if not finding["passed"]]
    less = _worth_less(scores, json.loads(shipped.read_text())["scores"]) if shipped.is_file() else []
    return [
        *([f"artefacts beyond their limits ({', '.join(beyond)})"] if beyond else []),
        *([f"worth less than the one before ({'; '.join(less)})"] if less else []),
    ]


def _worth_less(scores: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Where a network is worth fewer iterations than another, as far as both cards say."""
    known = {(line["size"], line["start"]): line for line in before["worth"]}
    less = list[str]()
    for line in scores["worth"]:
        then, now = known.get((line["size"], line["start"])), line["median"]
        # None: the optimiser has never reached it, which took more iterations than the limit
        if then and now is not None and now < (then["limit"] + 1 if then["median"] is None else then["median"]):
            earlier = then["median"] or f"more than {then['limit']}"
            less.append(f"{line['size']} px from {line['start']} {now} iterations, before {earlier}")
    return less
