"""What watches over a training run: its loss, its pictures, its memory, disk and loader."""

from pathlib import Path
from traceback import clear_frames
from typing import Any

from pytorch_lightning.callbacks import Callback

from impasto.data.content import ContentDataModule
from impasto.errors import UserError
from impasto.guards.batch_size import memory_error
from impasto.guards.disk import MachineWatch, check_space, space_needed, still_needed
from impasto.guards.loader import LoaderWatch, loader_error
from impasto.memory import is_shortage
from impasto.module import StyleTransferModule


def watches(
    config: dict[str, Any], run_dir: Path, module: StyleTransferModule, data: ContentDataModule
) -> list[Callback]:
    """The callbacks that watch the loader and the machine. Raises `UserError` for a disk that the run would fill."""
    validations = -(-module.images // max(config["validation"]["every"], data.batch_size))  # one a step, at most
    entries = module.images // data.batch_size // config["trainer"]["log_every"]
    needed = space_needed(module.net, max(256, data.image_size), validations, entries)
    check_space(run_dir, still_needed(run_dir, needed))
    return [LoaderWatch(data), MachineWatch(run_dir, needed)]


def explained(error: Exception, config: dict[str, Any], data: ContentDataModule, images_seen: int) -> UserError | None:
    """What has stopped the run, with the mend: memory that has run out, or the loader. None for any other error."""
    if problem := loader_error(error, data, images_seen):  # first, as it may speak of memory, too
        return problem
    if isinstance(error, RuntimeError) and is_shortage(error):
        clear_frames(error.__traceback__)  # whose tensors fill the memory
        return memory_error(config)
    return None
