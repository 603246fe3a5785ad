from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ablations.effects import between, spread_of
from benchmarks.cells import Recipe
from benchmarks.report import budget, draw
from benchmarks.report.page import page_content
from benchmarks.report.rows import Row, rows
from benchmarks.store import scan
from tests.benchmarks.conftest import RECIPE, make_cell, make_metrics, make_record

ONCE = RECIPE.epochs
FLAT = (0.800, 0.805, 0.795, 0.800, 0.800)


@pytest.fixture
def study(stored, tmp_path: Path):
    """Trainings of a model at some epochs, one a seed, in the folder of the study or that of the results."""

    def make(values, times: int = 1, folder: str = "results", recipe: Recipe = RECIPE, **changes: object) -> None:
        recipe = recipe.model_copy(update={"epochs": times * recipe.epochs})
        fingerprint = make_record().fingerprint.model_copy(update=changes.pop("made_with", {}))
        for seed, ap50 in enumerate(values):
            cell = make_cell(seed=seed, recipe=recipe, **changes)
            made = {"metrics": make_metrics(ap50), "timings_s": {"train": 60.0 * times}, "fingerprint": fingerprint}
            stored(folder, cell, **made)

    return make


def told(tmp_path: Path) -> dict[str, str]:
    return {f"{r.name} {r.epochs}": r.learning for r in _rows(tmp_path)}


def _rows(tmp_path: Path) -> list[Row]:
    results = tmp_path / "results"
    return rows(scan(results), list(scan(results / budget.BUDGET)))


def test_a_row_is_converged_still_learning_or_not_told(study, tmp_path: Path) -> None:
    long = "results/_budget"
    study(FLAT), study(FLAT[:3], 2, long)
    study(FLAT, model="retinanet"), study([v + 0.1 for v in FLAT[:3]], 2, long, model="retinanet")
    study(FLAT, model="fcos"), study([v + 0.019 for v in FLAT[:3]], 2, long, model="fcos")
    study(FLAT, model="yolov8n", scale="n")
    assert told(tmp_path) == {
        f"canet {ONCE}": "converged",
        f"retinanet {ONCE}": "still learning",
        f"fcos {ONCE}": "not told",
        f"yolov8n {ONCE}": "not told",
    }


def test_what_varies_much_under_another_recipe_takes_no_verdict_from_others(study, tmp_path: Path) -> None:
    """As a YOLO from random weights, whose trainings differ by ten times what those of a pretrained backbone do."""
    long, wild = "results/_budget", (0.2, 0.5, 0.3, 0.45, 0.25)
    study(FLAT), study(FLAT[:3], 2, long)
    study(wild, model="yolov8n", scale="n"), study(wild[:3], 2, long, model="yolov8n", scale="n")
    assert told(tmp_path) == {f"canet {ONCE}": "converged", f"yolov8n {ONCE}": "not told"}


def test_variants_of_canet_take_the_worse_verdict_of_the_two_ends(study, tmp_path: Path) -> None:
    (
        study(FLAT),
        study(FLAT[:3], 2, "results/_budget"),
        study(FLAT, variant="no_sae"),
        study(FLAT, model="fasterrcnn_fpn"),
    )
    assert told(tmp_path)[f"canet:no_sae {ONCE}"] == "not told", "of one end nothing is known"
    study([v + 0.1 for v in FLAT[:3]], 2, "results/_budget", model="fasterrcnn_fpn")
    assert told(tmp_path)[f"canet:no_sae {ONCE}"] == "still learning"
    assert told(tmp_path)[f"canet {ONCE}"] == "converged"


def test_a_variant_that_was_studied_as_long_as_the_ends_has_a_verdict_of_its_own(study, tmp_path: Path) -> None:
    more = [v + 0.1 for v in FLAT[:3]]
    study(FLAT), study(FLAT[:3], 2), study(FLAT, model="fasterrcnn_fpn"), study(FLAT[:3], 2, model="fasterrcnn_fpn")
    study(FLAT, variant="no_sae"), study(more, 2, variant="no_sae")
    found = told(tmp_path)
    assert found[f"canet:no_sae {ONCE}"] == "still learning"
    assert found[f"canet:no_sae {2 * ONCE}"] == "not told", "the ends are at theirs, which this one is not"
    study(FLAT, 2, variant="no_cbd")
    assert told(tmp_path)[f"canet:no_cbd {2 * ONCE}"] == "converged"


def test_a_model_of_which_a_training_diverged_is_not_converged(study, stored, tmp_path: Path) -> None:
    study(FLAT), study(FLAT[:3], 2, "results/_budget")
    recipe = RECIPE.model_copy(update={"epochs": 2 * ONCE})
    gone = {"status": "diverged", "metrics": None, "error": "loss"}
    stored("results/_budget", make_cell(seed=3, recipe=recipe), timings_s={"train": 1.0}, **gone)
    study(FLAT, variant="no_sae"), stored("results/_budget", make_cell(variant="no_sae", recipe=recipe), **gone)
    study(FLAT, model="fasterrcnn_fpn"), study(FLAT[:3], 2, "results/_budget", model="fasterrcnn_fpn")
    assert told(tmp_path) == {
        f"canet {ONCE}": "not told",
        f"canet:no_sae {ONCE}": "not told",
        f"fasterrcnn_fpn {ONCE}": "converged",
    }
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    text = (tmp_path / "reports" / "budget.md").read_text()
    (line,) = [line for line in text.splitlines() if "| 80.0 (5) | 80.0 (3, 1 diverged) | – | +0.0 |" in line]
    assert line.endswith("| not told | 1.0 |"), "a training that ended early took no less"
    assert "| 80.0 (5) | – (1 diverged) | – | – | – | not told |" in text


def test_each_kind_of_device_has_a_table_of_its_own(study, tmp_path: Path) -> None:
    study(FLAT), study(FLAT[:3], 2), study(FLAT, device_class="a-card"), study(FLAT[:3], 2, device_class="a-card")
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    text = (tmp_path / "reports" / "budget.md").read_text()
    title = next(line for line in text.splitlines() if line.startswith("## "))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [title, f"{title}, on a-card", f"{title}, on {budget.SEVERAL}"]
    on_cpu, on_card = page_content(list(scan(tmp_path / "results")), data_root=tmp_path)["sections"]
    assert [len(section["courses"]) for section in (on_cpu, on_card)] == [1, 1]


def test_a_heading_has_the_split_list_of_a_set_with_several() -> None:
    tables = [("a", "a-v1", 64, None), ("a", "a-v2", 64, None), ("b", "b-v1", 64, "a-card")]
    assert list(budget.titles(tables).values()) == ["a, 64 px, a-v1", "a, 64 px, a-v2", "b, 64 px, on a-card"]


def test_a_shorter_training_takes_nothing_from_a_longer_one(study, tmp_path: Path) -> None:
    study(FLAT, 2), study(FLAT[:3], 4, "results/_budget"), study([0.5] * 3, 1)
    found = told(tmp_path)
    assert (found[f"canet {ONCE}"], found[f"canet {2 * ONCE}"]) == ("not told", "converged")


def test_of_longer_than_a_schedule_that_is_too_short_nothing_is_told(study, tmp_path: Path) -> None:
    longer = [v + 0.1 for v in FLAT[:3]]
    study(longer, 2), study(FLAT, 1, "results/_budget"), study(FLAT, 2, model="retinanet")
    study(FLAT, 1, "results/_budget", model="retinanet")
    assert told(tmp_path) == {f"canet {2 * ONCE}": "not told", f"retinanet {2 * ONCE}": "converged"}


def test_a_schedule_is_judged_by_trainings_of_twice_its_own_length_once_there_are_enough(study, tmp_path: Path) -> None:
    more, most = [v + 0.1 for v in FLAT], [v + 0.2 for v in FLAT[:3]]
    study(FLAT, 2), study(FLAT, 1, "results/_budget"), study(more[:3], 4, "results/_budget")
    study(more, 2, model="retinanet"), study(FLAT, 1, "results/_budget", model="retinanet")
    study(more[:3], 4, "results/_budget", model="retinanet")
    study(more, 2, model="fcos"), study(FLAT, 1, "results/_budget", model="fcos")
    study(most, 4, "results/_budget", model="fcos")
    assert told(tmp_path) == {
        f"canet {2 * ONCE}": "still learning",
        f"retinanet {2 * ONCE}": "converged",
        f"fcos {2 * ONCE}": "still learning",
    }


def test_twice_the_epochs_with_the_same_milestones_are_not_twice_the_schedule(study, tmp_path: Path) -> None:
    """As `--epochs` makes them: all that is added is at the lowest rate. A suite's `length` moves milestones too."""
    step = Recipe(epochs=12, batch_size=4, optimizer="sgd", lr=1e-2, schedule="step", milestones=(8, 11))
    study(FLAT, recipe=step), study(FLAT[:3], 2, "results/_budget", recipe=step)
    assert told(tmp_path) == {"canet 12": "not told"}
    study(FLAT[:3], 2, "results/_budget", recipe=step.model_copy(update={"milestones": (16, 22)}))
    assert told(tmp_path) == {"canet 12": "converged"}


def test_one_training_is_never_converged(study, tmp_path: Path) -> None:
    study(FLAT[:1]), study(FLAT[:1], 2, "results/_budget")
    assert told(tmp_path) == {f"canet {ONCE}": "not told"}


def test_the_table_has_lengths_gain_bound_verdict_and_cost(study, tmp_path: Path) -> None:
    study(FLAT), study(FLAT[:3], 2, "results/_budget"), study([0.85], 4, "results/_budget")
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    text = (tmp_path / "reports" / "budget.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| CANet")]
    assert line.startswith(f"| CANet | {ONCE} | – | 80.0 (5) | 80.0 (3) | 85.0 (1) | +0.0 | +")
    assert line.endswith("| converged | 1.0 |")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"recipe": RECIPE.model_copy(update={"lr": RECIPE.lr / 2})}, (f"lr {RECIPE.lr}", f"lr {RECIPE.lr / 2}")),
        ({"made_with": {"builder": 2}, "fold": 1}, ("builder 1", "builder 2")),
        ({"scale": "n"}, ("scale nano", "scale n")),
        ({"model": "retinanet"}, None),
    ],
)
def test_two_courses_of_one_model_are_told_apart(other, told, study, tmp_path: Path) -> None:
    for changes in ({}, other):
        study(FLAT, **changes), study(FLAT[:3], 2, **changes)
    found = budget.courses(stored.run for stored in scan(tmp_path / "results"))
    wanted = {"CANet", "RetinaNet"} if told is None else {f"CANet ({what})" for what in told}
    assert {c.label for c in found} == wanted
    text = budget.markdown(found)
    assert all(text.count(f"| {label} |") == 1 for label in wanted)


def test_what_is_not_trained_to_the_end_is_named_and_ranked_against_nothing(study, tmp_path: Path) -> None:
    study(FLAT), study([0.6] * 5, model="fasterrcnn_fpn")
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    text = (tmp_path / "reports" / "summary.md").read_text()
    assert "**Not told whether trained to the end, and ranked against nothing: CANet, Faster R-CNN FPN.**" in text
    assert "| p |" not in text


def test_a_variant_with_parts_of_its_own_takes_no_verdict_of_others(study, tmp_path: Path) -> None:
    """More blocks, or another attention, may learn more slowly than either end."""
    ends = ({}, {"model": "fasterrcnn_fpn"})
    for end in ends:
        study(FLAT, **end), study(FLAT[:3], 2, "results/_budget", **end)
    study(FLAT, variant="no_sae"), study(FLAT, variant="mutual_attention")
    found = told(tmp_path)
    assert found[f"canet:no_sae {ONCE}"] == "converged"
    assert found[f"canet:mutual_attention {ONCE}"] == "not told"


ENDS = ({}, {"model": "fasterrcnn_fpn"})
CARDS = {"device_class": "a-card"}


def test_trainings_on_several_kinds_of_machine_tell_what_those_of_one_do_not(study, tmp_path: Path) -> None:
    """A schedule on a card, twice it on CPUs, and trainings of another model on both, which say how far these lie."""
    for end in ENDS:
        study(FLAT, **end, **CARDS), study(FLAT[:3], 2, "results/_budget", **end)
    assert set(told(tmp_path).values()) == {"not told"}, "how far the two lie apart is not known"
    study(FLAT, model="retinanet"), study(FLAT, model="retinanet", **CARDS)
    found = told(tmp_path)
    assert (found[f"canet {ONCE}"], found[f"fasterrcnn_fpn {ONCE}"]) == ("converged", "converged")
    study(FLAT, variant="no_sae"), study(FLAT, 2, variant="no_cbd", **CARDS)
    found = told(tmp_path)
    assert (found[f"canet:no_sae {ONCE}"], found[f"canet:no_cbd {2 * ONCE}"]) == ("converged", "converged")
    draw.write_all(tmp_path / "results", tmp_path / "reports")
    text = (tmp_path / "reports" / "budget.md").read_text()
    assert [line.partition(", on ")[2] for line in text.splitlines() if line.startswith("## ")] == [budget.SEVERAL]
    assert text.count("| 80.0 (5) | 80.0 (3) | – | +0.0 |") == 2
    assert "| converged | – |" in text, "what a training takes is not one number there"


def test_a_variant_that_its_own_trainings_do_not_tell_takes_no_verdict_of_others_on_several_kinds(
    study, tmp_path: Path
) -> None:
    long = "results/_budget"
    for end in ENDS:
        study(FLAT, **end), study(FLAT[:3], 2, long, **end)
        study(FLAT, **end, **CARDS), study(FLAT[:3], 2, long, **end, **CARDS)
    study(FLAT, variant="no_sae"), study([v + 0.0195 for v in FLAT[:3]], 2, long, variant="no_sae")
    found = told(tmp_path)
    assert (found[f"canet {ONCE}"], found[f"canet:no_sae {ONCE}"]) == ("converged", "not told")


@pytest.mark.parametrize("field", ["data", "builder", "transforms", "evaluator"])
def test_what_was_made_with_something_else_tells_nothing_together_with_it(field: str, study, tmp_path: Path) -> None:
    """A card's trainings and those on CPUs stand in two tables, which need not agree; their lengths are no schedule."""
    study(FLAT, **CARDS), study(FLAT[:3], 2, made_with={field: "other" if field == "data" else 2})
    study(FLAT, model="retinanet", scale="n"), study(FLAT, model="retinanet", scale="n", **CARDS)
    results = [stored.run for stored in scan(tmp_path / "results")]
    assert budget.courses(results) == []
    study(FLAT, model="fcos", **CARDS), study(FLAT[:3], 2, model="fcos")
    assert [(c.name, c.device_class) for c in budget.courses(stored.run for stored in scan(tmp_path / "results"))] == [
        ("fcos", budget.SEVERAL)
    ]


def test_twice_the_schedule_of_an_older_builder_is_not_the_row_s(study, tmp_path: Path) -> None:
    study(FLAT), study(FLAT[:3], 2, made_with={"builder": 2})
    assert set(told(tmp_path).values()) == {"not told"}
    assert not any(r.twice["AP50"] for r in rows(scan(tmp_path / "results")))


def test_a_variant_takes_no_verdict_from_another_builders_network_or_other_data(study, tmp_path: Path) -> None:
    long = "results/_budget"
    for end in ENDS:
        study(FLAT, 1, long, **end), study(FLAT[:3], 2, long, **end)
        study(FLAT, 1, long, **end, **CARDS), study(FLAT[:3], 2, long, **end, **CARDS)
    study(FLAT, variant="no_sae"), study(FLAT, variant="no_cbd", made_with={"builder": 2})
    study(FLAT, device_class="mine"), study(FLAT, variant="no_sae", device_class="other", made_with={"data": "mine"})
    found = {(r.name, r.device_class): r.learning for r in _rows(tmp_path)}
    assert found == {
        ("canet:no_sae", None): "converged",
        ("canet:no_cbd", None): "not told",
        ("canet", "mine"): "converged",
        ("canet:no_sae", "other"): "not told",
    }


def test_kinds_of_machine_that_lie_far_apart_tell_nothing_together(study, tmp_path: Path) -> None:
    study(FLAT, **CARDS), study(FLAT[:3], 2, "results/_budget")
    study(FLAT, model="retinanet"), study([v - 0.03 for v in FLAT], model="retinanet", **CARDS)
    assert told(tmp_path)[f"canet {ONCE}"] == "not told"


def test_a_kind_of_machine_that_tells_by_itself_is_asked_first(study, tmp_path: Path) -> None:
    more = [v + 0.1 for v in FLAT]
    study(FLAT), study(FLAT[:3], 2, "results/_budget"), study(more, **CARDS)
    study(FLAT, model="retinanet"), study(FLAT, model="retinanet", **CARDS)
    study(more[:3], 2, "results/_budget", **CARDS)
    records = [stored.run for stored in scan(tmp_path / "results")]
    records += [stored.run for stored in scan(tmp_path / "results" / "_budget")]
    known = budget.courses(records)
    canet = {c.device_class: c for c in known if c.name == "canet"}
    assert list(canet) == [None, "a-card", budget.SEVERAL]
    assert {len(v) for v in canet[budget.SEVERAL].values.values()} == {10, 6}
    runs = {
        kind: next(r for r in records if r.cell.name == "canet" and r.cell.device_class == kind)
        for kind in (None, "a-card")
    }
    only = [replace(c, doubling=None) if c.device_class == "a-card" else c for c in known]
    spoilt = replace(canet[budget.SEVERAL].doubling, verdict="still learning")
    only = [replace(c, doubling=spoilt) if c.device_class == budget.SEVERAL else c for c in only]
    assert {kind: budget.verdict(run, only) for kind, run in runs.items()} == {
        None: "converged",
        "a-card": "still learning",
    }


def test_the_page_has_courses_of_several_kinds_where_a_kind_has_none(study, tmp_path: Path) -> None:
    study(FLAT, **CARDS), study(FLAT[:3], 2), study(FLAT, model="retinanet"), study(FLAT[:3], 2, model="retinanet")
    on_card, on_cpu = page_content(list(scan(tmp_path / "results")), data_root=tmp_path)["sections"]
    assert [(c["label"], c["on"]) for c in on_cpu["courses"]] == [("RetinaNet", None), ("CANet", budget.SEVERAL)]
    assert [(c["label"], c["on"]) for c in on_card["courses"]] == [("CANet", budget.SEVERAL)]


def test_the_page_has_the_courses_that_a_verdict_goes_by(study, tmp_path: Path) -> None:
    study(FLAT), study(FLAT[:2], 2, "results/_budget"), study(FLAT, **CARDS), study(FLAT[:3], 2, **CARDS)
    records, studied = (list(scan(tmp_path / name)) for name in ("results", "results/_budget"))
    sections = page_content(records, studied, data_root=tmp_path)["sections"]
    told = {(row["epochs"], row["learning"]) for section in sections for row in section["rows"]}
    assert told == {(ONCE, "converged"), (2 * ONCE, "converged")}
    shown = [[(c["on"], c["verdict"]) for c in section["courses"]] for section in sections]
    assert sorted(shown, key=repr) == [[("machines of several kinds", "converged")], [(None, "converged")]]


def test_the_ratio_of_machines_is_in_spreads_of_a_training(study, tmp_path: Path) -> None:
    """Ten times the spread under another recipe, and ten times as far apart: the same ratio."""

    def ratio() -> float | None:
        return budget.machine_ratio(stored.run for stored in scan(tmp_path / "results"))

    apart = [v - 0.006 for v in FLAT]
    study(FLAT[:2]), study(FLAT[:2], **CARDS)
    assert ratio() is None, "two degrees of freedom"
    study(FLAT), study(apart, **CARDS)
    rows = [[v / 0.01 for v in FLAT], [v / 0.01 for v in apart]]
    one = between([rows])
    assert one is not None
    sd = spread_of([list(FLAT), apart])[0]
    assert ratio() == pytest.approx(one.most * 0.01 / sd)
    wild, far = ([10 * v - 7.5 for v in values] for values in (FLAT, apart))
    study(wild, model="yolov8n", scale="n"), study(far, model="yolov8n", scale="n", **CARDS)
    both = between([[[v / sd for v in of] for of in (FLAT, apart)]] * 2)
    assert both is not None
    assert ratio() == pytest.approx(both.most)
