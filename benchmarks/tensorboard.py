"""TensorBoard logs of a run, a folder for each cell, while it trains (extra `tensorboard`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from benchmarks.errors import RequestError
from benchmarks.extras import missing
from benchmarks.store import CellPaths, RunRecord

FOLDER = "tensorboard"


class Logs:
    """The logs of a run's cells.

    A training that goes on writes into the log that it began; what was logged after the epoch from which it goes on is
    purged, as TensorBoard does it.

    Args:
        out: the run's folder; logs are in its `tensorboard/`.

    Raises:
        RequestError: the extra is not installed.
    """

    def __init__(self, out: Path) -> None:
        if (remedy := missing("tensorboard")) is not None:
            raise RequestError(f"--tensorboard needs {remedy}")
        self._out = out
        self._open: dict[Cell, Any] = {}

    def epoch(self, cell: Cell, epoch: int, losses: Mapping[str, float], rate: float) -> None:
        """Means over an epoch, counted from 0: each loss term, their sum, and images per second."""
        log = self._log(cell, epoch)
        for name, value in {**losses, "sum": sum(losses.values())}.items():
            log.add_scalar(f"loss/{name}", value, epoch)
        log.add_scalar("images per second", rate, epoch)
        log.flush()

    def end(self, record: RunRecord) -> None:
        """What the trained model reaches, at its last epoch; why there is nothing, where it failed."""
        cell = record.cell
        log = self._log(cell, len(record.curve))
        if (metrics := record.metrics) is None:
            log.add_text(record.status, record.error or "")
        else:
            numbers = {"AP": metrics.AP, "AP50": metrics.AP50, "AP75": metrics.AP75, "AP small": metrics.AP_small}
            numbers |= {f"AP50 of {name}": entry.AP50 for name, entry in metrics.per_class.items()}
            for name, value in numbers.items():
                if value is not None:
                    log.add_scalar(f"test/{name}", value, len(record.curve))
        self._open.pop(cell).close()

    def close(self) -> None:
        for log in self._open.values():
            log.close()

    def _log(self, cell: Cell, step: int) -> Any:
        if cell not in self._open:
            from torch.utils.tensorboard import SummaryWriter

            folder = self._out / FOLDER / CellPaths.of(self._out, cell).record.stem
            self._open[cell] = SummaryWriter(str(folder), purge_step=step)
        return self._open[cell]
