"""CUDA's multi-process service: processes that share a GPU run on it beside each other instead of by turns."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_CONTROL = "nvidia-cuda-mps-control"
_PIPE, _LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
MOST_PROCESSES = 47
"""That the service lets share a device: it takes 48 clients, and the process that starts them, which asks for free
memory, may be one."""

_TRY_S = 120.0
_ASK_S = 10.0


def in_use() -> bool:
    """Whether a service answers where CUDA, in this process and in those that it starts, looks for one."""
    if shutil.which(_CONTROL) is None:
        return False
    try:
        asked = subprocess.run([_CONTROL], input="get_server_list\n", text=True, capture_output=True, timeout=_ASK_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return asked.returncode == 0


@contextlib.contextmanager
def service(say: Callable[[str], object]) -> Iterator[bool]:
    """Within the block, processes started by this one share GPUs through the service; yields whether they do.

    One that answers is used as it is. Else one of our own is started, tried in a process, and ended with the block;
    what the environment names then stands aside. This process itself stays as it is once it has used CUDA. No setting
    of a GPU is changed.

    Args:
        say: is told, in a line, why there is none.
    """
    if in_use():
        yield True
        return
    if shutil.which(_CONTROL) is None:
        say(f"cells take turns on the GPU: {_CONTROL} is not installed, with which they would run beside each other")
        yield False
        return
    folder = Path(tempfile.mkdtemp(prefix="mps-", dir="/tmp"))  # short: a socket's path has 108 bytes
    before = {name: os.environ[name] for name in (_PIPE, _LOG) if name in os.environ}
    os.environ.update({_PIPE: str(folder), _LOG: str(folder)})
    try:
        problem = _start()
        if problem is not None:
            _forget()
            say(f"cells take turns on the GPU: CUDA's multi-process service does not run here ({problem})")
        yield problem is None
    finally:
        os.environ.update({_PIPE: str(folder), _LOG: str(folder)})
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([_CONTROL], input="quit\n", text=True, capture_output=True, timeout=30)
        _forget()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _forget() -> None:
    for name in (_PIPE, _LOG):
        os.environ.pop(name, None)


def _start() -> str | None:
    """Start the service and use it in a process of its own; what is wrong, or None."""
    tried = "import torch; torch.ones(8, device='cuda').sum().item()"
    for command in ([_CONTROL, "-d"], [sys.executable, "-c", tried]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TRY_S)
        except (OSError, subprocess.SubprocessError) as e:
            return " ".join(str(e).split())
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            return lines[-1] if lines else f"{command[0]} left with exit code {done.returncode}"
    return None
