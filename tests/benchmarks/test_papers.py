"""The summary for papers and tools, and names from data in every format that is written."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import escaping
from benchmarks.report.papers import _entries, as_bibtex, as_csv, as_latex
from benchmarks.report.rows import Row, rows
from benchmarks.report.tables import markdown, print_tables
from benchmarks.results import ClassMetrics
from benchmarks.store import scan
from tests.benchmarks.conftest import make_cell, make_metrics, thrice

EVIL = '<script>alert("1")</script> [red]x[/] `a|b` **c** $x_1^2$ 100% & #1 {y} \\z ~ \u202eabc\x07 \u200b'
"""What a class may be called."""


@pytest.fixture
def found(stored, tmp_path: Path) -> list[Row]:
    stored("results", metrics=make_metrics(0.5))
    stored("results", make_cell(model="retinanet"), metrics=make_metrics(0.4))
    stored("results", make_cell(model="yolov8n", scale="n"), metrics=make_metrics(None))
    return rows(scan(tmp_path / "results"))


def test_csv_has_every_row_and_what_is_not_measured_is_empty(found: list[Row]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [(line["model"], line["AP50"]) for line in lines] == [
        ("canet", "0.5"),
        ("retinanet", "0.4"),
        ("yolov8n", ""),
    ]
    assert (lines[0]["AP50_low"], lines[0]["parameters"], lines[0]["macs"]) == (
        f"{found[0].interval[0]:.12g}",
        "1800000",
        "",
    )
    its = found[0].accuracy["AP50"]
    moved = replace(its, interval=tuple(float(np.nextafter(end, 1)) for end in its.interval))
    other_cpu = replace(found[0], accuracy={**found[0].accuracy, "AP50": moved})
    assert as_csv([other_cpu]) == as_csv(found[:1])
    odd = as_csv([replace(found[0], label="=1+1\x07")])
    assert next(csv.DictReader(io.StringIO(odd)))["label"] == "'=1+1\\u0007"


def test_latex_has_the_best_in_bold_where_two_may_be_ranked_and_else_none(found: list[Row]) -> None:
    text = as_latex(found)
    assert "    CANet & 1.80$^\\dagger$ & -- & 50.0 (44.9--55.1) & 25.0 & 20.0 \\\\" in text
    assert "\\textbf" not in text
    assert f"synthetic\\_small, {found[0].image_size} px" in text
    ranked = as_latex([thrice(row) for row in found if row.samples])
    assert ranked.count("\\textbf{50.0}") == 1
    assert "\\textbf{40.0}" not in ranked


def test_folds_and_what_is_ranked_against_nothing_stand_with_the_numbers(stored, tmp_path: Path) -> None:
    for fold in range(2):
        stored("results", make_cell(fold=fold))
    stored("results", make_cell(model="retinanet"))
    found = rows(scan(tmp_path / "results"))
    assert [line["folds"] for line in csv.DictReader(io.StringIO(as_csv(found)))] == ["0 1", "0"]
    text = as_latex(found)
    assert "Means over different folds: CANet of folds 0, 1; RetinaNet of fold 0." in text
    assert "All models are ranked against nothing" in text
    mixed = as_latex([thrice(found[0]), found[1]])
    assert "  RetinaNet: ranked against nothing" in mixed


def test_bibtex_is_of_what_is_used_and_says_what_has_no_entry(found: list[Row]) -> None:
    text = as_bibtex([replace(found[0], dataset="neu_det"), *found[1:]])
    assert re.findall(r"^@\w+\{(\w+),", text, re.M) == ["canet", "coco", "tide", "neu_det", "retinanet", "ultralytics"]
    assert "No entry" not in text
    assert "No entry is known here of: my_parts" in as_bibtex([replace(found[0], dataset="my_parts")])
    assert all(entry.count("{") == entry.count("}") for entry in _entries().values())


def test_names_from_data_are_escaped_everywhere(stored, tmp_path: Path, capsys) -> None:
    classes = {EVIL: ClassMetrics(AP=0.0, AP50=0.0, boxes=7)}
    stored("results", metrics=make_metrics(0.4, per_class=classes))
    records = list(scan(tmp_path / "results"))
    text = markdown(rows(records), records)
    assert "<script>" not in re.sub(r"\\[<>]", "", text)
    for line in text.splitlines():
        if "never finds" in line and line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 11, "as many cells as the head"
    print_tables(records)
    shown = capsys.readouterr().out
    assert "[red]x[/]" in "".join(shown.split("\n")).replace("│", "")
    for steering in ("\u202e", "\x07", "\u200b"):
        assert steering not in text
        assert steering not in shown
    assert escaping.in_html('"><b>') == "&quot;&gt;&lt;b&gt;"
    assert escaping.latex("a_b$%\\{") == r"a\_b\$\%\textbackslash{}\{"
    assert escaping.markdown("missing_pattern [a](b) *c*") == r"missing_pattern \[a\](b) \*c\*"
    assert escaping.plain("\u202ea\n") == "\\u202ea\\u000a"
