"""Files: their digests, and what file systems differ in: durability and locks, done without where they are not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

# What file systems that lack something say of it: CIFS, vboxsf, gcsfuse, NFS without its lock daemon.
_LACKING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS, errno.ENOLCK}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces, in hexadecimal; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(descriptor: int) -> None:
    """See a file, or a folder, on the disk; nothing where the file system has no such thing.

    Raises:
        OSError: it has, and the disk is full or broken.
    """
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in _LACKING:
            raise


def sync_folder(folder: Path) -> None:
    """See the entries of a folder on the disk, where that can be asked for: Windows opens none, some systems refuse."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_DIRECTORY)
    except OSError:  # it may be written into and not be listed
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock against other processes while the block runs; none where the file system knows no locks.

    So what is made under it must be put in its place in one step: then two who make it at once only work twice.
    """
    held = FileLock(path)
    try:
        with warnings.catch_warnings():  # it tells when it makes do with a file beside it
            warnings.simplefilter("ignore")
            held.acquire()
    except NotImplementedError:
        yield
        return
    except OSError as e:
        if e.errno not in _LACKING:
            raise
        yield
        return
    try:
        yield
    finally:
        held.release()
