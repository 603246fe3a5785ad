"""Jobs in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.executors import Ended, EventCallback, Limits, Progress, Started, Work
from benchmarks.progress import CellProgress, Stopped


class Local:
    """Runs jobs here. A job that does not look whether it should stop is not stopped."""

    def __init__(self, work: Work, limits: Limits | None = None) -> None:
        self._work, self._limits = work, limits or Limits()

    def run(self, jobs: Iterable[Any], tell: EventCallback) -> None:
        for job in jobs:
            tell(Started(job))

            def emit(event: Any, job: Any = job) -> None:
                self._limits.check()
                tell(Progress(job, event))

            progress = CellProgress(emit, deadline=self._limits.deadline, stopping=self._limits.stopping)
            try:
                self._work(job, progress)
            except Stopped:
                tell(Ended(job, "stopped"))
            else:
                tell(Ended(job, "done"))
            self._limits.check()
            if self._limits.stopping():
                return
