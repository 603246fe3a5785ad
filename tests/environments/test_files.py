"""File systems that lack something: CIFS and vboxsf (fsync), gcsfuse and SMB (chmod), NFS without its lock daemon."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import files, preflight
from benchmarks.datasets.prepared import write
from benchmarks.errors import DataError, RequestError
from benchmarks.store import write_atomic
from tests.benchmarks.conftest import make_cell
from tests.environments.conftest import environment


def answering(error: int) -> Callable[..., object]:
    def call(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return call


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_fsync_files_are_written_all_the_same(tmp_path: Path, monkeypatch, error: int) -> None:
    monkeypatch.setattr(os, "fsync", answering(error))
    write_atomic(tmp_path / "a", b"x")
    write(tmp_path / "b", b"y")
    preflight.require_files(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_what_fsync_says_of_a_broken_disk_is_an_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", answering(errno.EIO))
    with pytest.raises(DataError, match="Input/output error"):
        write_atomic(tmp_path / "a", b"x")
    with pytest.raises(RequestError, match=r"cannot write into .*: Input/output error; choose another with --out"):
        preflight.require_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_modes_are_not_set_and_obey_the_umask(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "chmod", answering(errno.EPERM))
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="flock is of Unix")
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_the_work_is_done_all_the_same(tmp_path: Path, monkeypatch, error: int) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", answering(error))
    with files.lock(tmp_path / "lock"):
        pass
    preflight.require_files(tmp_path, "--data-root", locked=True)


def test_a_lock_is_one(tmp_path: Path) -> None:
    """A second process waits until the first has left its block."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.files import lock\n"
        "print('waiting', flush=True)\n"
        "with lock(Path(sys.argv[1])):\n    print('in', flush=True)"
    )
    with files.lock(tmp_path / "lock"):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.2)
    assert other.communicate(timeout=30)[0] == "in\n"


def test_a_name_too_long_for_the_file_system_is_known_before(tmp_path: Path) -> None:
    cell = make_cell(model="mmdet:" + "x" * 240)
    with pytest.raises(RequestError, match="File name too long; choose another with --out"):
        preflight.require_out(tmp_path / "runs", [cell])


def test_each_folder_that_is_written_into_is_tried(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    out.mkdir()
    (out / "synthetic_small").write_text("in the way")
    with pytest.raises(RequestError, match=r"cannot write into .*synthetic_small: File exists"):
        preflight.require_out(out, [make_cell()])
    (out / "synthetic_small").unlink()
    preflight.require_out(out, [make_cell()])
    assert not list(out.iterdir())


def test_a_full_temporary_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", answering(errno.ENOSPC))
    with pytest.raises(RequestError, match="No space left on device; free it or set TMPDIR"):
        preflight.require_temporary()


@pytest.mark.parametrize("home", [None, "/"])
def test_a_user_without_home_is_told_of_the_data_root(monkeypatch, home: str | None) -> None:
    """As in a container that is started with another user's number."""
    from benchmarks.datasets import catalogue, splits

    monkeypatch.delenv("CANET_BENCH_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("pwd.getpwuid", answering(errno.ENOENT) if home else _unknown)
    with pytest.raises(RequestError, match=r"^--data-root, or CANET_BENCH_DATA, must name a folder"):
        catalogue.data_root()
    assert catalogue.own_sets() == {}
    assert splits.titles("neu_det")


def _unknown(number: int) -> None:
    raise KeyError(number)
