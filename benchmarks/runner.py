"""One cell from start to file."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import math
import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks import models, mps
from benchmarks.cells import RECIPE_VERSION, Cell, Fingerprint, NativeRecipe, Recipe, digest_of
from benchmarks.cost.counts import parameters_in_evaluation
from benchmarks.cost.engines import arithmetic
from benchmarks.datasets.exporting import export
from benchmarks.datasets.loading import TRANSFORMS_VERSION, DetectionDataset, train_transform
from benchmarks.datasets.prepared import PreparedDataset, open_prepared, require_unchanged
from benchmarks.datasets.splits import Split, load_split
from benchmarks.datasets.tiling import TiledDetector
from benchmarks.detections import Detections
from benchmarks.devices import SourceState, provenance
from benchmarks.errors import DataError, RequestError
from benchmarks.metrics import EVALUATOR_VERSION
from benchmarks.metrics.records import measure
from benchmarks.progress import CellProgress, Stopped
from benchmarks.starting import cannot_start, trainable
from benchmarks.store import (
    CellPaths,
    EpochPoint,
    ModelFacts,
    ProfileRecord,
    RunRecord,
    Status,
    not_finite,
    now,
    read_named,
    read_profile,
    read_record,
    set_aside,
    write_atomic,
    write_record,
)
from benchmarks.train import Beginning, Diverged, iterations_per_epoch, train
from benchmarks.trained import DETECTION_VERSION, build_cell_model, detect, save_trained
from canet.contract import Detector


def fingerprint(cell: Cell, data: PreparedDataset) -> Fingerprint:
    """With what `cell` would be run now."""
    return Fingerprint(
        data=data.manifest_digest,
        split=load_split(cell.dataset, cell.split, cell.fold, data.root.parent).digest,
        builder=models.get(cell.model).version,
        recipe=RECIPE_VERSION,
        transforms=TRANSFORMS_VERSION,
        evaluator=EVALUATOR_VERSION,
        detection=DETECTION_VERSION,
    )


def finished(cell: Cell, runs: Path, data: PreparedDataset) -> RunRecord | None:
    """The record that makes running `cell` needless, or None.

    A cell is finished when its record has the same id and fingerprint, it ended well or diverged (it would diverge
    again), and its detections are those that the record names; what failed or ran out of memory is tried again, and so
    is what is damaged. Another version of the evaluator asks for `benchmarks.metrics.records.update`, not for training.
    """
    paths = CellPaths.of(runs, cell)
    if not paths.record.exists() or _damage(paths):
        return None
    record = read_record(paths.record, RunRecord)
    wanted = fingerprint(cell, data).model_copy(update={"evaluator": record.fingerprint.evaluator})
    if record.cell_id != cell.id or record.fingerprint != wanted:
        return None
    if record.status == "diverged":
        return record
    there = paths.detections.exists() and (record.val_detections_sha256 is None or paths.val_detections.exists())
    return record if record.status == "ok" and there else None


def _damage(paths: CellPaths) -> list[tuple[Path, str]]:
    """Files of a recorded cell that are not as they were written, the record first, each with what is wrong."""
    try:
        record = read_record(paths.record, RunRecord)
    except DataError as e:
        return [(paths.record, str(e))]
    found = []
    named = (
        (paths.detections, record.detections_sha256),
        (paths.val_detections, record.val_detections_sha256),
        (paths.weights, record.weights_sha256),
    )
    for path, digest in named:
        try:
            if digest is not None and path.exists():
                read_named(path, digest)
        except DataError as e:
            found.append((path, str(e)))
    return [(paths.record, f"{paths.record} belongs to a damaged file"), *found] if found else []


def set_damaged_aside(cells: Iterable[Cell], runs: Path) -> list[str]:
    """Give damaged files of cells names that say so, so that these cells, and no others, are run again.

    Returns a line for each cell, for the user to read.
    """
    lines = []
    for cell in cells:
        paths = CellPaths.of(runs, cell)
        if paths.record.exists() and (damage := _damage(paths)):
            names = [set_aside(path) for path, _ in damage]
            lines.append(f"set aside as {', '.join(names)}, to be run again: {damage[-1][1].partition('; ')[0]}")
        if paths.profile.exists():
            try:
                if paths.record.exists():
                    read_profile(paths, read_record(paths.record, RunRecord))
                else:
                    read_record(paths.profile, ProfileRecord)
            except DataError as e:
                name = set_aside(paths.profile)
                lines.append(f"set aside as {name}, to be profiled again: {str(e).partition('; ')[0]}")
    return lines


def training_iterations(cell: Cell, data: PreparedDataset) -> int:
    """Optimiser steps that the cell's training takes."""
    images = len(load_split(cell.dataset, cell.split, cell.fold, data.root.parent).train)
    return cell.recipe.epochs * iterations_per_epoch(images, cell.recipe)


@dataclass(frozen=True)
class Job:
    """A cell with all that a worker process needs to run it."""

    cell: Cell
    data_root: Path
    runs: Path
    device: str
    threads: int | None
    loaders: int = 0
    weights: Path | None = None
    """The file that the recipe names by its digest."""
    beside: int = 1
    """Cells that the run runs at a time, this one included, as it begins; the run corrects the record at its end."""
    before: SourceState | None = None
    """The source as the run began; a worker begins later."""


def run_job(job: Job, progress: CellProgress) -> bool:
    """`run_cell`, in whatever process; the answer is the cell's record in `job.runs`.

    Returns whether the process may run another cell: not after a failure, which may have left memory behind, nor
    after a library's own trainer, which changes settings of torch.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    data = open_prepared(job.cell.dataset, job.data_root)
    device = torch.device(job.device)
    record = run_cell(
        job.cell,
        data,
        runs=job.runs,
        device=device,
        progress=progress,
        loaders=job.loaders,
        beside=job.beside,
        weights=job.weights,
        before=job.before,
    )
    return record.status == "ok" and isinstance(job.cell.recipe, Recipe)


def record_death(job: Job, status: Status, how: str) -> RunRecord:
    """Write the record of a cell whose worker process died."""
    data = open_prepared(job.cell.dataset, job.data_root)
    record = RunRecord(
        cell_id=job.cell.id,
        cell=job.cell,
        fingerprint=fingerprint(job.cell, data),
        status=status,
        provenance=provenance(started=now(), device=torch.device(job.device), before=job.before),
        error=how,
    )
    _replace_record(CellPaths.of(job.runs, job.cell), record)
    return record


def _replace_record(paths: CellPaths, record: RunRecord) -> None:
    """Write the record of a training; a profile that is there is of an earlier one."""
    paths.profile.unlink(missing_ok=True)
    write_record(paths.record, record)


def run_cell(
    cell: Cell,
    data: PreparedDataset,
    *,
    runs: Path,
    device: torch.device,
    progress: CellProgress,
    loaders: int = 0,
    beside: int = 1,
    weights: Path | None = None,
    before: SourceState | None = None,
) -> RunRecord:
    """Build, train, detect, evaluate, record. What goes wrong in a cell goes into its record.

    Args:
        loaders: processes that read training images.
        beside: cells that this run runs at a time, for the record: timings depend on it.
        weights: the file that the recipe names by its digest.
        before: of `benchmarks.devices.provenance`.

    Raises:
        DataError: the record cannot be written.
        Stopped: `progress` asked for it; there is no record, and the training goes on from its last epoch.
    """
    paths = CellPaths.of(runs, cell)
    started = now()
    mark = fingerprint(cell, data)
    timings: dict[str, float] = {}
    known: dict[str, Any] = {}
    status: Status = "ok"
    error = None
    try:
        with arithmetic("fp32", device.type):  # on CUDA, torch would take TF32 for convolutions
            _train_and_evaluate(cell, data, mark, paths, device, progress, loaders, weights, timings, known)
    except Stopped:
        raise
    except Diverged as e:
        status, error = "diverged", str(e)
    except (DataError, RequestError) as e:
        status, error = "failed", str(e)
    except Exception as e:
        status = "out_of_memory" if _is_out_of_memory(e) else "failed"
        error = "".join(traceback.format_exception_only(e)).strip() + _where(e)
    other_source = known.pop("other_source", False)
    record = RunRecord(
        cell_id=cell.id,
        cell=cell,
        fingerprint=mark,
        status=status,
        timings_s={k: round(v, 3) for k, v in timings.items()},
        provenance=provenance(started=started, device=device, before=before, other_source=other_source),
        error=error,
        beside=beside,
        mps=mps.in_use() if device.type == "cuda" else None,
        **known,
    )
    if (field := not_finite(record.model_dump())) is not None:
        left = {"metrics": None, "curve": ()}
        record = record.model_copy(update={**left, "status": "failed", "error": f"{field} is not a finite number"})
    _replace_record(paths, record)
    if status in ("ok", "diverged"):
        paths.checkpoint.unlink(missing_ok=True)
    return record


def _train_and_evaluate(
    cell: Cell,
    data: PreparedDataset,
    mark: Fingerprint,
    paths: CellPaths,
    device: torch.device,
    progress: CellProgress,
    loaders: int,
    weights: Path | None,
    timings: dict[str, float],
    known: dict[str, Any],
) -> None:
    """The cell's phases; what is known so far is left in `known` and `timings`, whatever happens."""
    split = load_split(cell.dataset, cell.split, cell.fold, data.root.parent)
    require_unchanged(data, (*split.train, *split.val, *split.test))
    with _timed(timings, "build"):
        model = build_cell_model(cell, len(data.classes), weights).to(device)
        known["model"] = _facts(model, cell.image_size)
    split, left_out = trainable(model, cell, data, split)
    known["train_images"] = len(split.train)
    for line in (left_out, cannot_start(model, cell, data, split.train, device)):
        if line is not None:
            progress.line(line)
    if isinstance(cell.recipe, NativeRecipe):
        with _timed(timings, "train"):
            known["curve"] = train_natively(model, data, split, cell, paths.native, progress)
    else:
        with _timed(timings, "load"):
            training = DetectionDataset(
                data,
                split.train,
                transform=train_transform(cell.recipe.augment),
                seed=cell.stream("augment"),
                tile=cell.tile.size if cell.tile else None,
            )
        beginning = Beginning()
        try:
            with _timed(timings, "train"):
                known["curve"] = train(
                    model,
                    training,
                    cell,
                    device=device,
                    checkpoint=paths.checkpoint,
                    tag=digest_of([cell.id, mark.model_dump()]),
                    progress=progress,
                    loaders=loaders,
                    beginning=beginning,
                )
        finally:  # a training that diverged has begun too
            known["first_steps"] = beginning.summary()
            known["other_source"] = beginning.other_source
            known["graphs"] = beginning.graphs.replayed if device.type == "cuda" else None
        # What went on from a file took its time before that, too.
        timings["train"] = max(timings["train"], _seconds_of(known["curve"], cell.recipe, len(split.train)))
    known["weights_sha256"] = save_trained(model, cell, data.classes, paths.weights)
    whole = model if cell.tile is None else TiledDetector(model, cell.tile.size, cell.tile.overlap)
    progress.phase("detecting")
    saved = {}
    for part, names, path in (("", split.test, paths.detections), ("val_", split.val, paths.val_detections)):
        if not names:  # an official split may have no validation part
            continue
        with _timed(timings, f"{part}detect"):
            content = detect(whole, data, names, device).dumps()
            write_atomic(path, content)
            known[f"{part}detections_sha256"] = hashlib.sha256(content).hexdigest()
            saved[part] = Detections.loads(content, str(path))
    progress.phase("evaluating")
    with _timed(timings, "evaluate"):
        known["metrics"] = measure(data, split, saved[""], saved.get("val_"))


def train_natively(
    model: Detector, data: PreparedDataset, split: Split, cell: Cell, folder: Path, progress: CellProgress
) -> tuple[EpochPoint, ...]:
    """Train `model` in place with the trainer of its own library; what that writes is left in `folder`.

    It is given the split's training and validation parts as files, which are removed afterwards. An interrupted
    training starts anew. Meanwhile all lies in a folder of this process's own, since another run may train the same.

    Raises:
        DataError: the split has no validation part. That trainer chooses its best epoch, and would by the test images.
    """
    if not split.val:
        raise DataError(
            f"{split.name}, fold {split.fold}, has no validation part, by which the library's own trainer chooses its "
            "best epoch; train by another tier, or on a list that has one (--split)"
        )
    own = f"{folder.name}-{socket.gethostname()}-"
    for left in folder.parent.glob(f"{glob.escape(own)}*"):
        pid = left.name.removeprefix(own)
        if pid.isdigit() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)
    work = folder.with_name(f"{own}{os.getpid()}")
    export(data, "yolo", work / "data", split)
    recipe, curve = cell.recipe, list[EpochPoint]()
    began = [time.monotonic()]

    def ended(epoch: int, losses: dict[str, float], lr: float) -> None:
        rate = len(split.train) / (time.monotonic() - began[0])
        began[0] = time.monotonic()
        if bad := [name for name, value in losses.items() if not math.isfinite(value)]:
            raise Diverged(f"loss not finite in epoch {epoch + 1} ({', '.join(bad)})")
        curve.append(EpochPoint(epoch=epoch, lr=lr, losses=losses, images_per_second=round(rate, 2)))
        progress.skip(iterations_per_epoch(len(split.train), recipe))
        progress.epoch(epoch, recipe.epochs, losses, rate)

    try:
        model.fit_natively(
            work / "data" / "data.yaml",
            work,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            seed=cell.stream("init") % 2**31,
            epoch_ended=ended,
        )
    finally:
        shutil.rmtree(work / "data", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # another was faster; both stay
        work.rename(folder)
    return tuple(curve)


def _seconds_of(curve: Sequence[EpochPoint], recipe: Recipe, images: int) -> float:
    """What the epochs of a training on `images` images took, whichever process they ran in."""
    seen = iterations_per_epoch(images, recipe) * min(recipe.batch_size, images)
    return sum(seen / point.images_per_second for point in curve if point.images_per_second)


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        timings[name] = time.monotonic() - began


def _facts(model: Detector, image_size: int) -> ModelFacts:
    made, device = model.provenance, next(model.parameters()).device
    try:
        touched = parameters_in_evaluation(model, [torch.zeros(3, image_size, image_size, device=device)])
    except Exception:  # it will fail again where that is told
        touched = None
    return ModelFacts(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        weights=made["weights"],
        frozen=tuple(made["frozen"]),
        norm=made["norm"],
        in_evaluation=touched,
    )


def _is_out_of_memory(e: Exception) -> bool:
    return isinstance(e, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(e)


def _where(e: Exception) -> str:
    frames = traceback.extract_tb(e.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f" (in {last.name}, {os.path.basename(last.filename)}:{last.lineno})"
