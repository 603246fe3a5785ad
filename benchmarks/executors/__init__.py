"""Where cells run, behind one protocol: `run(jobs, tell)` tells what happens to each. Knows nothing of torch.

    local      in this process, one after the other
    processes  in worker processes, several at a time

`jobs` is pulled when there is room for one more, so that whoever yields them decides what is started, and when.
Events are told and not yielded: a job in this process could not report before it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from benchmarks.progress import CellProgress
from benchmarks.progress import Event as CellEvent

J = TypeVar("J")

Work = Callable[[Any, CellProgress], bool]
"""Does one job, leaves its answer in a file, and says whether its process may do another.

Importable by name, since workers are spawned. It raises `benchmarks.progress.Stopped` when it was asked to stop and
has saved its state; any other error concerns more than this job, and ends the run.
"""


@dataclass(frozen=True)
class Started(Generic[J]):
    """A job has begun."""

    job: J


@dataclass(frozen=True)
class Progress(Generic[J]):
    """A job says something of itself."""

    job: J
    event: CellEvent


@dataclass(frozen=True)
class Ended(Generic[J]):
    """A job is over: done, stopped to be gone on with later, or its process died, and `how`: for want of memory where
    the kernel says so.
    """

    job: J
    cause: Literal["done", "stopped", "died", "out_of_memory"]
    how: str = ""


EventCallback = Callable[[Started[Any] | Progress[Any] | Ended[Any]], None]


@dataclass
class Limits:
    """When to stop; without arguments, never.

    deadline: time.monotonic() by which all jobs must be over. Jobs see it coming and stop where their state is saved;
    worker processes that are not ready by then are killed.
    """

    deadline: float = float("inf")
    _asked: bool = field(default=False, init=False)
    _interrupted: bool = field(default=False, init=False)

    def stop(self) -> None:
        """Start nothing more, and let what runs stop where its state is saved next."""
        self._asked = True

    def interrupt(self) -> None:
        """End at once: raises KeyboardInterrupt, and again in `check` where that was swallowed, as in a destructor."""
        self._interrupted = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """KeyboardInterrupt when `interrupt` was called; for places that are often passed."""
        if self._interrupted:
            raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        return self._asked

    def stopping(self) -> bool:
        return self._asked or time.monotonic() >= self.deadline


class Executor(Protocol):
    """What runs jobs."""

    def run(self, jobs: Iterable[Any], tell: EventCallback) -> None:
        """Run the jobs; of each, one Started is told and then, after any Progress, one Ended."""
        ...
