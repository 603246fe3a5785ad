from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from benchmarks.cells import Augment, Cell, Hashed, Recipe, Tile, added, digest_of
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
    {"recipe": RECIPE.model_copy(update={"augment": ("mosaic", "flips")})},
    {"tile": Tile(size=64, overlap=16)},
    {"device_class": "nvidia-h100-80gb-hbm3"},
]


def test_id_is_the_request_and_stays_the_same_between_versions() -> None:
    assert make_cell().id == make_cell().id
    # Committed records are found by this id: it must not change unnoticed.
    assert make_cell(split="synthetic_small-5fold-v1", image_size=160).id == "2a0901827d553227"


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_every_field_changes_the_id(change: dict) -> None:
    assert make_cell(**change).id != make_cell().id


def test_a_field_that_is_added_changes_what_is_hashed_only_where_it_is_set() -> None:
    class Later(Cell):
        colour: str | None = added(None)
        parts: tuple[int, ...] = added((), description="of several")

    cell = make_cell()
    later = Later(**cell.model_dump())
    assert later.model_dump(mode="json") == cell.model_dump(mode="json")
    assert later.id == cell.id
    for change in ({"colour": "red"}, {"parts": (1,)}):
        changed = later.model_copy(update=change)
        assert changed.id != cell.id
        assert Later.model_validate_json(changed.model_dump_json()) == changed


def test_a_nan_is_not_written_as_nothing() -> None:
    class Number(Hashed):
        value: float | None

    with pytest.raises(ValueError, match="JSON"):
        digest_of(Number(value=float("nan")).model_dump(mode="json"))


def test_augmentations_add_up_in_one_order() -> None:
    def augment(*kinds: str) -> object:
        return Recipe(**{**RECIPE.model_dump(), "augment": kinds}).augment

    assert augment("flips", "copy_paste", "mosaic") == augment("mosaic", "copy_paste", "flips")
    assert augment("flips") == "flips" == RECIPE.augment
    cell = make_cell(recipe=RECIPE.model_copy(update={"augment": augment("flips", "scale_jitter")}))
    assert Cell.model_validate_json(cell.model_dump_json()) == cell


def test_the_loader_knows_every_augmentation_of_a_recipe() -> None:
    from benchmarks.datasets.loading import TRANSFORMS

    assert get_args(Augment) == TRANSFORMS


def test_whole_images_are_not_mentioned_and_tiles_are() -> None:
    assert "tile" not in make_cell().model_dump()
    tiled = make_cell(tile=Tile(size=640, overlap=160))
    assert tiled.model_dump(mode="json")["tile"] == {"size": 640, "overlap": 160}
    assert Cell.model_validate_json(tiled.model_dump_json()) == tiled
    assert tiled.stream("augment") == make_cell().stream("augment")


@pytest.mark.parametrize(("size", "overlap", "message"), [(640, 330, "more than half"), (32, 16, "64"), (64, 0, "16")])
def test_tiles_that_make_no_sense_are_refused(size: int, overlap: int, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tile(size=size, overlap=overlap)


@pytest.mark.parametrize(
    "change", [{"model": "retinanet"}, {"variant": "no_sae"}, {"image_size": 192}, {"device_class": "x"}]
)
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
        ({"augment": ("flip",)}, "flips"),
        ({"augment": ()}, "empty"),
        ({"augment": ("flips", "flips")}, "twice"),
        ({"augment": ("none", "flips")}, "alone"),
        ({"augment": ("hflip", "flips_photo")}, "do not go together"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe(**{**RECIPE.model_dump(exclude_unset=True), **changes})
