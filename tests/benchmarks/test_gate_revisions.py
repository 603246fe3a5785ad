"""A commit's suite is trained by its own source, in its own environment; the worktree is gone afterwards."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.errors import DataError, RequestError
from benchmarks.gate import revisions
from benchmarks.gate.revisions import SuiteRequest, trained
from benchmarks.gate.turns import Checkout
from benchmarks.store import Stored

BACKEND = '''
import os, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    """A wheel that points at this folder; nothing has to be fetched for it."""
    name, about = "stand_in-1-py3-none-any.whl", "stand_in-1.dist-info/"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("stand_in.pth", os.getcwd())
        wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\\nName: stand-in\\nVersion: 1\\n")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nTag: py3-none-any\\n")
        wheel.writestr(about + "RECORD", "")
    return name
'''

RUN = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True)
(out / "said.json").write_text(json.dumps({"version": VERSION, "argv": sys.argv[1:], "prefix": sys.prefix}))
sys.exit(1 if VERSION == 3 else 0)
"""


def test_a_relative_data_root_is_that_of_this_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SuiteRequest("smoke", None, (), Path("data")).options(Path("out"))[-1] == str(tmp_path / "data")


@pytest.mark.parametrize(("status", "goes_on"), [("failed", True), ("diverged", True), ("ok", False)])
def test_a_run_that_left_with_1_goes_on_where_a_record_says_why(
    tmp_path: Path, stored: Callable[..., Stored], status: str, goes_on: bool
) -> None:
    stored("runs", status=status)
    here = Checkout(tmp_path)
    command = [sys.executable, "-c", "raise SystemExit(1)"]
    with contextlib.nullcontext() if goes_on else pytest.raises(DataError, match="exit code 1"):
        revisions._call(command, here, lambda: revisions._explained(tmp_path / "runs"))
    with pytest.raises(DataError, match="exit code 3"):
        revisions._call([*command[:2], "raise SystemExit(3)"], here, lambda: True)


@pytest.mark.slow
def test_each_commit_is_trained_by_its_own_source(tmp_path: Path, monkeypatch) -> None:
    clone, work = tmp_path / "clone", tmp_path / "work"
    (clone / "benchmarks").mkdir(parents=True)
    (clone / "backend.py").write_text(BACKEND)
    (clone / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *arguments], cwd=clone, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    for version in (1, 2, 3):
        (clone / "benchmarks" / "run.py").write_text(f"VERSION = {version}\n{RUN}")
        git("add", "-A")
        git("commit", "-qm", str(version))
    monkeypatch.chdir(clone)
    lines: list[str] = []
    asked = SuiteRequest("smoke", "quick", (0, 1), None, extras=())
    for revision, version in (("HEAD~2", 1), ("HEAD~1", 2)):
        with trained(revision, asked, work, lines.append) as (runs, checkout):
            said = json.loads((runs / "said.json").read_text())
            assert f"VERSION = {version}" in (checkout.source / "benchmarks" / "run.py").read_text()
            assert checkout.python.exists()
        assert not checkout.source.exists()
        assert said["version"] == version
        assert said["argv"][:2] == ["--suite", "smoke"]
        assert said["argv"].count("--seed") == 2
        assert Path(said["prefix"]).is_relative_to(work), "an environment of its own"
    assert len(lines) == 4
    with pytest.raises(DataError, match="exit code 1"), trained("HEAD", asked, work, lines.append):
        pass
    assert len(git("worktree", "list").splitlines()) == 1
    with pytest.raises(RequestError, match="git rev-parse"), trained("nothing", asked, work, lines.append):
        pass
