"""A network with a memory: what its instance norms measure changes slowly from frame to frame.

Instance norm divides by each frame's own mean and deviation. These jitter with noise that comes and goes and with
whatever enters the picture, and with them all colours of the frame at once; averaged over time they jitter less.
It is no cure for all flicker: most is of strokes that form anew in each frame, which has nothing to do with statistics,
and where only the light changes instance norm by itself takes it away at once, the average late. Hence 0 by default.
"""

import logging

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from impasto.engines import Engine
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.models.transformer_net import InstanceNorm2d, with_norms

log = logging.getLogger("impasto")

THUMBNAIL = 32  # px: each side of what cuts are seen in
CUT = 0.12  # mean absolute difference of thumbnails, in [0, 1], from which on a frame begins a new scene


class SmoothedNorm2d(InstanceNorm2d):
    """Instance norm with statistics averaged over the frames so far.

    m_t = smooth * m_(t-1) + (1 - smooth) * m(frame t), for mean and variance; the first frame's are its own.

    Differs from Ulyanov et al. 2016 (arXiv:1607.08022), equation 4, in nothing but that average.
    """

    def __init__(self, norm: InstanceNorm2d, smooth: float) -> None:
        super().__init__(len(norm.weight), norm.eps)
        self.weight, self.bias, self.smooth = norm.weight, norm.bias, smooth
        self.statistics: Tensor | None = None  # (mean or variance, channels), float32

    def forward(self, features: Float[Tensor, "1 channels height width"]) -> Float[Tensor, "1 channels height width"]:
        """Normalise a frame by the average, of which it becomes a part."""
        if features.device.type == "cpu":  # where torch.var_mean takes 30 times as long on channels_last
            unused = torch.zeros_like(self.bias), torch.ones_like(self.bias)
            mean, variance = torch.batch_norm_update_stats(features, *unused, 0.0)
        else:
            variance, mean = torch.var_mean(features.float(), dim=(0, 2, 3), correction=0)
        own = torch.stack([mean, variance])
        before = own if self.statistics is None else self.statistics
        self.statistics = own.lerp(before, self.smooth)
        mean, variance = self.statistics
        return F.batch_norm(features, mean, variance, self.weight, self.bias, eps=self.eps)


def with_memory(engine: Engine, smooth: float) -> Engine:
    """The engine for a film: it remembers where it can. `smooth`, in [0, 1), is the weight of the past.

    Raises `UserError` for another `smooth`.
    """
    if not 0 <= smooth < 1:
        raise UserError(f"smooth={smooth} should be at least 0 and below 1; 0 is each frame on its own")
    if smooth == 0:
        return engine
    if not isinstance(engine, EagerEngine):
        log.info("Each frame is stylized on its own: smooth= takes a .safetensors, what was exported has no memory")
        return engine
    return SmoothedEngine(engine, smooth)


class SmoothedEngine(EagerEngine):
    """An engine for the frames of one film, in their order; it forgets at cuts."""

    def __init__(self, engine: EagerEngine, smooth: float) -> None:
        vars(self).update(vars(engine))
        self.net = with_norms(engine.net, lambda norm: SmoothedNorm2d(norm, smooth))
        self.norms = [module for module in self.net.modules() if isinstance(module, SmoothedNorm2d)]
        self.thumbnail: np.ndarray | None = None

    def __call__(self, content: Float32[np.ndarray, "1 3 height width"]) -> Float32[np.ndarray, "1 3 height width"]:
        """The stylized frame."""
        with torch.inference_mode():
            thumbnail = F.adaptive_avg_pool2d(torch.from_numpy(content), THUMBNAIL).numpy()
        if self.thumbnail is not None and np.abs(thumbnail - self.thumbnail).mean() > CUT:
            self.forget()
        self.thumbnail = thumbnail
        return super().__call__(content)

    def forget(self) -> None:
        """The next frame is the first of a scene."""
        self.thumbnail = None
        for norm in self.norms:
            norm.statistics = None

    def memory(self) -> dict[str, np.ndarray]:
        """What is known of the frames so far, by name; empty before the first."""
        if self.thumbnail is None:
            return {}
        known = {str(index): norm.statistics for index, norm in enumerate(self.norms)}
        arrays = {name: value.cpu().numpy() for name, value in known.items() if value is not None}
        return {"thumbnail": self.thumbnail, **arrays}

    def remember(self, memory: dict[str, np.ndarray]) -> None:
        """Go on from what `memory` gave."""
        self.forget()
        if memory:
            self.thumbnail = memory["thumbnail"]
            for index, norm in enumerate(self.norms):
                norm.statistics = torch.from_numpy(memory[str(index)]).to(self.torch_device)
