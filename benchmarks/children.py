"""Processes that we start: they end with the one that started them, however that ends."""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path


def die_with_parent(folder: Path | None = None) -> None:
    """Let this process, started by multiprocessing, end once its parent has, and leave signals to the parent.

    Whoever ends a job signals all of its processes, and a terminal that is closed does too; the parent, which knows
    what must be saved first, then ends its children.

    Args:
        folder: of temporary files of this process, removed with it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        if hasattr(signal, name):
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(getattr(signal, name), signal.SIG_IGN)

    def watch() -> None:
        parent.join()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@functools.cache
def kill_at_exit() -> None:
    """Let this process kill what multiprocessing has started in it when it ends: such children heed no SIGTERM."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            child.kill()

    atexit.register(kill)
