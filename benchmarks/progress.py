"""What a long run shows: bars with rates and ETA on a terminal, plain lines elsewhere. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RunProgress:
    """Progress of a suite: cells, and within a cell epochs, iterations, rate, ETA and losses.

    Args:
        cells: number of cells to run.
        iterations: training iterations of all of them together; what the overall ETA is drawn from.
    """

    def __init__(self, console: Console, cells: int, iterations: int) -> None:
        self._console = console
        self._cells = cells
        self._cell = 0
        self._name = ""
        self._began = 0.0
        self._live = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", style="cyan"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            disable=not self._live,
            refresh_per_second=4,
            speed_estimate_period=60,
        )
        self._all: TaskID = self._bars.add_task("[bold]suite", total=max(iterations, 1), rate="", note="")
        self._one: TaskID = self._bars.add_task("", total=None, rate="", note="", visible=False)

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.update(self._one, visible=False)
        self._bars.stop()

    def line(self, text: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(text, soft_wrap=True, highlight=False)

    def start_cell(self, name: str, dataset: str, iterations: int) -> None:
        """A new cell begins; `iterations` is what its training takes in all."""
        self._cell += 1
        self._name = f"[{self._cell}/{self._cells}] {name} on {dataset}"
        self._began = time.monotonic()
        title = escape(self._name)
        self._bars.update(self._all, description="[bold]suite", note=f"cell {self._cell} of {self._cells}")
        self._bars.reset(self._one, total=max(iterations, 1), description=title, visible=True, rate="", note="")
        if not self._live:
            self.line(title)

    def phase(self, text: str) -> None:
        """Another part of the cell begins: detecting, evaluating."""
        self._bars.update(self._one, note=text)

    def skip(self, iterations: int) -> None:
        """Iterations that an earlier, interrupted run has done already."""
        self._bars.advance(self._one, iterations)
        self._bars.advance(self._all, iterations)

    def iteration(self, epoch: int, epochs: int, losses: Mapping[str, float], rate: float) -> None:
        """One training iteration is done; `rate` in images per second."""
        note = f"epoch {epoch + 1}/{epochs}  " + "  ".join(f"{k} {v:.2f}" for k, v in losses.items())
        self._bars.update(self._one, advance=1, rate=f"{rate:.0f} img/s", note=note)
        self._bars.advance(self._all, 1)

    def epoch(self, epoch: int, epochs: int, losses: Mapping[str, float], rate: float) -> None:
        """One epoch is done: a plain line where there is no terminal."""
        if self._live:
            return
        spent = time.monotonic() - self._began
        mean = "  ".join(f"{k} {v:.3f}" for k, v in losses.items())
        self.line(
            f"  epoch {epoch + 1}/{epochs}  loss {sum(losses.values()):.3f}  {mean}  {rate:.1f} img/s  {spent:.0f} s"
        )

    def end_cell(self, outcome: str) -> None:
        """The cell has ended; `outcome` is what to say of it."""
        spent = time.monotonic() - self._began
        self._bars.update(self._one, visible=False)
        self.line(f"{escape(self._name)}: {outcome} [dim]({spent:.0f} s)[/]")
