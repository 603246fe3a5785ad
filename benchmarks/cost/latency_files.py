"""What the profile command measured of a suite's models on a device (`benchmarks.run`'s latency phase), as a file.

They lie in FOLDER/_latency beside records, one for a suite and a class of device. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.devices import device_class
from benchmarks.errors import DataError
from benchmarks.store import Provenance, not_finite, write_atomic

FOLDER = "_latency"


@dataclass(frozen=True)
class Latencies:
    """The content of a file that was checked."""

    path: Path
    content: Mapping[str, Any]
    provenance: Provenance

    @property
    def complete(self) -> bool:
        return bool(self.content.get("complete"))

    @property
    def _age(self) -> tuple[str, str]:
        """Sorts older ones first; the content decides between equals, so that the order of folders does not."""
        return self.provenance.ended, json.dumps(self.content, sort_keys=True)

    def stays_before(self, other: Latencies) -> bool:
        """Of two of one suite and device the complete one stays, else the older."""
        return (not self.complete, self._age) <= (not other.complete, other._age)


def files(folder: Path) -> list[Path]:
    """Those of a folder of records, by name."""
    return sorted(p for p in (folder / FOLDER).glob("*.json") if not p.name.startswith("."))


def read(path: Path) -> Latencies:
    """Read and check a file.

    Raises:
        DataError: unreadable, none of the profile command's, not finite, or of another device than its name says.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from None
    except ValueError:
        raise DataError(f"{path} is no JSON") from None
    if not isinstance(content, dict) or content.get("kind") != "profile":
        raise DataError(f"{path} is not of the profile command: its kind is not 'profile'")
    if (field := not_finite(content)) is not None:
        raise DataError(f"{path}: {field} is not a finite number")
    try:
        made = Provenance.model_validate(content.get("provenance"))
    except ValidationError as e:
        first = e.errors()[0]
        raise DataError(f"{path}: provenance: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not isinstance(content.get("models"), dict) or not isinstance(content.get("sessions"), list):
        raise DataError(f"{path} names no models or no sessions")
    if not path.stem.endswith(f"-{device_class(made) or 'cpu'}"):
        raise DataError(f"{path} was made on {device_class(made) or 'a CPU'}, and its name says another device")
    return Latencies(path, content, made)


def join(theirs: Latencies, into: Path) -> tuple[bool, str | None]:
    """Copy a file into `into`/_latency, unless one of the same suite and device that is there stays.

    Returns:
        Whether it was copied, and a line where another one was there.

    Raises:
        DataError: ours is damaged, or the file cannot be written.
    """
    target = into / FOLDER / theirs.path.name
    line = None
    if target.exists():
        ours = read(target)
        if ours.content == theirs.content:
            return False, None
        stays = ours if ours.stays_before(theirs) else theirs
        why = "older" if ours.complete == theirs.complete else "complete"
        line = f"twice: {theirs.path} and {target} are of one suite and device; the {why} one stays ({stays.path})"
        if stays is ours:
            return False, line
    write_atomic(target, theirs.path.read_bytes())
    return True, line
