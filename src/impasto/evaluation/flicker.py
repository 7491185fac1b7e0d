"""How much a stylized film flickers: what changes between frames beyond what motion explains; and how sharp it is."""

from collections.abc import Sequence

import cv2
import numpy as np

from impasto.levels import as_type
from impasto.temporal import at_rest, consistent, warp


def warping_error(contents: Sequence[np.ndarray], stylized: Sequence[np.ndarray]) -> float:
    """sqrt(mean over frames and seen pixels of ||O_t - warp(O_(t-1))||^2), the norm over red, green and blue.

    Frames are (height, width, 3) in [0, 1]. The flow is that of the contents, so that all ways to stylize them are
    measured alike; pixels that come into view count for nothing.

    Source: Lai et al. 2018 (arXiv:1808.00449), section 4.2. Differs: Farnebäck's flow for FlowNet2, and the root of
    the mean.
    """
    squares, count = 0.0, 0
    for before, after, painted_before, painted in zip(contents, contents[1:], stylized, stylized[1:], strict=False):
        places, seen = motion(before, after)
        difference = ((painted - warp(painted_before, places)) ** 2).sum(axis=2)[seen]
        squares, count = squares + float(difference.sum(dtype=np.float64)), count + difference.size
    return (squares / max(1, count)) ** 0.5


def motion(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of frame t was in frame t - 1, and the mask of the pixels that are seen in both.

    By another flow than films are steadied with (`temporal.find_motion`), or the error would vouch for itself:
    Farnebäck 2003, two-frame motion estimation by polynomial expansion, with OpenCV's usual parameters.
    """
    grey = [cv2.cvtColor(as_type(frame, np.uint8), cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    none = np.zeros((*grey[0].shape, 2), dtype=np.float32)  # to begin with

    def flow(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(
            one, two, none.copy(), pyr_scale=0.5, levels=5, winsize=15, iterations=3, poly_n=7, poly_sigma=1.5, flags=0
        )

    backward = flow(grey[1], grey[0])
    return at_rest(*grey[0].shape) + backward, consistent(backward, flow(grey[0], grey[1]))


def sharpness(frames: Sequence[np.ndarray]) -> float:
    """Mean square of the differences between neighbours, over frames of (height, width, 3) in [0, 1].

    An average of strokes that differ is smoother than any of them: what flickers less may just be blurred.
    """
    return float(np.mean([(np.diff(frame, axis=axis) ** 2).mean() for frame in frames for axis in (0, 1)]))
