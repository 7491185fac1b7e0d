"""The model card: what a network is and how good, as Markdown for people and JSON for machines."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from impasto.benchmark.measure import table
from impasto.errors import UserError, one_line
from impasto.evaluation.contest import sentence
from impasto.files import write_text
from impasto.image import save_image

SHEET = "_sheet.jpg"


def check_card(metadata: Mapping[str, Any]) -> None:
    """Raises `UserError`, before the scores' minutes, where a network's record cannot be written as JSON."""
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError as error:
        raise UserError(f"the network's record holds a number that JSON has not: {one_line(error)}") from None


def check_free(stem: Path) -> None:
    """Raise `UserError` where a card would replace somebody's file of its name, such as a network's configuration."""
    paths = _paths(stem)
    there = [path for path in paths if path.exists()]
    if there and not _is_card(paths[0]):
        raise UserError(f"{str(there[0])!r} is there, and is no card of an evaluation: output=DIR says where else")


def write_card(stem: Path, card: dict[str, Any], sheet: Image.Image) -> list[Path]:
    """Write `<stem>.json`, `<stem>.md` and `<stem>_sheet.jpg`, each whole or not at all. Raises `UserError`."""
    paths = _paths(stem)
    write_text(paths[0], json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(paths[1], markdown(card, paths[2].name))
    save_image(sheet, paths[2])
    return paths


def is_sheet(path: Path) -> bool:
    """Whether a picture is the sheet of a card beside it."""
    stem = path.with_name(path.name.removesuffix(SHEET))
    return path.name.endswith(SHEET) and _is_card(_paths(stem)[0])


def _paths(stem: Path) -> list[Path]:
    return [stem.with_name(stem.name + suffix) for suffix in (".json", ".md", SHEET)]


def _is_card(file: Path) -> bool:
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.keys() >= {"network", "scores"}


def _measured_by(card: dict[str, Any]) -> str:
    """The objective in words, and what of it the network's record does not say."""
    objective, trained = card["objective"], card["network"].get("style", {}).get("sha256")
    said = "as the network's record says" if objective.get("recorded", True) else "**assumed: its record does not say**"
    other = "" if trained in (None, objective["painting"]["sha256"]) else ", **by another painting than its own**"
    return f"Measured at strength {objective['strength']:g} and a stroke of {objective['stroke']} px, {said}{other}."


def markdown(card: dict[str, Any], sheet: str) -> str:
    """The card as a page."""
    metadata, scores = card["network"], card["scores"]
    style = metadata.get("style", {})
    title = style.get("title", style.get("name", "A network without metadata"))
    painting = card["objective"]["painting"]
    ours = "artist" in painting
    by = f"{painting['artist']}, {painting['year']} ({painting['status']})" if ours else "a painting of your own"
    terms = [
        {"": name, **{who: f"{value:.3g}" for who, value in means.items()}} for name, means in scores["terms"].items()
    ]
    findings = [
        {"": f["name"], "median": f["value"], "worst photo": f.get("worst"), "at most": f["limit"]}
        | {"passed": "yes" if f["passed"] else "**no**", "what": f["what"]}
        for f in scores["artefacts"]
    ]
    speeds = [{"size": f"{line['size']}²", "ms": line["ms"], "peak MB": line["peak MB"]} for line in card["speed"]]
    compared = f"Photo, network, optimiser after {card['iterations']} iterations with the same weights"
    shown = compared if scores["terms"] else "The painting"
    relative = "Style: 1 is a mean photo's distance from the painting. Content: 1 is the distance of another photo."
    parts = [
        f"# {title}",
        f"Painting: {by}. {shown}:",
        f"![{shown}]({quote(sheet)})",
        *([f"Photos: {'; '.join(card['credits'])}."] if card["credits"] else []),
        _measured_by(card),
        "## Worth",
        f"Iterations of L-BFGS that one pass is worth (Johnson et al. 2016, figure 5), on {card['content']}:",
        "\n".join(f"- {sentence(line)}" for line in scores["worth"]),
        *([f"Skipped: {', '.join(scores['skipped'])}."] if scores["skipped"] else []),
        *(["## Terms"] if terms else []),
        *([relative] if terms and card["objective"]["loss"]["relative"] else []),
        *([table(terms)] if terms else []),
        "To the photo: " + ", ".join(f"{name} {value}" for name, value in scores["similarity"].items()) + ".",
        *(["## Artefacts", "By the median of up to three photos:", table(findings)] if findings else []),
        *(["## Speed", table(speeds)] if speeds else []),
        "On "
        + ", ".join(f"{key} {value}" for key, value in scores["machine"].items())
        + f", in {scores['precision']}.",
        "## Origin",
        "```json\n" + json.dumps(metadata, indent=1, ensure_ascii=False) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"
