"""A network with a memory: its strokes move with what they are painted on, and do not form anew in each frame.

Each painted frame is blended with the one before, brought by optical flow to where things are now. The flow, OpenCV's,
is that of the photos: paint has no motion of its own. OpenCV comes with the extra `video`.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from impasto.engines import Engine

SMALLEST = 32  # px: OpenCV's DIS reads beyond the ends of frames whose sides are smaller
SIDE = 640  # px: the long side of the frames in which motion is looked for; finer costs more and gains little
ALPHA = 50.0  # of Lai et al.
GRAIN = 5  # px: colours are compared over squares of this side, so that noise is no change
CUT = 0.2  # mean trust below which a scene begins: cuts have up to 0.02, a camera that pans by a third 0.3
WINDOW = 9  # px: side of the squares whose contrast is kept, about a stroke's width
GAIN = 1.5  # times that contrast is raised at most


@dataclass(frozen=True)
class Motion:
    """Where each pixel was one frame before, `places` in px, column and row, and in [0, 1] how sure that is, `trust`.

    float32, (height, width, 2) and (height, width).
    """

    places: np.ndarray
    trust: np.ndarray

    def resized(self, height: int, width: int) -> "Motion":
        """The same motion in larger or smaller frames."""
        before = np.array(self.trust.shape[::-1], dtype=np.float32)
        factor = np.array([width, height], dtype=np.float32) / before
        flow = self.places - at_rest(*self.trust.shape)
        places = at_rest(height, width) + cv2.resize(flow, (width, height)) * factor
        return Motion(places, cv2.resize(self.trust, (width, height)))


def find_motion(before: np.ndarray, after: np.ndarray) -> Motion | None:
    """From one photo to the next, (height, width, 3) in uint8; None where a new scene begins.

    trust = exp(-alpha * ||after - warp(before)||^2) where both flows agree, else 0: things that come into view and
    light that changes are painted anew.

    Source: DIS flow, Kroeger et al. 2016 (arXiv:1603.03590); the term in colours, Lai et al. 2018 (arXiv:1808.00449),
    section 3.2. Differs: colours are compared over small squares.
    """
    backward, forward = _flow(after, before), _flow(before, after)
    places = at_rest(*backward.shape[:2]) + backward
    colours = [cv2.blur(frame, (GRAIN, GRAIN)).astype(np.float32) / 255 for frame in (before, after)]
    change = _squares(colours[1] - warp(colours[0], places))
    trust = np.where(consistent(backward, forward), np.exp(-ALPHA * change), 0).astype(np.float32)
    return None if trust.mean() < CUT else Motion(places, trust)


def _flow(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far each pixel of one photo moves to the other: (height, width, 2), px."""
    height, width = one.shape[:2]
    below, right = max(0, SMALLEST - height), max(0, SMALLEST - width)
    grey = [
        cv2.copyMakeBorder(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), 0, below, 0, right, cv2.BORDER_REPLICATE)
        for photo in (one, other)
    ]
    none = np.zeros((*grey[0].shape, 2), dtype=np.float32)  # to begin with
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return dis.calc(grey[0], grey[1], none)[:height, :width]


def at_rest(height: int, width: int) -> np.ndarray:
    """Each pixel's own place: (height, width, 2), float32."""
    rows, columns = np.indices((height, width), dtype=np.float32)
    return np.stack([columns, rows], axis=2)


def warp(frame: np.ndarray, places: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """What the frame has at the places."""
    border = cv2.BORDER_REPLICATE
    return cv2.remap(frame, places, None, interpolation, borderMode=border)  # type: ignore[call-overload]  # one map


def consistent(backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """The pixels of a frame that the one before has, too: a mask from the flows to it and from it, px.

    |w + w'|^2 > 0.01 (|w|^2 + |w'|^2) + 0.5 is hidden in one of them, w' being the other flow where w leads to.

    Source: Sundaram et al. 2010; Ruder et al. 2016 (arXiv:1604.08610), section 4.2.
    """
    height, width = backward.shape[:2]
    places = at_rest(height, width) + backward
    there = warp(forward, places)
    inside = (places[..., 0] >= 0) & (places[..., 0] < width) & (places[..., 1] >= 0) & (places[..., 1] < height)
    far = 0.01 * (_squares(backward) + _squares(there)) + 0.5
    mask: np.ndarray = inside & (_squares(backward + there) <= far)
    return mask


class SteadyEngine:
    """An engine for the frames of one film, in their order.

    memory_t = painted_t + smooth * trust * (warp(memory_(t-1)) - painted_t)

    The average pales strokes that differ; so what is given out is the memory with the local contrast of the painted
    frame. What is remembered is not: fed back, contrast grows to spots. `smooth` is the weight of the past.
    """

    batch_pixels = 0  # one after the other

    def __init__(self, engine: Engine, smooth: float) -> None:
        self.engine, self.smooth = engine, smooth
        self.metadata, self.device, self.precision = engine.metadata, engine.device, engine.precision
        self.photo: np.ndarray | None = None  # (height, width, 3), uint8, of at most SIDE px
        self.painted: np.ndarray | None = None  # (height, width, 3), float32 in [0, 1]

    def __call__(self, content: Float32[np.ndarray, "1 3 height width"]) -> Float32[np.ndarray, "1 3 height width"]:
        """The stylized frame."""
        return self.follow(content, self.engine(content))

    def follow(self, content: np.ndarray, stylized: np.ndarray) -> np.ndarray:
        """The next stylized frame, (1, 3, height, width), after those so far; as it is where a scene begins."""
        if self.smooth == 0:
            return stylized
        before, past = self.photo, self.painted
        fresh = np.ascontiguousarray(stylized[0].transpose(1, 2, 0))
        self.photo, self.painted = _sight(content), fresh
        if before is None or past is None or past.shape != fresh.shape:
            return stylized
        motion = find_motion(before, self.photo)
        if motion is None:
            return stylized
        motion = motion.resized(*fresh.shape[:2])
        # linear would blur more with every frame; cubic overshoots, which fed back would grow
        past = warp(past, motion.places, cv2.INTER_CUBIC).clip(0, 1)
        self.painted = fresh + (self.smooth * motion.trust)[..., None] * (past - fresh)
        return np.ascontiguousarray(with_contrast_of(fresh, self.painted).transpose(2, 0, 1)[None])

    def memory(self) -> dict[str, np.ndarray]:
        """What is known of the frames so far, by name, in C order, as files take it; empty before the first."""
        return {} if self.photo is None or self.painted is None else {"photo": self.photo, "painted": self.painted}

    def remember(self, memory: dict[str, np.ndarray]) -> None:
        """Go on from what `memory` gave."""
        self.photo, self.painted = memory.get("photo"), memory.get("painted")


def with_contrast_of(fresh: np.ndarray, blended: np.ndarray) -> np.ndarray:
    """`blended` with as much local deviation, of brightness, as `fresh` has, raised at most `GAIN` times."""
    variances = [_variance(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in (fresh, blended)]
    gain = np.sqrt(variances[0] / variances[1]).clip(1, GAIN)
    mean = cv2.blur(blended, (WINDOW, WINDOW))
    shown: np.ndarray = (mean + gain[..., None] * (blended - mean)).clip(0, 1)
    return shown


def _variance(grey: np.ndarray) -> np.ndarray:
    """Over the squares around, (height, width), and never less than can be seen."""
    square = (WINDOW, WINDOW)
    variance: np.ndarray = np.maximum(cv2.sqrBoxFilter(grey, -1, square) - cv2.blur(grey, square) ** 2, 1e-5)
    return variance


def _sight(content: np.ndarray) -> np.ndarray:
    """The photo as motion is looked for in it."""
    photo = np.ascontiguousarray(content[0].transpose(1, 2, 0) * 255 + 0.5, dtype=np.uint8)
    height, width = photo.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return photo if factor == 1 else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def _squares(vectors: np.ndarray) -> np.ndarray:
    """||v||^2 along the last axis, which is short."""
    squares: np.ndarray = vectors[..., 0] ** 2
    for index in range(1, vectors.shape[2]):
        squares += vectors[..., index] ** 2
    return squares
