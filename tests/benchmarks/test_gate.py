"""The gate's verdicts on records made by hand: red when it got worse, green when not, grey when nobody can tell."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from typer.testing import CliRunner

from ablations.effects import caught
from benchmarks import compare as command
from benchmarks.cli import console
from benchmarks.datasets.prepared import ensure
from benchmarks.errors import DataError, RequestError
from benchmarks.gate import accuracy, baseline, judge, outputs, sides
from benchmarks.gate.beginnings import LATER, SOON
from benchmarks.gate.checks import Check, Pair, equal_bits
from benchmarks.gate.costs import BATCH, TRAINING_STEP
from benchmarks.gate.judge import any_rows, compare
from benchmarks.gate.turns import Launch, judged
from benchmarks.report import draw, history
from benchmarks.results import Inspection
from benchmarks.store import (
    CellPaths,
    FirstSteps,
    ProfileRecord,
    Stored,
    read_record,
    scan,
    write_atomic,
    write_record,
)
from benchmarks.suites import GateLimits, load
from tests.benchmarks.conftest import RECIPE, full_after, make_cell, make_metrics, make_record
from tests.benchmarks.test_compare import one

GATE = Path(__file__).parents[2] / "results" / "_gate"


def trainings(values, *, model: str = "canet", first: int = 0, noise=None, **changes) -> list[Stored]:
    """Trainings of one row with so much AP50, and resampled images that all have in common."""
    noise = np.zeros(50) if noise is None else noise
    return [
        one(
            "x",
            cell=make_cell(model=model, seed=first + i),
            metrics=make_metrics(
                float(v),
                **{"AP": float(v) / 2, "AP75": 0.2, **changes},
                draws={"AP50": tuple(v + noise), "AP": tuple(v / 2 + noise)},
                standard_errors={"AP75": 0.01, "AP_small": 0.01},
                groups=100,
                effective_groups=80.0,
            ),
        )
        for i, v in enumerate(values)
    ]


def of(checks: list[Check], what: str) -> list[str]:
    return [c.verdict for c in checks if c.what.startswith(what)]


def failed(checks: list[Check]) -> list[str]:
    return [c.what.split(" (")[0] for c in checks if c.verdict == "fail"]


@pytest.fixture
def at_random(monkeypatch):
    """Three trainings of each of two models on a side: an SD of 2 points, on images of an SE of 1.5."""
    # statsmodels collects garbage at every correction, which is most of the time of so many of them.
    monkeypatch.setattr(gc, "collect", lambda *generation: 0)

    def make(rng: np.random.Generator, drop: float = 0.0, first: int = 0) -> list[Stored]:
        noise = rng.normal(0, 0.015, 50)
        out = []
        for model, mean in (("canet", 0.42), ("fasterrcnn_fpn", 0.35)):
            values = mean - drop + rng.normal(0, 0.02, 3)
            out += trainings(values, model=model, first=first, noise=noise)
        return out

    return make


@pytest.mark.slow
def test_chance_alarms_as_seldom_as_the_limits_say(at_random) -> None:
    """Two sides of the same code, no seed in common: of 200 comparisons at most as many alarms as 2% may bring."""
    rng, limits = np.random.default_rng(0), GateLimits(accuracy={"AP50": 0.02, "AP": 0.02})
    alarms = sum(bool(failed(compare(at_random(rng), at_random(rng, first=3), limits=limits))) for _ in range(200))
    assert alarms <= 9  # at most 4 are expected; more than 9 come once in a hundred tries


@pytest.mark.slow
def test_a_drop_as_large_as_is_said_is_caught_in_four_of_five_tries(at_random) -> None:
    rng, limits = np.random.default_rng(1), GateLimits(accuracy={"AP50": 0.02})
    seen = []
    for _ in range(30):
        checks = compare(at_random(rng), at_random(rng, first=3), limits=limits)
        seen += [c.caught for c in checks if c.caught is not None]
    said = float(np.median(seen))
    assert 0.02 < said < 0.15
    found = sum(
        of(compare(at_random(rng), at_random(rng, said, first=3), limits=limits), "AP50")[0] == "fail"
        for _ in range(100)
    )
    assert 0.65 < found / 100 < 0.95


@pytest.mark.parametrize(("error", "freedom", "limit"), [(0.02, 8, 0.02), (0.01, 3, 0.05), (0.001, 20, 0.02)])
def test_the_drop_that_is_caught_is_that_of_simulated_tries(error: float, freedom: int, limit: float) -> None:
    from scipy.stats import t

    rng, n = np.random.default_rng(0), 40_000
    drop = caught(error, freedom, limit, alpha=0.0025)
    estimates = drop + error * rng.normal(size=n)
    errors = error * np.sqrt(rng.chisquare(freedom, n) / freedom)
    told = (estimates > limit) & (t.sf(estimates / errors, freedom) <= 0.0025)
    assert told.mean() == pytest.approx(0.8, abs=0.02)


def test_a_drop_that_three_pairs_cannot_tell_from_chance_is_grey() -> None:
    spread = [0.40, 0.44, 0.48]
    checks = compare(trainings(spread), trainings([v - 0.03 for v in spread]))
    assert of(checks, "AP50") == ["inconclusive"]
    checks = compare(trainings(spread), trainings([v - 0.3 for v in spread]))
    assert of(checks, "AP50") == ["fail"]
    small = [0.400, 0.401, 0.402]
    checks = compare(trainings(small), trainings([v - 0.03 for v in small]))
    assert of(checks, "AP50") == ["fail"], "the same drop where trainings hardly differ"
    assert of(compare(trainings(small), trainings([v - 0.015 for v in small])), "AP50") == ["pass"]


def test_one_training_each_fails_only_where_that_is_certain() -> None:
    base = trainings([0.5])
    assert of(compare(base, trainings([0.45])), "AP50") == ["inconclusive"]
    assert of(compare(base, trainings([0.34])), "AP50") == ["fail"]
    assert of(compare(base, trainings([0.35])), "AP50") == ["inconclusive"], "exactly what is certain is not"
    assert of(compare(base, trainings([0.5])), "AP50") == ["pass"]
    assert of(compare(base, trainings([0.48]), tolerance=0.02), "AP50") == ["pass"]
    assert of(compare(base, trainings([0.4799]), tolerance=0.02), "AP50") == ["fail"]


@pytest.mark.parametrize("share", [0.07, 0.1, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("limit", [0.01, 0.02, 0.03])
def test_a_drop_of_exactly_the_tolerance_passes_whatever_the_rounding(share: float, limit: float) -> None:
    limits = GateLimits(accuracy={"AP50": limit})
    same = {"weights_sha256": "0" * 64}
    old, new = (one("x", metrics=make_metrics(value, AP75=0.2), **same) for value in (share, share - limit))
    assert of(compare([old], [new], limits=limits), "AP50") == ["pass"]
    worse = one("x", metrics=make_metrics(share - limit - 1e-6, AP75=0.2), **same)
    assert of(compare([old], [worse], limits=limits), "AP50") == ["fail"]


def test_AP_lost_at_equal_AP50_fails() -> None:
    """From three trainings whose spread is known, and from the same weights, without a word about tolerance."""
    values = [0.500, 0.501, 0.502]
    found = compare(trainings(values), trainings(values, AP=0.2))
    assert failed(found) == ["AP"]
    same = {"weights_sha256": "0" * 64}
    found = compare([one("a", **same)], [one("b", metrics=make_metrics(0.5, AP=0.2, AP75=0.2), **same)])
    assert failed(found) == ["AP"]


def test_one_cell_less_fails_and_another_seed_in_its_place_does_not() -> None:
    base = trainings([0.50, 0.51, 0.52])
    assert failed(compare(base, base[:2])) == ["record"]
    others = trainings([0.50, 0.51, 0.52], first=3)
    checks = compare(base, others)
    assert failed(checks) == []
    assert of(checks, "another seed in its place") == ["note"] * 3
    assert failed(compare(base, others[:2])) == ["record"]


def test_what_is_new_fails_nothing() -> None:
    base = trainings([0.5])
    checks = compare(base, [*base, *trainings([0.1], model="retinanet")])
    assert failed(checks) == []
    assert of(checks, "record") == ["new"]


@pytest.mark.parametrize(
    ("was", "now", "verdicts"),
    [
        ("ok", "failed", ["fail"]),
        ("failed", "ok", ["pass"]),
        ("ok", "diverged", ["fail"]),
        ("failed", "failed", ["pass"]),
    ],
)
def test_a_status_that_got_worse_fails(was: str, now: str, verdicts: list[str]) -> None:
    none = {"metrics": None}
    old, new = (one("x", status=s, **({} if s == "ok" else none)) for s in (was, now))
    assert of(compare([old], [new]), "status") == verdicts


def test_an_evaluation_that_says_less_fails() -> None:
    old = one("a")
    less = one("b", metrics=old.run.metrics.model_copy(update={"per_class": {}}))
    assert failed(compare([old], [less])) == ["schema: per_class"]


# Losses of the first steps.


def begun(*, at: int = 0, by: float = 0.0, portable: bool = False, **changes) -> Stored:
    """A training whose loss differs in step `at` by a share `by` of the sum of its losses."""
    box, rest = [1.0] * 20, [3.0] * 20
    box[at] += 4 * by
    steps = FirstSteps(losses={"box": tuple(box), "rest": tuple(rest)}, digests={1: f"a{by}", 10: f"b{by}"})
    found = one("x", first_steps=steps, **changes)
    its = found.run.provenance.model_copy(update={"arithmetic": "portable" if portable else None})
    return Stored(found.run.model_copy(update={"provenance": its}), None, found.paths)


def losses(old: Stored, new: Stored) -> list[str]:
    return of(compare([old], [new]), "losses of the first steps")


@pytest.mark.parametrize(
    ("at", "by", "verdict"),
    [
        (0, 0.9e-4, "pass"),
        (0, 1.1e-4, "fail"),
        (1, SOON * 0.9e-4, "pass"),
        (9, SOON * 1.1e-4, "fail"),
        (10, LATER * 0.9e-4, "pass"),
        (19, -LATER * 1.1e-4, "fail"),
    ],
)
def test_losses_differ_by_more_than_rounding_or_not(at: int, by: float, verdict: str) -> None:
    assert losses(begun(), begun(at=at, by=by)) == [verdict]


def test_in_portable_arithmetic_the_losses_are_equal_to_the_last_bit() -> None:
    base = begun(portable=True)
    assert losses(base, begun(portable=True)) == ["pass"]
    assert losses(base, begun(at=3, by=1e-9, portable=True)) == ["fail"]
    assert losses(base, begun(at=3, by=1e-9)) == ["pass"], "native on one side: rounding may differ"
    later = begun(portable=True)
    steps = later.run.first_steps.model_copy(update={"digests": {1: "a0.0", 10: "other"}})
    later = Stored(later.run.model_copy(update={"first_steps": steps}), None, later.paths)
    assert losses(base, later) == ["fail"], "the digests reach further than the numbers"


def test_other_losses_that_a_version_declares_are_grey() -> None:
    version = begun().run.fingerprint.model_copy(update={"transforms": 2})
    assert losses(begun(), begun(by=0.5, fingerprint=version)) == ["inconclusive"]
    assert losses(begun(), begun(fingerprint=version)) == ["pass"]


def test_first_losses_that_are_gone_fail_and_those_of_another_seed_say_nothing() -> None:
    assert losses(begun(), one("x")) == ["fail"]
    assert losses(one("x"), begun()) == []
    assert losses(begun(), begun(by=0.5, cell=make_cell(seed=1))) == []


def test_the_same_weights_give_the_same_detections_in_portable_arithmetic() -> None:
    def with_(detections: str, portable: bool = True) -> Stored:
        found = begun(portable=portable, weights_sha256="0" * 64, detections_sha256=detections * 64)
        return found

    def check(old: Stored, new: Stored) -> list[str]:
        return of(compare([old], [new]), "detections of the same weights")

    assert check(with_("1"), with_("1")) == ["pass"]
    assert check(with_("1"), with_("2")) == ["fail"]
    assert check(with_("1"), with_("2", portable=False)) == ["inconclusive"]


# Cost.


def on(stored: Stored, *, session: str = "s", **machine: object) -> Stored:
    its = stored.profile.provenance.model_copy(update=machine)
    profile = stored.profile.model_copy(update={"session": session, "provenance": its})
    return Stored(stored.run, profile, stored.paths)


def session(name: str, *, memory: int = 1_000_000, reference: int = 1_000_000, **machine: object) -> list[Stored]:
    """A model and its reference, profiled together."""
    first = one("x", profiled={"ratio": 1.0, "peak_memory_bytes": reference}, cell=make_cell(model="fasterrcnn_fpn"))
    return [on(it, session=name, **machine) for it in (first, one("x", profiled={"peak_memory_bytes": memory}))]


def test_memory_of_another_session_is_compared_as_a_ratio_to_the_reference() -> None:
    base = session("s")
    assert failed(compare(base, session("t", memory=1_200_000))) == ["memory of inference, to the reference"]
    both_grew = session("t", memory=2_000_000, reference=2_000_000)
    assert failed(compare(base, both_grew)) == [], "another session may measure otherwise"
    assert set(failed(compare(base, both_grew, one_job=True))) == {"memory of inference"}
    assert set(failed(compare(base, session("s", memory=2_000_000, reference=2_000_000)))) == {"memory of inference"}


def test_between_machine_types_nothing_is_compared_and_that_is_said() -> None:
    checks = compare(session("s"), session("t", memory=9_000_000, cpu="another"))
    assert failed(checks) == []
    assert of(checks, "latency and memory: other machine types are not compared") == ["note", "note"]


def test_one_percent_more_work_fails_but_for_other_proposals() -> None:
    old, new = one("a", macs=1e9), one("b", macs=1.01e9)
    assert failed(compare([old], [new])) == ["MACs"]

    def proposing(stored: Stored, n: float) -> Stored:
        macs = stored.profile.macs.model_copy(update={"proposals": n})
        return Stored(stored.run, stored.profile.model_copy(update={"macs": macs}), stored.paths)

    assert failed(compare([proposing(old, 100.0)], [proposing(new, 101.0)])) == []
    assert failed(compare([proposing(old, 100.0)], [proposing(new, 100.0)])) == ["MACs"]
    many = proposing(one("c", macs=1e10), 2000.0)
    assert of(compare([proposing(old, 100.0)], [many]), "MACs") == ["inconclusive"], "twenty times the proposals"


def test_a_reference_that_takes_more_memory_does_not_pass_as_equal_to_itself() -> None:
    checks = compare(session("s"), session("t", reference=10_000_000))
    assert of(checks, "memory of inference: of the reference itself") == ["inconclusive"]


def test_what_a_profile_of_the_head_does_not_say_never_passes_in_silence() -> None:
    def saying(parameters: dict[str, int] | None, **p50: float) -> Stored:
        found = one("x")
        latency = found.profile.latency.model_copy(update={"p50": p50})
        profile = found.profile.model_copy(update={"parameters": parameters, "latency": latency})
        return Stored(found.run, profile, found.paths)

    whole = saying({"in_evaluation": 5}, network=80.0, postprocess=2.5)
    checks = compare([whole], [saying(None, network=80.0)])
    assert failed(checks) == ["parameters in evaluation"]
    assert of(checks, "latency, postprocess") == ["inconclusive"]


def slower(stored: Stored, phase: str, factor: float, rng: np.random.Generator) -> Stored:
    """The same latencies, one phase slower, with samples of a busy machine."""
    phases = {"network": 80.0, "postprocess": 2.5}
    samples = {
        name: list(ms * (factor if name == phase else 1.0) * rng.lognormal(0, 0.1, 60)) for name, ms in phases.items()
    }
    p50 = {name: float(np.median(values)) for name, values in samples.items()}
    latency = stored.profile.latency.model_copy(update={"p50": p50, "samples_ms": samples})
    return Stored(stored.run, stored.profile.model_copy(update={"latency": latency}), stored.paths)


@pytest.mark.parametrize("seed", range(5))
def test_slower_post_processing_is_seen_in_one_session_and_its_noise_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = slower(one("a"), "postprocess", 1.0, rng)
    again, slow = (slower(one("b"), "postprocess", factor, rng) for factor in (1.0, 1.2))
    assert failed(compare([base], [again])) == []
    found = [c for c in compare([base], [slow]) if c.what == "latency, postprocess"]
    assert found[0].change == pytest.approx(0.2, abs=0.1)
    assert failed(compare([base], [slower(one("b"), "postprocess", 1.5, rng)])) == ["latency, postprocess"]
    assert of(compare([base], [on(slow, session="t")], one_job=True), "latency, ") == [], "one after the other"


def test_a_phase_fails_where_it_is_slower_for_certain_in_every_launch_and_that_is_felt() -> None:
    def launch(*factors: float) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        post = [2.5 + 0.01 * turn for turn in range(20)]
        slow = [ms * factors[turn % len(factors)] for turn, ms in enumerate(post)]
        base = {"preprocess": [0.4] * 20, "postprocess": post, "end_to_end": [90.0] * 20}
        return base, {"preprocess": [0.6] * 20, "postprocess": slow, "end_to_end": [90.0] * 20}

    def verdicts(*launches) -> list[str]:
        return [check.verdict for check in judged("x", [Launch(launch) for launch in launches], GateLimits())]

    assert verdicts(*(launch(1.2) for _ in range(3))) == ["pass", "fail", "pass"], "0.2 ms of 90 are not felt"
    assert verdicts(launch(1.4), launch(1.4), launch(1.0)) == ["pass", "inconclusive", "pass"]
    assert verdicts(*(launch(1.5, 1.0) for _ in range(3))) == ["pass", "inconclusive", "pass"]
    assert verdicts(*(launch(1.05) for _ in range(3))) == ["pass"] * 3


def test_a_slower_batch_or_training_step_fails_whatever_an_image_takes_and_one_that_is_gone_is_grey() -> None:
    def launch(batch: float, step: float) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        its = {"end_to_end": [900.0] * 20, "batch": [5.0] * 20, "training_step": [4.0] * 20}
        return its, {**its, "batch": [5.0 * batch] * 20, "training_step": [4.0 * step] * 20}

    def verdicts(*launches) -> dict[str, str]:
        return {check.what: check.verdict for check in judged("x", [Launch(it) for it in launches], GateLimits())}

    slower = verdicts(*[launch(1.2, 1.0)] * 3)
    assert slower == {"latency, end to end": "pass", BATCH: "fail", TRAINING_STEP: "pass"}
    assert verdicts(*[launch(1.0, 1.2)] * 3)[TRAINING_STEP] == "fail"
    old, new = launch(1.0, 1.0)
    for pair in ((old, {"end_to_end": new["end_to_end"]}), ({"end_to_end": old["end_to_end"]}, new)):
        grey = verdicts(*[pair] * 3)
        assert grey == {"latency, end to end": "pass", BATCH: "inconclusive", TRAINING_STEP: "inconclusive"}


# --any.


def test_any_two_that_answer_the_same_question_are_compared_and_what_differs_comes_first() -> None:
    other = RECIPE.model_copy(update={"lr": 1e-2})
    old = trainings([0.50, 0.51, 0.52])
    new = [
        Stored(make_record(make_cell(model="retinanet", seed=i, recipe=other), metrics=s.run.metrics), None, s.paths)
        for i, s in enumerate(old)
    ]
    rows, differences = any_rows(old, new)
    said = {c.what: (c.base, c.head) for c in differences}
    assert said["differs: model"] == ("canet", "retinanet")
    assert said["differs: recipe lr"] == ("0.001", "0.01")
    assert len(rows) == 1
    assert len(rows[0].pairs()[0]) == 3


def test_several_answers_are_matched_by_name_or_asked_about() -> None:
    base = [*trainings([0.5]), *trainings([0.4], model="retinanet")]
    head = [*trainings([0.5]), *trainings([0.4], model="fcos")]
    rows, notes = any_rows(base, head)
    assert [row.name for row in rows] == ["synthetic_small/canet, nano, 2 epochs"]
    assert [(c.cell.split(",")[0], c.what) for c in notes if c.what.startswith("not compared")] == [
        ("synthetic_small/retinanet", "not compared: no one row answers it (base)"),
        ("synthetic_small/fcos", "not compared: no one row answers it (head)"),
    ]
    with pytest.raises(RequestError, match="FOLDER@MODEL"):
        any_rows(base, trainings([0.4], model="fcos"))
    elsewhere = one("x", fingerprint=make_record().fingerprint.model_copy(update={"data": "other"}))
    with pytest.raises(RequestError, match="no question that both answer"):
        any_rows(base, [elsewhere])


def test_answers_of_several_kinds_of_machine_are_matched_within_each() -> None:
    def on(kind: str | None, model: str) -> Stored:
        stored = trainings([0.5], model=model)[0]
        return redone(stored, cell=stored.run.cell.model_copy(update={"device_class": kind}))

    base = [on(kind, "canet") for kind in (None, "nvidia-h200", "nvidia-h100")]
    head = [on(kind, "fcos") for kind in ("nvidia-h200", None)]
    rows, notes = any_rows(base, head)
    pairs = [(row.base[0].run.cell, row.head[0].run.cell) for row in rows]
    assert [(a.device_class, b.device_class) for a, b in pairs] == [(None, None), ("nvidia-h200", "nvidia-h200")]
    assert {(a.model, b.model) for a, b in pairs} == {("canet", "fcos")}
    (left,) = (c for c in notes if c.what.startswith("not compared"))
    assert "(base)" in left.what
    several = [*base, on(None, "retinanet")]
    rows, _ = any_rows(several, [on(None, "canet"), on(None, "retinanet"), on("nvidia-h200", "fcos")])
    assert [(row.base[0].run.cell.name, row.head[0].run.cell.name) for row in rows] == [
        ("canet", "canet"),
        ("retinanet", "retinanet"),
    ], "one of a kind is no reason, where sides have several models"
    (alone,), _ = any_rows(base[:1], head[:1])
    assert alone.head[0].run.cell.device_class == "nvidia-h200", "where it is all there is, and the difference is said"


def on_list(stored: Stored, digest: str) -> Stored:
    return redone(stored, fingerprint=stored.run.fingerprint.model_copy(update={"split": digest}))


def redone(stored: Stored, **changes: object) -> Stored:
    return Stored(stored.run.model_copy(update=changes), stored.profile, stored.paths)


def test_another_split_list_of_one_name_asks_another_question() -> None:
    base, head = trainings([0.50, 0.51, 0.52]), trainings([0.50, 0.51, 0.52], model="retinanet")
    with pytest.raises(RequestError, match="of one name, but the digests of the data or the split list are others"):
        any_rows(base, [on_list(s, "other") for s in head])
    rows, notes = any_rows(base, [head[0], *(on_list(s, "other") for s in head[1:])])
    assert [len(row.pairs()[0]) for row in rows] == [1]
    (left,) = (c for c in notes if c.what.startswith("not compared"))
    assert (left.verdict, left.base) == ("inconclusive", "2 records")
    assert "digests" in left.what


def test_cells_that_nothing_of_the_other_side_answers_are_counted_and_named() -> None:
    def alone(base: list[Stored], head: list[Stored]) -> list[tuple[str, str, str, str]]:
        checks = judge.judged(any_rows(base, head)[0], base, head, limits=GateLimits())
        found = [(c.what, c.verdict, c.base, c.head) for c in checks if "counterpart" in c.what or "no fold" in c.what]
        assert bool(found and found[0][1] == "inconclusive") is not bool(of(checks, "AP50")), "or accuracy is compared"
        return found

    base, head = trainings([0.50] * 5), trainings([0.50] * 5, model="retinanet")
    assert alone(base, head) == []
    what = "cells without a counterpart of their fold"
    assert alone(base, head[:2]) == [(what, "note", "3 of 5: f0-s2, f0-s3, f0-s4", "0 of 2")]
    assert alone(base[:4], head) == [(what, "note", "0 of 4", "1 of 5: f0-s4")]
    elsewhere = [redone(s, cell=s.run.cell.model_copy(update={"fold": 1})) for s in head[:2]]
    assert alone(base[:1], elsewhere) == [
        ("accuracy: no fold that both have", "inconclusive", "1 of 1: f0-s0", "2 of 2: f1-s0, f1-s1")
    ]


def test_what_any_record_of_a_side_differs_in_is_said() -> None:
    base, head = trainings([0.50] * 5), trainings([0.50] * 5, model="retinanet")
    other = {"commit": "f" * 40, "dirty": True, "arithmetic": "portable", "device_name": "NVIDIA H200"}
    head[3:] = [redone(s, provenance=s.run.provenance.model_copy(update=other)) for s in head[3:]]
    said = {c.what: (c.base, c.head) for c in any_rows(base, head)[1]}
    assert said == {
        "differs: model": ("canet", "retinanet"),
        "differs: commit": ("None", "None (3), ffffffffffff (2)"),
        "differs: source differs from it": ("None", "None (3), True (2)"),
        "differs: arithmetic": ("native", "native (3), portable (2)"),
        "differs: device": ("cpu", "cpu (3), NVIDIA H200 (2)"),
    }


# The command.


def call(*arguments: object):
    return CliRunner().invoke(command.app, [str(a) for a in arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("git:HEAD", GATE, "--train"),
        ("git:HEAD:results/_budget", "git:HEAD", "--train"),
        (GATE, GATE, "--tier", "quick"),
        (GATE, GATE, "--seed", 1),
    ],
)
def test_what_would_be_ignored_is_refused(arguments: tuple[object, ...]) -> None:
    done = call(*arguments)
    assert isinstance(done.exception, RequestError)
    assert "--train" in str(done.exception)


@pytest.fixture
def gate(tmp_path: Path, data_root: Path) -> Path:
    """A copy of the gate's own records, whose data set is there."""
    ensure("synthetic_smoke", data_root)
    copy = tmp_path / "_gate"
    for s in sides.read(str(GATE), tmp_path):
        for path in (s.paths.record, s.paths.profile, s.paths.detections, s.paths.val_detections):
            if path.exists():  # one training of a model is profiled
                target = copy / path.relative_to(GATE)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    return copy


def signed_again(folder: Path, **changes) -> None:
    """Change every profile of a folder, and sign it as if it had been measured so."""
    for path in folder.rglob("*.profile.json"):
        profile = read_record(path, ProfileRecord)
        update = {field: change(getattr(profile, field)) for field, change in changes.items()}
        write_record(path, profile.model_copy(update=update))


def ten_times(latency):
    def times(value):
        if isinstance(value, dict):
            return {k: times(v) for k, v in value.items()}
        return [times(v) for v in value] if isinstance(value, list) else 10 * value

    longer = {field: times(getattr(latency, field)) for field in ("p50", "p90", "p99", "iqr", "samples_ms")}
    return latency.model_copy(update=longer)


def test_the_command_passes_equal_records_and_fails_copies_with_other_costs(
    gate: Path, data_root: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(console, "_width", 200)
    same = call(GATE, gate, "--data-root", data_root, "--strict")
    assert same.exit_code == 0, same.output
    signed_again(gate, latency=ten_times, peak_memory_bytes=lambda b: 10 * b)
    files = {name: tmp_path / f"found.{name}" for name in ("markdown", "json", "junit")}
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = call(GATE, gate, "--data-root", data_root, *(part for name, f in files.items() for part in (f"--{name}", f)))
    assert done.exit_code == 1
    found = json.loads(files["json"].read_text())
    failures = {c["what"] for c in found["checks"] if c["verdict"] == "fail"}
    assert failures == {
        "memory of inference",
        *(f"latency, {phase}" for phase in ("preprocess", "network", "postprocess", "end to end")),
    }
    assert found["verdict"] == "fail"
    assert summary.read_text() == files["markdown"].read_text()
    assert summary.read_text().startswith("## ❌ Regression gate: FAIL")
    assert "::error title=FAIL synthetic_smoke/canet" in done.output
    root = ET.fromstring(files["junit"].read_bytes())
    assert int(root.get("failures")) == len(root.findall(".//failure")) == found["counts"]["fail"] == 10


def test_a_cell_twice_fails_and_every_output_says_so(gate: Path, data_root: Path, tmp_path: Path) -> None:
    (stored, *_) = sides.read(str(gate), tmp_path)
    twice = CellPaths(gate, stored.run.cell.dataset, stored.paths.stem.replace("-f0-", "-f0-s0-f0-"))
    twice.record.write_bytes(stored.paths.record.read_bytes())
    done = call(GATE, gate, "--data-root", data_root, "--json", tmp_path / "found.json")
    assert done.exit_code == 1
    (check,) = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert check["verdict"] == "fail"
    assert "one cell twice" in check["head"]


def test_one_record_and_one_model_of_a_folder_are_sides_too(gate: Path, tmp_path: Path) -> None:
    first, *others = sides.read(str(gate), tmp_path)
    (alone,) = sides.read(str(first.paths.record), tmp_path)
    assert alone.run == first.run
    assert alone.profile == first.profile
    chosen = sides.read(f"{gate}@fasterrcnn_fpn", tmp_path)
    assert [s.run for s in chosen] == [s.run for s in others if s.run.cell.model == "fasterrcnn_fpn"]
    assert len(chosen) == 3
    with pytest.raises(RequestError, match="models there: canet, fasterrcnn_fpn"):
        sides.read(f"{gate}@fcos", tmp_path)
    with pytest.raises(RequestError, match="no folder and no record"):
        sides.read(str(tmp_path / "nothing"), tmp_path)


def git(where: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=where, check=True, capture_output=True)


def test_records_of_a_commit_are_read_from_it(gate: Path, tmp_path: Path, monkeypatch) -> None:
    clone = tmp_path / "clone"
    target = clone / "results" / "_gate"
    target.parent.mkdir(parents=True)
    gate.rename(target)
    git(clone, "init", "-q")
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "one")
    before = sides.read(str(target), tmp_path)
    before[0].paths.record.unlink()
    git(clone, "commit", "-qam", "two")
    monkeypatch.chdir(clone)
    assert [s.run for s in sides.read("git:HEAD~1", tmp_path / "w")] == [s.run for s in before]
    assert [s.run for s in sides.read("git:HEAD:results/_gate", tmp_path / "w")] == [s.run for s in before[1:]]
    chosen = sides.read("git:HEAD~1@canet", tmp_path / "w")
    assert [s.run for s in chosen] == [s.run for s in before if s.run.cell.model == "canet"]
    for wrong, message in (("git:nothing", "no such commit"), ("git:HEAD:elsewhere", "no elsewhere in that commit")):
        with pytest.raises(RequestError, match=message):
            sides.read(wrong, tmp_path / "w")


def test_a_baseline_is_replaced_with_a_reason_and_its_history_drawn_alike(gate: Path, tmp_path: Path) -> None:
    before = sides.read(str(gate), tmp_path)
    for s in before:
        moved = s.run.provenance.model_copy(update={"commit": "1" * 40})
        paths = CellPaths.of(tmp_path / "head", s.run.cell)
        write_record(paths.record, s.run.model_copy(update={"provenance": moved}))
    after = sides.read(str(tmp_path / "head"), tmp_path)
    baseline.replace(before, before, gate, "the first")
    line = baseline.replace(before, after, gate, "another\ncommit")
    assert [b.reason for b in history.read(gate / history.FILE)] == ["the first", "another commit"]
    assert line.commit == "1" * 40
    values = [s.run.metrics.AP50 for s in before if s.run.cell.model == "canet"]
    assert line.rows[0].AP50_values == tuple(values)
    assert pytest.approx(sum(values) / 3) == line.rows[0].AP50
    assert [s.run for s in sides.read(str(gate), tmp_path)] == [s.run for s in after]
    assert not list(gate.rglob("*.profile.json")), "what the head has not is gone"
    draw.write_history(tmp_path, tmp_path / "one")
    draw.write_history(tmp_path, tmp_path / "two")
    drawn = (tmp_path / "one" / "history.svg").read_bytes()
    assert drawn == (tmp_path / "two" / "history.svg").read_bytes()
    assert b"another commit" in drawn
    dirty = after[0].run.provenance.model_copy(update={"dirty": True})
    unknown = Stored(after[0].run.model_copy(update={"provenance": dirty}), None, after[0].paths)
    with pytest.raises(RequestError, match="nothing was replaced"):
        baseline.replace(after, [unknown], gate, "no")
    assert len(history.read(gate / history.FILE)) == 2


@pytest.mark.parametrize("written", range(5))
def test_replacing_a_baseline_is_gone_on_with(gate: Path, tmp_path: Path, monkeypatch, written: int) -> None:
    for n, s in enumerate(sides.read(str(gate), tmp_path)):
        content = str(n).encode()
        commit = s.run.provenance.model_copy(update={"commit": "1" * 40})
        changes = {"provenance": commit, "detections_sha256": hashlib.sha256(content).hexdigest()}
        paths = CellPaths.of(tmp_path / "head", s.run.cell)
        write_atomic(paths.detections, content)
        write_record(paths.record, s.run.model_copy(update=changes))

    def replace() -> None:
        baseline.replace(*(list(scan(folder)) for folder in (gate, tmp_path / "head")), gate, "why")

    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.gate.baseline.write_atomic", full_after(written))
        with pytest.raises(DataError, match="full"):
            replace()
    replace()
    assert {s.run.provenance.commit for s in scan(gate)} == {"1" * 40}
    assert len(list(scan(gate))) == len(list(scan(tmp_path / "head")))


def test_a_baseline_needs_a_reason_and_a_folder(gate: Path, data_root: Path) -> None:
    for arguments, message in (((gate, gate), "--reason"), (("git:HEAD", gate, "--reason", "x"), "of a folder")):
        done = call(*arguments, "--update-baseline", "--data-root", data_root)
        assert message in str(done.exception)


def test_names_open_no_table_cell_and_call_nobody() -> None:
    check = Check("a|b", "<img> @someone", "fail", "`x`", "1\n2")
    (row,) = [line for line in outputs.markdown([check], "a", "b", 1).splitlines() if "someone" in line]
    assert row.count("|") - row.count("\\|") == 6
    assert "<img>" not in row
    assert "@someone" not in row
    (line,) = outputs.workflow_commands([Check("a,b:c", "what\n::error::", "fail", "1", "2")])
    assert line.splitlines() == [line]
    assert line.startswith("::error title=FAIL a%2Cb%3Ac::what%0A")
    assert ET.fromstring(outputs.junit([Check("a\x00b", "w", "fail", "1", "2")])).find(".//failure") is not None


def test_limits_of_a_suite_are_read_and_checked() -> None:
    assert load("smoke").limits == GateLimits()
    with pytest.raises(ValueError, match="not a metric"):
        GateLimits(accuracy={"AP51": 0.02})


def of_recipe(stored: list[Stored], lr: float) -> list[Stored]:
    """The same trainings as if under another rate."""
    recipe = RECIPE.model_copy(update={"lr": lr})
    return [redone(s, cell=s.run.cell.model_copy(update={"recipe": recipe})) for s in stored]


def test_rows_of_one_displayed_name_are_each_judged() -> None:
    values = [0.500, 0.501, 0.502]
    base = [*of_recipe(trainings(values), 1e-2), *trainings(values)]
    head = [*of_recipe(trainings([v - 0.1 for v in values]), 1e-2), *trainings(values)]
    checks = [c for c in compare(base, head) if c.what.startswith("AP50")]
    assert {c.cell: c.verdict for c in checks} == {
        "synthetic_small/canet, nano, 2 epochs, lr 0.01": "fail",
        "synthetic_small/canet, nano, 2 epochs, lr 0.001": "pass",
    }


def test_with_any_too_rows_of_two_split_lists_are_each_judged() -> None:
    def listed(values: list[float], name: str) -> list[Stored]:
        return [redone(on_list(s, name), cell=s.run.cell.model_copy(update={"split": name})) for s in trainings(values)]

    values = [0.500, 0.501, 0.502]
    base = [*listed(values, "one"), *listed(values, "two")]
    head = [*listed([v - 0.1 for v in values], "one"), *listed(values, "two")]
    checks = judge.judged(any_rows(base, head)[0], base, head, limits=GateLimits())
    found = [(c.cell.rpartition(", ")[2], c.verdict) for c in checks if c.what.startswith("AP50")]
    assert dict(found) == {"split one": "fail", "split two": "pass"}


def test_a_spread_is_pooled_over_models_of_one_recipe_and_a_noisy_model_has_its_own() -> None:
    def errors(*rows: list[Stored]) -> list[float]:
        base = [s for row in rows for s in row]
        head = [
            redone(s, cell=s.run.cell.model_copy(update={"seed": s.run.cell.seed + 9}), metrics=s.run.metrics)
            for s in base
        ]
        pairs = [
            ([Pair(a, b) for a, b in zip(row, head[3 * i : 3 * i + 3], strict=True)]) for i, row in enumerate(rows)
        ]
        return [found.variance / 2 for found in accuracy._spreads(pairs, "AP50") if found is not None]

    near, other = trainings([0.50, 0.51, 0.52]), trainings([0.50, 0.52, 0.54], model="fcos")
    assert errors(near, other) == pytest.approx([2.5e-4] * 2), "four times the variance on two freedoms is chance"
    assert errors(near, of_recipe(other, 1e-2)) == pytest.approx([1e-4, 4e-4]), "of another recipe"
    longer = RECIPE.model_copy(update={"epochs": 4})
    doubled = [redone(s, cell=s.run.cell.model_copy(update={"recipe": longer})) for s in other]
    assert errors(near, doubled) == pytest.approx([2.5e-4] * 2), "of another length"
    noisy = trainings([0.4, 0.5, 0.6], model="fcos")
    assert errors(near, noisy) == pytest.approx([5.05e-3, 1e-2])


@pytest.mark.slow
def test_a_noisy_model_among_steady_ones_alarms_no_oftener_than_the_level(monkeypatch) -> None:
    """Five models with SDs of 1, 1, 1, 1 and 4 points, nothing lost: with one pooled variance 9 in 100 alarm."""
    monkeypatch.setattr(gc, "collect", lambda *generation: 0)
    rng, limits, tries = np.random.default_rng(0), GateLimits(accuracy={"AP50": 0.02}), 300
    models = {"canet": 0.01, "fasterrcnn_fpn": 0.01, "retinanet": 0.01, "fcos": 0.01, "ssd300": 0.04}

    def rows() -> list[tuple[str, list[Pair]]]:
        drawn = {m: [trainings(0.5 + rng.normal(0, sd, 3), model=m) for _ in range(2)] for m, sd in models.items()}
        return [(m, [Pair(a, b) for a, b in zip(*sides, strict=True)]) for m, sides in drawn.items()]

    alarms = sum(bool(failed(accuracy.judged(rows(), limits))) for _ in range(tries))
    assert alarms <= 12  # at most 6 are expected; more than 12 come once in a hundred tries


def test_on_other_images_accuracy_is_not_told() -> None:
    base = trainings([0.500, 0.501, 0.502])
    for digest in ("data", "split"):
        made = base[0].run.fingerprint.model_copy(update={digest: "other"})
        checks = compare(base, [redone(s, fingerprint=made) for s in trainings([0.3] * 3)])
        assert of(checks, "AP50") == []
        assert [(c.verdict, c.base) for c in checks if c.what.startswith("accuracy: the digests")] == [
            ("inconclusive", "3 of 3 pairs")
        ]


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ({"per_class": {}}, "per_class"),
        ({"per_class": {"scratch": None}}, "per_class.pit"),
        ({"sizes": {}}, "sizes"),
        ({"AR_100": None}, "AR_100"),
        ({"AP_medium": None}, "AP_medium"),
        ({"AP_large": None}, None),  # no box of that size
        ({"DeepPCB_F_operating": None}, None),  # nothing was found on validation images
        ({"draws": {}}, "draws"),
        ({"intervals": {"AP50": (0.4, 0.6)}}, "intervals.AP"),
        ({"inspection": None}, "inspection"),
        ({"operating_point": None}, "inspection.operating_point"),
        ({"confusion": None}, "inspection.confusion"),
        ({"FROC": {"1": 0.5}}, "inspection.FROC.2"),
        ({"FROC": {"1": 0.5, "2": None}}, "inspection.FROC.2"),
        ({"errors": {}}, "inspection.errors"),
    ],
)
def test_any_part_of_an_evaluation_that_is_gone_fails(part: dict[str, object], lost: str | None) -> None:
    at = {"threshold": 0.5, "precision": 1.0, "recall": 1.0, "F1": 1.0, "false_positives_per_image": 0.0}
    inspection = Inspection(
        defect_free_images=1,
        FROC={"1": 0.5, "2": 0.6},
        FROC_defect_free=None,
        operating_point={**at, "chosen_on": "validation", "escape": 0.0, "overkill": 0.0},
        best_F1=None,
        image_level={"thresholds": (0.5,), "escape": (0.0,), "overkill": (0.0,), "AUROC": 1.0},
        confusion={"threshold": 0.5, "labels": ("pit", "background"), "matrix": ((1, 0), (0, 0))},
        calibration={"ECE": 0.1, "counts": (1,), "confidence": (None,), "precision": (None,)},
        errors={"missed": {"count": 1, "dAP50": 0.1}},
    )
    metrics = make_metrics(
        AP75=0.2,
        AP_medium=0.2,
        AP_large=0.2,
        DeepPCB_F_operating=0.4,
        sizes={"below": {"AP": 0.1, "AP50": 0.2, "boxes": 9}},
        draws={"AP50": (0.4, 0.6)},
        intervals={"AP50": (0.4, 0.6), "AP": (0.1, 0.3)},
        inspection=inspection,
    )
    inside = not part.keys() <= type(metrics).model_fields.keys()
    changes = {"inspection": inspection.model_copy(update=part)} if inside else part
    if part.get("per_class"):
        changes = {"per_class": {"scratch": metrics.per_class["pit"]}}
    checks = compare([one("a", metrics=metrics)], [one("b", metrics=metrics.model_copy(update=changes))])
    assert [c.what for c in checks if c.what.startswith("schema")] == ([f"schema: {lost}"] if lost else [])


@pytest.mark.parametrize(
    ("evaluators", "part", "verdict"),
    [
        ((6, 6), {"intervals": {}}, "fail"),
        ((5, 6), {"intervals": {}}, "inconclusive"),  # a newer evaluator may give none of so few places
        ((5, 6), {"AR_100": None}, "fail"),
        ((6, 5), {"AR_100": None}, "inconclusive"),  # an older one does not know what came later
    ],
)
def test_what_another_evaluator_does_not_say_is_grey(
    evaluators: tuple[int, int], part: dict[str, object], verdict: str
) -> None:
    metrics = make_metrics(intervals={"AP50": (0.4, 0.6)})
    old, new = (
        redone(one("a", metrics=its), fingerprint=one("a").run.fingerprint.model_copy(update={"evaluator": version}))
        for its, version in zip((metrics, metrics.model_copy(update=part)), evaluators, strict=True)
    )
    assert of(compare([old], [new]), "schema") == [verdict]


def test_a_limit_of_a_metric_that_nothing_has_is_told() -> None:
    with pytest.raises(ValueError, match="not a metric"):
        GateLimits(accuracy={"AP50.x": 0.02})
    for name in ("inspection.FROC", "inspection.nothing", "per_class.pit", "draws.AP50", "inspection.confusion.labels"):
        with pytest.raises(ValueError, match="not a metric"):
            GateLimits(accuracy={name: 0.02})
    names = ("inspection.FROC.0.125", "per_class.a.b.AP50", "sizes.0.1% to 1%.AP", "inspection.operating_point.recall")
    limits = GateLimits(accuracy=dict.fromkeys(names, 0.02))
    checks = compare([one("a")], [one("b")], limits=limits)
    assert [of(checks, f"{name} ") for name in names] == [["inconclusive"]] * 4
    limits = GateLimits(accuracy={"AP_medium": 0.02, "AP_large": 0.02})
    checks = compare([one("a")], [one("b")], limits=limits)
    assert (of(checks, "AP medium"), of(checks, "AP large")) == (["inconclusive"], []), (
        "of which there are boxes, and not"
    )


def test_metrics_that_its_detections_do_not_give_fail_by_name(gate: Path, data_root: Path, tmp_path: Path) -> None:
    first = sides.read(str(gate), tmp_path)[0]
    assert [c.verdict for c in judge.recheck([first], "base", data_root)] == ["pass"]
    better = first.run.metrics.model_copy(update={"AP75": 0.9})
    (check,) = judge.recheck([redone(first, metrics=better)], "head", data_root)
    assert (check.verdict, check.what, check.base) == ("fail", "metrics recomputed (head): AP75", "0.900000")
    older = first.run.fingerprint.model_copy(update={"evaluator": 5})
    for name, verdict in (("AP75", "inconclusive"), ("AP50", "fail")):
        other = first.run.metrics.model_copy(update={name: 0.9})
        (check,) = judge.recheck([redone(first, metrics=other, fingerprint=older)], "base", data_root)
        assert check.verdict == verdict, name


def test_a_ratio_that_grew_without_a_telling_interval_is_grey_and_the_reference_has_none() -> None:
    def verdicts(ratio: float, width: float) -> list[str]:
        base, head = session("s"), session("t")
        span = (ratio * (1 - width), ratio * (1 + width))
        latency = head[1].profile.latency.model_copy(update={"ratio": ratio, "ratio_interval": span})
        slow = Stored(head[1].run, head[1].profile.model_copy(update={"latency": latency}), head[1].paths)
        checks = compare(base, [head[0], slow])
        assert of(checks, "latency: of the reference itself, not compared between sessions") == ["note"]
        return of(checks, "latency ratio")

    assert [verdicts(*one) for one in ((1.4, 0.3), (2.0, 0.4), (2.0, 0.1))] == [["pass"], ["inconclusive"], ["fail"]]


def test_training_time_is_told_of_all_pairs_or_why_not() -> None:
    def told(base: list[Stored], head: list[Stored], one_job: bool = True) -> list[tuple[str, str]]:
        checks = compare(base, head, one_job=one_job)
        return [(c.verdict, c.what) for c in checks if c.what.startswith("training time")]

    def taking(seconds: list[float], **changes: object) -> list[Stored]:
        rows = zip(trainings([0.5] * len(seconds)), seconds, strict=True)
        return [Stored(s.run.model_copy(update={"timings_s": {"train": t}, **changes}), None, s.paths) for s, t in rows]

    base = taking([10.0, 10.0, 10.0])
    assert told(base, taking([10.0, 30.0, 30.0])) == [("fail", "training time")], "without any profile"
    assert told(base, taking([30.0, 10.0, 10.0])) == [("pass", "training time")]
    assert told(base, taking([10.0] * 3, beside=2)) == [
        ("note", "training time not compared: other trainings beside it")
    ]
    ended_early = taking([1.0, 1.0, 10.0], status="diverged", metrics=None)[:2]
    assert told([*ended_early, base[2]], base) == [
        ("pass", "training time"),
        ("note", "training time not compared: not trained to the end"),
    ]
    threads = base[0].run.provenance.model_copy(update={"threads": 9})
    assert told(base, taking([10.0] * 3, provenance=threads)) == [
        ("note", "training time not compared: other machine types, or threads")
    ]
    assert told(base, base, one_job=False) == [
        ("note", "training time not compared: no profile says which model is the reference")
    ]
    assert of(compare(base, trainings([0.5] * 3)), "profile: the base has none") == ["note"]


def test_terms_of_unequal_length_fail() -> None:
    short = FirstSteps(losses={"box": (1.0,) * 20, "rest": (3.0,) * 17}, digests={1: "x"})
    assert losses(begun(), redone(begun(), first_steps=short)) == ["fail"]


@pytest.mark.parametrize("package", ["onedl-mmcv", "onedl-mmengine", "onedl-mmdetection"])
def test_other_versions_of_what_computes_give_other_bits(package: str) -> None:
    made = begun(portable=True).run.provenance
    assert equal_bits(made, made)
    assert not equal_bits(made, made.model_copy(update={"packages": {package: "2"}}))


def test_a_renamed_record_is_refused_as_in_a_folder(gate: Path, tmp_path: Path) -> None:
    first = sides.read(str(gate), tmp_path)[0]
    moved = first.paths.record.with_name(first.paths.record.name.replace("-s0-", "-s9-"))
    first.paths.record.rename(moved)
    with pytest.raises(DataError, match="belongs at"):
        sides.read(str(moved), tmp_path)


def test_one_record_of_a_commit_is_a_side(gate: Path, tmp_path: Path, monkeypatch) -> None:
    first = sides.read(str(gate), tmp_path)[0]
    git(gate, "init", "-q")
    git(gate, "add", "-A")
    git(gate, "commit", "-qm", "one")
    monkeypatch.chdir(gate)
    at = f"git:HEAD:{first.paths.record.relative_to(gate)}"
    (alone,) = sides.read(at, tmp_path / "w")
    assert (alone.run, alone.profile) == (first.run, first.profile)
    with pytest.raises(RequestError, match=r"none\.json in that commit"):
        sides.read(at.replace(first.paths.record.name, "none.json"), tmp_path / "w")


def test_a_damaged_base_is_told_in_every_output(gate: Path, tmp_path: Path) -> None:
    record = sides.read(str(gate), tmp_path)[0].paths.record
    record.write_bytes(record.read_bytes()[:99])
    done = call(gate, GATE, "--json", tmp_path / "found.json", "--markdown", tmp_path / "found.md")
    assert done.exit_code == 1
    (check,) = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert (check["what"], check["verdict"]) == ("records of the base", "fail")
    assert "records of the base" in (tmp_path / "found.md").read_text()


def test_a_baseline_is_no_folder_of_a_data_set_and_no_one_model(gate: Path, data_root: Path) -> None:
    asked = ("--update-baseline", "--reason", "x", "--data-root", data_root)
    before = sorted(gate.rglob("*"))
    done = call(gate / "synthetic_smoke", GATE, *asked)
    assert isinstance(done.exception, RequestError)
    assert "folder of a data set" in str(done.exception)
    done = call(gate, f"{GATE}@canet", *asked)
    assert isinstance(done.exception, RequestError)
    assert "one model of a side" in str(done.exception)
    assert sorted(gate.rglob("*")) == before


def test_what_a_baseline_loses_goes_after_the_new_is_written(gate: Path, tmp_path: Path, monkeypatch) -> None:
    records = sides.read(str(gate), tmp_path)
    head = []
    for s in records[:1]:
        commit = s.run.provenance.model_copy(update={"commit": "1" * 40})
        write_record(CellPaths.of(tmp_path / "head", s.run.cell).record, redone(s, provenance=commit).run)
        head = sides.read(str(tmp_path / "head"), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.gate.baseline.write_atomic", full_after(0))
        with pytest.raises(DataError, match="full"):
            baseline.replace(records, head, gate, "why")
    assert all(s.paths.record.exists() for s in records[1:])
    baseline.replace(records, head, gate, "why")
    assert [s.run.cell_id for s in scan(gate)] == [head[0].run.cell_id]
