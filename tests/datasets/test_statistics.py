"""The table and the figure of box sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import statistics


def test_table_of_the_synthetic_set(synthetic):
    frame = statistics.boxes(synthetic)
    assert len(frame) == len(synthetic.annotations)
    area = np.array([a["bbox"][2] * a["bbox"][3] for a in synthetic.annotations])
    np.testing.assert_allclose(frame["size"], np.sqrt(area))
    np.testing.assert_allclose(frame["share"], area / 128**2)
    counts = statistics.table(frame, synthetic.classes)
    assert list(counts.index) == [*synthetic.classes, "all"]
    assert counts.loc["all", "boxes"] == counts.loc[list(synthetic.classes), "boxes"].sum() == len(area)
    assert counts.loc["all", "images"] == 720
    assert counts.loc["all", "below 32x32"] == pytest.approx((area < 32 * 32).mean())
    assert counts.loc["missing_pattern", "below 32x32"] == 1


def test_classes_together(synthetic):
    frame = statistics.boxes(synthetic)
    both = statistics.together(frame, synthetic.classes)
    assert (both.to_numpy() == both.to_numpy().T).all()
    images = frame.groupby("class")["image"].agg(set)
    assert both.loc["pit", "crack"] == len(images["pit"] & images["crack"])
    assert both.loc["pit", "pit"] == len(images["pit"])


def test_names_of_classes_are_no_formulas(synthetic, tmp_path):
    odd = ("100% $x_$", r"\frac{", "$", "a_b")
    names = dict(zip(synthetic.classes, odd, strict=False))
    frame = statistics.boxes(synthetic).replace({"class": names})
    statistics.draw(replace(synthetic, classes=tuple(names.values())), frame, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_figure_is_drawn_and_the_same_twice(synthetic, tmp_path):
    frame = statistics.boxes(synthetic)
    statistics.draw(synthetic, frame, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.width > 1000
    for name in ("a.svg", "b.svg"):
        statistics.draw(synthetic, frame, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
