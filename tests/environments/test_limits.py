"""Containers: what control groups of either version leave of the machine, and what a killed run leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import host, run, running
from benchmarks.store import writer
from tests.environments.conftest import environment

GiB = 2**30


def groups(root: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A mounted tree of control groups, and what /proc says of this process."""
    for name, text in files.items():
        (root / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "mount" / name).write_text(text + "\n")
    (root / "own").write_text(own)
    return root / "mount", root / "own"


V2 = {
    "memory.max": "max",
    "memory.current": str(9 * GiB),
    "cpu.max": "max 100000",
    "job/memory.max": str(4 * GiB),
    "job/memory.current": str(3 * GiB),
    "job/memory.stat": f"anon 1\ninactive_file {2 * GiB}",
    "job/memory.events": "low 0\noom 2\noom_kill 2",
    "job/cpu.max": "150000 100000",
    "job/step/memory.max": "max",
    "job/step/memory.current": str(GiB),
    "job/step/cpu.max": "max 100000",
}
V1 = {
    "memory/memory.limit_in_bytes": str(4 * GiB),
    "memory/memory.usage_in_bytes": str(3 * GiB),
    "memory/memory.stat": f"cache 5\ntotal_inactive_file {2 * GiB}",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    "cpu,cpuacct/cpu.cfs_quota_us": "150000",
    "cpu,cpuacct/cpu.cfs_period_us": "100000",
}
# In a container of version 1 the path is that of the host, which is not to be seen.
V1_OWN = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(("own", "files"), [("0::/job/step\n", V2), (V1_OWN, V1)], ids=["v2", "v1"])
def test_limits_of_control_groups(tmp_path: Path, monkeypatch, own: str, files: dict[str, str]) -> None:
    mount, listed = groups(tmp_path, own, files)
    monkeypatch.setattr(host, "_MOUNT", mount)
    monkeypatch.setattr(host, "_OWN", listed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Free", (), {"available": 60 * GiB, "total": 64 * GiB}))
    assert host.cores() == 1
    assert host.memory() == 3 * GiB, "what is allowed, less what is used and no cache"
    assert host.memory_limit() == 4 * GiB
    assert host.killed_for_memory() == 2
    import torch

    assert run._default_workers(torch.device("cpu"), 1, 8) == 1


@pytest.mark.parametrize("own", ["0::/\n", "", "nonsense"])
def test_without_limits_the_machine_is_ours(tmp_path: Path, monkeypatch, own: str) -> None:
    mount, listed = groups(tmp_path, own, {"memory.max": "max", "cpu.max": "max 100000"})
    monkeypatch.setattr(host, "_MOUNT", mount)
    monkeypatch.setattr(host, "_OWN", listed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Free", (), {"available": 60 * GiB, "total": 64 * GiB}))
    assert (host.cores(), host.memory(), host.memory_limit()) == (64, 60 * GiB, None)


def test_a_killed_run_is_told_of_once_and_a_running_one_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from benchmarks.running import marked\n"
        "out = Path(sys.argv[1])\n"
        "with marked(out, print):\n"
        "    import os, socket; from benchmarks.store import writer\n"
        "    (out / f'.x.json.{writer(socket.gethostname(), os.getpid())}-0a.tmp').touch()\n"
        "    print('in', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    said = list[str]()
    with running.marked(tmp_path, said.append):
        assert said == [], "it still runs"
    child.send_signal(signal.SIGKILL)
    child.wait()
    with running.marked(tmp_path, said.append):
        pass
    assert len(said) == 1
    assert f"(process {child.pid} on " in said[0]
    assert "was killed" in said[0]
    with running.marked(tmp_path, said.append):
        pass
    assert len(said) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_killed_for_memory_is_told_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(host, "killed_for_memory", lambda: 3)
    monkeypatch.setattr(host, "memory_limit", lambda: 1000 * 2**20)
    code = (
        "import os, sys; from pathlib import Path; from benchmarks import host; from benchmarks.running import marked\n"
        "host.killed_for_memory, host.memory_limit = lambda: 2, lambda: 1000 * 2**20\n"
        "with marked(Path(sys.argv[1]), print): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment(), check=False)
    said = list[str]()
    with running.marked(tmp_path, said.append):
        pass
    assert "was killed, since its memory ran out: 1,000 MiB are allowed" in said[0]


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group of this machine, of either version, that allows 600 MiB."""
    mount = Path("/sys/fs/cgroup")
    v1 = (mount / "memory").is_dir()
    folder = (mount / "memory" if v1 else mount) / f"canet-bench-test-{os.getpid()}"
    try:
        if not v1:
            (mount / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(600 * 2**20))
    except OSError as e:
        pytest.skip(f"control groups cannot be made here: {e}")
    # Memory that is swapped is not counted; without swap there is no such file.
    with contextlib.suppress(OSError):
        (folder / ("memory.swappiness" if v1 else "memory.swap.max")).write_text("0")
    yield folder
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # while the kernel still counts the dead
            folder.rmdir()
        time.sleep(0.05)


IN_GROUP = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
from benchmarks import host, running
with running.marked(Path(sys.argv[2]), lambda line: print("said", line, flush=True)):
    print("limit", host.memory_limit(), flush=True)
    print("left", host.memory(), flush=True)
    if sys.argv[3] == "greedy":
        held = []
        while True:
            held.append(bytes(b"x" * 2**24))
"""


def test_a_run_that_a_real_control_group_kills_is_told_of_at_the_next_start(real_group: Path, tmp_path: Path) -> None:
    def start(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", IN_GROUP, str(real_group), str(tmp_path), how]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)

    killed = start("greedy")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    facts = dict(line.split(" ", 1) for line in killed.stdout.splitlines())
    assert int(facts["limit"]) == 600 * 2**20
    assert 0 < int(facts["left"]) < 600 * 2**20
    again = start("modest")
    assert again.returncode == 0, again.stderr
    (said,) = (line for line in again.stdout.splitlines() if line.startswith("said "))
    assert "was killed, since its memory ran out: 600 MiB are allowed" in said


def test_what_another_host_is_writing_stays_though_its_process_has_our_number(tmp_path: Path) -> None:
    others, own = (tmp_path / f".x.json.{writer(host, os.getpid())}-0a.tmp" for host in ("other", socket.gethostname()))
    with running.marked(tmp_path, print):
        others.touch()
        own.touch()
    assert list(tmp_path.iterdir()) == [others]
