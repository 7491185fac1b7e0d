import io

import pytest
from rich.console import Console

from impasto import progress


@pytest.mark.parametrize(
    ("terminal", "quiet", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_bars_are_for_terminals(monkeypatch, terminal, quiet, shown):
    written = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda: Console(file=written, force_terminal=terminal, width=120))
    with progress.progress_bar("a {b}.jpg [bold]", "images", quiet) as bar:
        bar.advance(bar.add_task("", total=2))
        bar.refresh()
    assert ("a {b}.jpg [bold]" in written.getvalue() and "1/2" in written.getvalue()) == shown
    assert bool(written.getvalue()) == shown  # where there is no terminal not so much as an empty line
