"""The bar of a command that works through many images or frames."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """So many a second."""
        return Text("" if task.speed is None else f"{task.speed:.2f} {self.unit}/s")


def progress_bar(name: str, unit: str, quiet: bool) -> Progress:
    """A bar with a name, how many are done, how many `unit`s a second and the time left; nothing where `quiet`."""
    shown = TextColumn(name.replace("{", "{{").replace("}", "}}"), markup=False)  # any file's name
    columns = (shown, BarColumn(), MofNCompleteColumn(), _Speed(unit), TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=quiet)
