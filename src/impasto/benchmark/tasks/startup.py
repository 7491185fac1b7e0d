"""Whole processes: python stylize.py, from its start to the picture on the disk, and where the time goes."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from impasto.assets import PHOTOS
from impasto.benchmark.contestants import command
from impasto.benchmark.measure import Contestant, alternate
from impasto.benchmark.task import Options, say, spread, stylize_script
from impasto.checkpoint import save_network
from impasto.export import export_onnx
from impasto.image import read_image, save_image
from impasto.models.transformer_net import TransformerNet

PARTS = """
import time; marks = [time.time()]
import sys; from pathlib import Path
from impasto.memory import keep_freed_memory; keep_freed_memory()
import impasto.stylizer, impasto.image; marks.append(time.time())
if sys.argv[1].endswith(".safetensors"): import impasto.engines.eager
else: import onnxruntime
marks.append(time.time())
engine = impasto.engines.load_engine(Path(sys.argv[1])); marks.append(time.time())
array = impasto.image.to_array(impasto.image.read_image(sys.argv[2])); marks.append(time.time())
stylized = engine(array); marks.append(time.time())
impasto.image.save_image(impasto.image.to_image(stylized), sys.argv[3]); marks.append(time.time())
Path(sys.argv[4]).write_text(" ".join(map(str, marks)))
"""


def run(options: Options) -> dict[str, Any]:
    """A network in PyTorch and in ONNX Runtime, at two sizes."""
    script = stylize_script(options)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        files = {"safetensors": folder / "net.safetensors", "onnx": folder / "net.onnx", "slim onnx": folder / "s.onnx"}
        save_network(files["safetensors"], TransformerNet(), {})
        export_onnx(TransformerNet(), {}, files["onnx"])
        export_onnx(TransformerNet(16), {}, files["slim onnx"])
        for size in (512, 1024):
            image = read_image(PHOTOS / "picos_de_europa.jpg").resize((size, size))
            save_image(image, folder / f"{size}.png")
        processes = []
        for kind, size in [
            ("safetensors", 512),
            ("safetensors", 1024),
            ("onnx", 512),
            ("onnx", 1024),
            ("slim onnx", 1024),
        ]:
            target = folder / f"{kind}_{size}.png"
            words = [script, f"ckpt={files[kind]}", f"input={folder}/{size}.png", f"output={target}"]
            processes.append(
                stack.enter_context(Contestant(f"{kind}, {size}²", command, words=words, result=str(target)))
            )
        alternate(processes, options.repeats, warm_up=1)
        parts = [
            _parts(stack, "safetensors, 512²", files["safetensors"], folder / "512.png", options.repeats),
            _parts(stack, "slim onnx, 1024²", files["slim onnx"], folder / "1024.png", options.repeats),
        ]
    lines = [{"process": process.name, **spread(process)} for process in processes]
    say("python stylize.py, from the process's start to the PNG on the disk:", lines)
    say("Where the time goes, s:", parts)
    return {"rows": lines, "parts": parts}


def _parts(stack: ExitStack, label: str, file: Path, image: Path, repeats: int) -> dict[str, Any]:
    """Median seconds of each part of a process that does what stylize.py does."""
    marks, target = file.parent / "marks.txt", file.parent / "parts.png"
    words = ["-c", PARTS, *map(str, (file, image, target, marks))]
    process = stack.enter_context(Contestant(label, command, words=words, result=str(marks)))
    names = ("imports", "torch or ONNX Runtime", "load", "read", "network", "write")
    spans = []
    for _ in range(repeats + 1):
        process.run()
        times = [float(mark) for mark in marks.read_text().split()]
        inner = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        spans.append([*inner, process.seconds[-1] - sum(inner)])
    medians = np.median(np.array(spans[1:]), axis=0)
    return {"": label, **{name: round(float(s), 2) for name, s in zip((*names, "start and end"), medians, strict=True)}}
