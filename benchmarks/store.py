"""Records and the files beside them: written whole or not at all, checked when read.

A record is JSON with a schema version and a digest of its own content. Detections (`benchmarks.detections`) lie beside
it, and it is these that are evaluated. Torch-free.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from benchmarks.cells import Cell, Fingerprint, Hashed, Recipe, added, digest_of
from benchmarks.errors import DataError
from benchmarks.files import sync, sync_folder
from benchmarks.results import Metrics

SCHEMA_VERSION: Literal[1] = 1

Status = Literal["ok", "failed", "diverged", "out_of_memory"]


class Provenance(Hashed):
    """Where, when and with what a record was made; collected by `benchmarks.devices`.

    commit, dirty: of this project's source files as the process began. threads: of torch, on the CPU.
    """

    commit: str | None
    dirty: bool | None
    python: str
    platform: str
    packages: dict[str, str]
    cpu: str
    cores: int
    threads: int
    device: str
    device_name: str | None
    driver: str | None
    started: str
    ended: str
    changed_meanwhile: bool = added(False, description="whether the source was another at the end")
    cpu_capability: str | None = added(None, description="instruction set that torch uses, as `ATEN_CPU_CAPABILITY`")
    arithmetic: Literal["portable"] | None = added(None, description="`--arithmetic`, where it is not native")
    amended: str | None = added(None, description="what of it was put right after the run, and how that is known")

    @property
    def unpublishable(self) -> str | None:
        """Why a record must not be published: nobody could say which source made it. None where one can."""
        if self.commit is None:
            return "its commit is not known"
        if self.dirty is not False:
            return f"made from source that differs from its commit {self.commit[:8]}"
        return "the source was changed while it was made" if self.changed_meanwhile else None


class EpochPoint(Hashed):
    """One epoch of the training curve: mean losses, last learning rate, images per second.

    scalars: what the model says of itself at the epoch's end (`curve_scalars` of the detector contract).
    """

    epoch: int
    lr: float
    losses: dict[str, float]
    images_per_second: float
    scalars: dict[str, float] = added({})


class FirstSteps(Hashed):
    """How a training began, for the gate: a changed loss, rate or transform shows before an epoch is over.

    losses: of each of the first 20 iterations, by term; None where the model gave no such term.
    digests: by the number of first iterations, SHA-256 of their losses (`benchmarks.train.Beginning`), for equal bits.
    """

    losses: dict[str, tuple[float | None, ...]]
    digests: dict[int, str]


class ModelFacts(Hashed):
    """What was really built: counts, and what was loaded and frozen."""

    parameters: int
    trainable: int
    weights: str | None
    frozen: tuple[str, ...]
    norm: str
    in_evaluation: int | None = added(
        None, description="parameters that an inference touches; `benchmarks.cost.counts`"
    )


class _Record(Hashed):
    schema_version: Literal[1] = SCHEMA_VERSION
    cell_id: str
    digest: str = ""

    def sealed_json(self) -> str:
        """JSON text with the digest of everything else in it."""
        content = self.model_dump(mode="json", exclude={"digest"})
        return _indented({**content, "digest": digest_of(content)}) + "\n"


def _indented(value: Any, level: int = 0) -> str:
    """JSON text with an entry per line, but with lists of numbers in one, as records are read in diffs."""
    inner, end = "\n" + " " * (level + 1), "\n" + " " * level
    if isinstance(value, dict) and value:
        entries = (f"{json.dumps(k)}: {_indented(v, level + 1)}" for k, v in value.items())
        return "{" + inner + f",{inner}".join(entries) + end + "}"
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        return "[" + inner + f",{inner}".join(_indented(v, level + 1) for v in value) + end + "]"
    return json.dumps(value)


class RunRecord(_Record):
    """The answer to one cell."""

    cell: Cell
    fingerprint: Fingerprint
    status: Status
    metrics: Metrics | None = None
    model: ModelFacts | None = None
    timings_s: dict[str, float] = Field(default_factory=dict)
    curve: tuple[EpochPoint, ...] = ()
    first_steps: FirstSteps | None = added(None, description="None: an older record, or a library's own trainer")
    detections_sha256: str | None = None
    val_detections_sha256: str | None = None
    weights_sha256: str | None = added(None)
    train_images: int | None = None
    beside: int | None = None
    """Cells that its run had running at a time at most, while this one ran and with it: rates and timings depend on it.
    Other runs are not seen. In older records, how many could have run when it began.
    """
    mps: bool | None = added(None)
    """Whether those that share a GPU did so through CUDA's multi-process service; null on a CPU."""
    graphs: bool | None = added(None)
    """Whether training steps replayed CUDA graphs; null on a CPU, in older records and by a library's own trainer."""
    provenance: Provenance
    error: str | None = None

    @property
    def shared(self) -> tuple[int | None, bool | None]:
        """How the machine was shared; what trainings took that differ in it is not compared."""
        return self.beside, self.mps

    @property
    def training_seconds(self) -> float | None:
        """What training takes at most: as long as it took, on a CPU had every epoch been as fast as the fastest.

        What else runs on a CPU slows some epochs, or all. Epochs of a library's own trainer are not alike: as long as
        it took. None where it was not measured.
        """
        took, rates = self.timings_s.get("train"), [point.images_per_second for point in self.curve]
        alike = isinstance(self.cell.recipe, Recipe) and not self.cell.device_class
        if took is None or not alike or not rates or min(rates) <= 0:
            return took
        return took * len(rates) / max(rates) / sum(1 / rate for rate in rates)


class Macs(Hashed):
    """Multiply-accumulates of one image, averaged over those counted; see `benchmarks.cost.counts.count_macs`."""

    macs: float
    flops: float
    sampling_macs: float
    by_operator: dict[str, float]
    uncounted: dict[str, int]
    coverage: float
    uncounted_elements: float
    input_shape: tuple[int, ...]
    proposals: float | None
    activations: float | None = None


class Latency(Hashed):
    """Milliseconds by phase at batch 1; see `benchmarks.cost.clock.measure_latency`."""

    first_call_ms: float
    p50: dict[str, float]
    p90: dict[str, float]
    p99: dict[str, float]
    iqr: dict[str, float]
    outliers: dict[str, int]
    samples_ms: dict[str, list[float]]
    reference: str
    ratio: float
    ratio_interval: tuple[float, float]
    session: dict[str, Any]


class ProfileRecord(_Record):
    """What one trained model costs. Models of one session were timed in turns in one process.

    None where it was not measured or cannot be, and in older records.
    """

    session: str
    engine: Literal["torch"] = "torch"
    precision: str
    parameters: dict[str, Any] | None
    """total, trainable, in_evaluation (what an inference touches; see `benchmarks.cost.counts`), buffers, by_module."""
    macs: Macs | None
    output_shapes: dict[str, tuple[int, ...]] | None
    peak_memory_bytes: int | None
    training_memory_bytes: int | None = None
    """Peak memory of a training step at the recipe's batch size, with its optimiser's state."""
    training_batch: int | None = added(None, description="images of that step")
    checkpoint_bytes: int | None = None
    latency: Latency | None
    throughput: dict[int, float | None] | None = None
    """Images per second by batch size; None where the memory did not suffice."""
    energy_j: float | None = None
    """Joules per image at batch 1, of the GPU board."""
    weights_sha256: str | None = added(None, description="of the weights file that was measured")
    missing: dict[str, str] = added({}, description="field -> why a measurement that was tried gave nothing")
    provenance: Provenance


R = TypeVar("R", bound=_Record)


def now() -> str:
    """UTC time in ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut where the file system can.

    Its mode is what the umask leaves.

    Raises:
        DataError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{writer(socket.gethostname(), os.getpid())}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as f:
                f.write(content)
                f.flush()
                sync(f.fileno())
            _replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as e:
        raise DataError(f"cannot write {path}: {e.strerror or e}; free or choose another place with --out") from e


def writer(host: str, pid: int) -> str:
    """Part of the names of a process's temporary files: of two hosts that share a folder it is another."""
    return f"{hashlib.sha256(host.encode()).hexdigest()[:8]}-{pid}"


def _replace(temporary: Path, path: Path) -> None:
    """`os.replace`; on Windows, where it is refused while another process reads the old file, for a second."""
    for _ in range(20 if os.name == "nt" else 0):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            time.sleep(0.05)
    os.replace(temporary, path)


def write_record(path: Path, record: _Record) -> None:
    """Seal a record and write it atomically. DataError when a number in it is not finite."""
    if (field := not_finite(record.model_dump())) is not None:
        raise DataError(f"{path}: {field} is not a finite number; a record holds null for what was not measured")
    write_atomic(path, record.sealed_json().encode())


def not_finite(value: Any, name: str = "") -> str | None:
    """The name, like `metrics.per_class.pit.AP`, of the first number in nested content that is NaN or infinite."""
    if isinstance(value, dict):
        items: Iterable[tuple[object, Any]] = value.items()
    elif isinstance(value, list | tuple):
        try:
            if math.isfinite(sum(value)):  # a sum with such a number in it is none itself; a thousand draws in one go
                return None
        except (TypeError, OverflowError):
            pass
        items = enumerate(value)
    else:
        return name if isinstance(value, float) and not math.isfinite(value) else None
    found = (not_finite(item, f"{name}.{key}" if name else str(key)) for key, item in items)
    return next((field for field in found if field is not None), None)


def read_record(path: Path, kind: type[R]) -> R:
    """Read and check a record.

    Raises:
        DataError: unreadable, none of ours, of another schema, changed since it was written, or with a number that is
            not finite.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from None
    try:
        written = json.loads(content)
    except ValueError:
        raise DataError(f"{path} is not a {kind.__name__}: it is no JSON; {_REMEDY}") from None
    if not is_ours(written):
        raise DataError(f"{path} is not a record of this project")
    try:  # of the file as it stands, not of the model: fields that came later have defaults in older records
        digest = digest_of({k: v for k, v in written.items() if k != "digest"})
    except ValueError:  # canonical JSON knows no such number
        raise DataError(f"{path}: {not_finite(written) or 'a field'} is not a finite number; {_REMEDY}") from None
    try:
        record = kind.model_validate_json(content)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "file"
        raise DataError(f"{path} is not a {kind.__name__}: {field}: {first['msg']}; {_REMEDY}") from None
    if record.digest != digest:
        raise DataError(f"{path} was changed after it was written: digest mismatch; {_REMEDY}")
    return record


_REMEDY = "benchmarks.run sets it aside and runs its cell again"


def is_ours(content: Any) -> bool:
    """Whether JSON content is meant to be a record of this project, sound or not: nobody else's has a cell's id."""
    return isinstance(content, dict) and {"schema_version", "cell_id", "digest"} <= content.keys()


def read_named(path: Path, digest: str | None) -> bytes:
    """Content of a file that a record names by its SHA-256. DataError when it is missing or another."""
    try:
        content = path.read_bytes()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{path} is not the file that its record was made from: digest mismatch")
    return content


def set_aside(path: Path) -> str:
    """Give a damaged file a name that says so, beside it. Returns that name."""
    names = (path.with_name(f"{path.name}.damaged{n}") for n in ("", *(f"-{i}" for i in range(2, 1000))))
    new = next(name for name in names if not name.exists())
    path.rename(new)
    return new.name


@dataclass(frozen=True)
class CellPaths:
    """Where a cell's files lie under `root` (a folder like runs/ or results/)."""

    root: Path
    dataset: str
    stem: str

    @classmethod
    def of(cls, root: Path, cell: Cell) -> CellPaths:
        return cls(root, cell.dataset, cell.stem)

    def _path(self, suffix: str) -> Path:
        return self.root / self.dataset / (self.stem + suffix)

    @property
    def record(self) -> Path:
        return self._path(".json")

    @property
    def profile(self) -> Path:
        return self._path(".profile.json")

    @property
    def detections(self) -> Path:
        return self._path(".detections.npz")

    @property
    def val_detections(self) -> Path:
        """Detections of the validation images; operating points are chosen on them."""
        return self._path(".val.detections.npz")

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training goes on from; removed when the cell has ended."""
        return self._path(".resume.safetensors")

    @property
    def native(self) -> Path:
        """Folder that a library's own trainer writes into."""
        return self._path(".native")

    @property
    def weights(self) -> Path:
        return self._path(".safetensors")


@dataclass(frozen=True)
class Stored:
    """A run record with its files and, where there is one, its profile."""

    run: RunRecord
    profile: ProfileRecord | None
    paths: CellPaths

    @property
    def unpublishable(self) -> list[tuple[Path, str]]:
        """Those of its records of which nobody could say which source made them, each with the reason."""
        made = [(self.paths.record, self.run.provenance)]
        if self.profile is not None:
            made.append((self.paths.profile, self.profile.provenance))
        return [(path, why) for path, its in made if (why := its.unpublishable) is not None]


_PROFILE = ".profile"
"""What the name of a profile has before its suffix."""

_STEM = re.compile(r".+-f\d+-s\d+(-.+)?-[0-9a-f]{8}$")


def scan(root: Path, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Iterator[Stored]:
    """All records below `root`, or of `root` where that is a data set's own folder, in a stable order.

    A folder `_name` is not looked into.

    Args:
        say: takes a line for each JSON file that is none of ours, and for each profile without its record; they are
            left out.

    Raises:
        DataError: a record is damaged, lies where its cell does not, or is of a cell that occurs twice; or a folder is
            a link, through which one would be counted twice.
    """
    if not root.is_dir():
        return iter(())
    here = root.resolve()
    own = sorted(here / p.name for p in root.glob("*.json") if _STEM.match(p.stem.removesuffix(_PROFILE)))
    if any(not p.stem.endswith(_PROFILE) for p in own):  # a data set's own folder
        root, files = here.parent, own
    else:
        folders = sorted(p for p in root.glob("[!_.]*") if p.is_dir())
        if links := [p for p in folders if p.is_symlink()]:
            raise DataError(f"{links[0]} is a link: records behind it would be counted twice; name their own folder")
        files = [*own, *sorted(root.glob("[!_.]*/*.json"))]
    found: list[Stored] = []
    for path in files:
        if path.stem.endswith(_PROFILE):
            if not path.with_name(path.stem.removesuffix(_PROFILE) + ".json").exists():
                say(f"{path} is a profile without its record; left out")
            continue
        if is_foreign(path):
            say(f"{path} is not a record; left out")
            continue
        found.append(load(CellPaths(root, path.parent.name, path.name[: -len(".json")])))
    require_each_once(found)
    return iter(found)


def is_foreign(path: Path) -> bool:
    """Whether a JSON file is neither named like a record nor meant to be one, sound or not."""
    if _STEM.match(path.stem):
        return False
    try:
        return not is_ours(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return True


def require_each_once(found: list[Stored]) -> None:
    """DataError where two records are of one cell, or one lies where its cell does not."""
    by_cell: dict[str, list[Path]] = {}
    for one in found:
        by_cell.setdefault(one.run.cell.id, []).append(one.paths.record)
    for paths in by_cell.values():
        if len(paths) > 1:
            names = " and ".join(map(str, paths))
            raise DataError(f"one cell twice: {names}; move one of them into a folder of its own, or one named _NAME")
    for one in found:
        cell, path = one.run.cell, one.paths.record
        if one.run.cell_id != cell.id:
            raise DataError(f"{path} is not a RunRecord: cell_id {one.run.cell_id} is not that of its cell, {cell.id}")
        if (proper := CellPaths.of(one.paths.root, cell).record) != path:
            raise DataError(
                f"{path} is the record of {cell.name} on {cell.dataset} and belongs at {proper}; move it there"
            )


def load(paths: CellPaths) -> Stored:
    """The record at `paths` with its profile.

    Raises:
        DataError: as in `read_record` and `read_profile`, or detections beside it are not those that it was made from.
    """
    run = read_record(paths.record, RunRecord)
    named = ((paths.detections, run.detections_sha256), (paths.val_detections, run.val_detections_sha256))
    for path, digest in named:
        if digest is not None and path.exists():
            read_named(path, digest)
    return Stored(run, read_profile(paths, run), paths)


def read_profile(paths: CellPaths, run: RunRecord) -> ProfileRecord | None:
    """The profile beside a record; None where there is none.

    Raises:
        DataError: as in `read_record`, or it is of another cell, or of other weights than the record's.
    """
    if not paths.profile.exists():
        return None
    profile = read_record(paths.profile, ProfileRecord)
    other = None
    if profile.cell_id != run.cell_id:
        other = f"cell {profile.cell_id}, the record of {run.cell_id}"
    elif profile.weights_sha256 not in (None, run.weights_sha256):
        other = f"weights {str(profile.weights_sha256)[:12]}, the record of {str(run.weights_sha256)[:12]}"
    if other is not None:
        raise DataError(f"{paths.profile} is not the profile of {paths.record}: it is of {other}; move it away")
    return profile
