"""Films through a network, frame by frame: picture times, colours and sound stay as they were.

PyAV, FFmpeg's libraries, reads and writes; it comes with the extra `video`, and only the modules below import it.
So does OpenCV, which `impasto.temporal` takes.
"""

from importlib.util import find_spec
from pathlib import Path

from impasto.errors import UserError

STEADIEST = 0.9  # from 0.94 on a slow pan's strokes gain contrast with each frame that brings them on
WRITABLE = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
SUFFIXES = WRITABLE | {".avi"}  # which holds neither uneven picture times nor B-frames: it is only read


def is_video(path: Path) -> bool:
    """Whether the suffix is a film's."""
    return path.suffix.lower() in SUFFIXES


def check_video_suffix(path: Path) -> None:
    """Raise `UserError` for a suffix that no film can be written to, or where PyAV is missing."""
    if path.suffix.lower() not in WRITABLE:
        raise UserError(
            f"a video cannot go to {str(path)!r}: its suffix should be one of {', '.join(sorted(WRITABLE))}"
        )
    if find_spec("av") is None:
        raise UserError("videos take one package more: pip install 'impasto[video]'")


def check_smooth(smooth: float) -> None:
    """Raise `UserError` for a weight of the past out of range, or where OpenCV is missing."""
    if not 0 <= smooth <= STEADIEST:
        raise UserError(f"smooth={smooth:g} should be in 0…{STEADIEST}; 0 is each frame on its own")
    if smooth and find_spec("cv2") is None:
        raise UserError(f"smooth={smooth:g} takes OpenCV: pip install 'impasto[video]'; smooth=0 goes without")
