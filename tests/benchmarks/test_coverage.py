"""The intervals cover what they say: 95% of 2,000 simulated studies, at two standard errors of such a share (1%)."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.metrics.resampling import average_precision, coco_rule, mean
from tests.benchmarks.coverage import Population, simulate


@pytest.mark.parametrize("name", ["synthetic_small", "neu_det"])
def test_the_simulations_ap50_is_the_evaluators(name: str) -> None:
    population = Population.load(name)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 3, size=(len(population.group), 4)).astype(np.float32)
    # Every hit is kept and ranked as it was.
    plain = [
        average_precision(
            weights,
            population.image[mine],
            population.score[mine],
            population.hit[mine],
            np.zeros(mine.sum(), dtype=bool),
            population.boxes[:, k],
            {"AP": coco_rule},
        )["AP"]
        for k in range(population.boxes.shape[1])
        for mine in [population.label == k]
    ]

    class Same:
        def normal(self, mean: float, sd: float, n: int = 1) -> np.ndarray:
            return np.zeros(n)

        def random(self, n: int) -> np.ndarray:
            return np.ones(n)

    same = population.training(Same())
    # In float32 and at recalls on the border of a step: a hundredth of a class's precision at most.
    np.testing.assert_allclose(population.AP50(same, weights), mean(np.array(plain)), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "groups"), [("synthetic_small", 60), pytest.param("neu_det", 30, marks=pytest.mark.nightly)]
)
def test_intervals_of_three_five_and_ten_trainings_cover_95_percent(name: str, groups: int) -> None:
    covered, _ = simulate(name, groups, 2000)
    for runs in (3, 5, 10):
        assert 0.935 <= covered[runs] <= 0.965, covered
    assert covered[1] >= 0.93, "its trainings' spread is that of others"
