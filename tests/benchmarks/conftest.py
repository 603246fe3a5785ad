"""Records made of real parts: a small data set prepared once, and records built by hand for the torch-free rooms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import Cell, Fingerprint, Recipe
from benchmarks.errors import DataError
from benchmarks.report.rows import Row
from benchmarks.results import ClassMetrics, Metrics
from benchmarks.store import (
    CellPaths,
    ModelFacts,
    ProfileRecord,
    Provenance,
    RunRecord,
    Stored,
    read_record,
    write_atomic,
    write_record,
)


def full_after(written: int) -> Callable[[Path, bytes], None]:
    """`write_atomic` on a disk that is full after so many files."""
    left = written

    def write(path: Path, content: bytes) -> None:
        nonlocal left
        if not left:
            raise DataError("the disk is full")
        left -= 1
        write_atomic(path, content)

    return write


RECIPE = Recipe(epochs=2, batch_size=4, optimizer="adamw", lr=1e-3, schedule="one_cycle")


def make_cell(**changes: object) -> Cell:
    base = dict(
        dataset="synthetic_small",
        split="synthetic_small-4fold-v2",
        fold=0,
        model="canet",
        variant="default",
        scale="nano",
        seed=0,
        image_size=128,
        recipe=RECIPE,
    )
    return Cell(**{**base, **changes})


def make_metrics(ap50: float | None = 0.5, **changes: object) -> Metrics:
    base = dict(
        AP=None if ap50 is None else ap50 / 2,
        AP50=ap50,
        AP75=None,
        AP_small=0.2,
        AP_medium=None,
        AP_large=None,
        AR_100=0.6,
        AP50_interval=None if ap50 is None else (ap50 - 0.05, ap50 + 0.05),
        images=60,
        boxes=100,
        boxes_small=90,
        boxes_medium=10,
        boxes_large=0,
        per_class={"pit": ClassMetrics(AP=0.25, AP50=ap50, boxes=100)},
    )
    return Metrics(**{**base, **changes})


def make_record(cell: Cell | None = None, **changes: object) -> RunRecord:
    cell = cell or make_cell()
    base = dict(
        cell_id=cell.id,
        cell=cell,
        fingerprint=Fingerprint(data="d", split="s", builder=1, recipe=1, transforms=1, evaluator=1),
        status="ok",
        metrics=make_metrics(),
        model=ModelFacts(parameters=1_800_000, trainable=1_800_000, weights=None, frozen=(), norm="batch"),
        provenance=Provenance(
            commit=None,
            dirty=None,
            python="3.11",
            platform="Linux x86_64",
            packages={},
            cpu="cpu",
            cores=2,
            threads=2,
            device="cpu",
            device_name=None,
            driver=None,
            started="2026-01-01T00:00:00+00:00",
            ended="2026-01-01T00:01:00+00:00",
        ),
    )
    return RunRecord(**{**base, **changes})


def thrice(row: Row) -> Row:
    """A row of one training as if it were one of three to the end, all alike."""
    alike = {(0, seed): next(iter(row.samples.values())) for seed in range(3)}
    average = {(0, seed): next(iter(row.samples_AP.values())) for seed in range(3)}
    small = {(0, seed): next(iter(row.samples_small.values())) for seed in range(3)}
    accuracy = {name: replace(value, values=3 * value.values) for name, value in row.accuracy.items()}
    ended = {"learning": "converged", "runs": 3}
    return replace(row, **ended, samples=alike, samples_AP=average, samples_small=small, accuracy=accuracy)


def make_profile(run: RunRecord, **changes: object) -> ProfileRecord:
    """A profile of a record in which nothing was measured."""
    base = dict(
        cell_id=run.cell_id,
        session="s",
        precision="fp32",
        parameters=None,
        macs=None,
        output_shapes=None,
        peak_memory_bytes=None,
        latency=None,
        provenance=run.provenance,
    )
    return ProfileRecord(**{**base, **changes})


def make_latencies(times: dict[str, tuple[float, ...]], **changes: object) -> dict[str, object]:
    """What the profile command writes of a GPU. times: samples at batch 1, by entry (`MODEL`, `MODEL compile`)."""
    made = make_record().provenance.model_copy(
        update={
            "commit": "0" * 40,
            "dirty": False,
            "device": "cuda",
            "device_name": "NVIDIA H200",
            "packages": {"torch": "2.11"},
        }
    )
    models = {}
    for entry, samples in times.items():
        name, _, form = entry.partition(" ")
        latency = {
            "p50": {"end_to_end": float(np.median(samples))},
            "p90": {"end_to_end": float(np.percentile(samples, 90))},
            "samples_ms": {"end_to_end": list(samples)},
            "reference": next(iter(times)),
        }
        of_form = {
            "name": name,
            "label": name,
            "engine": form or "torch",
            "precision": "fp32",
            "session": int(bool(form)),
        }
        models[entry] = {**of_form, "latency": latency, "batch_latency": {}, "missing": {}}
    session = {"cut": False, "batch_size": 1, "rounds": 8, "machine": {"busy": False}, "batch_latency": {}}
    base = {
        "kind": "profile",
        "weights": "random",
        "dataset": "neu_det",
        "image_size": 600,
        "scale": "r50",
        "images": 4,
        "complete": True,
        "reference": next(iter(times)),
        "sessions": [session, session],
        "provenance": made.model_dump(),
        "models": models,
        "not_measured": {},
    }
    return {**base, **changes}


@pytest.fixture
def stored(tmp_path: Path):
    """Write a record below tmp_path/<folder> and give it back as `scan` would."""

    def make(folder: str = "runs", cell: Cell | None = None, **changes: object) -> Stored:
        record = make_record(cell, **changes)
        paths = CellPaths.of(tmp_path / folder, record.cell)
        write_record(paths.record, record)
        return Stored(read_record(paths.record, RunRecord), None, paths)

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
