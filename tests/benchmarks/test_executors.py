from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks import host
from benchmarks.errors import DataError
from benchmarks.executors import Ended, Limits, Progress, Started
from benchmarks.executors.local import Local
from benchmarks.executors.processes import Processes
from benchmarks.progress import CellProgress, RunProgress, Stopped

Job = tuple[str, str]


def work(job: Job, progress: CellProgress) -> bool:
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
    if what == "epochs":  # as a training does: state is saved, then asked
        for epoch in range(1000):
            time.sleep(0.05)
            Path(path).write_text(str(epoch))
            progress.epoch(epoch, 1000, {}, 1.0)
            if progress.should_stop():
                raise Stopped
    Path(path).write_text(str(os.getpid()))
    return what != "once"


class Told:
    """What an executor tells."""

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.ended: dict[Job, tuple[str, str]] = {}
        self.events: list[tuple[Job, str]] = []

    def __call__(self, event: Started[Job] | Progress[Job] | Ended[Job]) -> None:
        if isinstance(event, Started):
            self.started.append(event.job)
        elif isinstance(event, Progress):
            assert event.job in self.started
            assert event.job not in self.ended
            self.events.append((event.job, event.event[0]))
        else:
            assert event.job not in self.ended
            self.ended[event.job] = event.cause, event.how


def run(jobs: Iterable[Job], workers: int, limits: Limits | None = None) -> Told:
    told = Told()
    executor = Local(work, limits) if workers == 1 else Processes(work, workers, limits)
    executor.run(jobs, told)
    return told


@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_is_run_once_and_reports(tmp_path: Path, workers: int) -> None:
    jobs = [("work", str(tmp_path / str(i))) for i in range(10)]
    told = run(jobs, workers)
    assert told.started == jobs
    assert told.ended == dict.fromkeys(jobs, ("done", ""))
    assert sorted(told.events) == sorted((job, "phase") for job in jobs)
    pids = {Path(path).read_text() for _, path in jobs}
    assert (pids == {str(os.getpid())}) == (workers == 1)
    assert len(pids) <= workers, "a worker takes one job after the other"


def test_a_worker_that_is_not_as_good_as_new_takes_no_other_job(tmp_path: Path) -> None:
    jobs = [(what, str(tmp_path / f"{what}{i}")) for i, what in enumerate(["once", "once", "work", "work"])]
    executor, told = Processes(work, lambda: 1), Told()
    executor.run(jobs, told)
    pids = [Path(path).read_text() for _, path in jobs]
    assert len(set(pids[:3])) == 3
    assert pids[2] == pids[3]


def test_more_jobs_at_a_time_once_it_is_known_that_they_fit(tmp_path: Path) -> None:
    """`workers` is asked again: one first, which is measured, then all."""
    width, widths, told = 1, list[int](), Told()

    def tell(event: Started[Job] | Progress[Job] | Ended[Job]) -> None:
        nonlocal width
        told(event)
        if isinstance(event, Progress):
            width = 3
        widths.append(len(told.started) - len(told.ended))

    Processes(work, lambda: width).run([("work", str(tmp_path / str(i))) for i in range(6)], tell)
    assert widths[:2] == [1, 1], "the second starts when the first has reported"
    assert 1 < max(widths) <= 3
    assert len(told.ended) == 6


@pytest.mark.parametrize("workers", [1, 2])
def test_asked_to_stop_all_stop_where_their_state_is_saved(tmp_path: Path, workers: int) -> None:
    limits = Limits()
    jobs = [("epochs", str(tmp_path / str(i))) for i in range(4)]
    told = Told()

    def tell(event: Started[Job] | Progress[Job] | Ended[Job]) -> None:
        told(event)
        if told.events.count((jobs[workers - 1], "epoch")) == 2:
            limits.stop()

    (Local(work, limits) if workers == 1 else Processes(work, workers, limits)).run(jobs, tell)
    assert told.started == jobs[:workers]
    assert {cause for cause, _ in told.ended.values()} == {"stopped"}
    for job in jobs[:workers]:
        assert Path(job[1]).read_text() == str(told.events.count((job, "epoch")) - 1), "nothing is lost"
    assert not Path(jobs[-1][1]).exists()


def test_what_sees_the_deadline_coming_stops_before_it(tmp_path: Path) -> None:
    limits = Limits(time.monotonic() + 2)
    told = run([("epochs", str(tmp_path / str(i))) for i in range(3)], 1, limits)
    assert time.monotonic() <= limits.deadline + 0.5
    assert set(told.ended.values()) == {("stopped", "")}
    assert told.events.count((told.started[0], "epoch")) > 1


def test_what_does_not_look_is_killed_at_the_deadline(tmp_path: Path) -> None:
    limits = Limits(time.monotonic() + 3)
    jobs = [("sleep", str(tmp_path / str(i))) for i in range(3)]
    told = run(jobs, 2, limits)
    assert time.monotonic() < limits.deadline + 20, "they sleep for 60 s"
    assert told.started == jobs[:2]
    assert [told.ended[job][0] for job in jobs[:2]] == ["stopped", "stopped"]
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("what", "counts", "cause", "how"),
    [
        ("die", (None, None), "died", "signal 9; .* may have run out of memory: try fewer --workers"),
        ("die", (2, 2), "died", "signal 9$"),
        ("die", (2, 3), "out_of_memory", "signal 9, since memory ran out: try fewer --workers"),
        ("leave", (2, 3), "died", "exit code 7"),
    ],
)
def test_a_worker_that_dies_does_not_take_the_others_along(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    counts: tuple[int | None, int | None],
    cause: str,
    how: str,
) -> None:
    told = iter(counts)
    monkeypatch.setattr(host, "killed_for_memory", lambda: next(told))
    jobs = [(what, "x"), ("work", str(tmp_path / "a")), ("work", str(tmp_path / "b"))]
    ended = run(jobs, 2).ended
    assert ended[jobs[0]][0] == cause
    assert re.search(how, ended[jobs[0]][1])
    assert ended[jobs[1]] == ended[jobs[2]] == ("done", "")
    assert (tmp_path / "b").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_that_concerns_all_is_raised_here(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError, match="the disk is full"):
        run([("raise", "x"), ("work", str(tmp_path / "a"))], workers)


def test_workers_die_with_their_parent() -> None:
    root = Path(__file__).parents[2]
    main = (
        "from tests.benchmarks.test_executors import Processes, Progress, work\n"
        "if __name__ == '__main__':\n"
        "    def tell(event):\n"
        "        if isinstance(event, Progress):\n"
        "            print('at work', flush=True)\n"
        "    Processes(work, 2).run([('sleep', 'x'), ('sleep', 'y')], tell)"
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


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40])
def test_bars_show_count_and_eta_however_narrow_the_terminal(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width)
    with RunProgress(console, 250, 405_000) as progress:
        progress.start("a", "canet:no_context_convs", "synthetic_small", 1620)
        cell = CellProgress(lambda event: progress.handle("a", event))
        for epoch in range(2):
            for _ in range(400):
                cell.iteration(epoch, 12, {"loss": 0.75}, 131.4)
            cell.epoch(epoch, 12, {"loss": 0.75}, 131.4)
        out.truncate(0)
        progress._bars.refresh()
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n").strip("\0\n ")
    lines = [line for line in text.splitlines() if line.strip()][-2:]
    suite, one = lines
    assert all(len(line) <= width for line in lines)
    assert "800/405000" in suite
    assert "800/1620" in one
    assert all("ETA" in line for line in lines)
    assert all(re.search(r"ETA +(-|\d)", line) for line in lines), lines
    assert ("━" in one or "╸" in one or "╺" in one) == (width >= 60)


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
            assert "1/2 cells" in text
            assert "31 img/s" in text
            assert "ETA" in text
        else:
            assert "epoch 2/2  31.4 img/s" in text
            assert "loss_box 0.250" in text
            assert "\x1b" not in text
