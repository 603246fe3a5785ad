"""Where cells run: in this process, or in worker processes, one for each cell. Knows nothing of torch."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from benchmarks.progress import CellProgress, Event

J = TypeVar("J")

Work = Callable[[Any, CellProgress], None]
"""Does one job and leaves its answer in a file. Importable by name, since workers are spawned."""


def execute(
    jobs: Sequence[J],
    work: Work,
    *,
    workers: int,
    started: Callable[[J], None],
    event: Callable[[J, Event], None],
    ended: Callable[[J, str | None], None],
) -> None:
    """Run jobs, at most `workers` at a time; with one worker, in this process.

    A worker dies with its parent, however that ends, and an interrupt ends all of them.

    Args:
        ended: gets the job and, when its worker died without finishing, how.
    """
    if workers <= 1:
        for job in jobs:
            started(job)
            work(job, CellProgress(lambda e, job=job: event(job, e)))  # type: ignore[misc]
            ended(job, None)
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[Connection, tuple[J, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                here, there = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_worker, args=(work, job, there), daemon=True)
                process.start()
                there.close()
                running[here] = job, process
                started(job)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                job, process = running[ready]
                try:
                    what, facts = ready.recv()
                except EOFError:  # the worker has closed its end: finished, failed or dead
                    process.join()
                    del running[ready]
                    ended(job, _how_it_died(process.exitcode))
                    continue
                if what == "error":
                    raise facts["error"]
                event(job, (what, facts))
    finally:
        for _, process in running.values():
            process.kill()
        for _, process in running.values():
            process.join()


def _how_it_died(code: int | None) -> str | None:
    if code == 0:
        return None
    if code is not None and code < 0:
        hint = "; the system may have run out of memory: try fewer --workers" if code == -9 else ""
        return f"the worker was killed by signal {-code}{hint}"
    return f"the worker left with exit code {code}"


def _worker(work: Work, job: Any, pipe: Connection) -> None:
    """The body of a worker process."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        work(job, CellProgress(pipe.send))
    except KeyboardInterrupt:
        os._exit(130)
    except Exception as e:  # what concerns more than one job: the parent raises it again
        pipe.send(("error", {"error": e}))
    pipe.close()
