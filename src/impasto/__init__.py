"""Feed-forward style transfer: train a network per painting, stylize any image in one pass."""

__version__ = "0.1.0"
