"""How a profiling session shows what it measures: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.cost.session import ProgressCallback

_REDRAWN_S = 0.5
_LINE_S = 30.0


@contextmanager
def reporting(console: Console) -> Iterator[ProgressCallback]:
    """Yield what a session reports to.

    It draws between measurements, and never from a thread of its own, which would be measured too.
    """
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bars.add_task("profiling", total=None)
    shown, last = "", 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal shown, last
        now = time.monotonic()
        again = what == shown
        if again and now - last < (_REDRAWN_S if console.is_terminal else _LINE_S):
            return
        shown, last = what, now
        if console.is_terminal:
            bars.update(task, description=what, completed=done, total=max(total, done) or None)
            bars.refresh()
        else:
            far = f"{done} of {total}" if done <= total else f"{done}, the least was {total}"
            console.print(f"{what}: {far}" if again else what, soft_wrap=True, highlight=False)

    bars.start()
    try:
        yield report
    finally:
        bars.stop()
