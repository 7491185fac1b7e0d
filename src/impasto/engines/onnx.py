"""An exported graph in ONNX Runtime: no torch, so the process starts in a fraction of the time."""

import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from impasto.errors import UserError, one_line
from impasto.limits import cores, quota
from impasto.memory import EXTENDED, Room

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
PASS_BYTES = 25  # a pixel and channel at full resolution, at the peak: measured with 32 channels and 12 megapixels


def runs_on(device: str) -> bool:
    """Whether the ONNX Runtime that is installed knows `cuda` or `cpu`."""
    import onnxruntime

    return PROVIDERS[device] in onnxruntime.get_available_providers()


class OnnxEngine:
    """Runs what `scripts/export.py format=onnx` wrote, in float32.

    Raises `UserError` for a damaged file, another graph, an absent device or a missing package.
    """

    precision = "float32"
    batch_pixels = 0

    def __init__(self, path: Path, device: str = "auto") -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError(f"{str(path)!r} needs ONNX Runtime: pip install 'impasto[onnx]'") from None
        present = onnxruntime.get_available_providers()
        self.device = next(name for name in PROVIDERS if PROVIDERS[name] in present) if device == "auto" else device
        if PROVIDERS.get(self.device) not in present:
            raise UserError(f"device={device}: this ONNX Runtime runs on {', '.join(map(str, present))}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is fatal: errors are raised, too
        threads = os.environ.get("OMP_NUM_THREADS", "")
        given = int(threads) if threads.isdigit() else 0  # 0: one for each core
        options.intra_op_num_threads = given or (0 if quota() is None else cores())
        # planned for the size that was last: a quarter more memory, and the second picture half again as slow
        options.enable_mem_pattern = False
        # a thread that spins while it waits takes its core from the decoder
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=[PROVIDERS[self.device]])
            running = self.session.get_providers()[0]  # it falls back where a library of CUDA is missing
            record = json.loads(self.session.get_modelmeta().custom_metadata_map.get("impasto", "null"))
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise UserError(f"{str(path)!r} is no ONNX graph, or a damaged one: {one_line(error)}") from None
        if running != PROVIDERS[self.device]:
            if device != "auto":
                raise UserError(f"device={device}: this ONNX Runtime cannot load it: is its version of CUDA here?")
            self.device = next((name for name in PROVIDERS if PROVIDERS[name] == running), running)
        ends = [(end.name, end.type) for end in (*self.session.get_inputs(), *self.session.get_outputs())]
        if not isinstance(record, dict) or ends != [("content", "tensor(float)"), ("stylized", "tensor(float)")]:
            raise UserError(f"{str(path)!r} is an ONNX graph, but not one that Impasto exported")
        width = record.pop("width", 32)
        self.pixel_bytes = PASS_BYTES * (width if isinstance(width, int) else 32)
        self.metadata, self.room = record, Room()

    def __call__(self, content: Float32[np.ndarray, "1 3 height width"]) -> Float32[np.ndarray, "1 3 height width"]:
        """The stylized image."""
        height, width = content.shape[2:]
        if self.device == "cpu":
            self.room.take((height + EXTENDED) * (width + EXTENDED) * self.pixel_bytes)
        try:
            return self.session.run(None, {"content": content})[0]
        except Exception as error:
            if "memory" not in str(error).lower() and "allocate" not in str(error).lower():
                raise UserError(f"the ONNX graph fails: {one_line(error)}") from None
            raise MemoryError from None
