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


@pytest.fixture
def control(monkeypatch, tmp_path: Path):
    """Puts a control program on the path that starts nothing: of a shell's lines for `-d`, and for what it is asked."""
    if os.name == "nt":
        pytest.skip("a shell script")

    def put(start: str, asked: str) -> Path:
        program, heard = tmp_path / "nvidia-cuda-mps-control", tmp_path / "heard"
        told = f'read line; echo "$line" >>"{heard}"; if [ "$line" = get_server_list ]; then {asked}; fi'
        program.write_text(f'#!/bin/sh\nif [ "$1" = -d ]; then {start}; fi\n{told}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return heard

    return put


@pytest.mark.parametrize("named", [True, False], ids=["named", "in its usual place"])
def test_one_that_answers_is_used_and_left(named: bool, control, monkeypatch) -> None:
    heard = control("exit 7", "exit 0")
    if named:
        monkeypatch.setenv(NAMES[0], "/tmp/theirs")
    with mps.service(pytest.fail) as beside:
        assert beside
        assert mps.in_use()
    assert set(heard.read_text().split()) == {"get_server_list"}, "not ended"
    assert os.environ.get(NAMES[0]) == ("/tmp/theirs" if named else None)


def test_one_that_is_named_and_does_not_answer_is_not_believed(control, monkeypatch) -> None:
    control("echo no such luck >&2; exit 1", "exit 1")
    monkeypatch.setenv(NAMES[0], "/tmp/theirs")
    said: list[str] = []
    with mps.service(said.append) as beside:
        assert not beside
        assert not mps.in_use()
    assert "no such luck" in said[0]
    assert os.environ[NAMES[0]] == "/tmp/theirs"


@pytest.mark.parametrize(("code", "why"), [(1, "no such luck"), (0, "CUDA|NVIDIA")], ids=["refused", "no GPU"])
def test_one_that_does_not_work_is_ended_and_the_environment_is_as_before(
    code: int, why: str, control, monkeypatch
) -> None:
    """A control program that refuses; and one that starts, after which the trial finds no GPU."""
    if code == 0 and torch.cuda.is_available():
        pytest.skip("the trial would succeed")
    heard = control(f"echo no such luck >&2; exit {code}", "exit 1")
    monkeypatch.setenv(NAMES[1], "/tmp/logs")
    said: list[str] = []
    with mps.service(said.append) as beside:
        assert not beside
        assert not mps.in_use()
    (line,) = said
    assert line.startswith("cells take turns on the GPU: CUDA's multi-process service does not run here")
    assert any(word in line for word in why.split("|"))
    assert heard.read_text().split() == ["get_server_list", "get_server_list", "quit"]
    assert NAMES[0] not in os.environ
    assert os.environ[NAMES[1]] == "/tmp/logs"
