"""The suite of a commit, trained anew: its source in a worktree, its packages in an environment of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import DataError
from benchmarks.gate.sides import commit_of, git, top


@dataclass(frozen=True)
class SuiteRequest:
    """What is asked of the command `benchmarks.run` of a commit."""

    suite: str
    tier: str | None
    seeds: Sequence[int]
    data_root: Path | None
    extras: Sequence[str] = ("pretrained",)

    def options(self, out: Path) -> list[str]:
        found = ["--suite", self.suite, "--device", "cpu", "--arithmetic", "portable", "--out", str(out)]
        found += ["--tier", self.tier] if self.tier else []
        found += [part for seed in self.seeds for part in ("--seed", str(seed))]
        return found + (["--data-root", str(self.data_root)] if self.data_root else [])


def trained(revision: str, asked: SuiteRequest, work: Path, say: Callable[[str], None]) -> Path:
    """Train a suite as a commit would; the folder with its records.

    The worktree is removed again, whatever happens; the environment lies in `work`.

    Raises:
        RequestError: no such commit.
        DataError: its packages cannot be installed, or its run failed.
    """
    commit, root = commit_of(revision), top()
    folder = work / commit[:12]
    source, environment, runs = folder / "source", folder / "environment", folder / "runs"
    git("worktree", "add", "--detach", "--force", str(source), commit, where=root)
    try:
        say(f"git:{revision} ({commit[:12]}): installing its packages")
        _call([sys.executable, "-m", "venv", str(environment)], source)
        python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        constraints = ["-c", "constraints.txt"] if (source / "constraints.txt").exists() else []
        wanted = f".[{','.join(asked.extras)}]" if asked.extras else "."
        _call([str(python), "-m", "pip", "install", "-q", *constraints, "-e", wanted], source)
        say(f"git:{revision} ({commit[:12]}): training suite {asked.suite}")
        _call([str(python), "-m", "benchmarks.run", *asked.options(runs)], source)
    finally:
        git("worktree", "remove", "--force", str(source), where=root)
    return runs


def _call(command: Sequence[str], where: Path) -> None:
    """Run a command in a worktree, with nothing of this process's own source on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "GITHUB_STEP_SUMMARY")}
    done = subprocess.run(command, cwd=where, env=environment, check=False)
    if done.returncode != 0:
        raise DataError(f"exit code {done.returncode} of {' '.join(command)} in {where}")
