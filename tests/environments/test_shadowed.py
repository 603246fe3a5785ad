"""Another project's folder: what is called like a package of ours hides it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments.conftest import ROOT, environment


@pytest.mark.parametrize("name", ["canet", "baselines", "ablations"])
def test_a_package_that_hides_one_of_ours_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    # Where Python looks first, as it does where one stands.
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--list-models"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert f"{tmp_path / name} hides it; run from another folder" in done.stderr


def test_a_folder_called_benchmarks_that_is_no_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.doctor", "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_another_package_called_benchmarks_gives_the_message_that_the_readme_explains(tmp_path: Path) -> None:
    """Python finds it before any line of ours runs."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--help"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=os.pathsep.join(map(str, (tmp_path, ROOT)))),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "No module named benchmarks.run" in done.stderr
    assert "No module named benchmarks.run" in (ROOT / "README.md").read_text(encoding="utf-8")
