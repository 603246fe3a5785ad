"""What a long run shows: bars with rates and ETA on a terminal, plain lines elsewhere. Torch-free.

A cell reports to a `CellProgress`, here or in a worker process; `RunProgress` draws what it is told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

Event = tuple[str, dict[str, Any]]

_EVERY_S = 0.2  # iterations are reported at most this often

_SLACK = 1.2  # an epoch may take this much longer than the one before it


class Stopped(Exception):
    """A cell was asked to stop and has saved its state: no result, and no failure."""


class CellProgress:
    """What one cell says of itself, and whether it should stop.

    Args:
        emit: takes events; it may send them to another process.
        deadline: time.monotonic() by which the cell must be over.
        stopping: whether it was asked to stop.
    """

    def __init__(
        self,
        emit: Callable[[Event], None] = lambda event: None,
        *,
        deadline: float = math.inf,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._emit = emit
        self._deadline, self._stopping = deadline, stopping
        self._done = 0
        self._last = 0.0
        self._epoch_began = time.monotonic()
        self._epoch_s = 0.0
        self._epochs_left = 0

    def should_stop(self) -> bool:
        """Whether to stop now that an epoch's state is saved: asked to, or the next epoch would not end in time.

        After the last epoch come detection and evaluation, which are taken to last as long as an epoch.
        """
        ahead = _SLACK * self._epoch_s * (2 if self._epochs_left == 1 else 1)
        return self._stopping() or time.monotonic() + ahead > self._deadline

    def line(self, text: str) -> None:
        """Something the user should read."""
        self._emit(("line", {"text": text}))

    def phase(self, text: str) -> None:
        """Another part of the cell begins: detecting, evaluating."""
        self._emit(("phase", {"text": text}))

    def skip(self, iterations: int) -> None:
        """Iterations that an earlier, interrupted run has done already."""
        self._emit(("advance", {"by": iterations}))

    def iteration(self, epoch: int, epochs: int, losses: Mapping[str, float], rate: float) -> None:
        """One training iteration is done; `rate` in images per second."""
        self._done += 1
        if time.monotonic() - self._last < _EVERY_S:
            return
        self._flush(epoch, epochs, losses, rate)

    def epoch(self, epoch: int, epochs: int, losses: Mapping[str, float], rate: float) -> None:
        """One epoch is done; mean losses."""
        now = time.monotonic()
        self._epoch_s, self._epoch_began = now - self._epoch_began, now
        self._epochs_left = epochs - epoch - 1
        self._flush(epoch, epochs, losses, rate)
        self._emit(("epoch", {"epoch": epoch, "epochs": epochs, "losses": dict(losses), "rate": rate}))

    def _flush(self, epoch: int, epochs: int, losses: Mapping[str, float], rate: float) -> None:
        # The last of the model's loss terms would not fit on a line; their sum does.
        note = f"epoch {epoch + 1}/{epochs}  loss {sum(losses.values()):.3f}"
        self._emit(("advance", {"by": self._done, "rate": rate, "note": note}))
        self._done, self._last = 0, time.monotonic()


def _columns(width: int) -> list[ProgressColumn]:
    """What fits beside each other: always a title, the count and the ETA; then a bar, the rate, the time, a note."""

    def text(template: str, most: int | None = None, style: str = "none") -> TextColumn:
        column = Column(no_wrap=True, overflow="ellipsis", max_width=most)
        return TextColumn(template, style=style, markup=False, table_column=column)

    title = next(
        most for least, most in ((160, None), (120, 36), (100, 32), (80, 28), (60, 20), (0, 12)) if width >= least
    )
    columns: list[ProgressColumn] = [text("{task.description}", title)]
    if width >= 60:
        columns.append(BarColumn(bar_width=20 if width >= 160 else 10))
    columns.append(MofNCompleteColumn())
    if width >= 80:
        columns.append(text("{task.fields[rate]}", style="cyan"))
    if width >= 100:
        columns.append(TimeElapsedColumn())
    columns += [TextColumn("ETA"), TimeRemainingColumn(compact=True)]
    if width >= 120:
        columns.append(text("{task.fields[note]}", style="dim"))
    return columns


class RunProgress:
    """Draws a run: all cells together, and each that is under way with its epoch, rate, ETA and loss.

    Args:
        cells: number of cells to run.
        iterations: training iterations of all of them together; what the overall ETA is drawn from.
    """

    def __init__(self, console: Console, cells: int, iterations: int) -> None:
        self._cells, self._started, self._ended = cells, 0, 0
        self._live = console.is_terminal
        self._bars = Progress(
            *_columns(console.width),
            console=console,
            disable=not self._live,
            refresh_per_second=4,
            speed_estimate_period=60,
        )
        self._all: TaskID = self._bars.add_task("", total=max(iterations, 1), rate="", note="")
        self._under_way: dict[object, tuple[str, float, TaskID]] = {}

    def __enter__(self) -> RunProgress:
        self._note()
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, _, task in self._under_way.values():
            self._bars.update(task, visible=False)
        self._bars.stop()

    def _print(self, text: Text | str) -> None:
        self._bars.console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def _note(self) -> None:
        self._bars.update(self._all, description=f"{self._ended}/{self._cells} cells")

    def start(self, key: object, name: str, dataset: str, iterations: int) -> None:
        """The cell `key` begins; `iterations` is what its training takes in all."""
        self._started += 1
        title = f"[{self._started}/{self._cells}] {name} on {dataset}"
        task = self._bars.add_task(title, total=max(iterations, 1), rate="", note="starting")
        self._under_way[key] = title, time.monotonic(), task
        if not self._live:
            self._print(title)

    def handle(self, key: object, event: Event) -> None:
        """Draw an event of the cell `key`."""
        title, began, task = self._under_way[key]
        what, facts = event
        if what == "advance":
            self._bars.advance(self._all, facts["by"])
            rate = f"{facts['rate']:.0f} img/s" if "rate" in facts else ""
            self._bars.update(task, advance=facts["by"], rate=rate, note=facts.get("note", ""))
        elif what == "phase":
            self._bars.update(task, note=facts["text"])
        elif what == "line":
            self._print(f"{title}: {facts['text']}")
        elif what == "epoch" and not self._live:
            losses = facts["losses"]
            terms = "  ".join(f"{k} {v:.3f}" for k, v in losses.items())
            self._print(
                f"{title}  epoch {facts['epoch'] + 1}/{facts['epochs']}  {facts['rate']:.1f} img/s  "
                f"{time.monotonic() - began:.0f} s  loss {sum(losses.values()):.3f}  {terms}"
            )

    def end(self, key: object, outcome: Text | str) -> None:
        """The cell `key` has ended; `outcome` is what to say of it."""
        title, began, task = self._under_way.pop(key)
        self._ended += 1
        self._bars.remove_task(task)
        self._note()
        self._print(Text.assemble(f"{title}: ", outcome, (f" ({time.monotonic() - began:.0f} s)", "dim")))
