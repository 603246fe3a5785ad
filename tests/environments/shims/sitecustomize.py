"""System calls that answer as some file systems do: CANET_BENCH_SHIM="fsync=EINVAL chmod=EPERM flock=ENOLCK"."""

import errno
import os


def _answering(name):
    def call(*_, **__):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    return call


for _one in os.environ.get("CANET_BENCH_SHIM", "").split():
    _call, _, _error = _one.partition("=")
    if _call == "fsync":
        os.fsync = _answering(_error)
    if _call == "chmod":
        os.chmod = os.fchmod = _answering(_error)
    if _call == "flock":
        import fcntl

        fcntl.flock = _answering(_error)
