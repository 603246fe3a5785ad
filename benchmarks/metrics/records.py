"""Metrics of a fold's detections, and of records again from the detections that they name. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.datasets.prepared import PreparedDataset, ensure
from benchmarks.datasets.splits import Split, groups_of, load_split
from benchmarks.detections import Detections
from benchmarks.errors import DataError
from benchmarks.results import Metrics
from benchmarks.store import CellPaths, RunRecord, read_named, write_record


def measure(data: PreparedDataset, split: Split, test: Detections, val: Detections | None) -> Metrics:
    """Metrics of a fold's test part; the operating point is chosen on its validation part, where `val` is given."""
    from benchmarks.metrics.evaluator import evaluate

    validation = None if val is None else (data.coco(split.val), val)
    groups = groups_of(data.name, split.name, data.root.parent)
    return evaluate(data.coco(split.test), test, data.classes, validation=validation, groups=groups)


def recompute(record: RunRecord, paths: CellPaths, data_root: Path | None) -> Metrics:
    """Metrics of a record from its saved detections and the data set under `data_root`.

    Raises:
        DataError: detections, data set or split list are not those that the record was made from.
        RequestError: the data set is neither prepared nor embedded.
    """
    data, split, saved = opened(record, paths, data_root)
    return measure(data, split, saved[0], saved[1] if len(saved) > 1 else None)


def opened(
    record: RunRecord, paths: CellPaths, data_root: Path | None
) -> tuple[PreparedDataset, Split, list[Detections]]:
    """Data set and fold of a record, and its detections of test and, where there are any, validation images."""
    named = [(paths.detections, record.detections_sha256)]
    if record.val_detections_sha256 is not None:
        named.append((paths.val_detections, record.val_detections_sha256))
    saved = [Detections.loads(read_named(path, digest), str(path)) for path, digest in named]
    data = ensure(record.cell.dataset, data_root)
    if data.manifest_digest != record.fingerprint.data:
        raise DataError(f"data set {data.name!r} is not the one the record was made from; prepare it again")
    split = load_split(record.cell.dataset, record.cell.split, record.cell.fold, data_root)
    if split.digest != record.fingerprint.split:
        raise DataError(f"split list {split.name!r} is not the one the record was made from")
    return data, split, saved


def update(record: RunRecord, paths: CellPaths, data_root: Path | None) -> RunRecord:
    """Evaluate a record's saved detections with today's evaluator and write the record anew; nothing is trained."""
    from benchmarks.devices import package_versions
    from benchmarks.metrics import EVALUATOR_VERSION

    split = load_split(record.cell.dataset, record.cell.split, record.cell.fold, data_root)
    made_by = {**record.provenance.packages, **package_versions("faster-coco-eval")}
    new = record.model_copy(
        update={
            "metrics": recompute(record, paths, data_root),
            "fingerprint": record.fingerprint.model_copy(update={"evaluator": EVALUATOR_VERSION}),
            "train_images": len(split.train) if record.train_images is None else record.train_images,
            "provenance": record.provenance.model_copy(update={"packages": made_by}),
        }
    )
    write_record(paths.record, new)
    return new


_ROUNDING = 1e-9
"""CPUs sum in other orders, which moves the last bits."""

_ROUNDED_DRAWS = 1e-4 + _ROUNDING
"""Draws are kept to four decimals, of which the last bits of a sum may decide the last."""

_RESAMPLED = {"intervals", "standard_errors", "draws", "groups", "effective_groups"}


def agree(record: RunRecord, again: Metrics) -> bool:
    """Whether every number that was recorded comes out again, as far as CPUs agree; what is newer is left out.

    So is what rests on resamples, where another evaluator drew them.
    """
    return first_difference(record, again) is None


def first_difference(record: RunRecord, again: Metrics) -> tuple[str, Any, Any] | None:
    """The name of the first number that does not come out again, as recorded and anew; None where all `agree`."""
    from benchmarks.metrics import EVALUATOR_VERSION

    assert record.metrics is not None
    old, new = (m.model_dump(mode="json", exclude_unset=True) for m in (record.metrics, again))
    if record.fingerprint.evaluator != EVALUATOR_VERSION:
        old = {name: value for name, value in old.items() if name not in _RESAMPLED}
    drawn = old.pop("draws", {}), new.pop("draws", {})
    return _apart(old, new, _ROUNDING) or _apart(*drawn, _ROUNDED_DRAWS, "draws")


def within(old: Any, new: Any) -> bool:
    """Whether all that `old` holds stands in `new`, numbers to rounding."""
    return _apart(old, new, _ROUNDING) is None


def _apart(old: Any, new: Any, far: float, name: str = "") -> tuple[str, Any, Any] | None:
    """The first of what `old` holds that does not stand in `new`, numbers to `far`."""
    if isinstance(old, dict) and isinstance(new, dict):
        items = ((key, value, new.get(key, _MISSING)) for key, value in old.items())
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        items = ((i, *values) for i, values in enumerate(zip(old, new, strict=True)))
    elif isinstance(old, float) and isinstance(new, float):
        return None if abs(old - new) <= far else (name, old, new)
    else:
        return None if old == new else (name, old, new)
    found = (_apart(was, now, far, f"{name}.{key}" if name else str(key)) for key, was, now in items)
    return next((one for one in found if one is not None), None)


_MISSING = "missing"
