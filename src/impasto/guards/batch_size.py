"""Batch and image sizes that fit into memory: measured with real steps, in a process of their own."""

import logging
import os
import signal
from collections.abc import Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, NamedTuple

import torch
from rich.filesize import decimal

from impasto.errors import UserError
from impasto.hardware import peak_memory, restart_peak
from impasto.machine import count_devices, device_type, first_device, placement, trains_in_bfloat16
from impasto.memory import free_memory, give_freed_memory_back, is_shortage, keep_freed_memory
from impasto.ranks import runs_together, started_by
from impasto.rehearsal import Rehearsal
from impasto.resume import Resumed

log = logging.getLogger("impasto")

LARGEST = 64  # images: beyond, a style learns less from as many images, and no device is faster
# px of an image; margins are added to the least
SIZES = (64, 92, 128, 180, 256, 360, 512, 724, 1024, 1448, 2048)
SHARE = 0.75  # of the free memory: the run also has its loader, and other programs come and go
FEW_STEPS = 500  # fewer make a poor network, whatever the batch


class Fit(NamedTuple):
    """What was tried last that fits, and the memory at its peak."""

    batch_size: int
    image_size: int
    peak: int  # bytes
    room: int  # bytes


def with_batch_size(config: dict[str, Any], resumed: Resumed | None) -> dict[str, Any]:
    """The configuration with a number for `data.batch_size=auto`: that which a `resumed` run had.

    Else the largest power of two, up to `LARGEST`, that fits; says what that means for the schedule.
    Of several ranks each gets the number; on a CPU they share the memory. Asked before they are started, as each would
    measure: raises `UserError` where somebody else has started them, and where not even one image fits.
    """
    data, options, images = config["data"], config["trainer"], config["schedule"]["images"]
    if data["batch_size"] != "auto":
        return config
    if resumed and (before := resumed.content.get("batch_size")):
        return {**config, "data": {**data, "batch_size": before}}
    if device_type(options) == "mps":
        raise UserError("data.batch_size=auto measures CUDA's memory and processors', not Apple's: say a number")
    devices, nodes, _ = placement(options)
    processes = count_devices(devices, options["accelerator"]) * nodes
    if processes > 1 and (starter := started_by()):
        raise UserError(
            f"data.batch_size=auto is not for {processes} processes that {starter} has started: "
            "find the number with trainer.devices=1"
        )
    log.info("data.batch_size=auto: trying what fits, in a minute or two")
    sharers = processes * runs_together() if device_type(options) == "cpu" else 1
    fit = largest_fit(config, LARGEST, first_device(options), sharers)
    if fit is None or fit.image_size < data["image_size"]:
        raise UserError(f"data.image_size={data['image_size']} takes more memory than there is: {_instead(fit, data)}")
    steps = -(-images // (fit.batch_size * processes))
    log.info("data.batch_size=%d takes %s of %s", fit.batch_size, decimal(fit.peak), decimal(fit.room))
    log.info("schedule.images=%d: %d steps, at the same schedule.learning_rate", images, steps)
    if steps < FEW_STEPS <= images:
        log.warning("%d steps are few: raise schedule.images, or say a smaller data.batch_size", steps)
    return {**config, "data": {**data, "batch_size": fit.batch_size}}


def memory_error(config: dict[str, Any]) -> UserError:
    """What to say once memory has run out; what the run held must have been let go."""
    batch_size, image_size = config["data"]["batch_size"], config["data"]["image_size"]
    said = f"data.batch_size={batch_size} at data.image_size={image_size} takes more memory than there is"
    give_freed_memory_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    kind = device_type(config["trainer"])
    if kind == "mps":  # whose memory is not measured
        return UserError(f"{said}: say less of either")
    log.info("Out of memory: trying what fits")
    device = f"cuda:{torch.cuda.current_device()}" if kind == "cuda" else kind
    fit = largest_fit(config, max(1, batch_size // 2), device)
    if fit is not None and fit.image_size == image_size:
        if fit.batch_size == batch_size:
            return UserError(f"{said}: other programs took it, as now it fits; resume=true goes on")
        return UserError(f"{said}: data.batch_size={fit.batch_size} fits, with {decimal(fit.peak)}")
    return UserError(f"{said}: {_instead(fit, config['data'])}")


def _instead(fit: Fit | None, data: dict[str, Any]) -> str:
    if fit is None:
        return "not even a small image fits, end other programs"
    one = "" if fit.image_size > (data.get("smallest_size") or 0) else " data.smallest_size=null"
    return f"data.image_size={fit.image_size}{one} data.batch_size=1 fits, with {decimal(fit.peak)}"


def largest_fit(config: dict[str, Any], largest: int, device: str, sharers: int = 1) -> Fit | None:
    """The largest of batches up to `largest`, or of single smaller images, that takes no more than the room there is.

    The room is one part in `sharers` of the device's free memory. None where nothing fits.
    In a process of its own, whose end gives everything back and harms nothing.
    """
    steps = candidates(config["data"]["image_size"], largest, SIZES[0] + 2 * config["model"].get("margin", 0))
    bfloat16 = trains_in_bfloat16(config["trainer"])
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs, config, device, bfloat16, steps, sharers))
    process.start()
    theirs.close()
    try:
        found: Fit | Exception | None = ours.recv()
    except EOFError:  # the system has killed it
        return None
    finally:
        process.kill()
        process.join()
    if isinstance(found, Exception):
        raise found
    return found


def candidates(image_size: int, largest: int, smallest: int = SIZES[0]) -> list[tuple[int, int]]:
    """(batch size, image size), each up to about twice the pixels of the one before."""
    sizes = [size for size in SIZES if smallest <= size < image_size]
    batches = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    return [*((1, size) for size in sizes), *((batch, image_size) for batch in batches)]


def climb(rehearsal: Rehearsal, steps: Sequence[tuple[int, int]], held: int, room: int) -> Fit | None:
    """Run larger and larger steps; the last one that fits.

    None is run that could take more than `room` bytes, as memory beyond what is `held` grows no faster than the
    pixels: so the system never has to choose a process to kill.
    """
    fit: Fit | None = None
    for batch_size, image_size in steps:
        if fit is not None:
            growth = batch_size * image_size**2 / (fit.batch_size * fit.image_size**2)
            if held + (fit.peak - held) * growth > room:
                break
        try:
            rehearsal.step(batch_size, image_size)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            break
        peak = peak_memory(rehearsal.device)
        if peak > room:
            break
        fit = Fit(batch_size, image_size, peak, room)
    return fit


def _tell(connection: Connection, *measured: Any) -> None:
    """Send what `_climb` finds. Ctrl-C is the parent's, with whom this process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_follow, daemon=True).start()
    try:
        connection.send(_climb(*measured))
    except Exception as error:  # the parent's to tell
        connection.send(error)


def _follow() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _climb(
    config: dict[str, Any], device: str, bfloat16: bool, steps: Sequence[tuple[int, int]], sharers: int
) -> Fit | None:
    log.setLevel(logging.ERROR)
    loss = {**config["loss"], "relative": False}  # relative terms take a pass over photos before the first step
    rehearsal = Rehearsal({**config, "loss": loss}, torch.device(device), bfloat16)
    keep_freed_memory()  # as training does
    held = restart_peak(rehearsal.device)
    return climb(rehearsal, steps, held, held + int(SHARE * free_memory(rehearsal.device) / sharers))
