"""Time and memory of python stylize.py against the picture's size: the one linear, the other bounded, by its tiles."""

import tempfile
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from impasto.assets import PHOTOS
from impasto.benchmark.contestants import command
from impasto.benchmark.measure import Contestant
from impasto.benchmark.task import Options, log, say, stylize_script
from impasto.checkpoint import MARGIN, save_network
from impasto.errors import UserError
from impasto.image import read_image, save_image
from impasto.models.transformer_net import TransformerNet

PHOTO = PHOTOS / "picos_de_europa.jpg"


def run(options: Options) -> dict[str, Any]:
    """One run for each size, from the process's start to the JPEG on the disk."""
    script, lines = stylize_script(options), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network, content, target = folder / "net.safetensors", folder / "content.jpg", folder / "stylized.jpg"
        save_network(network, TransformerNet(options.width, margin=MARGIN), {})
        for size in _sizes(options.megapixels):
            width, height = _write_photo(content, size)
            words = [f"ckpt={network}", f"input={content}", f"output={target}", f"tile={options.tile}"]
            words += [f"max_megapixels={size + 1}"]
            with Contestant(f"{size:g} megapixels", command, words=[script, *words], result=str(target)) as contestant:
                peak = contestant.run()
            seconds = contestant.seconds[0]
            line = {"what": "stylize.py", "megapixels": size, "px": f"{width}×{height}", "seconds": round(seconds, 2)}
            lines.append({**line, "s per megapixel": round(seconds / size, 3), "MB": peak})
            log.info("%s: %.1f s, %d MB", contestant.name, seconds, peak)
    ratio = round(lines[-1]["s per megapixel"] / lines[0]["s per megapixel"], 2)
    say("python stylize.py, from the process's start to the JPEG on the disk:", lines)
    log.info("A megapixel of the largest takes %s times as long as one of the smallest", ratio)
    return {"rows": lines, "ratio": ratio}


def _sizes(words: str) -> list[float]:
    try:
        sizes = sorted(float(word) for word in words.split(","))
    except ValueError:
        sizes = []
    if not sizes or not all(isfinite(size) and size > 0 for size in sizes):
        raise UserError(f"megapixels={words!r} should be numbers above 0, with commas between them")
    return sizes


def _write_photo(path: Path, megapixels: float) -> tuple[int, int]:
    """A photo that ships, enlarged; gives its width and height."""
    photo = read_image(PHOTO)
    scale = sqrt(megapixels * 1e6 / (photo.width * photo.height))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    save_image(photo.resize(size), path)
    return size
