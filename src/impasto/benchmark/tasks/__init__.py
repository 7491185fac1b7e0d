"""The benchmark's tables: each task runs its contestants, prints what it found and returns it as plain data."""

from collections.abc import Callable
from typing import Any

from impasto.benchmark.task import Options
from impasto.benchmark.tasks import loader, megapixels, quality, rival, scaling, startup, stylize, train

# of `Options`, besides output=, what a task heeds
TAKES = {
    "train": ("repeats", "image_size", "batch_size", "width", "style_size", "compiled"),
    "stylize": ("repeats", "image_size", "compiled"),
    "startup": ("repeats", "stylize"),
    "loader": ("repeats", "image_size", "batch_size"),
    "quality": ("image_size", "style_size", "images"),
    "scaling": ("repeats",),
    "megapixels": ("megapixels", "tile", "width", "stylize"),
    "rival": ("repeats", "image_size", "stylize"),
}

TASKS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "train": train.run,
    "stylize": stylize.run,
    "startup": startup.run,
    "loader": loader.run,
    "quality": quality.run,
    "scaling": scaling.run,
    "megapixels": megapixels.run,
    "rival": rival.run,
}
