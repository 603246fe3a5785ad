"""Profiles of finished cells: the trained models of a data set, in one session."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cells import Cell, Recipe
from benchmarks.cost.engines import Form
from benchmarks.cost.session import Cost, Kept, Plan, ProgressCallback, Step, prepare, session, silent
from benchmarks.datasets.loading import DetectionDataset
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import load_split
from benchmarks.devices import provenance, source_digest
from benchmarks.store import CellPaths, Latency, Macs, ProfileRecord, Provenance, Stored, load, now, write_record
from benchmarks.train import autocast_of, build_optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn

QUICK = Plan(runs=60, warmup=5, min_seconds=0.0, seconds=0.5)
FULL = Plan(runs=200, warmup=50, min_seconds=10.0, seconds=2.0)
"""QUICK is the plan of a suite's quick tier, FULL that of its other tiers; a figure that is quoted needs FULL."""


def profiled(stored: Stored, sessions: set[str], plan: Plan) -> bool:
    """Whether a finished cell's profile is there, for the run it belongs to, of as many rounds as are planned; adds its
    session.
    """
    if stored.profile is None or stored.profile.cell_id != stored.run.cell_id:
        return False
    if stored.profile.weights_sha256 is not None:
        if stored.profile.weights_sha256 != stored.run.weights_sha256:
            return False  # the cell was run again since
    elif stored.profile.provenance.started < stored.run.provenance.ended:
        return False  # the same, of profiles that name no weights: by the clock, which may have been set back
    timed = stored.profile.latency
    if timed is not None and timed.session.get("rounds", plan.runs) < plan.runs:
        return False  # by a shorter plan, that of a quick tier
    sessions.add(stored.profile.session)
    return True


def profile_cells(
    cells: Sequence[Cell],
    data: PreparedDataset,
    *,
    runs: Path,
    device: torch.device,
    reference: str,
    load_model: Callable[[Cell], nn.Module],
    plan: Plan = QUICK,
    threads: int,
    report: ProgressCallback = silent,
) -> None:
    """Count and time the trained models of cells of one data set, in turns in one process.

    Writes a ProfileRecord beside each cell's record. What an interrupted session has measured lies meanwhile in
    `runs`/_profiles, and is not measured again by the next of the same cells, trained weights, device and threads.

    Args:
        cells: finished ones, one per model and variant, tiled alike; tiled ones are profiled on single tiles.
        reference: `Cell.name` that ratios are taken to; the first cell where it is not among them.
        load_model: the trained model of a cell, in evaluation mode, on `device`.
        threads: on the CPU.
    """
    import torch

    torch.set_num_threads(threads)
    began = now()
    split = load_split(cells[0].dataset, cells[0].split, cells[0].fold, data.root.parent)
    tile = cells[0].tile.size if cells[0].tile else None
    dataset = DetectionDataset(data, split.test[: max(16, plan.count_images)], tile=tile)
    images = [dataset[i][0] for i in range(len(dataset))]
    training = DetectionDataset(data, split.train[: max(cell.recipe.batch_size for cell in cells)], tile=tile)
    steps = {}
    for cell in cells:
        if isinstance(cell.recipe, Recipe):  # a library's own trainer takes its steps out of sight
            samples = [training[i] for i in range(min(cell.recipe.batch_size, len(training)))]
            steps[cell.name] = Step(
                samples, partial(build_optimizer, recipe=cell.recipe), autocast_of(cell.recipe, device)
            )
    found = {cell.id: load(CellPaths.of(runs, cell)).run for cell in cells}
    weights = {name: run.weights_sha256 for name, run in found.items()}
    trained = {name: weights[name] or run.provenance.ended for name, run in found.items()}
    made = provenance(started=began, device=device)
    where = [device.type, made.device_name, made.cpu, threads, made.packages, source_digest()]
    kept = Kept(
        runs / "_profiles" / f"{cells[0].dataset}.json",
        [trained, split.digest, data.manifest_digest, tile, plan.__dict__, reference, where],
    )
    entries, _ = prepare(
        {cell.name: load_model(cell) for cell in cells},
        {cell.name: (cell.name, Form()) for cell in cells},
        images,
        steps=steps,
        report=report,
    )
    costs = session(entries, images, device=device, plan=plan, reference=reference, kept=kept, report=report)
    name = hashlib.sha256(f"{began}{[c.id for c in cells]}".encode()).hexdigest()[:12]
    for cell in cells:
        record = _record(
            costs[cell.name], cell, name, CellPaths.of(runs, cell), provenance(started=began, device=device)
        ).model_copy(update={"weights_sha256": weights[cell.id]})
        write_record(CellPaths.of(runs, cell).profile, record)
    kept.done()


def _record(cost: Cost, cell: Cell, session_id: str, paths: CellPaths, made: Provenance) -> ProfileRecord:
    return ProfileRecord(
        cell_id=cell.id,
        session=session_id,
        precision="fp32",
        parameters=cost.parameters,
        macs=None if cost.macs is None else Macs(**cost.macs),
        output_shapes=cost.output_shapes,
        peak_memory_bytes=cost.peak_memory_bytes,
        training_memory_bytes=cost.training_memory_bytes,
        training_batch=cost.training_batch,
        checkpoint_bytes=paths.weights.stat().st_size,
        latency=None if cost.latency is None else Latency(**cost.latency),
        throughput=cost.throughput,
        energy_j=cost.energy_j,
        missing=cost.missing,
        provenance=made,
    )
