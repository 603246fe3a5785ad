"""Commands as a user calls them, in this process or in one of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIMS = Path(__file__).parent / "shims"


def environment(**changes: str) -> dict[str, str]:
    """Of a child: one thread, this clone's packages, the shims (`shims/sitecustomize.py`)."""
    path = os.pathsep.join(map(str, (SHIMS, ROOT)))
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": path, **changes}


def call(module: str, *arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks.MODULE`, to its end."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, errors="replace", timeout=300
    )


Told = tuple[int, str, str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Run a command in this process; gives its exit code, stdout and stderr."""
    from benchmarks.cli import run_app

    def run(module: str, *arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        code = 0
        try:
            run_app(importlib.import_module(f"benchmarks.{module}").app)
        except SystemExit as e:
            code = int(e.code or 0)
        return code, *capsys.readouterr()

    return run
