"""The service itself needs a GPU; what becomes of a run without it does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmarks import mps

NAMES = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_it_cells_take_turns_and_that_is_said(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with mps.service(said.append) as beside:
        assert not beside
        assert not mps.in_use()
    (line,) = said
    assert "nvidia-cuda-mps-control is not installed" in line


def test_one_that_is_there_is_used_and_left(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(NAMES[0], "/tmp/theirs")
    with mps.service(pytest.fail) as beside:
        assert beside
    assert os.environ[NAMES[0]] == "/tmp/theirs"


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
@pytest.mark.parametrize(("code", "why"), [(1, "no such luck"), (0, "CUDA|NVIDIA")], ids=["refused", "no GPU"])
def test_one_that_does_not_work_is_ended_and_the_environment_is_as_before(
    code: int, why: str, monkeypatch, tmp_path: Path
) -> None:
    """A control program that refuses; and one that starts, after which the trial finds no GPU."""
    if code == 0 and torch.cuda.is_available():
        pytest.skip("the trial would succeed")
    control = tmp_path / "nvidia-cuda-mps-control"
    heard = tmp_path / "heard"
    control.write_text(f'#!/bin/sh\nif [ "$1" = -d ]; then echo no such luck >&2; exit {code}; fi\ncat >>"{heard}"\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(NAMES[1], "/tmp/logs")
    said: list[str] = []
    with mps.service(said.append) as beside:
        assert not beside
        assert not mps.in_use()
    (line,) = said
    assert line.startswith("cells take turns on the GPU: CUDA's multi-process service does not run here")
    assert any(word in line for word in why.split("|"))
    assert heard.read_text() == "quit\n"
    assert NAMES[0] not in os.environ
    assert os.environ[NAMES[1]] == "/tmp/logs"
