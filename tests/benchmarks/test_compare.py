from __future__ import annotations

import math

import pytest
from scipy.stats import t

from benchmarks.gate.judge import compare
from benchmarks.gate.reproduction import reproduced
from benchmarks.results import Metrics
from benchmarks.store import ModelFacts, ProfileRecord, Stored
from benchmarks.suites import GateLimits
from tests.benchmarks.conftest import make_cell, make_metrics, make_record

MACS_TOLERANCE = GateLimits().macs

FACTS = ModelFacts(parameters=100, trainable=90, weights=None, frozen=(), norm="batch")


def measured(**changes: object) -> Metrics:
    return make_metrics(0.5, **{"AP75": 0.2, **changes})


def latency(ratio: float, reference: str = "fasterrcnn_fpn") -> dict:
    return {
        "first_call_ms": 9.0,
        **{name: {"end_to_end": 10.0 * ratio} for name in ("p50", "p90", "p99", "iqr")},
        "outliers": {},
        "samples_ms": {},
        "reference": reference,
        "ratio": ratio,
        "ratio_interval": (0.98 * ratio, 1.02 * ratio),
        "session": {},
    }


def one(
    folder: str,
    macs: float | None = 1e9,
    shapes: tuple[int, ...] = (1, 64, 40, 40),
    profiled: dict | None = None,
    **changes: object,
) -> Stored:
    cost = {"activations": 1e6, "peak_memory_bytes": 1_000_000, "training_memory_bytes": 10_000_000}
    cost |= {"checkpoint_bytes": 500_000, "ratio": 1.2, **(profiled or {})}
    record = make_record(**{"model": FACTS, "metrics": measured(), **changes})
    profile = ProfileRecord(
        cell_id=record.cell_id,
        session="s",
        precision="fp32",
        parameters={},
        macs=None
        if macs is None
        else {
            "macs": macs,
            "flops": 2 * macs,
            "sampling_macs": 0,
            "by_operator": {},
            "uncounted": {},
            "coverage": 1,
            "uncounted_elements": 0,
            "input_shape": (1, 3, 160, 160),
            "proposals": None,
            "activations": cost["activations"],
        },
        output_shapes={"neck.p2": shapes},
        peak_memory_bytes=cost["peak_memory_bytes"],
        training_memory_bytes=cost["training_memory_bytes"],
        checkpoint_bytes=cost["checkpoint_bytes"],
        latency=latency(cost["ratio"]),
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
        ({"metrics": measured(AP50=0.47)}, "AP50"),
        ({"metrics": measured(AP=0.22)}, "AP"),
        ({"metrics": measured(AP75=0.17)}, "AP75"),
        ({"metrics": measured(AP_small=0.17)}, "AP small"),
        ({"metrics": measured(AP75=None)}, "AP75"),
        ({"metrics": None}, "metrics"),
        ({"model": None}, "parameters"),
        ({"macs": None}, "MACs"),
        ({"profiled": {"activations": 3e6}}, "activations"),
        ({"profiled": {"peak_memory_bytes": 10_000_000}}, "memory of inference"),
        ({"profiled": {"training_memory_bytes": 100_000_000}}, "memory of training"),
        ({"profiled": {"checkpoint_bytes": 5_000_000}}, "file size"),
        ({"status": "failed"}, "status"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_got_worse_fails(head: dict, what: str) -> None:
    assert failures(one("a"), one("b", **head)) == {what}


def test_ten_times_the_latency_fails() -> None:
    """In a session of its own by its ratio to the reference; in the same one, as a copy has it, by the times too."""
    slow = one("b", profiled={"ratio": 10.0})
    assert failures(one("a"), slow) == {"latency ratio", "latency, end to end"}
    later = Stored(slow.run, slow.profile.model_copy(update={"session": "t"}), slow.paths)
    assert failures(one("a"), later) == {"latency ratio"}


@pytest.mark.parametrize(
    "head",
    [
        {"metrics": measured(AP50=0.49, AP=0.24)},
        {"metrics": measured(AP50=0.5 - 0.02, AP_small=0.2 - 0.02)},  # exactly the tolerance
        {"metrics": measured(AP50=0.9, AP75=0.9, AP_small=0.9)},
        {"macs": 1e9 * (1 + MACS_TOLERANCE / 2)},
        {"profiled": {"peak_memory_bytes": 1_050_000, "training_memory_bytes": 9_000_000, "ratio": 1.3}},
    ],
)
def test_what_is_within_tolerance_or_better_passes(head: dict) -> None:
    assert failures(one("a"), one("b", **head)) == set()


def test_a_missing_cell_fails_and_a_new_one_is_noted() -> None:
    base, head = one("a"), one("b", cell=make_cell(seed=5))
    head = Stored(make_record(make_cell(seed=5, variant="no_sae")), None, head.paths)
    verdicts = {(f.head, f.verdict) for f in compare([base], [head], tolerance=0.02)}
    assert verdicts == {("missing", "fail"), ("new", "new")}


def test_a_missing_profile_fails() -> None:
    base, head = one("a"), one("b")
    assert failures(base, Stored(head.run, None, head.paths)) == {"profile"}


def test_another_fingerprint_is_shown() -> None:
    changed = one("b", fingerprint=one("a").run.fingerprint.model_copy(update={"transforms": 2}))
    notes = [f for f in compare([one("a")], [changed], tolerance=0.02) if f.verdict == "note"]
    assert [(f.what, f.base, f.head) for f in notes] == [("fingerprint transforms", "1", "2")]


def test_what_failed_before_and_is_ok_now_is_no_failure() -> None:
    assert failures(one("a", status="failed", metrics=None), one("b")) == set()


def test_a_latency_altered_beside_its_ratio_is_found() -> None:
    """Ten times the time in one of two records of a session, signed again, with the old ratio."""

    def session(folder: str, times: float) -> list[Stored]:
        reference = one(folder, profiled={"ratio": 1.0}, cell=make_cell(model="fasterrcnn_fpn"))
        model = one(folder)
        slow = model.profile.latency.model_copy(update={"p50": {"end_to_end": 12.0 * times}})
        return [reference, Stored(model.run, model.profile.model_copy(update={"latency": slow}), model.paths)]

    def failed(head: list[Stored]) -> list[str]:
        return [f.what for f in compare(session("a", 1), head, tolerance=0.02) if f.verdict == "fail"]

    assert failed(session("b", 1)) == []
    assert "ratio of times (head)" in failed(session("b", 10))


def test_what_was_not_measured_again_or_to_another_reference_is_inconclusive() -> None:
    head = one("b")
    other = head.profile.model_copy(update={"latency": None, "peak_memory_bytes": None})
    found = compare([one("a")], [Stored(head.run, other, head.paths)], tolerance=0.02)
    assert {f.what for f in found if f.verdict == "inconclusive"} == {"latency ratio", "memory of inference"}
    assert not [f for f in found if f.verdict == "fail"]


def trained(values: list[float], model: str = "canet", first: int = 0) -> list[Stored]:
    return [
        one("x", cell=make_cell(model=model, seed=first + i), metrics=make_metrics(v, AP=v / 2))
        for i, v in enumerate(values)
    ]


def verdicts(base: list[Stored], head: list[Stored]) -> list[str]:
    return [c.verdict for c in reproduced(base, head) if c.what.startswith("AP50")]


def test_a_training_is_reproduced_within_the_spread_of_published_ones() -> None:
    """Of seeds at 60, 62, 64 (an SD of 1.4 without the one at hand) two trainings lie within t sqrt(2) SD."""
    base = trained([0.60, 0.62, 0.64])
    # One freedom: the first is judged by the two others. Of it AP50 and AP are asked, each at 1 - 0.05/2.
    limit = 25.452 * math.sqrt(2) * 0.01 * math.sqrt(2)
    for shift, verdict in ((0.98 * limit, "pass"), (1.02 * limit, "fail"), (-1.02 * limit, "fail"), (0.0, "pass")):
        assert verdicts(base, trained([0.60 + shift])) == [verdict], shift


def test_of_many_trainings_one_that_would_be_odd_alone_is_none() -> None:
    """Of 5 trainings with two numbers each, ten are asked, each at 1 - 0.05/10."""
    base = trained([0.60, 0.62, 0.64, 0.61, 0.63])
    values = [s.run.metrics.AP50 for s in base]
    rest = values[1:]
    sd = math.sqrt(sum((v - sum(rest) / 4) ** 2 for v in rest) / 3)
    for n, rank in ((1, 2), (5, 10)):
        limit = float(t.ppf(1 - 0.025 / rank, 3)) * math.sqrt(2) * sd
        for share, verdict in ((0.98, "pass"), (1.02, "fail")):
            head = trained([values[0] + share * limit, *(v + 0.001 for v in values[1:n])])
            assert verdicts(base, head) == [verdict, *["pass"] * (n - 1)], (n, share)


def test_without_other_trainings_nothing_is_told() -> None:
    base = trained([0.6]) + trained([0.5, 0.6], "retinanet")  # another family
    assert verdicts(base, trained([0.61])) == ["inconclusive"]
    assert verdicts(base, trained([0.6])) == ["pass"], "the same number needs no spread"
    near = trained([0.6]) + [
        one("x", cell=make_cell(variant="no_sae", seed=i), metrics=make_metrics(v, AP=v / 2))
        for i, v in enumerate((0.5, 0.6, 0.55))
    ]
    assert verdicts(near, trained([0.61])) == ["pass"], "a variant is of the family"


def test_a_training_that_diverged_where_none_did_is_not_reproduced_and_all_are_counted() -> None:
    def diverging(seeds: set[int], trainings: list[Stored]) -> list[Stored]:
        changes = {"status": "diverged", "metrics": None}
        return [
            Stored(s.run.model_copy(update=changes), None, s.paths) if s.run.cell.seed in seeds else s
            for s in trainings
        ]

    def told(base: list[Stored], head: list[Stored]) -> list[tuple[str, str, str]]:
        return [(c.verdict, c.base, c.head) for c in reproduced(base, head) if c.what.startswith("diverged")]

    base = trained([0.60, 0.61, 0.62, 0.60, 0.61])
    assert told(base, base) == []
    assert told(base, diverging({0, 2, 4}, base)) == [("fail", "0 of 5", "3 of 5")] * 3
    assert verdicts(base, diverging({0, 2, 4}, base)) == ["pass", "pass"], "of the others each is judged as it is"
    beyond = diverging({5}, trained([0.60] * 6))
    assert told(base, beyond) == [("fail", "0 of 5", "1 of 6")], "of a seed that is not published"
    assert told(diverging({1}, base), diverging({0}, base)) == [("inconclusive", "1 of 5", "1 of 5")]


def test_on_other_images_nothing_is_reproduced() -> None:
    base = trained([0.60, 0.61, 0.62])
    for digest in ("data", "split"):
        others = base[0].run.fingerprint.model_copy(update={digest: "other"})
        head = Stored(base[0].run.model_copy(update={"fingerprint": others}), None, base[0].paths)
        (check,) = (c for c in reproduced(base, [head]) if c.verdict != "note")
        assert check.verdict == "inconclusive"
        assert "digests" in check.what


def test_what_neither_run_measured_is_not_reproduced() -> None:
    nothing = [one("x", cell=make_cell(), metrics=make_metrics(None))]
    assert {c.verdict for c in reproduced(nothing, nothing)} == {"inconclusive"}


def test_what_failed_or_was_not_published_is_told_when_reproducing() -> None:
    base = trained([0.60, 0.61, 0.62])
    for status in ("failed", "out_of_memory"):
        lost = Stored(base[0].run.model_copy(update={"status": status, "metrics": None}), None, base[0].paths)
        found = [(c.what, c.verdict) for c in reproduced(base, [lost]) if c.verdict != "note"]
        assert found == [("status", "fail")]
    versions = base[0].run.fingerprint.model_copy(update={"builder": 2})
    head = [
        Stored(base[0].run.model_copy(update={"fingerprint": versions}), None, base[0].paths),
        *trained([0.6], first=9),
    ]
    notes = [(c.what, c.base, c.head) for c in reproduced(base, head) if c.verdict == "note"]
    assert ("fingerprint builder", "1", "2") in notes
    assert notes[-1] == ("record", "not published", "present")
