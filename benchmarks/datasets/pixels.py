"""Decoded images of a set in one file, for sets that memory does not hold: mapped, so that processes share it.

<data root>/.cache/<name>/pixels.bin    uint8, (C, H, W) one after the other; one channel where the image is grey
                          index.json    of which prepared set, and where each image lies, with its CRC-32

It is made in a folder of its own and renamed, and made again when the set was prepared anew. Delete it as you like.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets.prepared import PreparedDataset, placed, to_json, write
from benchmarks.errors import DataError, RequestError
from benchmarks.files import lock, sync

SCHEMA = 2

ENVIRONMENT = "CANET_BENCH_DISK_CACHE"
"""GiB that the decoded images of one set may take on disk; 0 for none."""

DISK_GIB = 20.0
_FREE = 2**30  # what is left free on the disk


def disk_budget() -> int:
    """Bytes. RequestError when the variable is no number."""
    text = os.environ.get(ENVIRONMENT, str(DISK_GIB))
    try:
        return int(float(text) * 2**30)
    except (ValueError, OverflowError):
        raise RequestError(f"{ENVIRONMENT}={text} is not a number of GiB") from None


@dataclass
class PixelFile:
    """Images by name, as uint8 (C, H, W) tensors that are read from the disk where they are looked at."""

    path: Path
    index: dict[str, tuple[int, int, int, int, int]]
    """Name -> offset, C, H, W, CRC-32."""
    _map: Any = field(default=None, repr=False)
    _sound: set[str] = field(default_factory=set, repr=False)
    """Images that this process has compared with their checksum."""

    def get(self, name: str) -> Tensor | None:
        """The image, or None where the budget ended before it. What is written into it stays in this process.

        Raises:
            DataError: these are not the bytes that were written.
        """
        if name not in self.index:
            return None
        if self._map is None:
            try:
                self._map = np.memmap(self.path, np.uint8, mode="c")
            except OSError as e:
                raise DataError(f"{self.path}: {e.strerror or e}; run again, it is made again") from None
        offset, c, h, w, checksum = self.index[name]
        pixels = self._map[offset : offset + c * h * w]
        if name not in self._sound:
            if zlib.crc32(pixels) != checksum:
                raise DataError(f"{self.path}: the pixels of {name} are damaged; delete the folder, it is made again")
            self._sound.add(name)
        return torch.from_numpy(pixels).view(c, h, w)

    def __getstate__(self) -> dict[str, Any]:  # the map itself would travel as its bytes
        return {"path": self.path, "index": self.index, "_map": None, "_sound": set()}


def cached_on_disk(data: PreparedDataset, read: Callable[[str], Tensor], budget: int) -> PixelFile:
    """The pixel file of a prepared set, made where it is missing, stale or damaged.

    Processes that want the same file wait for the one that makes it.

    Args:
        read: gives the uint8 (C, H, W) of an image.
        budget: bytes; the images after it are left out.

    Raises:
        DataError: the disk is full, or cannot be written.
    """
    folder, wanted = _place(data, budget)
    if (known := _open(folder, wanted)) is not None:
        return known
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_suffix(".lock")):
            known = _open(folder, wanted)
            if known is None:
                shutil.rmtree(folder, ignore_errors=True)  # a stale one only takes room
                with placed(folder) as work:
                    _fill(work, wanted, data, read)
                known = _open(folder, wanted)
    except OSError as e:
        remedy = f"make room, or set {ENVIRONMENT} to fewer GiB (0 for no cache on disk)"
        raise DataError(f"cannot keep decoded images in {folder}: {e.strerror or e}; {remedy}") from None
    assert known is not None
    return known


def is_cached(data: PreparedDataset, budget: int) -> bool:
    """Whether `cached_on_disk` only opens what is there."""
    return _open(*_place(data, budget)) is not None


def _place(data: PreparedDataset, budget: int) -> tuple[Path, dict[str, Any]]:
    wanted = {"schema": SCHEMA, "manifest": data.manifest_digest, "budget": budget}
    return data.root.parent / ".cache" / data.name, wanted


def _open(folder: Path, wanted: dict[str, Any]) -> PixelFile | None:
    try:
        content = json.loads((folder / "index.json").read_bytes())
        path = folder / "pixels.bin"
        if {key: content[key] for key in wanted} != wanted or path.stat().st_size != content["size"]:
            return None
        return PixelFile(path, {name: tuple(place) for name, place in content["images"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _fill(work: Path, wanted: dict[str, Any], data: PreparedDataset, read: Callable[[str], Tensor]) -> None:
    """DataError where a file is not the one that the manifest tells of: the set was prepared again meanwhile."""
    images: dict[str, tuple[int, ...]] = {}
    size = 0
    with (work / "pixels.bin").open("wb") as f:
        for name in (image["file_name"] for image in data.images):
            pixels = read(name)
            path, facts = data.path(name), data.manifest["files"][f"images/{name}"]
            if hashlib.sha256(path.read_bytes()).hexdigest() != facts["sha256"]:
                raise DataError(f"{path} is not the image that this run began with: the set was changed; run again")
            if size + pixels.numel() > wanted["budget"]:
                break
            if shutil.disk_usage(work).free < pixels.numel() + _FREE:
                raise OSError(f"less than {_FREE / 2**30:.0f} GiB would be left free")
            content = pixels.numpy().tobytes()
            f.write(content)
            images[name] = (size, *pixels.shape, zlib.crc32(content))
            size += pixels.numel()
        f.flush()
        sync(f.fileno())
    write(work / "index.json", to_json({**wanted, "size": size, "images": images}))
