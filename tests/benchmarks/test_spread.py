"""The two-level interval on numbers that can be worked out on paper; its coverage is simulated in test_coverage.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, t

from benchmarks.metrics.spread import (
    DIFFERENCE,
    LEAST_COUNT,
    LEAST_GROUPS,
    RATE,
    RunMetric,
    Training,
    estimate,
    exact,
    over_images,
    pooled,
    span,
)

DRAWS = (0.4, 0.5, 0.6)  # variance 0.01


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_one_run_has_an_interval_over_images_that_says_so() -> None:
    got = estimate({(0, 0): RunMetric(0.5, DRAWS, groups=11)})
    assert (got.mean, got.covers, got.runs, got.freedom) == (0.5, "images only", 1, 10)
    assert got.error == pytest.approx(math.sqrt(0.01 * 11 / 10))
    half = t.ppf(0.975, 10) * got.error / 0.25  # on the scale of the logit
    assert [logit(v) for v in got.interval] == pytest.approx([-half, half])
    assert estimate({}) is None
    assert estimate({(0, 0): RunMetric(0.5)}).interval is None, "nothing is known of images or trainings"


def test_one_run_takes_the_spread_of_trainings_from_others() -> None:
    got = estimate({(0, 0): RunMetric(0.5, DRAWS, groups=11)}, training=Training(0.02, 8, 12))
    assert got.covers == "trainings and images"
    assert got.error == pytest.approx(math.sqrt(0.011 + 0.02))
    assert got.freedom == pytest.approx((0.011 + 0.02) ** 2 / (0.011**2 / 10 + 0.02**2 / 8))
    assert got.training.runs == 12


def test_seeds_add_their_variance_to_what_their_draws_have_in_common() -> None:
    """Three runs with the same draws: covariance 0.01, variance of the runs 0.01."""
    got = estimate({(0, s): RunMetric(0.4 + 0.1 * s, DRAWS, groups=11) for s in range(3)}, training=Training(9.0, 1, 2))
    assert got.error == pytest.approx(math.sqrt(0.011 + 0.01 / 3)), "with three runs nothing is borrowed"
    assert (got.runs, got.folds, got.seeds, got.training) == (3, 1, 3, None)


def test_what_a_run_and_an_image_have_alone_is_not_counted_twice() -> None:
    """Draws that have nothing in common: their covariance is 0, and all that is left is the spread of the runs."""
    rng = np.random.default_rng(0)
    runs = {(0, s): RunMetric(0.4 + 0.1 * s, tuple(rng.normal(0.5, 0.1, 4000)), groups=1000) for s in range(3)}
    assert estimate(runs).error == pytest.approx(math.sqrt(0.01 / 3), rel=0.03)


def test_two_runs_are_two_values() -> None:
    runs = {(f, 0): RunMetric(v, DRAWS, groups=11) for f, v in enumerate((0.4, 0.5))}
    got = estimate(runs, test_share=1 / 3)
    assert (got.interval, got.values) == (None, (0.4, 0.5))
    assert estimate({(0, s): RunMetric(0.5, DRAWS, 11) for s in range(2)}).interval is None
    assert estimate({(0, s): RunMetric(0.5, DRAWS, 11) for s in range(2)}, training=Training(0.01, 9, 10)).interval


def test_folds_by_hand() -> None:
    """Means 0.3 to 0.7, variance 0.025; images 0.011 each: 0.011/5 + (0.025 - 0.011) (1/5 + 1/3)."""
    runs = {(f, 0): RunMetric(0.3 + 0.1 * f, DRAWS, groups=11) for f in range(5)}
    got = estimate(runs, test_share=1 / 3)
    assert got.error == pytest.approx(math.sqrt(0.011 / 5 + 0.014 * (1 / 5 + 1 / 3)))
    assert got.freedom >= 4
    assert estimate(runs).interval is None, "without the sizes of its parts nothing is claimed"
    alike = estimate({k: RunMetric(0.5, DRAWS, groups=11) for k in runs}, test_share=1 / 3)
    assert alike.error == pytest.approx(math.sqrt(0.011 / 5)), "images explain all there is"


def test_a_fold_with_one_seed_is_no_better_known_for_the_seeds_of_another() -> None:
    """Images 0.011 each; trainings 0.01 (1/10 + 1)/2, not 0.01/5.5: 0.011/2 + 0.0055 (1/2 + 1/3)."""
    runs = {(0, s): RunMetric(0.5, DRAWS, groups=11) for s in range(10)} | {(1, 0): RunMetric(0.5, DRAWS, groups=11)}
    got = estimate(runs, test_share=1 / 3, training=Training(0.01, 9, 10), given=True)
    assert got.error == pytest.approx(math.sqrt(0.011 / 2 + 0.0055 * (1 / 2 + 1 / 3)))


def test_two_folds_that_differ_have_an_interval_that_says_so() -> None:
    """Means 0.6 and 0.8, variance 0.02: 0.011/2 + (0.02 - 0.011) (1/2 + 1/3), of one freedom at least."""
    runs = {(f, s): RunMetric(0.6 + 0.2 * f, DRAWS, groups=11) for f in range(2) for s in range(3)}
    got = estimate(runs, test_share=1 / 3)
    assert got.error == pytest.approx(math.sqrt(0.011 / 2 + 0.009 * (1 / 2 + 1 / 3)))
    assert got.freedom < 10, "what two folds say of a third is little"


@pytest.mark.parametrize(("apart", "covered"), [(0.0, 0.97), (0.02, 0.93), (0.05, 0.86)])
def test_two_folds_cover_what_the_docs_state(apart: float, covered: float) -> None:
    """Three trainings each (SD 1.4 points), images 2 points, folds `apart` beyond their images."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(800):
        runs = {}
        for fold in range(2):
            mean = 0.6 + rng.normal(0, 0.02) + rng.normal(0, apart)
            drawn = rng.normal(0, 1, 41)
            drawn = 0.6 + 0.02 * math.sqrt(rng.chisquare(40) / 40) * (drawn - drawn.mean()) / drawn.std(ddof=1)
            runs |= {(fold, s): RunMetric(mean + rng.normal(0, 0.014), drawn, groups=41) for s in range(3)}
        low, high = estimate(runs, test_share=1 / 3).interval
        hits += low <= 0.6 <= high
    assert hits / 800 == pytest.approx(covered, abs=0.025)


def test_two_folds_of_whose_images_nothing_is_known_have_no_interval() -> None:
    runs = {(f, s): RunMetric(0.05 + 0.03 * f + 0.0005 * s) for f in range(2) for s in range(2)}
    assert estimate(runs, test_share=1 / 3).covers == "nothing"


def test_intervals_stay_within_their_bounds() -> None:
    wild = {(f, 0): RunMetric(v, groups=20, error=0.0) for f, v in enumerate((0.02, 0.5, 0.98))}
    low, high = estimate(wild, test_share=1 / 3).interval
    assert 0 < low < 0.1
    assert 0.9 < high < 1
    assert -1 < span(0.9, 0.5, 2, DIFFERENCE)[0] < 0.9 < span(0.9, 0.5, 2, DIFFERENCE)[1] < 1
    low, high = span(0.1, 0.2, 3, RATE)
    assert 0 < low < 0.1 < high


def test_an_interval_without_width_is_degenerate() -> None:
    got = estimate({(0, 0): RunMetric(1.0, (1.0,) * 5, groups=30)})
    assert got.interval == (1.0, 1.0)
    assert got.degenerate
    assert not estimate({(0, 0): RunMetric(0.5, DRAWS, groups=30)}).degenerate


def test_below_a_stated_n_there_is_no_interval() -> None:
    values = np.array([0.5, *DRAWS])
    assert over_images(values, LEAST_GROUPS - 1) is None
    assert over_images(values, LEAST_GROUPS) is not None
    assert over_images(np.full(4, np.nan), 50) is None
    assert exact(0.5, LEAST_COUNT - 1) is None


def test_exact_intervals_are_clopper_and_pearsons() -> None:
    assert exact(0, 6) == pytest.approx((0, 0.4593), abs=1e-4), "no false alarm on six good images says little"
    assert exact(1, 6)[1] == 1
    assert exact(3 / 10, 10) == pytest.approx((beta.ppf(0.025, 3, 8), beta.ppf(0.975, 4, 7)))


def test_a_pooled_variance_weighs_by_freedom() -> None:
    got = pooled([[1.0, 3.0], [2.0, 2.0, 5.0], [7.0], []])
    assert (got.variance, got.freedom, got.runs) == (pytest.approx((2 + 6) / 3), 3, 5)
    assert pooled([[1.0], []]) is None
