"""The curves of the tasks that have some."""

from pathlib import Path
from typing import Any

from impasto.errors import UserError


def plot(name: str, result: dict[str, Any], folder: Path) -> Path | None:
    """Draw a task's curves, for the tasks that have some. Raises `UserError` without matplotlib."""
    if name not in ("quality", "scaling", "megapixels"):
        return None
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise UserError("the plot takes matplotlib: pip install 'impasto[benchmark]'") from None
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
