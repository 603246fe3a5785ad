"""Jobs in worker processes, several at a time. A worker takes one job after the other: starting it costs seconds."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks import host
from benchmarks.children import die_with_parent
from benchmarks.executors import Ended, EventCallback, Limits, Progress, Started, Work
from benchmarks.progress import CellProgress, Stopped

_LOOK_S = 0.5  # how often the limits are looked at while no worker reports


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    pipe: Connection

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Processes:
    """Runs jobs in spawned processes. They die with this one, however it ends, and an interrupt ends all.

    Args:
        workers: jobs at a time; asked again whenever one could be started.
    """

    def __init__(self, work: Work, workers: int | Callable[[], int], limits: Limits | None = None) -> None:
        self._work, self._limits = work, limits or Limits()
        self._workers = workers if callable(workers) else lambda: workers
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()

    def run(self, jobs: Iterable[Any], tell: EventCallback) -> None:
        waiting = iter(jobs)
        more = True
        idle: list[_Worker] = []
        busy: dict[Connection, tuple[Any, _Worker]] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="canet-bench-"))
        self._killed = host.killed_for_memory()
        try:
            while True:
                self._limits.check()
                while more and len(busy) < self._workers() and not self._limits.stopping():
                    try:
                        job = next(waiting)
                    except StopIteration:
                        more = False
                        break
                    worker = idle.pop() if idle else self._spawn()
                    busy[worker.pipe] = job, worker
                    tell(Started(job))
                    worker.pipe.send(job)
                if not busy:
                    return
                if self._limits.stopping():
                    self._stop.set()
                if time.monotonic() >= self._limits.deadline:
                    for job, worker in busy.values():
                        worker.kill()
                        tell(Ended(job, "stopped", "killed at the time limit; it goes on from what it has saved"))
                    busy.clear()
                    return
                for pipe in wait(list(busy), timeout=_LOOK_S):
                    assert isinstance(pipe, Connection)
                    self._hear(pipe, busy, idle, tell)
        finally:
            for _, worker in busy.values():
                worker.kill()
            for worker in idle:
                worker.kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _hear(
        self, pipe: Connection, busy: dict[Connection, tuple[Any, _Worker]], idle: list[_Worker], tell: EventCallback
    ) -> None:
        """Take in one message of a worker."""
        job, worker = busy[pipe]
        try:
            what, content = pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            del busy[pipe]
            pipe.close()
            before, now = self._killed, host.killed_for_memory()
            self._killed = now
            more = None if before is None or now is None else now > before
            tell(_death(job, worker.process.exitcode, more))
            return
        if what == "event":
            tell(Progress(job, content))
        elif what == "error":
            raise content
        else:  # done or stopped; content: whether it may do another
            del busy[pipe]
            if content:
                idle.append(worker)
            else:
                worker.kill()
            tell(Ended(job, what))

    def _spawn(self) -> _Worker:
        here, there = self._context.Pipe()
        process: BaseProcess = self._context.Process(
            target=_work_on, args=(self._work, there, self._limits.deadline, self._stop, self._folder), daemon=True
        )
        process.start()
        there.close()
        return _Worker(process, here)


def _death(job: Any, code: int | None, for_memory: bool | None) -> Ended[Any]:
    """for_memory: whether the kernel has killed a process for it meanwhile; None where it does not tell."""
    if code is None or code >= 0:
        return Ended(job, "died", f"the worker left with exit code {code}")
    how = f"the worker was killed by signal {-code}"
    if code != -signal.SIGKILL or for_memory is False:
        return Ended(job, "died", how)
    if for_memory:
        return Ended(job, "out_of_memory", f"{how}, since memory ran out: try fewer --workers")
    return Ended(job, "died", f"{how}; the system may have run out of memory: try fewer --workers")


def _work_on(work: Work, pipe: Connection, deadline: float, stop: Any, folder: Path) -> None:
    """The body of a worker process: jobs from the pipe until it is killed.

    Args:
        deadline: of the system's monotonic clock.
        folder: for temporary files; a worker that is killed cannot remove its own.
    """
    die_with_parent(folder)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    while True:
        try:
            job = pipe.recv()
            again = work(job, CellProgress(lambda e: pipe.send(("event", e)), deadline=deadline, stopping=stop.is_set))
        except EOFError:
            os._exit(1)
        except Stopped:
            pipe.send(("stopped", False))
            return
        except Exception as e:  # what concerns more than one job: the parent raises it again
            pipe.send(("error", e))
            return
        pipe.send(("done", again))
