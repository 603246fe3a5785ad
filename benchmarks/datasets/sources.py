"""Where raw data come from: a folder or an archive, read member by member and never unpacked to disk."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from benchmarks.errors import DataError, RequestError
from benchmarks.files import sha256_of

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 512 * 2**20
MAX_TOTAL_BYTES = 64 * 2**30
MAX_RATIO = 200
"""Unpacked over packed size of one member; a text file of one repeated line stays below it."""
_RATIO_FREE = 2**20  # members up to this size cannot hurt, whatever their ratio


@dataclass(frozen=True)
class Box:
    """One annotated defect: corners in pixels of the image, x2 and y2 exclusive."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float
    ignore: str = ""
    """Why it is neither asked for nor false: "crowd" (several objects, COCO's iscrowd), "difficult" (VOC's); or ""."""
    area: float | None = None
    """Area of the object's mask, where the source states it; else None, and the box's area counts."""


@dataclass(frozen=True)
class RawSample:
    """One image as its data set gives it, believed in nothing.

    `origin` names the file that states the boxes. `problems` are findings (kind, file, detail) that the reader met.
    """

    file_name: str
    data: bytes | None
    """The encoded image; None where it is missing, which is then one of the problems."""
    boxes: tuple[Box, ...]
    origin: str
    problems: tuple[tuple[str, str, str], ...] = ()
    size: tuple[int, int] | None = None
    """Width and height as the annotation states them."""
    relative: bool = False
    """Whether corners are fractions of width and height."""
    measured: bool = False
    """Whether the boxes were measured in something of `size`, a mask, rather than in the image."""
    source_id: int | str | None = None
    """What the source calls the image, where that is not its name: COCO's id."""
    source_file: str = ""
    """The file of the source that gives `source_id`, where the source has several."""


class Source:
    """Read-only access to raw files by their relative POSIX names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """All files, sorted; hidden ones and macOS leftovers left out."""
        raise NotImplementedError

    def broken(self) -> list[str]:
        """Links to what is not there."""
        return []

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Says whether this is the same input as before; does not depend on where it lies."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what is open."""

    def discard(self) -> None:
        """The set is made: remove what was only fetched for it."""

    def where(self, name: str) -> str:
        """How messages name a member."""
        return f"{self.path.name}:{name}"


class FolderSource(Source):
    def __init__(self, path: Path, without: Collection[str] = ()) -> None:
        super().__init__(path)
        self._files: dict[str, Path] = {}
        self._broken: list[str] = []
        self._walk(path.resolve(), "", without, ())

    def _walk(self, folder: Path, start: str, without: Collection[str], above: tuple[Path, ...]) -> None:
        """Note the files of a folder; links are followed, but not back to a folder that they are in."""
        real = folder.resolve()
        if real in above:
            return
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            name = start + entry.name
            if _is_noise(name, without):
                continue
            if entry.is_dir():
                if not (entry.name in without or _is_noise(f"{name}/x", without)):
                    self._walk(folder / entry.name, f"{name}/", without, (*above, real))
            elif entry.is_file():
                self._files[name] = folder / entry.name
            elif entry.is_symlink():
                self._broken.append(name)

    def broken(self) -> list[str]:
        return sorted(self._broken)

    def names(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        found = self._files[name]
        if (size := found.stat().st_size) > MAX_MEMBER_BYTES:
            raise DataError(f"{found}: {size} bytes are beyond the limit of {MAX_MEMBER_BYTES} for one file")
        return found.read_bytes()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in self.names():
            info = self._files[name].stat()
            digest.update(f"{name}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
        for name in self.broken():
            digest.update(f"{name}\n".encode())
        return digest.hexdigest()


class ZipSource(Source):
    """A zip archive, refused as a whole when any member looks hostile."""

    def __init__(self, path: Path, without: Collection[str] = ()) -> None:
        super().__init__(path)
        self._without = without
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, NotImplementedError) as e:
            raise DataError(f"{path} is not a zip archive ({e}); get it again, or name the unpacked folder") from e
        try:
            self._members = self._checked()
        except DataError:
            self._zip.close()
            raise

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise DataError(f"{self.path} holds {len(infos)} members, more than the {MAX_MEMBERS} allowed")
        total = 0
        for info in infos:
            name = info.filename.replace("\\", "/")  # some tools on Windows write its own separator
            if is_unsafe(name):
                raise DataError(
                    f"{self.path}: member {name!r} points outside the archive or is no name; nothing was read"
                )
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{self.path}: member {name!r} is a link or device; only plain files are read")
            if info.flag_bits & 0x1:
                raise DataError(f"{self.path}: member {name!r} is encrypted; unpack it and name the folder")
            total += info.file_size
            too_dense = info.file_size > max(MAX_RATIO * max(info.compress_size, 1), _RATIO_FREE)
            if info.file_size > MAX_MEMBER_BYTES or total > MAX_TOTAL_BYTES or too_dense:
                raise DataError(f"{self.path}: member {name!r} unpacks to {info.file_size} bytes, beyond the limits")
            if name.endswith("/") or _is_noise(name, self._without):
                continue
            if name in members:
                raise DataError(f"{self.path}: member {name!r} occurs twice")
            members[name] = info
        return members

    def names(self) -> list[str]:
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        info = self._members[name]
        try:
            with self._zip.open(info) as f:
                data = f.read(info.file_size + 1)  # a lying header cannot make us read more
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error) as e:
            raise DataError(f"{self.where(name)} is damaged in the archive ({e}); download the archive again") from e
        if len(data) != info.file_size:
            raise DataError(f"{self.where(name)} is damaged in the archive (size); download the archive again")
        return data

    def fingerprint(self) -> str:
        return sha256_of(self.path)

    def close(self) -> None:
        self._zip.close()


def is_unsafe(name: str) -> bool:
    """Whether a name is absolute, climbs out, means something else on another system, or cannot be shown."""
    parts = PurePosixPath(name).parts
    return (
        not name
        or name.startswith("/")
        or any(c in "\\\x7f" or ord(c) < 32 for c in name)
        or any(":" in part for part in parts[:1])
        or ".." in parts
    )


def _is_noise(name: str, without: Collection[str]) -> bool:
    """Whether a file is a leftover of an operating system, or lies in one of the folders `without`."""
    parts = PurePosixPath(name).parts
    return (
        not parts
        or parts[0] == "__MACOSX"
        or any(p.startswith(".") for p in parts)
        or parts[-1] == "Thumbs.db"
        or any(p in without for p in parts[:-1])
    )


def open_source(path: Path | str, without: Collection[str] = ()) -> Source:
    """The source at `path`, whose files in folders called one of `without` are not seen.

    Raises:
        RequestError: nothing is there.
        DataError: it is neither a folder nor an archive that can be trusted.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return FolderSource(path, without)
    if not path.exists():
        raise RequestError(f"--from {path}: no such file or folder")
    if path.suffix.lower() in (".json", ".yaml", ".yml", ".xml", ".txt", ".csv", *(".jpg", ".jpeg", ".png", ".bmp")):
        raise RequestError(f"--from {path}: it is a single file; name the folder that holds it and its images")
    if path.suffix.lower() in (".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"):
        raise RequestError(f"--from {path}: archives are read as .zip; unpack it and name the folder")
    return ZipSource(path, without)
