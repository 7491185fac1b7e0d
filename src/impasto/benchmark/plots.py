"""The curves of the tasks that have some."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from impasto.errors import UserError

PLOTTED = ("quality", "scaling", "megapixels")


def check_plotting(name: str) -> None:
    """Raise `UserError` for a task with curves where nothing can draw them: before it takes its half-hour."""
    if name in PLOTTED and find_spec("matplotlib") is None:
        raise UserError("the plot takes matplotlib: pip install 'impasto[benchmark]'")


def plot(name: str, result: dict[str, Any], folder: Path) -> Path | None:
    """Draw a task's curves, for the tasks that have some."""
    if name not in PLOTTED:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if name == "quality":
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        for who, curve in result["curves"].items():
            axes.plot([p["seconds"] for p in curve], [p["loss"] for p in curve], label=who)
        axes.axhline(result["curves"]["reference"][-1]["loss"], color="grey", linewidth=0.5)
        axes.set(xlabel="training time (s)", ylabel="validation loss", yscale="log")
        axes.legend()
    else:
        groups = list(dict.fromkeys(point["what"] for point in result["rows"]))
        figure, grid = pyplot.subplots(
            2, len(groups), figsize=(4 * len(groups), 6), layout="constrained", squeeze=False
        )
        for column, what in enumerate(groups):
            points = [point for point in result["rows"] if point["what"] == what]
            for axes, key in zip(grid[:, column], ("seconds", "MB"), strict=True):
                axes.plot([p["megapixels"] for p in points], [p[key] for p in points], marker="o")
                axes.set(title=what, xlabel="megapixels", ylabel=key, xlim=(0, None), ylim=(0, None))
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
