"""`synthetic_smoke`: the same bytes everywhere, and defects where the boxes say, two in three of them clear."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.datasets import catalogue, prepared, synthetic, synthetic_smoke
from benchmarks.datasets.splits import SHIPPED, dumps, make_all, titles


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> prepared.PreparedDataset:
    return prepared.ensure("synthetic_smoke", tmp_path_factory.mktemp("data"))


def test_the_set_is_the_golden_one(data: prepared.PreparedDataset) -> None:
    assert data.manifest_digest == "dbebe655a50182cf772c3b28b599be13bc09b3eff363d35c5e981b148c0948f1"
    assert data.classes == catalogue.get("synthetic_smoke").classes == synthetic_smoke.CLASSES


def test_its_lists_are_what_the_command_makes(data: prepared.PreparedDataset) -> None:
    shipped = {name: (SHIPPED / f"{name}.json").read_text(encoding="utf-8") for name in titles("synthetic_smoke")}
    assert {title: dumps(content) for title, content in make_all(data).items()} == shipped


def test_composition(data: prepared.PreparedDataset) -> None:
    labels = np.bincount([a["category_id"] for a in data.annotations])[1:]
    assert labels.min() > 100
    assert sum(not data.boxes(image["file_name"]) for image in data.images) == 17
    assert all(a["area"] < 32 * 32 for a in data.annotations), "all are small, so that AP small is AP"


def test_a_defect_is_where_its_box_says_and_clear_or_faint(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = [synthetic_smoke.render(index) for index in range(40)]
    monkeypatch.setattr(synthetic, "paste", lambda *a: None)
    peaks = []
    for index, (image, boxes) in enumerate(rendered):
        without, same = synthetic_smoke.render(index)
        assert same == boxes
        change = np.abs(image.astype(int) - without)
        inside = np.zeros(change.shape, bool)
        for _, (x, y, w, h) in boxes:
            assert min(x, y, synthetic_smoke.SIZE - x - w, synthetic_smoke.SIZE - y - h) >= synthetic.MARGIN
            inside[y : y + h, x : x + w] = True
            peaks.append(change[y : y + h, x : x + w].max())
        if boxes:
            assert change[~inside].mean() < 0.1 * change[inside].mean()
    found = np.array(peaks)
    assert ((found < 16) | (found > 40)).all()
    assert 0.2 < (found < 16).mean() < 0.47
