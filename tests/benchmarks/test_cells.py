from __future__ import annotations

import pytest
from pydantic import ValidationError

from benchmarks.cells import Recipe
from tests.benchmarks.conftest import RECIPE, make_cell

CHANGES = [
    {"dataset": "neu_det"},
    {"split": "other"},
    {"fold": 1},
    {"model": "retinanet"},
    {"variant": "no_sae"},
    {"scale": "small"},
    {"seed": 1},
    {"image_size": 192},
    {"recipe": RECIPE.model_copy(update={"lr": 2e-3})},
]


def test_id_is_the_request_and_stays_the_same_between_versions() -> None:
    assert make_cell().id == make_cell().id
    # Committed records are found by this id: it must not change unnoticed.
    assert make_cell().id == "2a0901827d553227"


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_every_field_changes_the_id(change: dict) -> None:
    assert make_cell(**change).id != make_cell().id


@pytest.mark.parametrize("change", [{"model": "retinanet"}, {"variant": "no_sae"}, {"image_size": 192}])
def test_streams_are_paired_between_models(change: dict) -> None:
    assert make_cell(**change).stream("init") == make_cell().stream("init")


@pytest.mark.parametrize("change", [{"fold": 1}, {"seed": 1}, {"dataset": "neu_det"}])
def test_streams_differ_between_repetitions(change: dict) -> None:
    assert make_cell(**change).stream("init") != make_cell().stream("init")


def test_streams_of_different_purposes_differ() -> None:
    streams = {make_cell().stream(p) for p in ("init", "order", "augment", "sampling")}
    assert len(streams) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "step"}, "milestones"),
        ({"milestones": (1,)}, "milestones"),
        ({"schedule": "step", "milestones": (5,)}, "outside"),
        ({"lr": -1}, "greater than 0"),
        ({"optimiser": "sgd"}, "optimiser"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe(**{**RECIPE.model_dump(exclude_unset=True), **changes})
