"""The audit of the published figure: the points, and how a position is explained. Counting needs the extra."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import models, suites
from benchmarks.published import TOLERANCE_M, Count, Point, as_csv, as_markdown, count, explain, points


def test_the_sixteen_points_are_the_suites_models() -> None:
    found = points()
    assert len(found) == 16
    assert [p.model for p in found] == [m.model for m in suites.load("published_figure").models]
    assert all(p.stage == models.get(p.model).stage for p in found)
    canet = next(p for p in found if p.name == "CANet")
    assert (canet.params_m, canet.map50) == (53.70, 88.7)


def test_the_counts_beside_the_points_are_those_of_the_audit() -> None:
    reports = Path(__file__).parents[2] / "reports"
    with (reports / "published_params.csv").open(encoding="utf-8", newline="") as file:
        counted = {row["name"]: float(row["total_2cls_3anchors_m"]) for row in csv.DictReader(file)}
    assert {p.name: p.counted_m for p in points()} == counted


def counts(model: str, total: float, trainable: float, eighty: float) -> tuple[Count, ...]:
    return (
        Count(model, 2, None, "total", total),
        Count(model, 2, None, "trainable", trainable),
        Count(model, 80, None, "total", eighty),
        Count(model, 80, None, "trainable", eighty),
    )


COUNTS = {
    "atss": counts("atss", 10.00, 9.80, 10.50),
    "yolox": counts("yolox", 20.00, 20.00, 20.30),
    "htc": counts("htc", 30.00, 29.70, 31.00),
    "swin": counts("swin", 40.00, 39.50, 41.00),
}


def audit(**positions: float) -> dict[str, str]:
    named = [Point(model, "one-stage", at, 80.0, model) for model, at in positions.items()]
    return {
        f.point.name: f"{f.best.model} {f.best.how}" if f.explained else "unexplained" for f in explain(named, COUNTS)
    }


def test_a_position_is_explained_by_the_simplest_account_that_is_close() -> None:
    assert audit(atss=9.81, yolox=20.30, htc=40.01, swin=29.99) == {
        "atss": "atss trainable, 2 classes",
        "yolox": "yolox total, 80 classes",
        "htc": "swin total, 2 classes",
        "swin": "htc total, 2 classes",
    }


def test_what_nothing_is_close_to_stays_unexplained() -> None:
    assert audit(atss=10.00 + 2 * TOLERANCE_M, htc=30.0) == {"atss": "unexplained", "htc": "htc total, 2 classes"}


@pytest.mark.mmdet
@pytest.mark.skipif(models.missing_extra("atss") is not None, reason=models.missing_extra("atss") or "")
def test_the_committed_audit_is_what_the_models_count() -> None:
    findings = explain(points(), {p.model: tuple(count(p.model)) for p in points()})
    assert sum(f.explained for f in findings) >= 14
    reports = Path(__file__).parents[2] / "reports"
    assert (reports / "published_params.md").read_text() == as_markdown(findings)
    assert (reports / "published_params.csv").read_text() == as_csv(findings)
