"""Bars of commands that take long, on terminals alone."""

from rich.console import Console
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
    return passing(*columns, quiet=quiet)


def passing(*columns: ProgressColumn, quiet: bool = False, console: Console | None = None) -> Progress:
    """A bar that vanishes at its end; nothing where `quiet`, and where there is no terminal: it would leave a line."""
    console = console or Console()
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
