"""The real NEU-DET."""

from __future__ import annotations

import time
from collections import Counter

from benchmarks.datasets.prepared import prepare
from tests.datasets.conftest import archive


def test_everything_is_there(neu):
    counts = Counter(a["category_id"] for a in neu.annotations)
    assert [counts[i] for i in range(1, 7)] == [689, 1011, 881, 432, 628, 548]
    assert len(neu.images) == neu.manifest["images"] == 1800
    assert len(neu.annotations) == neu.manifest["boxes"] == 4189
    assert neu.manifest_digest == "c8e1aec060bab3b0bd2c64311338d99496cf11110f230f03ae8b70b4c07a3b53"
    assert {(i["width"], i["height"]) for i in neu.images} == {(200, 200)}


def test_up_to_date_in_two_seconds(neu):
    began, lines = time.process_time(), []
    prepare("neu_det", neu.root.parent, archive("NEU-DET.zip"), report=lines.append)
    assert time.process_time() - began < 2
    assert "up to date" in lines[-1]
