"""Names in a scatter: none touches another or a mark, none is nearer to another mark than to its own."""

from __future__ import annotations

import itertools
import random

import pytest

from benchmarks.report import draw, labels
from benchmarks.report.labels import Rectangle, place
from benchmarks.report.style import our_style

FRAME = Rectangle(0, 0, 380, 250)
RADIUS = 6.0


def check(points: list[tuple[float, float]], boxes: list[Rectangle | None], frame: Rectangle = FRAME) -> None:
    placed = [(point, box) for point, box in zip(points, boxes, strict=True) if box is not None]
    for (_, a), (_, b) in itertools.combinations(placed, 2):
        assert not a.meets(b)
    for (x, y), box in placed:
        assert box.within(frame)
        for px, py in points:
            assert not box.meets(Rectangle(px - RADIUS, py - RADIUS, px + RADIUS, py + RADIUS))
            assert box.distance(x, y) <= box.distance(px, py)


@pytest.mark.parametrize("seed", range(40))
def test_names_of_random_scatters_never_touch(seed: int) -> None:
    rng = random.Random(seed)
    points = [(rng.uniform(15, 365), rng.uniform(15, 235)) for _ in range(rng.randint(2, 16))]
    boxes = place(points, [(rng.uniform(20, 110), 10.5) for _ in points], FRAME, radius=RADIUS)
    check(points, boxes)
    assert sum(box is None for box in boxes) <= 2, "what finds no place gets a number"


def test_in_a_crowd_the_names_that_fit_are_placed_and_the_search_ends(monkeypatch) -> None:
    """150 marks in six places: no search finds room for all, and the rest must not lose theirs."""
    rng = random.Random(0)
    spots = [(rng.uniform(40, 340), rng.uniform(40, 210)) for _ in range(6)]
    points = [(x + rng.gauss(0, 5), y + rng.gauss(0, 5)) for x, y in spots for _ in range(25)]
    monkeypatch.setattr(labels, "_MOST_STEPS", 50)
    boxes = place(points, [(40, 10.5)] * len(points), FRAME, radius=RADIUS)
    check(points, boxes)
    assert sum(box is not None for box in boxes) > 15


def test_the_published_points_are_named_and_no_name_touches() -> None:
    (panel,) = draw.published_panel()
    with our_style():
        laid = draw._Laid.of(panel)
    assert [name for name, _ in laid.names] == [mark.label for mark in panel.marks]
    boxes = [box for _, box in laid.names]
    assert None not in boxes
    check(laid.points, boxes)


def test_a_name_without_a_place_is_a_number_and_stands_below() -> None:
    name = "a name that is far too long for anything beside a mark in the middle, whatever side one puts it on there"
    marks = [draw.Mark(name, "two-stage", 1.0, 50.0), draw.Mark("short", "one-stage", 1.5, 50.0)]
    with our_style():
        laid = draw._Laid.of(draw.Panel("set", "x", "y", marks))
    assert [shown for shown, _ in laid.names] == ["1", "short"]
    assert " ".join(laid.below) == f"1: {name}"
    assert all(box is not None for _, box in laid.names)
    check(laid.points, [box for _, box in laid.names])


def test_the_front_is_of_what_may_be_ranked_alone() -> None:
    def mark(label: str, x: float, y: float, ranked: bool = True) -> draw.Mark:
        return draw.Mark(label, "two-stage", x, y, ranked=ranked)

    marks = [mark("a", 1, 50), mark("b", 2, 60), mark("worse", 3, 55), mark("c", 4, 70), mark("free", 0.5, 99, False)]
    assert [m.label for m in draw.Panel("", "", "", marks).front] == ["a", "b", "c"]
    assert draw.Panel("", "", "", marks[:1]).front == []
