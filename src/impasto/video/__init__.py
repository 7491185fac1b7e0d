"""Films through a network, frame by frame: picture times, colours and sound stay as they were.

PyAV, FFmpeg's libraries, reads and writes; it comes with the extra `video`, and only the modules below import it.
"""

from importlib.util import find_spec
from pathlib import Path

from impasto.errors import UserError

WRITABLE = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
SUFFIXES = WRITABLE | {".avi"}  # which holds neither uneven picture times nor B-frames: it is only read


def is_video(path: Path) -> bool:
    """Whether the suffix is a film's."""
    return path.suffix.lower() in SUFFIXES


def check_writable_video(path: Path) -> None:
    """Raise `UserError` for a suffix that no film can be written to, or where PyAV is missing."""
    if path.suffix.lower() not in WRITABLE:
        raise UserError(
            f"a video cannot go to {str(path)!r}: its suffix should be one of {', '.join(sorted(WRITABLE))}"
        )
    if find_spec("av") is None:
        raise UserError("videos take one package more: pip install 'impasto[video]'")
