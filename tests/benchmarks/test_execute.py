from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks.errors import DataError
from benchmarks.execute import execute
from benchmarks.progress import CellProgress, RunProgress

Job = tuple[str, str]


def work(job: Job, progress: CellProgress) -> None:
    """A job (what to do, a file to leave)."""
    what, path = job
    progress.phase(what)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        os._exit(7)
    if what == "raise":
        raise DataError("the disk is full")
    if what == "sleep":
        time.sleep(60)
    Path(path).write_text(str(os.getpid()))


def run(jobs: list[Job], workers: int) -> tuple[list[Job], dict[Job, str | None], list[tuple[Job, str]]]:
    started: list[Job] = []
    ended: dict[Job, str | None] = {}
    events: list[tuple[Job, str]] = []
    execute(
        jobs,
        work,
        workers=workers,
        started=started.append,
        event=lambda job, event: events.append((job, event[1]["text"])),
        ended=ended.__setitem__,
    )
    return started, ended, events


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_job_is_run_once_and_reports(tmp_path: Path, workers: int) -> None:
    jobs = [("work", str(tmp_path / str(i))) for i in range(3)]
    started, ended, events = run(jobs, workers)
    assert started == jobs
    assert ended == dict.fromkeys(jobs)
    assert sorted(events) == sorted((job, "work") for job in jobs)
    pids = {Path(path).read_text() for _, path in jobs}
    assert (pids == {str(os.getpid())}) == (workers == 1)


@pytest.mark.parametrize(("what", "how"), [("die", "signal 9.*fewer --workers"), ("leave", "exit code 7")])
def test_a_worker_that_dies_does_not_take_the_others_along(tmp_path: Path, what: str, how: str) -> None:
    jobs = [(what, "x"), ("work", str(tmp_path / "a")), ("work", str(tmp_path / "b"))]
    _, ended, _ = run(jobs, 2)
    assert re.search(how, ended[jobs[0]] or "")
    assert ended[jobs[1]] is ended[jobs[2]] is None
    assert (tmp_path / "b").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_that_concerns_all_is_raised_here(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError, match="the disk is full"):
        run([("raise", "x"), ("work", str(tmp_path / "a"))], workers)


def test_workers_die_with_their_parent() -> None:
    root = Path(__file__).parents[2]
    main = (
        "from tests.benchmarks.test_execute import execute, work\n"
        "if __name__ == '__main__':\n"
        "    execute([('sleep', 'x'), ('sleep', 'y')], work, workers=2, started=lambda j: None,\n"
        "            event=lambda j, e: print('at work', flush=True), ended=lambda j, d: None)"
    )
    child = subprocess.Popen([sys.executable, "-c", main], cwd=root, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(2):
        assert child.stdout.readline() == "at work\n"
    family = psutil.Process(child.pid).children(recursive=True)
    assert len(family) >= 2
    child.kill()
    child.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_progress_on_a_terminal_and_in_a_file() -> None:
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=160)
        with RunProgress(console, 2, 20) as progress:
            progress.start("a", "canet:no_sae", "neu_det", 10)
            cell = CellProgress(lambda event, p=progress: p.handle("a", event))
            cell.line("resuming after epoch 1")
            cell.skip(5)
            for _ in range(5):
                cell.iteration(1, 2, {"loss_box": 0.25, "loss_cls": 0.5}, 31.4)
            cell.epoch(1, 2, {"loss_box": 0.25, "loss_cls": 0.5}, 31.4)
            cell.phase("detecting")
            progress._bars.refresh()
            done = progress._bars.tasks[0].completed
            progress.end("a", "AP50 0.5")
        text = out.getvalue()
        assert done == 10
        assert "canet:no_sae on neu_det" in text
        assert "resuming after epoch 1" in text
        assert "AP50 0.5" in text
        if terminal:
            assert "1 of 2 cells done" in text
            assert "31 img/s" in text
            assert "ETA" in text
        else:
            assert "epoch 2/2  31.4 img/s" in text
            assert "loss_box 0.250" in text
            assert "\x1b" not in text
