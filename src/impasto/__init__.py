"""Feed-forward style transfer: train a network per painting, stylize any image in one pass."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impasto.stylizer import Stylizer as Stylizer

__version__ = "0.1.0"
__all__ = ["Stylizer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Stylizer":  # which takes seconds to import: only for those who use it
        from impasto.stylizer import Stylizer

        return Stylizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
