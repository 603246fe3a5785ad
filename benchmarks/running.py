"""What a run leaves in its folder while it runs, so that the next one can say that it was killed, and perhaps why."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from benchmarks import host
from benchmarks.store import now, writer


@contextlib.contextmanager
def marked(out: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Mark `out` as written to by this process while the block runs; says first which runs there were killed."""
    for mark in sorted(out.glob(".run-*.json")):
        if (facts := _facts(mark)) is not None and not _lives(mark, facts):
            say(_how_it_ended(facts))
            _remove(out, facts["host"], facts["pid"], mark)
    own = out / f".run-{socket.gethostname()}-{os.getpid()}.json"
    facts = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "created": psutil.Process().create_time(),
        "started": now(),
        "killed_for_memory": host.killed_for_memory(),
        "memory_limit": host.memory_limit(),
    }
    held = FileLock(own.with_suffix(".lock"), timeout=0)
    with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks: the process's id must do
        held.acquire()
    own.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    try:
        yield
    finally:
        held.release()
        _remove(out, socket.gethostname(), os.getpid(), own)


def _facts(mark: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(mark.read_bytes())
        return facts if {"pid", "host", "created", "started"} <= facts.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _lives(mark: Path, facts: dict[str, Any]) -> bool:
    """Whether the run that left `mark` may still go on, here or in another container or machine."""
    if facts["host"] == socket.gethostname():
        with contextlib.suppress(psutil.Error):
            if abs(psutil.Process(facts["pid"]).create_time() - facts["created"]) < 1:
                return True
    try:
        with FileLock(mark.with_suffix(".lock"), timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return facts["host"] != socket.gethostname()


def _remove(out: Path, host_name: str, pid: int, mark: Path) -> None:
    """The mark, and files that its run was writing."""
    for path in (mark, mark.with_suffix(".lock"), *out.rglob(f".*.{writer(host_name, pid)}-*.tmp")):
        with contextlib.suppress(OSError):
            path.unlink()


def _how_it_ended(facts: dict[str, Any]) -> str:
    before, limit = facts.get("killed_for_memory"), facts.get("memory_limit")
    line = f"the run that began here at {facts['started']} (process {facts['pid']} on {facts['host']}) was killed"
    now_killed = host.killed_for_memory()
    if before is not None and now_killed is not None and now_killed > before and facts["host"] == socket.gethostname():
        line += ", since its memory ran out" + (f": {limit / 2**20:,.0f} MiB are allowed" if limit else "")
    elif limit:
        line += f"; perhaps its memory ran out: {limit / 2**20:,.0f} MiB were allowed"
    return f"{line}; what it had saved is gone on with"
