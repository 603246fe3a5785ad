"""The suite of a commit, trained anew: its source in a worktree, its packages in an environment of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import DataError
from benchmarks.gate.sides import commit_of, git, top
from benchmarks.gate.turns import Checkout
from benchmarks.store import scan


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
        return found + (["--data-root", str(self.data_root.resolve())] if self.data_root else [])


@contextlib.contextmanager
def trained(
    revision: str, asked: SuiteRequest, work: Path, say: Callable[[str], None]
) -> Iterator[tuple[Path, Checkout]]:
    """Train a suite as a commit would: the folder with its records, and what they were trained by.

    The worktree is removed at the end, whatever happens; the environment lies in `work`.

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
        checkout = Checkout(source, environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), _clean())
        _call([sys.executable, "-m", "venv", str(environment)], checkout)
        python = str(checkout.python)
        constraints = ["-c", "constraints.txt"] if (source / "constraints.txt").exists() else []
        wanted = f".[{','.join(asked.extras)}]" if asked.extras else "."
        _call([python, "-m", "pip", "install", "-q", *constraints, "-e", wanted], checkout)
        say(f"git:{revision} ({commit[:12]}): training suite {asked.suite}")
        _call([python, "-m", "benchmarks.run", *asked.options(runs)], checkout, lambda: _explained(runs))
        yield runs, checkout
    finally:
        git("worktree", "remove", "--force", str(source), where=root)


def _clean() -> Mapping[str, str]:
    """This process's variables, with nothing of its own source on the path."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "GITHUB_STEP_SUMMARY")}


def _explained(runs: Path) -> bool:
    """Whether a run left with 1 since a cell failed or diverged, which its record says, and is then judged by it."""
    return any(stored.run.status != "ok" for stored in scan(runs))


def _call(command: Sequence[str], checkout: Checkout, explained: Callable[[], bool] = lambda: False) -> None:
    """DataError where it fails, unless it leaves with 1 and that is `explained`."""
    done = subprocess.run(command, cwd=checkout.source, env=dict(checkout.environment), check=False)
    if done.returncode != 0 and not (done.returncode == 1 and explained()):
        raise DataError(f"exit code {done.returncode} of {' '.join(command)} in {checkout.source}")
