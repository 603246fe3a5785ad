from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import t

from ablations.effects import Effect, points
from benchmarks import cli
from benchmarks.cells import NativeRecipe
from benchmarks.errors import DataError
from benchmarks.gate.checks import Pair
from benchmarks.gate.costs import Side, training_time
from benchmarks.report import draw, latency, machines, tables
from benchmarks.report.comparisons import by_result, comparable, difference, unpaired, unranked, verdict
from benchmarks.report.comparisons import counterpart as _counterpart
from benchmarks.report.papers import as_latex
from benchmarks.report.rows import Spreads, Value, _with_one_reference, _with_training_ratios, belonging, rows, value_of
from benchmarks.report.tables import _differences, models_table, percent, print_tables, sections
from benchmarks.results import ClassMetrics, Inspection
from benchmarks.store import Latency, Macs, Stored, scan, write_atomic, write_record
from benchmarks.suites import GateLimits
from tests.benchmarks.conftest import (
    RECIPE,
    make_cell,
    make_latencies,
    make_metrics,
    make_profile,
    make_record,
    thrice,
)


@pytest.fixture
def results(tmp_path: Path, stored) -> Path:
    stored("results")
    stored("results", make_cell(variant="no_sae"), metrics=make_metrics(0.45))
    stored("results", make_cell(model="retinanet"), metrics=make_metrics(0.05))
    stored("results", make_cell(model="yolov8n", scale="n"), status="diverged", metrics=None, error="loss")
    stored("results", make_cell(dataset="neu_det"), metrics=make_metrics(0.6))
    return tmp_path / "results"


def summary(records: Iterable[Stored], published: Iterable[Stored] = ()) -> str:
    records = list(records)
    return tables.markdown(rows(records, published), records)


def test_the_figure_is_byte_identical_across_processes(results: Path, tmp_path: Path) -> None:
    draw.write_all(results, tmp_path / "one")
    command = [sys.executable, "-m", "benchmarks.report", "--results", results, "--reports", tmp_path / "two"]
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


def test_a_model_trained_by_its_own_library_is_a_row_that_says_so(stored, tmp_path: Path) -> None:
    own = NativeRecipe(trainer="library", epochs=100, batch_size=16)
    stored("results", make_cell(model="yolov8n", scale="n"), metrics=make_metrics(0.5))
    stored("results", make_cell(model="yolov8n", scale="n", recipe=own), metrics=make_metrics(0.6))
    assert [(r.label, r.AP50) for r in rows(scan(tmp_path / "results"))] == [("YOLOv8n", 0.5), ("YOLOv8n native", 0.6)]


def test_differences_are_to_the_reference_and_of_ablations_to_the_whole(stored, tmp_path: Path) -> None:
    def of(ap50: float, seed: int, **changes: object) -> None:
        drawn = tuple(ap50 + 0.001 * i for i in range(100))
        metrics = make_metrics(ap50 + 0.002 * seed * (1 if changes else -1), AP50_draws=drawn)
        stored("results", make_cell(seed=seed, **changes), metrics=metrics)

    for seed in range(3):
        of(0.6, seed), of(0.55, seed, variant="no_sae"), of(0.5, seed, model="fasterrcnn_fpn")
    found = [replace(row, reference="fasterrcnn_fpn", learning="converged") for row in rows(scan(tmp_path / "results"))]
    lines = _differences(found)[2:-1]
    # Differences 0.1, 0.096, 0.092 and their like: SD 0.004, standard error 0.0023, t of 2 freedoms 4.303.
    assert lines == [
        "| CANet | Faster R-CNN FPN | +9.6 (+8.6 to +10.6) | < 0.001 | 0.001 | 3 of 3 runs | +0.0 |",
        "| CANet w/o SAE | CANet | -4.6 (-5.6 to -3.6) | 0.003 | 0.003 | 0 of 3 runs | +0.0 |",
    ]
    assert _differences([replace(row, reference=None, samples={}) for row in found]) == []
    for learning in ("still learning", "not told"):
        assert _differences([found[0], *(replace(row, learning=learning) for row in found[1:])]) == []


def test_one_training_each_ranks_nothing(stored, tmp_path: Path) -> None:
    """No p, no difference, no verdict, however far apart and however sure over images."""
    for model, ap50 in (("canet", 0.9), ("fasterrcnn_fpn", 0.2)):
        drawn = tuple(ap50 + 0.0001 * i for i in range(100))
        stored("results", make_cell(model=model), metrics=make_metrics(ap50, AP50_draws=drawn))
        stored("results/_published", make_cell(dataset="neu_det", model=model), metrics=make_metrics(ap50))
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    draw.write(list(scan(tmp_path / "results" / "_published")), tmp_path / "reports", beside_published=True)
    for name in ("summary.md", "published_figure.md"):
        text = (tmp_path / "reports" / name).read_text()
        tables = text.partition("## How to read it")[0]
        assert "**One training each: nothing is ranked.**" in tables
        assert "images only" in tables
        assert "| p |" not in text
        assert "difference |" not in text
        assert "better in" not in text


def test_fewer_than_three_trainings_are_named(stored, tmp_path: Path) -> None:
    for seed in range(3):
        stored("results", make_cell(seed=seed), metrics=make_metrics(0.5 + 0.01 * seed))
    stored("results", make_cell(model="retinanet"), metrics=make_metrics(0.4))
    for seed in range(2):
        stored("results", make_cell(model="fcos", seed=seed), metrics=make_metrics(0.4 + 0.1 * seed))
    text = summary(scan(tmp_path / "results"))
    assert "**Fewer than 3 trainings, and ranked against nothing: RetinaNet, FCOS.**" in text
    assert "| 45.0 [40.0, 50.0] |" in text, "two trainings are two values"


def test_what_was_put_right_after_the_run_is_counted(stored, tmp_path: Path) -> None:
    why = make_record().provenance.model_copy(update={"amended": "the commit, since ..."})
    for seed in range(3):
        stored("results", make_cell(seed=seed), **({"provenance": why} if seed else {}))
    assert "Of 2 records something was put right after the run" in summary(scan(tmp_path / "results"))


def test_one_training_takes_its_spread_from_published_ones_of_its_family(stored, tmp_path: Path) -> None:
    def of(folder: str, ap50: float, **changes: object) -> None:
        stored(folder, make_cell(**changes), metrics=make_metrics(ap50, intervals={"AP50": (ap50 - 0.05, ap50 + 0.05)}))

    of("runs", 0.5, variant="no_sae", seed=9), of("runs", 0.5, model="retinanet")
    for seed, ap50 in enumerate((0.5, 0.6, 0.7)):
        of("results", ap50, seed=seed)
    published = list(scan(tmp_path / "results"))
    ours, other = rows(scan(tmp_path / "runs"), published)
    value = ours.accuracy["AP50"]
    assert (value.covers, value.training.runs, value.training.variance) == (
        "trainings and images",
        3,
        pytest.approx(0.01),
    )
    assert other.accuracy["AP50"].covers == "images only"
    wide, narrow = (row.interval[1] - row.interval[0] for row in (ours, other))
    assert wide > 2 * narrow
    text = summary(scan(tmp_path / "runs"), published)
    assert "CANet w/o SAE is that of 3 other trainings of the family: SD 10.0 points of AP50." in text
    assert "The intervals of RetinaNet: images only" in text


def test_two_trainings_take_their_spread_from_published_ones_and_their_own(stored, tmp_path: Path) -> None:
    for folder, values, changes in (
        ("results", (0.5, 0.6, 0.7), {}),
        ("runs", (0.50, 0.54), {"variant": "no_sae"}),
        ("runs", (0.4, 0.5), {"model": "retinanet"}),
    ):
        for seed, ap50 in enumerate(values):
            metrics = make_metrics(ap50, intervals={"AP50": (ap50 - 0.05, ap50 + 0.05)})
            stored(folder, make_cell(seed=seed, **changes), metrics=metrics)
    published = list(scan(tmp_path / "results"))
    value = rows(scan(tmp_path / "runs"), published)[0].accuracy["AP50"]
    assert (value.training.runs, value.training.own) == (5, 2)
    assert value.training.variance == pytest.approx((2 * 0.01 + 0.0008) / 3)
    text = summary(scan(tmp_path / "runs"), published)
    pooled = "3 other trainings of the family and its own 2, 5 together: SD 8.3 points of AP50."
    assert f"The spread between trainings of CANet w/o SAE is that of {pooled}" in text
    assert "| 52.0 (" in text
    assert "| 45.0 [40.0, 50.0] |" in text, "where there are none, two values are two values"


def test_counts_have_exact_intervals(stored, tmp_path: Path) -> None:
    from benchmarks.metrics import evaluator as metrics
    from tests.benchmarks.test_metrics_by_hand import BOX, CLASSES, A, build

    images = [([(A, *BOX)], [(A, 0.9, *BOX)])] * 20 + [([], [])] * 6
    truth, found = build(images)
    got = metrics.evaluate(truth, found, CLASSES, validation=(truth, found), resamples=50)
    stored("results", metrics=got)
    (row,) = rows(scan(tmp_path / "results"))
    low, high = row.accuracy["inspection.operating_point.overkill"].interval
    assert (low, high) == (0, pytest.approx(0.459, abs=1e-3)), "no false alarm on six good images"
    assert row.accuracy["inspection.operating_point.escape"].interval == (0, pytest.approx(0.168, abs=1e-3))
    text = summary(scan(tmp_path / "results"))
    assert "100.0 (degenerate)" in text, "AP50 of a perfect model: nothing varies"


def test_a_difference_is_to_what_was_trained_as_long_or_to_nothing(results: Path) -> None:
    whole, ablation, other, own, *_ = (replace(row, reference="canet") for row in rows(scan(results))[1:])
    longer = replace(whole, epochs=26)
    section = [whole, longer, ablation, other]
    assert _counterpart(ablation, section) is whole
    assert _counterpart(replace(ablation, epochs=26), section) is longer
    assert _counterpart(replace(other, epochs=99), section) is None, "it could be either"
    assert _counterpart(longer, section) is None, "the reference itself"
    assert _counterpart(replace(own, label="YOLOv8n native", epochs=100), [*section, own]) is own
    small = replace(whole, scale="small")
    assert _counterpart(replace(ablation, scale="small"), [whole, small, ablation]) is small
    assert _counterpart(ablation, [ablation]) is None


def test_ratios_of_a_table_are_to_one_model(results: Path) -> None:
    found = rows(scan(results))
    two, one = replace(found[1], reference="canet", ratio=1.0), replace(found[2], reference="canet", ratio=1.2)
    alone = replace(found[3], reference="retinanet", ratio=1.0)
    kept = _with_one_reference([two, one, alone])
    assert [(r.reference, r.ratio) for r in kept] == [("canet", 1.0), ("canet", 1.2), (None, None)]
    elsewhere = replace(alone, image_size=320)
    assert _with_one_reference([two, one, elsewhere])[-1] == elsewhere


def test_seeds_are_one_row_with_an_interval_over_both_levels(stored, tmp_path: Path) -> None:
    for seed, ap50 in enumerate((0.4, 0.5, 0.6)):
        drawn = tuple(ap50 + d for d in (-0.1, 0.0, 0.1))
        stored("results", make_cell(seed=seed), metrics=make_metrics(ap50, AP50_draws=drawn))
    (row,) = rows(scan(tmp_path / "results"))
    assert row.runs == 3
    assert pytest.approx(0.5) == row.AP50
    images = 60 / 59 * 0.01
    freedom = (images + 0.01 / 3) ** 2 / (images**2 / 59 + (0.01 / 3) ** 2 / 2)
    half = t.ppf(0.975, freedom) * (images + 0.01 / 3) ** 0.5 / 0.25
    assert row.interval == pytest.approx((1 / (1 + np.exp(half)), 1 / (1 + np.exp(-half))))


def test_folds_have_an_interval_where_their_sizes_are_known(stored, tmp_path: Path) -> None:
    for fold, ap50 in enumerate((0.4, 0.5, 0.6)):
        stored("old", make_cell(fold=fold), metrics=make_metrics(ap50))
        stored("new", make_cell(fold=fold), metrics=make_metrics(ap50), train_images=180)
    (old,), (new,) = rows(scan(tmp_path / "old")), rows(scan(tmp_path / "new"))
    assert old.interval is None
    assert 0 < new.interval[0] < 0.4
    assert 0.6 < new.interval[1] < 1


def test_runs_of_another_split_are_another_row(stored, tmp_path: Path) -> None:
    stored("results")
    stored("results", make_cell(split="synthetic_small-few10-v2"))
    assert [r.runs for r in rows(scan(tmp_path / "results"))] == [1, 1]
    text = summary(scan(tmp_path / "results"))
    assert "## synthetic_small, 128 px, synthetic_small-few10-v2" in text


def test_what_was_trained_on_another_class_of_device_has_a_table_of_its_own(stored, tmp_path: Path) -> None:
    for seed in range(3):
        for changes in ({}, {"variant": "no_sae"}, {"variant": "no_sae", "device_class": "nvidia-h200"}):
            stored("results", make_cell(seed=seed, **changes), metrics=make_metrics(0.5 + seed / 50))
    found = rows(list(scan(tmp_path / "results")))
    assert [(row.name, row.device_class, row.runs) for row in found if ":" in row.name] == [
        ("canet:no_sae", None, 3),
        ("canet:no_sae", "nvidia-h200", 3),
    ]
    titles = {title: [row.name for row in section] for title, section in sections(found).items()}
    assert titles["synthetic_small, 128 px, on nvidia-h200"] == ["canet:no_sae"]
    assert titles["synthetic_small, 128 px"] == ["canet", "canet:no_sae"]


def test_kinds_of_machine_are_compared_where_several_trained_a_model(stored, tmp_path: Path) -> None:
    """Four trainings on a card lie 10 points above four on a CPU; another model was trained on one kind alone."""
    values = (0.50, 0.51, 0.52, 0.53)
    cpu = make_record().provenance.model_copy(update={"cpu_capability": "AVX2"})
    card = cpu.model_copy(update={"device": "cuda", "device_name": "A Card"})
    for seed, value in enumerate(values):
        on_card = make_cell(seed=seed, device_class="a-card")
        stored("results", make_cell(seed=seed), metrics=make_metrics(value), provenance=cpu)
        stored("results", on_card, metrics=make_metrics(value + 0.1), provenance=card)
        stored("results", make_cell(seed=seed, variant="no_sae"), metrics=make_metrics(value), provenance=cpu)
    found = machines.section(s.run for s in scan(tmp_path / "results"))
    assert [line for line in found if line.startswith("| synthetic")] == [
        f"| synthetic_small | CANet | 0 | {RECIPE.epochs} | A Card 61.5 (4); CPU, AVX2 51.5 (4) |"
    ]
    (line,) = [line for line in found if line.startswith("- ")]
    assert line.startswith("- synthetic_small, CANet: AP50 7.0 (at most")
    assert "beside 1.3, F(1, 6) = 120.00, p < 0.01" in line
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    assert "\n".join(found) in (tmp_path / "reports" / "summary.md").read_text()


def test_kinds_of_machine_that_are_not_known_are_not_compared_and_versions_are_told(stored, tmp_path: Path) -> None:
    """Three trainings each on AVX2, on a CPU whose vectors an older record does not name, and on a card."""
    older = make_record().provenance
    cpu = older.model_copy(update={"cpu_capability": "AVX2", "packages": {"torch": "2.1"}})
    card = cpu.model_copy(update={"device": "cuda", "device_name": "A Card"})
    assert [machines.kind(p) for p in (older, cpu, card)] == [None, "CPU, AVX2", "A Card"]
    assert machines.kind(older.model_copy(update={"device": "mps"})) == "mps"
    for seed in range(3):
        stored("results", make_cell(seed=seed), metrics=make_metrics(0.5), provenance=cpu)
        stored("results", make_cell(seed=3 + seed), metrics=make_metrics(0.6), provenance=older)
    assert machines.section(s.run for s in scan(tmp_path / "results")) == []
    for seed in range(3):
        on_card = make_cell(seed=seed, device_class="a-card")
        stored("results", on_card, metrics=make_metrics(0.5 + seed / 100), provenance=card)
    text = "\n".join(machines.section(s.run for s in scan(tmp_path / "results")))
    assert "A Card 51.0 (3); CPU, AVX2 50.0 (3) |" in text
    assert "- synthetic_small, CANet: not judged." in text
    assert "torch's version" not in text
    on_card = make_cell(seed=3, device_class="a-card")
    newer = card.model_copy(update={"packages": {"torch": "2.2"}})
    stored("results", on_card, metrics=make_metrics(0.5), provenance=newer)
    text = "\n".join(machines.section(s.run for s in scan(tmp_path / "results")))
    assert "Kinds differ in torch's version too (2.1, 2.2)" in text


def test_a_summary_compares_kinds_of_machine_on_its_own_sets_alone(stored, tmp_path: Path) -> None:
    """What is published of another set is told of in its own summary."""
    card = make_record().provenance.model_copy(update={"device": "cuda", "device_name": "A Card"})
    for dataset in ("synthetic_small", "neu_det"):
        for name in ("A Card", "B Card"):
            cell = make_cell(dataset=dataset, device_class=name.lower().replace(" ", "-"))
            stored("results", cell, provenance=card.model_copy(update={"device_name": name}))
    own = [stored("runs", make_cell(seed=5))]
    draw.write(own, tmp_path / "report", published=list(scan(tmp_path / "results")))
    text = (tmp_path / "report" / "summary.md").read_text()
    assert text.count("A Card 50.0 (1); B Card 50.0 (1) |") == 1
    assert "neu" not in text.partition("## Kinds of machine")[2].partition("## ")[0]


@pytest.mark.parametrize("width", [140, 100, 80, 60, 40])
def test_a_table_breaks_no_value_however_narrow_the_terminal(results: Path, monkeypatch, width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width)
    monkeypatch.setattr(cli, "console", console)
    monkeypatch.setattr(tables, "console", console)
    tables.print_tables(list(scan(results)))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    found = rows(list(scan(results)))
    for value in (*(row.label for row in found), *(percent(row.accuracy["AP50"]) for row in found)):
        assert value in text
    assert "neu_det, 128 px" in text
    assert ("not shown" in text) == ("┃ runs ┃" not in text)


def test_metrics_are_found_by_the_names_of_their_intervals() -> None:
    """Every column of the tables, and every interval, is a number of the record."""
    from benchmarks.metrics import evaluator as metrics
    from benchmarks.report.rows import ACCURACY
    from tests.benchmarks.test_metrics_by_hand import CLASSES, FOUR_IMAGES, build

    truth, found = build(FOUR_IMAGES * 5)
    got = metrics.evaluate(truth, found, CLASSES, validation=(truth, found), resamples=100)
    for name in (*ACCURACY, *got.intervals):
        value, span = got.value(name), got.intervals.get(name)
        assert value is not None or name in ("AP_medium", "AP_large", "sizes.below 16 x 16 px.AP50"), name
        if span is not None:
            assert span[0] <= span[1], name
    assert got.value("inspection.FROC.0.125") == got.inspection.FROC["0.125"]
    assert got.value("sizes.below 0.1% of the image.AP50") == got.sizes["below 0.1% of the image"].AP50
    assert make_metrics().value("inspection.FROC.1") is None


def test_details_are_folded_away_and_leave_out_what_nobody_has(stored, tmp_path: Path) -> None:
    stored("results", metrics=make_metrics(VOC07_AP50=0.51, intervals={"VOC07_AP50": (0.4, 0.6)}))
    text = summary(scan(tmp_path / "results"))
    assert "<details>" in text
    assert "| 51.0 (40.9–61.0) |" in text, "Student's t of 59 freedoms on the logit"
    assert "VOC12 AP50 |" not in text
    assert "escape |" not in text


def test_the_summary_says_what_is_untrained_or_failed(results: Path) -> None:
    text = summary(scan(results))
    assert "RetinaNet (untrained)" in text
    assert "YOLOv8n (1 diverged)" in text
    for table in text.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, "every row has the columns of the head"
    assert "| CANet | 1.80 as built | – | 50.0 (44.9–55.1) |" in text


def test_no_records_still_draw(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert draw.write_all(tmp_path / "results", tmp_path / "reports") == 0
    assert (tmp_path / "reports" / "trade_off.svg").read_bytes().startswith(b"<?xml")


def test_the_published_points_stand_alone_and_short_trainings_beside_them_only_in_a_run(stored, tmp_path: Path) -> None:
    results, reports = tmp_path / "results", tmp_path / "reports"
    stored("results/_published", make_cell(dataset="neu_det", model="atss"), metrics=make_metrics(0.3))
    stored("results/_published", make_cell(dataset="neu_det", model="deformable_detr"), metrics=make_metrics(0.05))
    assert draw.write_all(results, reports) == 0
    assert not (reports / "published_figure.md").exists()
    alone = (reports / "published_figure.svg").read_bytes()
    assert alone == draw.figure([], beside=draw.published_panel())
    found = list(scan(results / "_published"))
    draw.write(found, tmp_path / "run", beside_published=True)
    assert (tmp_path / "run" / "published_figure.svg").read_bytes() != alone
    assert "Deformable-DETR (untrained)" in (tmp_path / "run" / "published_figure.md").read_text()


def test_the_models_table_merges_data_sets_and_invents_nothing(results: Path) -> None:
    lines = models_table(scan(results)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| CANet", "| CANet w/o SAE", "| RetinaNet", "| YOLOv8n"]
    assert "neu_det 2 epochs, synthetic_small 2 epochs" in lines[2]
    assert " | – | " in lines[2], "no profile, no multiply-accumulates"


def test_parameters_are_those_that_run_in_evaluation_or_say_that_they_are_not(stored, tmp_path: Path) -> None:
    facts = make_record().model
    stored("results", model=facts)
    touched = facts.model_copy(update={"in_evaluation": 1_500_000})
    stored("results", make_cell(seed=1), model=touched)
    stored("results", make_cell(model="retinanet"), model=facts)
    found = {row.label: row for row in rows(scan(tmp_path / "results"))}
    assert (found["CANet"].parameters, found["CANet"].as_built) == (1_500_000, False)
    assert (found["RetinaNet"].parameters, found["RetinaNet"].as_built) == (1_800_000, True)
    for table in (summary(scan(tmp_path / "results")), models_table(scan(tmp_path / "results"))):
        assert "| 1.50 |" in table
        assert "| 1.80 as built |" in table
    assert "parameters as built: RetinaNet" in draw._caption(list(found.values()))
    assert "as built" not in draw._caption([found["CANet"]])


def test_the_readme_has_the_tables_of_the_records() -> None:
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert models_table(scan(root / "results")) in readme
    found = rows(scan(root / "results"), published=scan(root / "results" / "_budget"))
    lines = [line for line in tables.headline.table(sections(found)) if line.startswith("|")]
    assert lines
    assert "\n".join(lines) in readme


def test_the_readme_says_of_kinds_of_machine_what_the_records_do() -> None:
    root = Path(__file__).parents[2]
    found = machines.section(s.run for folder in ("results", "results/_budget") for s in scan(root / folder))
    told = next(line for line in found if line.startswith("- synthetic_small, CANet, "))
    sd, most, within = re.search(r": AP50 (\S+) \(at most (\S+)\) beside (\S+),", told).groups()
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    assert f"an SD of {sd} points (at most {most}), between trainings on one of them {within}." in readme


def test_rows_differ_by_every_field_of_the_cell_and_say_in_what(stored, tmp_path: Path) -> None:
    tiled = make_cell(tile={"size": 640, "overlap": 64})
    slower = make_cell(recipe=RECIPE.model_copy(update={"lr": 5e-4}))
    for cell, ap50 in ((make_cell(), 0.5), (tiled, 0.3), (slower, 0.4)):
        for seed in range(2):
            stored("results", cell.model_copy(update={"seed": seed}), metrics=make_metrics(ap50))
    found = rows(scan(tmp_path / "results"))
    assert {(r.AP50, r.runs) for r in found} == {(0.5, 2), (0.3, 2), (0.4, 2)}
    by = {r.AP50: r.title for r in found}
    assert "tile 640, overlap 64" in by[0.3]
    assert "lr 0.0005" in by[0.4]
    assert len(set(by.values())) == 3
    assert "| CANet (" in summary(scan(tmp_path / "results"))


@pytest.mark.parametrize("field", ["data", "evaluator", "builder"])
def test_what_was_made_with_something_else_is_not_averaged(stored, tmp_path: Path, field: str) -> None:
    one = make_record().fingerprint
    other = one.model_copy(update={field: "x" if field == "data" else 9})
    stored("results", fingerprint=one), stored("results", make_cell(seed=1), fingerprint=other)
    with pytest.raises(DataError, match=f"{field}.* and ") as error:
        rows(scan(tmp_path / "results"))
    assert "-s0-" in str(error.value)
    assert "-s1-" in str(error.value)
    assert "\n" not in str(error.value)
    if field == "builder":  # two models of one table may have builders of different versions
        stored("two", fingerprint=one), stored("two", make_cell(model="retinanet"), fingerprint=other)
        assert len(rows(scan(tmp_path / "two"))) == 2


def test_a_class_that_is_never_found_is_said_beside_the_mean(stored, tmp_path: Path) -> None:
    def of(pit: float, dent: float) -> dict:
        classes = {"pit": (pit, 20), "dent": (dent, 21), "none": (None, 0)}
        return {n: ClassMetrics(AP=ap50, AP50=ap50, boxes=boxes) for n, (ap50, boxes) in classes.items()}

    stored("results", metrics=make_metrics(0.4, per_class=of(0.8, 0.0)))
    stored("results", make_cell(seed=1), metrics=make_metrics(0.4, per_class=of(0.8, 0.0)))
    stored("results", make_cell(model="fcos"), metrics=make_metrics(0.4, per_class=of(0.8, 0.1)))
    one, two = sorted(rows(scan(tmp_path / "results")), key=lambda r: r.name)
    assert (one.never_found, two.never_found) == ({"dent": 42}, {})
    assert "| CANet (never finds dent, 42 boxes) |" in summary(scan(tmp_path / "results"))


def test_the_figure_does_not_depend_on_the_readers_settings(results: Path, tmp_path: Path) -> None:
    """A user's matplotlibrc changes nothing, and a notebook's backend stays."""
    import matplotlib

    found = rows(scan(results))
    before = draw.figure(found)
    with matplotlib.rc_context(
        {
            "lines.linewidth": 7,
            "axes.facecolor": "pink",
            "font.size": 22,
            "axes.spines.top": False,
            "text.usetex": True,
            "svg.fonttype": "path",
            "font.family": "serif",
            "figure.dpi": 33,
        }
    ):
        matplotlib.use("svg")
        assert draw.figure(found) == before
        assert matplotlib.get_backend().lower() == "svg"
    assert b"prefers-color-scheme: dark" in before


def test_names_in_the_figure_are_text_and_never_mathematics_or_markup(results: Path) -> None:
    first, *others = rows(scan(results))
    evil = '$x^2$ <script>\u202e\x07</script> & "q" [b]'
    svg = draw.figure([replace(first, label=evil), *others])
    assert b"<script>" not in svg
    assert "\u202e".encode() not in svg
    texts = [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert '$x^2$ <script>\\u202e\\u0007</script> & "q" [b]' in texts
    assert "RetinaNet" in texts


def test_siblings_are_over_macs_latency_and_training_time(stored, tmp_path: Path) -> None:
    for model, seconds in (("canet", 150.0), ("fasterrcnn_fpn", 100.0)):
        stored("results", make_cell(model=model), timings_s={"train": seconds})
    found = [replace(row, reference="fasterrcnn_fpn", ratio=1.2) for row in rows(scan(tmp_path / "results"))]
    found = _with_training_ratios(found)
    assert {row.name: row.training_ratio for row in found} == {"canet": 1.5, "fasterrcnn_fpn": 1.0}
    elsewhere = _with_training_ratios([replace(found[0], training_ratio=None, training_s={"another": 1.0}), found[1]])
    assert elsewhere[0].training_ratio is None, "times of two machines are not compared"
    drawn = {axis.file: draw.figure(found, axis=axis) for axis in draw.AXES}
    assert len(set(drawn.values())) == 4
    assert b"as a ratio to Faster R-CNN FPN" in drawn["trade_off_training.svg"]
    nobody = ElementTree.fromstring(drawn["trade_off_macs.svg"])
    told = " ".join("".join(e.itertext()) for e in nobody.iter("{http://www.w3.org/2000/svg}text"))
    assert told == f"Not drawn, since nothing of it was measured: {found[0].dataset}, {found[0].image_size} px"
    some = [replace(found[0], macs=4e8), found[1]]
    assert "not drawn: Faster R-CNN FPN" in draw._caption(some, draw.AXES[1])


def test_training_by_turns_and_through_the_service_are_not_compared(stored, tmp_path: Path) -> None:
    """Four processes by turns train a quarter as fast as eight through it (docs/cost-and-time.md)."""
    by_turns = stored("a", timings_s={"train": 100.0}, beside=4, mps=False)
    for mps, compared in ((False, True), (True, False)):
        other = stored("b", timings_s={"train": 200.0}, beside=4, mps=mps)
        (here,), (there,) = rows([by_turns]), rows([other])
        assert (here.training_s.keys() == there.training_s.keys()) is compared
        (check,) = training_time("canet", [Pair(by_turns, other)], Side([]), Side([]), GateLimits(), one_job=True)
        assert check.verdict == ("fail" if compared else "note")


def test_the_figure_tells_who_is_trained_to_the_end(results: Path) -> None:
    found = rows(scan(results))
    ended = [replace(row, learning="converged") for row in found]
    assert draw.figure(ended) != draw.figure(found)
    assert "half-filled" in draw._caption(found)
    assert "half-filled" not in draw._caption(ended)
    assert "hollow" in draw._caption([replace(row, learning="still learning") for row in found])


def test_the_verdict_comes_first(stored, tmp_path: Path) -> None:
    """Best, lead, who it is not told from, what is still learning, what is never found, and n."""

    def of(ap50: float, **changes: object) -> None:
        for seed in range(3):
            value = ap50 + 0.001 * seed * (len(changes) + ("model" in changes) + 1)
            drawn = tuple(value + 0.001 * i for i in range(50))
            small = tuple(value / 2 + 0.001 * i for i in range(50))
            metrics = make_metrics(value, AP_small=value / 2, draws={"AP50": drawn, "AP_small": small}, groups=40)
            stored("results", make_cell(seed=seed, **changes), metrics=metrics)

    of(0.6), of(0.601, variant="no_sae"), of(0.5, model="fasterrcnn_fpn"), of(0.7, model="fcos")
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    found = [replace(r, learning="still learning", never_found={"pit": 5}) if r.name == "fcos" else r for r in found]
    sentences = verdict(found)
    assert sentences[0].startswith("Best on AP50: CANet w/o SAE, 60.3, +10.0 (")
    assert sentences[0].endswith("over Faster R-CNN FPN (not tried at twice the schedule); not told from CANet.")
    assert sentences[1].startswith("Best on small defects (AP small): CANet w/o SAE")
    assert sentences[2:] == [
        "Still learning, and ranked against nothing: FCOS.",
        "FCOS never finds pit (5 boxes).",
        "Trainings a model: 3; 60 test images in 40 groups.",
    ]
    alone = verdict([replace(row, runs=1) for row in found[:2]])
    assert alone == ["One training each: nothing is ranked.", "Trainings a model: 1; 180 test images in 40 groups."]
    assert "- Fewer than two models are trained to the end 3 times" in summary(scan(tmp_path / "results"))


def many(stored, values: dict[int, float], **changes: object) -> None:
    """A training of a model for each seed, with the AP50 that it has."""
    for seed, ap50 in values.items():
        drawn = tuple(ap50 + 0.0005 * i for i in range(50))
        metrics = make_metrics(ap50, draws={"AP50": drawn}, groups=400)
        stored("results", make_cell(seed=seed, **changes), metrics=metrics)


def test_who_is_best_goes_by_trainings_that_all_have(stored, tmp_path: Path) -> None:
    """Five more trainings of one model, better by luck or by an easier fold, make it no better than the others."""
    many(stored, {0: 0.60, 1: 0.601, 2: 0.602})
    many(stored, {0: 0.57, 1: 0.571, 2: 0.573, **dict.fromkeys(range(10, 15), 0.7)}, variant="no_sae")
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    assert found[0].AP50 < found[1].AP50
    first = verdict(found)[0]
    assert first.startswith(
        "Best on AP50: CANet, 60.1 (the order is that of the folds and seeds that all models have), +3"
    )
    assert tables.best(found, "AP50") is found[0]
    apart = [replace(row, samples={(1, s): v for (_, s), v in row.samples.items()}) for row in found[1:]]
    assert verdict([found[0], *apart])[0].startswith("Best on AP50 is nobody: the models have fewer than 3 folds")
    assert tables.best([found[0], *apart], "AP50") is None


def test_means_over_different_folds_are_said_to_be_and_stand_on_no_front_together(
    stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model has an easier fold besides: its mean is higher, and it is not better."""
    many(stored, {0: 0.6, 1: 0.601, 2: 0.602}), many(stored, {0: 0.7}, fold=1)
    many(stored, {0: 0.61, 1: 0.611, 2: 0.612}, model="fasterrcnn_fpn")
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    assert [row.folds for row in found] == [(0, 1), (0,)]
    (said,) = [line for line in verdict(found) if line.startswith("Means over different folds")]
    assert "CANet of folds 0, 1; Faster R-CNN FPN of fold 0. Compare differences" in said
    assert "means over different folds: CANet of folds 0, 1; " in draw._caption(found)
    drawn: list[draw.Panel] = []
    monkeypatch.setattr(draw, "_drawn", lambda panels, *_: drawn.extend(panels) or b"")
    draw.figure(found)
    assert {mark.label: mark.ranked for mark in drawn[0].marks} == {"CANet": True, "Faster R-CNN FPN": False}
    same = [replace(row, samples={k: v for k, v in row.samples.items() if k[0] == 0}) for row in found]
    draw.figure(same)
    assert {mark.ranked for mark in drawn[1].marks} == {True}
    assert "different folds" not in " ".join([*verdict(same), draw._caption(same)])


def test_trainings_that_diverged_are_counted_wherever_their_model_stands(stored, tmp_path: Path) -> None:
    """The mean of those that did not is one of the lucky: it is ranked against nothing."""
    many(stored, {0: 0.6, 1: 0.601, 2: 0.602}), many(stored, {0: 0.5, 1: 0.501, 2: 0.502}, model="fasterrcnn_fpn")
    for seed in (3, 4):
        stored("results", make_cell(seed=seed), status="diverged", metrics=None, error="loss")
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    assert [row.diverged for row in found] == [2, 0]
    said = "Of CANet, 2 of 5 trainings diverged: its values are those of the others, and ranked against nothing."
    assert said in verdict(found)
    assert _differences(found) == []
    assert not any("Best" in sentence for sentence in verdict(found))
    assert "| CANet (2 diverged) |" in tables.markdown(found, [])
    assert "trainings that diverged, and are not in the means: CANet (2)" in draw._caption(found)
    assert "and are not in the means: CANet (2)." in as_latex(found)
    gone = [replace(found[0], runs=0, samples={}, accuracy={n: Value(None, None) for n in found[0].accuracy})]
    assert verdict(gone) == ["Of CANet, every training diverged (2)."]


def test_the_best_on_a_metric_goes_by_that_metric(stored, tmp_path: Path) -> None:
    for seed in range(3):
        stored("results", make_cell(seed=seed), metrics=make_metrics(0.6, AP=0.2, AP_small=0.3))
        stored("results", make_cell(seed=seed, model="fcos"), metrics=make_metrics(0.5, AP=0.3, AP_small=None))
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    names = {name: row and row.name for name in ("AP50", "AP", "AP_small") for row in [tables.best(found, name)]}
    assert names == {"AP50": "canet", "AP": "fcos", "AP_small": None}


def test_rows_of_other_recipes_have_no_difference_in_any_table(stored, tmp_path: Path) -> None:
    many(stored, {0: 0.6, 1: 0.601, 2: 0.602})
    longer = RECIPE.model_copy(update={"epochs": 2 * RECIPE.epochs})
    many(stored, {0: 0.5, 1: 0.501, 2: 0.502}, model="fasterrcnn_fpn", recipe=longer)
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    assert _differences(found) == []
    assert (
        verdict(found)[0]
        == "Trained by different recipes or versions, and ranked against nothing: CANet, Faster R-CNN FPN."
    )
    many(stored, {0: 0.55, 1: 0.551, 2: 0.552}, model="fcos")
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    best = "Best on AP50: CANet, 60.1, +5.0 (+5.0 to +5.0) over FCOS"
    assert verdict(found)[0].startswith(best)
    assert verdict(found)[0].endswith("; trained otherwise, and not compared: Faster R-CNN FPN.")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"scale": "r50"}, "scale lite0 and r50"),
        ({"recipe": RECIPE.model_copy(update={"batch_size": 16})}, "batch_size"),
        ({"recipe": RECIPE.model_copy(update={"weights": "imagenet"})}, "weights"),
    ],
)
def test_other_networks_and_starts_are_not_paired(changes: dict, what: str, stored, tmp_path: Path) -> None:
    three = {0: 0.6, 1: 0.601, 2: 0.602}
    many(stored, three, scale="lite0"), many(stored, three, model="fasterrcnn_fpn", **{"scale": "lite0", **changes})
    a, b = (replace(row, learning="converged") for row in rows(scan(tmp_path / "results")))
    assert what in (unpaired(a, b) or "")
    assert difference(a, b, a.samples, b.samples) is None
    many(stored, three, model="yolov8n", scale="n")
    of_another = next(row for row in rows(scan(tmp_path / "results")) if row.name == "yolov8n")
    assert unpaired(a, of_another) is None, "scales of two libraries are no two sizes of one network"


def test_what_has_learned_nothing_is_ranked_against_nothing(stored, tmp_path: Path) -> None:
    many(stored, {0: 0.6, 1: 0.601, 2: 0.602}), many(stored, {0: 0.5, 1: 0.501, 2: 0.502}, model="fasterrcnn_fpn")
    many(stored, {0: 0.001, 1: 0.002, 2: 0.0015}, model="fcos")
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    assert [row.name for row in comparable(found)] == ["canet", "fasterrcnn_fpn"]
    assert "FCOS" not in " ".join(verdict(found)[:2])
    assert sum(line.startswith(("| CANet", "| FCOS")) for line in _differences(found)) == 1
    nothing = next(row for row in found if row.name == "fcos")
    assert unranked(found[0], nothing) == "FCOS found next to nothing: untrained. Nothing is ranked."


def test_folds_count_alike_in_who_is_best_too(stored, tmp_path: Path) -> None:
    """Four trainings of a fold on which one model is ahead, one of a fold on which the other is by more."""
    for model, first, second in (("canet", 0.62, 0.70), ("fasterrcnn_fpn", 0.60, 0.76)):
        many(stored, dict.fromkeys(range(4), first), model=model)
        stored("results", make_cell(model=model, fold=1), metrics=make_metrics(second))
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    assert [row.name for row in by_result(found, "AP50")] == ["fasterrcnn_fpn", "canet"]
    assert "the order is that" not in verdict(found)[0]


def test_the_best_of_many_equal_models_leads_nobody(stored, tmp_path: Path) -> None:
    """Who is best was chosen by the numbers that tell its lead: of eight models the extremes differ by chance."""
    names = ("default", "no_sae", "no_cbd", "no_context", "no_context_convs", "fpn", "fpn_convs", "bfp")
    for i, variant in enumerate(names):
        wobble = (0.004 * (i % 3 - 1), -0.003, 0.003)
        many(stored, {seed: 0.6 + 0.002 * i + wobble[seed] for seed in range(3)}, variant=variant)
    found = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
    in_order = sorted(found, key=lambda row: row.AP50)
    assert " over " in verdict([in_order[0], in_order[-1]])[0]
    assert " over " not in verdict(found)[0]


def test_a_difference_without_draws_has_the_error_of_both(stored, tmp_path: Path) -> None:
    """Small defects on few images: some resamples have none, so that a record keeps no draws of them."""
    for seed in range(5):
        for model, value, error in (("canet", 1.0, 0.0), ("fasterrcnn_fpn", 0.8 + 0.02 * seed, 0.16)):
            metrics = make_metrics(0.6, AP_small=value, standard_errors={"AP_small": error}, groups=40)
            stored("results", make_cell(seed=seed, model=model), metrics=metrics)
    a, b = (replace(row, learning="converged") for row in rows(scan(tmp_path / "results")))
    one, other = difference(a, b, a.samples_small, b.samples_small), difference(b, a, b.samples_small, a.samples_small)
    assert [one.interval, other.interval, one.p, other.p] == [None] * 4
    assert "not told from" in verdict([a, b])[1]


def test_records_are_checked_against_one_that_was_measured(stored, tmp_path: Path) -> None:
    """The first of a row may have diverged, and says nothing of what the others are averaged from."""
    stored("results", status="diverged", metrics=None, error="loss")
    stored("results", make_cell(seed=1))
    other = make_record().fingerprint.model_copy(update={"data": "another"})
    stored("results", make_cell(seed=2), fingerprint=other)
    with pytest.raises(DataError, match="do not belong together: data"):
        rows(scan(tmp_path / "results"))
    stored("two", make_cell(model="retinanet")), stored("two", fingerprint=other.model_copy(update={"data": "d"}))
    rows(scan(tmp_path / "two"))
    split = make_record().fingerprint.model_copy(update={"split": "another"})
    stored("two", make_cell(model="fcos"), fingerprint=split)
    with pytest.raises(DataError, match="do not belong together: split"):
        rows(scan(tmp_path / "two"))


def test_published_trainings_on_other_data_are_left_out_and_that_is_said(stored, tmp_path: Path) -> None:
    other = make_record().fingerprint.model_copy(update={"data": "another", "evaluator": 7})
    mine = [stored("mine")]
    stored("published", make_cell(seed=1)), stored("published", make_cell(seed=2), fingerprint=other)
    stored("published", make_cell(dataset="neu_det"), fingerprint=other)
    gone = {"status": "diverged", "metrics": None, "error": "loss"}
    stored("published", make_cell(seed=3), fingerprint=other, **gone)
    other_evaluator = make_record().fingerprint.model_copy(update={"evaluator": 7})
    stored("published", make_cell(seed=4), fingerprint=other_evaluator, **gone)
    said: list[str] = []
    kept = belonging(mine, scan(tmp_path / "published"), said.append)
    assert [(one.run.cell.dataset, one.run.cell.seed) for one in kept] == [
        ("neu_det", 0),
        ("synthetic_small", 1),
        ("synthetic_small", 4),
    ]
    where = tmp_path / "published"
    assert said == [
        f"1 published trainings of synthetic_small in {where} are left out: another {what} than the records here"
        for what in ("data", "data and evaluator")
    ]


def test_published_trainings_by_other_code_of_a_model_are_left_out(stored, tmp_path: Path) -> None:
    """They decide whether it is trained to the end, and what became of its lead."""
    mine = [stored("mine")]
    for seed, name in enumerate(("builder", "recipe", "transforms")):
        changed = make_record().fingerprint.model_copy(update={name: 99})
        stored("published", make_cell(seed=seed), fingerprint=changed)
        stored("published", make_cell(seed=seed, model="fcos"), fingerprint=changed)
    said: list[str] = []
    kept = belonging(mine, scan(tmp_path / "published"), said.append)
    assert {one.run.cell.model for one in kept} == {"fcos"}, "nothing here says what its version is"
    assert [line.partition("left out: ")[2].partition(" than")[0] for line in said] == [
        "another builder",
        "another recipe",
        "another transforms",
    ]


def test_a_training_time_is_divided_by_one_of_as_many_epochs(stored, tmp_path: Path) -> None:
    longer = RECIPE.model_copy(update={"epochs": 2 * RECIPE.epochs})
    stored("results", make_cell(recipe=longer), timings_s={"train": 300.0})
    for recipe, seconds in ((RECIPE, 100.0), (longer, 200.0)):
        stored("results", make_cell(model="fasterrcnn_fpn", recipe=recipe), timings_s={"train": seconds})
    ratios = {(row.name, row.epochs): row.training_ratio for row in rows(scan(tmp_path / "results"))}
    assert ratios == {("canet", 4): 1.5, ("fasterrcnn_fpn", 2): 1.0, ("fasterrcnn_fpn", 4): 1.0}
    other = longer.model_copy(update={"lr": 2e-3})
    stored("results", make_cell(model="fasterrcnn_fpn", recipe=other), timings_s={"train": 900.0})
    ratios = {(row.name, row.epochs): row.training_ratio for row in rows(scan(tmp_path / "results"))}
    assert ratios["canet", 4] is None, "of two references nobody could say to which"


def test_the_summary_says_how_much_trainings_differ(stored, tmp_path: Path) -> None:
    """Within a fold: that folds are of other difficulty is no difference of trainings."""
    for fold, seed, ap50 in ((0, 0, 0.50), (0, 1, 0.52), (1, 0, 0.80), (1, 1, 0.82)):
        stored("results", make_cell(fold=fold, seed=seed), metrics=make_metrics(ap50))
    stored("results", make_cell(model="fcos"))
    said = "SD between trainings on one fold, in points of AP50: CANet 1.4 (4)."
    assert said in summary(scan(tmp_path / "results")).splitlines()


def test_what_only_some_trainings_measured_says_of_how_many_it_is(stored, tmp_path: Path) -> None:
    for seed in range(3):
        stored("results", make_cell(seed=seed), metrics=make_metrics(0.5, AP_small=0.2 if seed else None))
    (row,) = rows(scan(tmp_path / "results"))
    assert tables._cells(row)[5] == "20.0 [20.0, 20.0] in 2 of 3"


@pytest.mark.parametrize(
    ("there", "seeds", "said"),
    [
        (0.5, 3, "at twice the schedule +10.0, +9.5 to +10.5)"),
        (0.599, 3, "at twice the schedule +0.1, -0.4 to +0.6: not told there)"),
        (0.65, 3, "at twice the schedule -5.0, -5.5 to -4.5: behind there)"),
        (0.599, 2, "at twice the schedule +0.1, in too few trainings to tell)"),
    ],
)
def test_what_became_of_a_lead_at_twice_the_schedule_stands_beside_it(
    there: float, seeds: int, said: str, stored, tmp_path: Path
) -> None:
    """A faster start is no lead that stays: of trainings twice as long, of the same recipe and class of device."""

    def of(folder: str, seeds: int, ap50: float, epochs: int, **changes: object) -> None:
        longer = RECIPE.model_copy(update={"epochs": epochs})
        for seed in range(seeds):
            wobble = 0.002 * (seed - (seeds - 1) / 2) * ("model" in changes)
            metrics = make_metrics(ap50 + wobble, draws={"AP50": (ap50 + wobble,) * 50}, groups=40)
            stored(folder, make_cell(seed=seed, recipe=longer, **changes), metrics=metrics)

    of("results", 3, 0.6, 4), of("results", 3, 0.5, 4, model="fasterrcnn_fpn")
    of("longer", seeds, 0.6, 8), of("longer", seeds, there, 8, model="fasterrcnn_fpn")
    of("longer", 3, 0.2, 8, device_class="a-card"), of("longer", 3, 0.9, 12, model="fasterrcnn_fpn")
    known = rows(scan(tmp_path / "results"), published=scan(tmp_path / "longer"))
    first = verdict([replace(row, learning="converged") for row in known])[0]
    assert first.startswith("Best on AP50: CANet, 60.0, +10.0 (")
    assert said in first


def test_the_two_ends_stand_in_one_table_by_folds_and_schedule(stored, tmp_path: Path) -> None:
    """Of several folds, however often each was trained; of the first alone, since only that one was trained longer."""

    def of(folder: str, model: str, fold: int, seeds: int, ap50: float, epochs: int = 4, **changes: object) -> None:
        recipe = RECIPE.model_copy(update={"epochs": epochs})
        for seed in range(seeds):
            value = ap50 + 0.008 * seed * (model == "canet")
            metrics = make_metrics(value, AP_small=value / 2, draws={"AP50": (value,) * 50}, groups=40)
            cell = make_cell(model=model, fold=fold, seed=seed, recipe=recipe, **changes)
            stored(folder, cell, metrics=metrics)

    for model, first, other, longer in (("canet", 0.6, 0.8, 0.64), ("fasterrcnn_fpn", 0.5, 0.74, 0.62)):
        of("results", model, 0, 4, first), of("results", model, 1, 1, other)
        of("longer", model, 0, 3, longer, epochs=8)
    known = rows(scan(tmp_path / "results"), published=scan(tmp_path / "longer"))
    assert [line.split(" | ")[-2:] for line in tables.headline.table(sections(known)) if line.startswith("| syn")] == [
        ["not ranked", "not ranked |"]
    ] * 3
    ended = sections([replace(row, learning="converged") for row in known])
    lines = [line.split(" | ") for line in tables.headline.table(ended) if line.startswith("| syn")]
    assert [line[1:6] for line in lines] == [
        ["0, 1", "4", "5", "70.6 (35.3)", "62.0 (31.0)"],
        ["0", "4", "4", "61.2 (30.6)", "50.0 (25.0)"],
        ["0", "8", "3", "64.8 (32.4)", "62.0 (31.0)"],
    ]
    assert [line[6].partition(" ")[0] for line in lines] == ["+8.6", "+11.2", "+2.8"]
    single = [row for row in known if row.name == "canet"]
    few = [replace(row, samples=dict(list(row.samples.items())[:2]), twice={}) for row in known]
    assert tables.headline.table(sections(single)) == tables.headline.table(sections(few)) == []


def test_the_table_of_the_two_ends_has_each_line_once_and_tells_recipes_apart(stored, tmp_path: Path) -> None:
    def of(model: str, ap50: float, epochs: int, lr: float = RECIPE.lr) -> None:
        for seed in range(3):
            metrics = make_metrics(ap50 + 0.01 * seed * (model == "canet"), draws={"AP50": (ap50,) * 50}, groups=40)
            recipe = RECIPE.model_copy(update={"epochs": epochs, "lr": lr})
            stored("results", make_cell(model=model, seed=seed, recipe=recipe), metrics=metrics)

    of("canet", 0.6, 4), of("canet", 0.7, 8), of("fasterrcnn_fpn", 0.5, 4), of("fasterrcnn_fpn", 0.5, 8)

    def lines() -> list[list[str]]:
        ended = [replace(row, learning="converged") for row in rows(scan(tmp_path / "results"))]
        table = tables.headline.table(sections(ended))
        return [[line.split(" | ")[i] for i in (0, 2, 4)] for line in table if line.startswith("| syn")]

    name = "| synthetic_small, 128 px"
    assert lines() == [[name, "4", "61.0 (20.0)"], [name, "8", "71.0 (20.0)"]]
    of("canet", 0.65, 4, 5e-4)
    assert sorted(lines()) == [
        [f"{name} (CANet: lr 0.0005)", "4", "66.0 (20.0)"],
        [f"{name} (CANet: lr 0.001)", "4", "61.0 (20.0)"],
        [f"{name} (CANet: lr 0.001)", "8", "71.0 (20.0)"],
    ]


def test_a_line_at_twice_the_schedule_is_of_one_fold_means_and_difference(stored, tmp_path: Path) -> None:
    """Both folds were trained for twice as long, and in the second the lead is another."""

    def of(folder: str, epochs: int, values: dict[int, tuple[float, float]]) -> None:
        recipe = RECIPE.model_copy(update={"epochs": epochs})
        for fold, pair in values.items():
            for model, ap50 in zip(("canet", "fasterrcnn_fpn"), pair, strict=True):
                for seed in range(3):
                    value = ap50 + 0.002 * seed * (model == "canet")
                    metrics = make_metrics(value, AP_small=value / 2, draws={"AP50": (value,) * 50}, groups=40)
                    stored(folder, make_cell(model=model, fold=fold, seed=seed, recipe=recipe), metrics=metrics)

    of("results", 4, {0: (0.6, 0.5), 1: (0.7, 0.6)}), of("longer", 8, {0: (0.64, 0.6), 1: (0.8, 0.5)})
    known = rows(scan(tmp_path / "results"), published=scan(tmp_path / "longer"))
    ended = sections([replace(row, learning="converged") for row in known])
    lines = [line.split(" | ") for line in tables.headline.table(ended) if line.startswith("| syn")]
    assert lines[-1][1:6] == ["0", "8", "3", "64.2 (32.1)", "60.0 (30.0)"]
    assert [cell.partition(" ")[0] for cell in lines[-1][6:]] == ["+4.2", "+2.1"]


def test_a_difference_that_rounds_to_nothing_has_one_sign() -> None:
    assert [points(v) for v in (-0.0004, 0.0004, 0.0, -0.0, -0.0006, 0.1)] == ["+0.0"] * 4 + ["-0.1", "+10.0"]
    nothing = Effect(-0.0001, (-0.0002, 0.01), "images only", 0.001, 5, None, 3, 0)
    assert tables.headline.told(nothing) == "+0.0 (+0.0 to +1.0)"


def test_what_no_record_says_it_started_from_is_not_called_scratch(stored, tmp_path: Path) -> None:
    stored("unknown", model=None)
    for seed, facts in enumerate((None, make_record().model)):
        stored("known", make_cell(seed=seed), model=facts)
    (unknown,), (known,) = (rows(scan(tmp_path / name)) for name in ("unknown", "known"))
    assert (unknown.pretrained, known.pretrained) == (None, False)
    assert [tables._cells(row)[-3] for row in (unknown, known)] == ["–", "scratch"]
    (one,) = scan(tmp_path / "unknown")
    assert tables.recipe_text(one).endswith("start not known")


@pytest.mark.parametrize(("of_second", "interval"), [(20.0, True), (None, False)])
def test_escape_has_no_interval_where_a_fold_does_not_say_how_many_places_it_is_of(stored, of_second, interval) -> None:
    at = {"threshold": 0.5, "precision": 1.0, "recall": 1.0, "F1": 1.0, "false_positives_per_image": 0.0}
    runs = []
    for fold, places in enumerate((20.0, of_second)):
        seen = Inspection(
            defect_free_images=0,
            effective_defective=places,
            FROC={},
            FROC_defect_free=None,
            operating_point={**at, "chosen_on": "validation", "escape": 0.1, "overkill": None},
            best_F1=None,
            image_level={"thresholds": (0.5,), "escape": (0.0,), "overkill": (0.0,), "AUROC": None},
            confusion=None,
            calibration={"ECE": 0.1, "counts": (1,), "confidence": (None,), "precision": (None,)},
            errors={},
        )
        runs.append(stored("results", make_cell(fold=fold), metrics=make_metrics(inspection=seen)).run)
    value = value_of("inspection.operating_point.escape", runs, Spreads([]))
    assert (value.value, value.interval is not None) == (pytest.approx(0.1), interval)


def test_each_cost_is_of_the_first_profile_that_has_it(stored, tmp_path: Path) -> None:
    """The first failed at one count, the second was never timed."""
    latency = Latency(
        first_call_ms=1.0,
        **{name: {"end_to_end": 2.0} for name in ("p50", "p90", "p99", "iqr")},
        outliers={},
        samples_ms={},
        reference="canet",
        ratio=1.25,
        ratio_interval=(1.2, 1.3),
        session={},
    )
    counted = Macs(
        macs=5e9,
        flops=1e10,
        sampling_macs=0.0,
        by_operator={},
        uncounted={},
        coverage=1.0,
        uncounted_elements=0.0,
        input_shape=(1, 3, 96, 96),
        proposals=None,
    )
    for seed, changes in enumerate(({}, {"macs": counted}, {"latency": latency})):
        one = stored("results", make_cell(seed=seed))
        write_record(one.paths.profile, make_profile(one.run, **changes))
    (row,) = rows(scan(tmp_path / "results"))
    assert (row.macs, row.ratio, row.ratio_interval, row.reference) == (5e9, 1.25, (1.2, 1.3), "canet")


def test_a_class_whose_name_begins_with_anothers_has_its_own_value() -> None:
    of = {name: ClassMetrics(AP=0.1, AP50=v, boxes=1) for name, v in (("crack", 0.2), ("crack.deep", 0.3))}
    got = make_metrics(per_class={**of, "crack.AP50": ClassMetrics(AP=0.1, AP50=0.4, boxes=1)})
    values = [got.value(f"per_class.{name}.AP50") for name in ("crack", "crack.deep", "crack.AP50", "pit")]
    assert values == [0.2, 0.3, 0.4, None]


def test_tables_are_sorted_and_the_best_is_bold_where_models_may_be_ranked(results: Path) -> None:
    found = [row for row in rows(scan(results)) if row.dataset == "synthetic_small"]
    assert "**" not in "".join(line for line in summary(scan(results)).splitlines() if line.startswith("|"))
    (in_order,) = sections(found).values()
    assert in_order == found
    ended = [thrice(row) for row in found if row.AP50 is not None]
    mixed = [*ended[::-1], replace(ended[0], name="fcos", label="FCOS", learning="still learning")]
    lines = [line for line in tables.markdown(mixed, []).splitlines() if line.startswith("| ") and "train" not in line]
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    assert [name for name in names if "CAN" in name or name == "FCOS"][:3] == ["CANet", "CANet w/o SAE", "FCOS"]
    assert lines[names.index("CANet")].split(" | ")[3].startswith("**50.0** (")
    assert "**" not in lines[names.index("FCOS")]


def test_the_terminal_has_the_verdict_too(results: Path, capsys) -> None:
    print_tables(scan(results))
    assert "One training each: nothing is ranked." in " ".join(capsys.readouterr().out.split())


EAGER, OURS = (2.0, 2.1, 2.2, 2.0, 2.1, 2.2, 2.0, 2.1), (4.0, 4.2, 4.4, 4.0, 4.2, 4.4, 4.0, 4.2)


def latencies(folder: Path, content: dict[str, object]) -> list[str]:
    write_atomic(folder / "_latency" / "gpu_study-nvidia-h200.json", json.dumps(content).encode())
    return latency.markdown(folder)


def test_latencies_are_told_with_device_and_ratios_in_the_same_form(tmp_path: Path) -> None:
    times = {"fasterrcnn_fpn": EAGER, "canet": OURS, "canet compile": (3.0,) * 8, "fasterrcnn_fpn compile": (1.0,) * 8}
    lines = latencies(tmp_path, make_latencies(times))
    text = "\n".join(lines)
    for words in (
        "NVIDIA H200",
        "scale r50",
        "600 px",
        "random weights",
        "torch 2.11",
        "2026-01-01",
        "commit 00000000",
    ):
        assert words in text
    assert "| fasterrcnn_fpn | torch fp32 | 1 | 2.10 | 2.20 | – | 8 |" in lines
    assert "| canet | torch fp32 | 1 | 4.20 | 4.40 | 2.00 (2.00–2.00) | 8 |" in lines
    assert "| canet | compile fp32 | 1 | 3.00 | 3.00 | 3.00 (3.00–3.00) | 8 |" in lines
    assert "Cut" not in text
    assert "complete" not in text


def test_a_compiled_model_is_never_compared_with_an_eager_reference(tmp_path: Path) -> None:
    why = "the time limit was reached before it was prepared"
    content = make_latencies(
        {"fasterrcnn_fpn": EAGER, "canet compile": (1.0,) * 8},
        complete=False,
        not_measured={"fasterrcnn_fpn compile": why},
    )
    content["sessions"] = [{**content["sessions"][0], "cut": True, "rounds": 3}, None]
    content["models"]["canet compile"]["missing"] = {"batch_latency.16": "out of memory"}
    lines = latencies(tmp_path, content)
    assert "| canet | compile fp32 | 1 | 1.00 | 1.00 | – | 8 |" in lines
    text = "\n".join(lines)
    assert "Cut by its time limit: torch fp32 at batch 1, after 3 rounds." in text
    assert f"Not measured: fasterrcnn_fpn compile: {why}." in text
    assert "Not measured: canet compile at batch 16: out of memory." in text
    assert "Not complete" in text


def test_there_is_no_ratio_of_rounds_that_are_not_paired_and_no_time_of_a_cpu(tmp_path: Path) -> None:
    few = latencies(tmp_path, make_latencies({"fasterrcnn_fpn": EAGER[:5], "canet": OURS[:5]}))
    assert any(line.startswith("| canet |") and line.endswith("| – | 5 |") for line in few)
    content = make_latencies({"fasterrcnn_fpn": EAGER, "canet": OURS[:7]})
    assert any("| – | 7 |" in line for line in latencies(tmp_path, content))
    content["provenance"].update(device="cpu", device_name=None)
    write_atomic(tmp_path / "cpu" / "_latency" / "smoke-cpu.json", json.dumps(content).encode())
    text = "\n".join(latency.markdown(tmp_path / "cpu"))
    assert "median (ms)" not in text
    assert "No absolute time is quoted for a CPU" in text


def test_the_summary_has_latencies_where_there_are_some_and_else_stays_as_it_is(tmp_path: Path, stored) -> None:
    one = stored("results")
    results = one.paths.record.parents[1]
    draw.write_all(results, tmp_path / "without")
    latencies(results, make_latencies({"fasterrcnn_fpn": EAGER, "canet": OURS}))
    write_atomic(results / "_latency" / "gpu_study-cpu.json", b"{}")
    draw.write_all(results, tmp_path / "with")
    before, after = ((tmp_path / name / "summary.md").read_text() for name in ("without", "with"))
    assert "Latency," not in before
    assert "## Latency, gpu_study-nvidia-h200" in after
    assert "Left out" in after, "a damaged file is told of"
    first, last = after.index("## Latency, "), after.index("## Models")
    assert after[:first] + after[last:] == before
