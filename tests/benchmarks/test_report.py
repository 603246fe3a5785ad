from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import draw
from benchmarks.report.rows import rows
from benchmarks.report.tables import markdown
from benchmarks.store import scan
from tests.benchmarks.conftest import make_cell, make_metrics


@pytest.fixture
def results(tmp_path: Path, stored) -> Path:
    stored("results")
    stored("results", make_cell(variant="no_sae"), metrics=make_metrics(0.45))
    stored("results", make_cell(model="retinanet"), metrics=make_metrics(0.05))
    stored("results", make_cell(model="yolov8n", scale="n"), status="diverged", metrics=None, error="loss")
    stored("results", make_cell(dataset="neu_det"), metrics=make_metrics(0.6))
    return tmp_path / "results"


def test_the_figure_is_byte_identical_across_processes(results: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        command = [sys.executable, "-m", "benchmarks.report", "--results", results, "--reports", tmp_path / folder]
        subprocess.run(command, check=True, capture_output=True)
    for name in ("trade_off.svg", "summary.md"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
        assert len(one) > 500


def test_another_result_draws_another_figure(results: Path, stored) -> None:
    before = draw.figure(rows(scan(results)))
    stored("results", make_cell(variant="no_cbd"), metrics=make_metrics(0.55))
    assert draw.figure(rows(scan(results))) != before


def test_what_is_equal_is_not_written_again(results: Path, tmp_path: Path) -> None:
    draw.write_all(results, tmp_path / "reports")
    path = tmp_path / "reports" / "trade_off.svg"
    inode = path.stat().st_ino
    draw.write_all(results, tmp_path / "reports")
    assert path.stat().st_ino == inode


def test_rows_put_ablations_behind_their_model(results: Path) -> None:
    names = [(r.dataset, r.name) for r in rows(scan(results))]
    assert names == [
        ("neu_det", "canet"),
        ("synthetic_small", "canet"),
        ("synthetic_small", "canet:no_sae"),
        ("synthetic_small", "retinanet"),
        ("synthetic_small", "yolov8n"),
    ]


def test_folds_and_seeds_are_one_row_with_their_spread(stored, tmp_path: Path) -> None:
    for seed, ap50 in enumerate((0.4, 0.5, 0.6)):
        stored("results", make_cell(seed=seed), metrics=make_metrics(ap50))
    (row,) = rows(scan(tmp_path / "results"))
    assert row.runs == 3
    assert pytest.approx(0.5) == row.AP50
    assert row.interval == pytest.approx((0.4, 0.6))


def test_the_summary_says_what_is_untrained_or_failed(results: Path) -> None:
    text = markdown(scan(results))
    assert "RetinaNet (untrained)" in text
    assert "YOLOv8n (diverged)" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1, "every row has the columns of the head"
    assert "| CANet | 1.80 | – | 50.0 (45.0–55.0) |" in text


def test_no_records_still_draw(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert draw.write_all(tmp_path / "results", tmp_path / "reports") == 0
    assert (tmp_path / "reports" / "trade_off.svg").read_bytes().startswith(b"<?xml")
