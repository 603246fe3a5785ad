"""Signals to a run in mid-training: nobody is left, nothing that was saved is lost, one line says what happens."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.environments.conftest import environment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")]

SIGNALS = ("SIGINT", "SIGTERM", "SIGKILL")
MOMENTS = [(random.Random(i).uniform(0, 3), 2 if i % 4 else 0, SIGNALS[i % 3]) for i in range(20)]


def signalled(out: Path, data_root: Path, number: int, loaders: int, wait_s: float) -> tuple[int, str, list[str]]:
    """Exit code, what was printed, and who is left of a run that is signalled, with its group, in mid-training."""
    command = [sys.executable, "-u", "-m", "benchmarks.run", "--suite", "smoke", "--tier", "quick", "--device", "cpu"]
    command += ["--model", "retinanet", "--epochs", "60", "--no-profile"]
    command += ["--dataset", "synthetic_small", "--split", "synthetic_small-few10-v2"]
    command += ["--out", str(out), "--data-root", str(data_root), "--loaders", str(loaders)]
    run = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    told = ""
    for line in run.stdout:
        told += line
        if "epoch 2/" in line:
            break
    time.sleep(wait_s)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= loaders, told
    os.killpg(run.pid, number) if number != signal.SIGKILL else run.kill()
    told += run.communicate(timeout=120)[0]
    _, alive = psutil.wait_procs(family, timeout=20)
    return run.returncode, told, [" ".join(process.cmdline()) for process in alive]


@pytest.mark.parametrize("loaders", [0, 2])
def test_sigterm_is_heeded_in_one_line_and_the_state_is_saved(tmp_path, synthetic, data_root, loaders: int) -> None:
    code, told, alive = signalled(tmp_path / "runs", data_root, signal.SIGTERM, loaders, 0.1)
    assert (code, alive) == (0, [])
    assert told.count("SIGTERM: stopping as soon as the state of what runs is saved") == 1
    assert list(tmp_path.rglob("*.resume.safetensors"))
    assert not list((tmp_path / "runs").glob(".run-*"))


@pytest.mark.nightly
@pytest.mark.parametrize(("wait_s", "loaders", "name"), MOMENTS)
def test_at_any_moment(tmp_path, synthetic, data_root, wait_s: float, loaders: int, name: str) -> None:
    code, told, alive = signalled(tmp_path / "runs", data_root, getattr(signal, name), loaders, wait_s)
    assert (code, alive) == ({"SIGINT": 130, "SIGTERM": 0, "SIGKILL": -9}[name], [])
    assert "Traceback" not in told
    assert list(tmp_path.rglob("*.resume.safetensors"))
