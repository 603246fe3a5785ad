"""What may stand side by side in tables and figures: ratios of costs, pairs of trainings, versions of the code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cost.cell_profiles import FULL, QUICK, profiled
from benchmarks.report import draw, machines, tables
from benchmarks.report.comparisons import at_twice, beside, counterpart, unpaired, verdict
from benchmarks.report.page import page_content
from benchmarks.report.rows import Row, rows
from benchmarks.report.tables import sections
from benchmarks.store import Latency, Stored, scan, write_record
from tests.benchmarks.conftest import RECIPE, make_cell, make_metrics, make_profile, make_record


def timed(one: Stored, reference: str, ratio: float, session: str = "s", **of_session: object) -> None:
    """Put a profile beside a record, of one session with the others of its name."""
    latency = Latency(
        first_call_ms=1.0,
        **{name: {"end_to_end": 2.0} for name in ("p50", "p90", "p99", "iqr")},
        outliers={},
        samples_ms={},
        reference=reference,
        ratio=ratio,
        ratio_interval=(ratio, ratio),
        session=of_session,
    )
    write_record(
        one.paths.profile,
        make_profile(one.run, session=session, latency=latency, weights_sha256=one.run.weights_sha256),
    )


def trained(stored, seeds: Sequence[int], ap50: float, folder: str = "results", epochs: int = 4, **of: object) -> None:
    """Trainings that the draws of their images do not move."""
    fingerprint = make_record().fingerprint.model_copy(update=of.pop("versions", {}))
    recipe = RECIPE.model_copy(update={"epochs": epochs})
    for seed in seeds:
        value = ap50 + 0.004 * seed
        metrics = make_metrics(value, AP_small=value / 2, draws={"AP50": (value,) * 50}, groups=40)
        status = of.get("status", {})
        cell = make_cell(seed=seed, recipe=recipe, **{k: v for k, v in of.items() if k != "status"})
        stored(folder, cell, **{"metrics": metrics, "fingerprint": fingerprint, **status})


def ended(found: list[Row]) -> list[Row]:
    return [replace(row, learning="converged") for row in found]


def lines_of(found: list[Row]) -> list[list[str]]:
    """The table of the two ends, by columns from the epochs on."""
    table = tables.headline.table(sections(ended(found)))
    return [line.strip("| ").split(" | ")[2:] for line in table if line.startswith("| syn")]


def test_ratios_to_one_model_at_two_scales_do_not_share_a_column(stored, tmp_path: Path) -> None:
    for scale, session in (("nano", "one"), ("small", "other")):
        for model, ratio in (("fasterrcnn_fpn", 1.0), ("canet", 1.4)):
            timed(stored("results", make_cell(model=model, scale=scale)), "fasterrcnn_fpn", ratio, session)
    timed(stored("results", make_cell(model="yolov8n", scale="n")), "fasterrcnn_fpn", 0.5, "one")
    kept = {(row.scale, row.name): row.ratio for row in rows(scan(tmp_path / "results"))}
    assert kept == {
        ("nano", "fasterrcnn_fpn"): 1.0,
        ("nano", "canet"): 1.4,
        ("n", "yolov8n"): 0.5,
        ("small", "fasterrcnn_fpn"): None,
        ("small", "canet"): None,
    }


def test_where_the_references_record_is_elsewhere_ratios_to_it_stay(stored, tmp_path: Path) -> None:
    """A YOLO's scale is none of its reference's: where that is not known, its ratio stays beside those of one scale."""
    timed(stored("results", make_cell()), "fasterrcnn_fpn", 1.4, "one")
    timed(stored("results", make_cell(model="yolov8n", scale="n")), "fasterrcnn_fpn", 0.5, "two")
    assert [row.ratio for row in rows(scan(tmp_path / "results"))] == [1.4, 0.5]
    timed(stored("results", make_cell(scale="small")), "fasterrcnn_fpn", 1.1, "three")
    found = {row.scale: row.ratio for row in rows(scan(tmp_path / "results"))}
    assert found["n"] is None, "it could be to either"
    assert sorted((found["nano"] is None, found["small"] is None)) == [False, True]


def test_training_ratios_are_of_one_scale_and_of_as_many_images(stored, tmp_path: Path) -> None:
    def of(model: str, seconds: float, images: int, **changes: object) -> None:
        stored("results", make_cell(model=model, **changes), timings_s={"train": seconds}, train_images=images)

    def ratios() -> dict[str, float | None]:
        return {row.name: row.training_ratio for row in rows(scan(tmp_path / "results")) if row.scale == "nano"}

    of("canet", 130.0, 400), of("canet", 65.0, 200, fold=1), of("fasterrcnn_fpn", 1000.0, 400, scale="small")
    assert ratios() == {"canet": None}, "the reference at another scale"
    of("fasterrcnn_fpn", 100.0, 400)
    assert ratios() == {"canet": 1.3, "fasterrcnn_fpn": 1.0}, "not the half of the second fold"


def test_models_trained_by_two_versions_of_the_code_are_not_paired(stored, tmp_path: Path) -> None:
    trained(stored, range(3), 0.6)
    trained(stored, range(3), 0.5, model="fasterrcnn_fpn")
    known = ended(rows(scan(tmp_path / "results")))
    assert unpaired(*known) is None
    assert "Best on AP50: CANet, 60.4, +10.0" in verdict(known)[0]
    trained(stored, range(3), 0.5, model="fasterrcnn_fpn", versions={"recipe": 2, "transforms": 3})
    odd = ended(rows(scan(tmp_path / "results")))
    said = "Trained by different versions of the code (recipe 1 and 2, transforms 1 and 3). They are not paired."
    assert unpaired(*odd) == said
    assert beside(*odd, odd[0].samples, odd[1].samples) is None
    assert verdict(odd)[0].startswith("Trained by different recipes or versions, and ranked against nothing")
    assert lines_of(odd) == []
    trained(stored, range(3), 0.5, model="fasterrcnn_fpn", versions={"builder": 7})
    assert unpaired(*ended(rows(scan(tmp_path / "results")))) is None, "a builder is each model's own"


def test_a_difference_of_fewer_pairs_than_trainings_says_so_and_of_fewer_than_three_there_is_none(
    stored, tmp_path: Path
) -> None:
    trained(stored, range(5), 0.6), trained(stored, range(2, 7), 0.5, model="fasterrcnn_fpn")
    trained(stored, range(3), 0.6, "longer", 8), trained(stored, range(2, 5), 0.5, "longer", 8, model="fasterrcnn_fpn")
    once, twice = lines_of(rows(scan(tmp_path / "results"), published=scan(tmp_path / "longer")))
    assert once[:2] == ["4", "5 (3 in pairs)"]
    assert once[-2].startswith("+10.0 (")
    assert twice[:2] == ["8", "3 (1 in pairs)"]
    assert twice[-2:] == ["not ranked", "not ranked"]


def test_what_diverged_at_twice_the_schedule_is_said_and_no_interval_is_of_the_lucky(stored, tmp_path: Path) -> None:
    gone = {"status": "diverged", "metrics": None, "error": "loss"}
    trained(stored, range(3), 0.6), trained(stored, range(3), 0.5, model="fasterrcnn_fpn")
    for fold in range(2):
        trained(stored, range(3), 0.6, "longer", 8, fold=fold)
        trained(stored, range(3), 0.5, "longer", 8, model="fasterrcnn_fpn", fold=fold)

    def known() -> list[Row]:
        return ended(rows(scan(tmp_path / "results"), published=scan(tmp_path / "longer")))

    assert "at twice the schedule, of folds 0, 1, +10.0" in verdict(known())[0]
    trained(stored, range(3, 6), 0.6, "longer", 8, fold=1, status=gone)
    found = known()
    assert found[0].gone_at_twice == ((1, 3), (1, 4), (1, 5))
    assert "at twice the schedule trainings of CANet diverged: not told there" in verdict(found)[0]
    assert at_twice(*found, "AP50") is None
    assert at_twice(*found, "AP50", [0]) is not None
    assert lines_of(found)[-1][-2].startswith("+10.0"), "of the first fold, where none did"
    trained(stored, (3,), 0.6, "longer", 8, status=gone)
    assert lines_of(known())[-1][-2:] == ["not ranked", "not ranked"]


def test_a_reference_that_is_a_variant_has_its_label_everywhere(stored, tmp_path: Path) -> None:
    """Where a run has variants of one model alone, ratios are to the first of them."""
    for variant, ratio in (("no_sae", 1.0), ("no_cbd", 0.9)):
        timed(stored("results", make_cell(variant=variant)), "canet:no_sae", ratio)
    found = rows(scan(tmp_path / "results"))
    assert [tables.reference_label(row) for row in found] == ["CANet w/o SAE"] * 2
    assert counterpart(found[1], found) is None, "an ablation's is the whole model, which was not trained"
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    assert "ratios are to canet:no_sae" in (tmp_path / "reports" / "summary.md").read_text()
    latencies = [row["latency"] for row in page_content(list(scan(tmp_path / "results")))["sections"][0]["rows"]]
    assert [one["reference"] for one in latencies] == ["CANet w/o SAE"] * 2


def test_no_front_is_drawn_of_trainings_that_models_do_not_share(stored, tmp_path: Path, monkeypatch) -> None:
    trained(stored, range(3), 0.6), trained(stored, range(2, 5), 0.5, model="fasterrcnn_fpn")
    fronts: list[int] = []
    monkeypatch.setattr(draw, "_drawn", lambda panels, *_: fronts.extend(len(p.front) for p in panels))
    draw.figure(ended(rows(scan(tmp_path / "results"))))
    trained(stored, range(5), 0.5, model="fasterrcnn_fpn")
    draw.figure(ended(rows(scan(tmp_path / "results"))))
    assert fronts[0] == 0
    assert fronts[1] > 0


def test_a_spread_is_borrowed_from_trainings_by_the_same_code_alone(stored, tmp_path: Path) -> None:
    trained(stored, (0,), 0.5, "runs")
    trained(stored, range(3), 0.5, variant="no_sae")
    trained(stored, range(3, 6), 0.9, variant="no_sae", versions={"recipe": 2})
    trained(stored, range(6, 9), 0.1, variant="no_sae", versions={"builder": 2})
    (row,) = rows(scan(tmp_path / "runs"), list(scan(tmp_path / "results")))
    got = row.accuracy["AP50"].training
    assert got is not None
    assert got.variance**0.5 == pytest.approx(0.004), "no step between the versions is in it"


def test_a_profile_of_a_shorter_plan_is_not_that_of_a_longer(stored) -> None:
    one = stored("runs", weights_sha256="a" * 64)
    for rounds, done in ((QUICK.runs, (True, False)), (FULL.runs, (True, True))):
        timed(one, "canet", 1.0, rounds=rounds)
        (again,) = scan(one.paths.root)
        assert (profiled(again, set(), QUICK), profiled(again, set(), FULL)) == done


def test_two_requests_of_one_model_have_their_own_names_where_machines_are_compared(stored, tmp_path: Path) -> None:
    cpu = make_record().provenance.model_copy(update={"cpu_capability": "AVX2"})
    card = cpu.model_copy(update={"device": "cuda", "device_name": "A Card"})
    for batch in (4, 16):
        recipe = RECIPE.model_copy(update={"batch_size": batch})
        for seed in range(4):
            for device_class, made in ((None, cpu), ("a-card", card)):
                cell = make_cell(seed=seed, recipe=recipe, device_class=device_class)
                stored("results", cell, metrics=make_metrics(0.5 + seed / 100), provenance=made)
    found = machines.section(s.run for s in scan(tmp_path / "results"))
    names = {line.split(" | ")[1] for line in found if line.startswith("| syn")}
    assert names == {"CANet (batch_size 4)", "CANet (batch_size 16)"}
    pools = {line.partition(": ")[0] for line in found if line.startswith("- syn")}
    assert pools == {f"- synthetic_small, CANet (batch_size {batch})" for batch in (4, 16)}
