"""How much a stylized film flickers: what changes between frames beyond what motion explains."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from impasto.levels import as_type


def warping_error(contents: Sequence[np.ndarray], stylized: Sequence[np.ndarray]) -> float:
    """sqrt(mean over frames and seen pixels of ||O_t - warp(O_(t-1))||^2), the norm over red, green and blue.

    Frames are (height, width, 3) in [0, 1]. The flow is that of the contents, so that all ways to stylize them are
    measured alike; pixels that come into view count for nothing.

    Source: Lai et al. 2018 (arXiv:1808.00449), section 4.2. Differs: DIS flow (Kroeger et al. 2016,
    arXiv:1603.03590) for FlowNet2, and the root of the mean.
    """
    squares, count = 0.0, 0
    for before, after, painted_before, painted in zip(contents, contents[1:], stylized, stylized[1:], strict=False):
        warp, seen = motion(before, after)
        difference = ((painted - warp(painted_before)) ** 2).sum(axis=2)[seen]
        squares, count = squares + float(difference.sum(dtype=np.float64)), count + difference.size
    return (squares / max(1, count)) ** 0.5


def motion(before: np.ndarray, after: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """What brings frame t - 1 to where things are in frame t, and the mask of the pixels that are seen in both.

    Source of the mask: Sundaram et al. 2010, forward-backward consistency:
    |w + w'|^2 > 0.01 (|w|^2 + |w'|^2) + 0.5 is hidden.
    """
    grey = [cv2.cvtColor(as_type(frame, np.uint8), cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    none = np.zeros((*grey[0].shape, 2), dtype=np.float32)  # to begin with
    backward, forward = flow.calc(grey[1], grey[0], none.copy()), flow.calc(grey[0], grey[1], none)
    rows, columns = np.indices(grey[0].shape, dtype=np.float32)
    across, down = columns + backward[..., 0], rows + backward[..., 1]

    def warp(frame: np.ndarray) -> np.ndarray:
        return cv2.remap(frame, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    there = warp(forward)
    apart = ((backward + there) ** 2).sum(axis=2)
    inside = (across >= 0) & (down >= 0) & (across <= grey[0].shape[1] - 1) & (down <= grey[0].shape[0] - 1)
    seen: np.ndarray = inside & (apart <= 0.01 * ((backward**2).sum(axis=2) + (there**2).sum(axis=2)) + 0.5)
    return warp, seen
