from __future__ import annotations

import pytest

from benchmarks.compare import MACS_TOLERANCE, compare
from benchmarks.store import ModelFacts, ProfileRecord, Stored
from tests.benchmarks.conftest import make_cell, make_metrics, make_record

FACTS = ModelFacts(parameters=100, trainable=90, weights=None, frozen=(), norm="batch")


def one(folder: str, macs: float = 1e9, shapes: tuple[int, ...] = (1, 64, 40, 40), **changes: object) -> Stored:
    record = make_record(**{"model": FACTS, **changes})
    profile = ProfileRecord(
        cell_id=record.cell_id,
        session="s",
        precision="fp32",
        parameters={},
        macs={
            "macs": macs,
            "flops": 2 * macs,
            "sampling_macs": 0,
            "by_operator": {},
            "uncounted": {},
            "coverage": 1,
            "uncounted_elements": 0,
            "input_shape": (1, 3, 160, 160),
            "proposals": None,
        },
        output_shapes={"neck.p2": shapes},
        peak_memory_bytes=None,
        latency=None,
        provenance=record.provenance,
    )
    from pathlib import Path

    from benchmarks.store import CellPaths

    return Stored(record, profile, CellPaths.of(Path(folder), record.cell))


def failures(base: Stored, head: Stored, tolerance: float = 0.02) -> set[str]:
    return {f.what.split(" (")[0] for f in compare([base], [head], tolerance=tolerance) if f.verdict == "fail"}


def test_equal_records_pass() -> None:
    assert failures(one("a"), one("b")) == set()


@pytest.mark.parametrize(
    ("head", "what"),
    [
        ({"model": FACTS.model_copy(update={"parameters": 101})}, "parameters"),
        ({"model": FACTS.model_copy(update={"trainable": 89})}, "trainable"),
        ({"macs": 1e9 * (1 + 2 * MACS_TOLERANCE)}, "MACs"),
        ({"macs": 1e9 * (1 - 2 * MACS_TOLERANCE)}, "MACs"),
        ({"shapes": (1, 64, 20, 20)}, "output shapes"),
        ({"metrics": make_metrics(0.47)}, "AP50"),
        ({"status": "failed", "metrics": None}, "status"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_got_worse_fails(head: dict, what: str) -> None:
    assert failures(one("a"), one("b", **head)) == {what}


@pytest.mark.parametrize(
    "head",
    [{"metrics": make_metrics(0.49)}, {"metrics": make_metrics(0.9)}, {"macs": 1e9 * (1 + MACS_TOLERANCE / 2)}],
)
def test_what_is_within_tolerance_or_better_passes(head: dict) -> None:
    assert failures(one("a"), one("b", **head)) == set()


def test_a_missing_cell_fails_and_a_new_one_is_noted() -> None:
    base, head = one("a"), one("b", cell=make_cell(seed=5))
    head = Stored(make_record(make_cell(seed=5)), None, head.paths)
    verdicts = {(f.head, f.verdict) for f in compare([base], [head], tolerance=0.02)}
    assert verdicts == {("missing", "fail"), ("new", "note")}


def test_a_missing_profile_fails() -> None:
    base, head = one("a"), one("b")
    assert failures(base, Stored(head.run, None, head.paths)) == {"profile"}


def test_another_fingerprint_is_shown() -> None:
    changed = one("b", fingerprint=one("a").run.fingerprint.model_copy(update={"transforms": 2}))
    notes = [f for f in compare([one("a")], [changed], tolerance=0.02) if f.verdict == "note"]
    assert [(f.what, f.base, f.head) for f in notes] == [("fingerprint transforms", "1", "2")]
