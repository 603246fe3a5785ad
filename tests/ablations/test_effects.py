from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import f_oneway, t, ttest_1samp
from statsmodels.stats.power import TTestPower

from ablations.effects import (
    between,
    differences,
    doubling,
    equivalence,
    holm,
    paired,
    power,
    runs_needed,
    spread_of,
    worse,
)
from benchmarks.metrics.spread import DIFFERENCE, RunMetric, estimate

interval = partial(estimate, bounds=DIFFERENCE)


def model(values: list[float], draws: np.ndarray | None = None) -> dict[tuple[int, int], RunMetric]:
    drawn = () if draws is None else tuple(draws)
    return {(0, seed): RunMetric(v, drawn, groups=50) for seed, v in enumerate(values)}


def test_differences_are_of_the_runs_that_both_have_draw_by_draw() -> None:
    ours = model([0.6, 0.7], np.array([0.5, 0.7]))
    theirs = {(0, 1): RunMetric(0.5, (0.4, 0.8), groups=50), (1, 0): RunMetric(0.1)}
    got = differences(ours, theirs)
    assert list(got) == [(0, 1)]
    assert (got[0, 1].value, got[0, 1].draws) == (pytest.approx(0.2), pytest.approx((0.1, -0.1)))
    assert paired(ours, {(1, 0): theirs[1, 0]}, interval) is None


@pytest.mark.parametrize("runs", [1, 2])
def test_fewer_than_three_trainings_have_no_p(runs: int) -> None:
    rng = np.random.default_rng(0)
    one = model([0.9] * runs, rng.normal(0.9, 0.01, 200))
    two = model([0.1] * runs, rng.normal(0.1, 0.01, 200))
    got = paired(one, two, interval)
    assert (got.mean, got.p, got.runs, got.better) == (pytest.approx(0.8), None, runs, runs)


def test_without_images_p_is_that_of_the_paired_t_test() -> None:
    a, b = [0.61, 0.66, 0.64, 0.70], [0.60, 0.61, 0.63, 0.62]
    same = np.full(10, 0.5)  # nothing varies over images
    got = paired(model(a, same), model(b, same), interval)
    assert got.p == pytest.approx(ttest_1samp(np.subtract(a, b), 0).pvalue)
    assert got.better == 4


def test_what_varies_over_images_makes_p_larger() -> None:
    a, b = [0.61, 0.66, 0.64, 0.70], [0.60, 0.61, 0.63, 0.62]
    same, image = np.full(500, 0.5), np.random.default_rng(0).normal(0.5, 0.05, 500)
    alone = paired(model(a, same), model(b, same), interval)
    assert paired(model(a, image), model(b, same), interval).p > 2 * alone.p
    assert paired(model(a, image), model(b, image), interval).p == pytest.approx(alone.p), (
        "images that are hard for both"
    )


def test_equal_models_are_told_apart_in_one_comparison_of_twenty() -> None:
    """Five trainings each over 60 images: p below 0.05 in about 5% of 400, 3 to 8% at two standard errors."""
    rng = np.random.default_rng(1)
    boot = rng.multinomial(60, np.full(60, 1 / 60), size=200) / 60
    told = 0
    for _ in range(400):
        image = rng.normal(0.5, 0.3, 60)
        sides = []
        for _ in range(2):
            own = image + rng.normal(0, 0.1, 60)  # what this model makes of these images
            runs = {}
            for seed in range(5):
                values = own + rng.normal(0, 0.02) + rng.normal(0, 0.05, 60)
                runs[0, seed] = RunMetric(values.mean(), tuple(boot @ values), groups=60)
            sides.append(runs)
        told += paired(sides[0], sides[1], interval).p < 0.05
    assert 11 <= told <= 32


def test_equivalence_is_two_one_sided_tests() -> None:
    assert equivalence(0.0, 0.01, 8, 0.02) == pytest.approx(t.sf(2, 8))
    assert equivalence(0.01, 0.01, 8, 0.02) == pytest.approx(t.sf(1, 8))
    assert equivalence(0.03, 0.01, 8, 0.02) > 0.5
    assert equivalence(0.01, 0.0, 8, 0.02) == 0
    assert equivalence(0.03, 0.0, 8, 0.02) == 1


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_power_is_that_of_statsmodels(runs: int) -> None:
    assert power(0.02, 0.015, runs) == pytest.approx(TTestPower().power(0.02 / 0.015, runs, 0.05), abs=1e-9)
    assert power(0.0, 0.015, runs) == pytest.approx(0.05)
    assert power(0.02, 0.015, 1) == 0


def test_runs_needed_are_the_fewest() -> None:
    n = runs_needed(0.02, 0.015)
    assert power(0.02, 0.015, n) >= 0.8 > power(0.02, 0.015, n - 1)
    assert runs_needed(1e-6, 1.0) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_doubling_by_hand() -> None:
    once, flat = [0.80, 0.81, 0.79, 0.80, 0.80], [0.80, 0.81, 0.80]
    got = doubling(once, flat, 0.01, 10)
    assert got.gain == pytest.approx(0.01 / 3)
    assert got.bound == pytest.approx(0.01 / 3 + t.ppf(0.9, 10) * 0.01 * (1 / 5 + 1 / 3) ** 0.5)
    assert got.verdict == "converged"
    assert doubling(once, [v + 0.02 for v in flat], 0.001, 10).verdict == "still learning"
    assert doubling(once, flat, 0.03, 10).verdict == "not told", "the spread is too large"
    assert doubling(once[:4], flat, 0.001, 10).verdict == "not told", "too few trainings"
    assert doubling(once[:1], [0.9], 0.0, 0).verdict == "still learning", "a gain needs no spread to be one"
    assert doubling(once, [], 0.01, 10) is None
    apart = doubling(once, flat, 0.01, 10, 0.5)
    assert apart.bound == pytest.approx(0.01 / 3 + t.ppf(0.9, 10) * 0.01 * (1 / 5 + 1 / 3 + 0.5) ** 0.5)


def test_what_never_began_has_not_come_to_its_end() -> None:
    assert doubling([0.001] * 5, [0.002] * 3, 0.01, 8).verdict == "not told"
    assert doubling([0.101] * 5, [0.102] * 3, 0.005, 8).verdict == "converged"


def test_the_properties_of_the_verdict_that_the_docs_state() -> None:
    """SD 1.5 points, four models' spread pooled: flat passes 7 times in 10, a gain of 3 points once in 80."""
    rng = np.random.default_rng(0)

    def passes(gain: float) -> float:
        told = 0
        for _ in range(2000):
            once, twice = rng.normal(0.6, 0.015, 5).tolist(), rng.normal(0.6 + gain, 0.015, 3).tolist()
            sd = 0.015 * (rng.chisquare(24) / 24) ** 0.5  # of four models with five and three trainings
            told += doubling(once, twice, sd, 24).verdict == "converged"
        return told / 2000

    assert passes(0.0) == pytest.approx(0.70, abs=0.03)
    assert passes(0.03) == pytest.approx(1 / 80, abs=0.006)


@pytest.mark.parametrize("apart", [0.0, 0.4, 0.8])
def test_on_several_kinds_of_machine_what_gains_two_points_is_rarely_told_to_be_at_its_end(apart: float) -> None:
    """Three and four trainings on two kinds, twice that three times on a third, machines up to 0.8 SDs apart."""
    rng, sd, wrong = np.random.default_rng(0), 0.012, 0
    for _ in range(2000):
        first, second, third = rng.normal(0.7, apart * sd, 3)
        once = [*rng.normal(first, sd, 3), *rng.normal(second, sd, 4)]
        twice = rng.normal(third + 0.02, sd, 3).tolist()
        pooled = sd * (rng.chisquare(24) / 24) ** 0.5
        machines = 0.8**2 * ((3**2 + 4**2) / 7**2 + 1)
        wrong += doubling(once, twice, pooled, 24, machines).verdict == "converged"
    assert wrong / 2000 == pytest.approx({0.0: 0.014, 0.4: 0.035, 0.8: 0.1}[apart], abs=0.015)


def test_the_spread_is_pooled_within_rows() -> None:
    sd, freedom = spread_of([[1.0, 3.0], [2.0, 2.0, 5.0], [7.0]])
    assert (sd**2, freedom) == (pytest.approx((2 + 6) / 3), 3)


def test_between_kinds_is_the_analysis_of_variance() -> None:
    """One row is scipy's; a row of one kind says nothing; kinds that vary by nothing within have no F."""
    row = [[1.0, 2.0, 4.0], [3.0, 5.0], [9.0, 8.0, 7.0]]
    got, theirs = between([row]), f_oneway(*row)
    assert got is not None
    assert (got.F, got.p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    assert (got.kinds, got.freedom) == (2, 5)
    assert between([row, [[1.0, 9.0]]]) == got
    assert between([[[1.0, 1.0], [2.0, 2.0]]]) is None
    assert between([[[1.0, 2.0]]]) is None


@pytest.mark.parametrize("sd", [0.0, 1.0])
def test_the_bound_of_what_lies_between_kinds_holds_in_nineteen_of_twenty(sd: float) -> None:
    """Rows as the records have them: five of one to five trainings of two or three kinds."""
    rng = np.random.default_rng(0)
    numbers = [(4, 1, 5), (3, 3), (5, 3), (4, 1, 5), (3, 3)]
    inside, sds = 0, []
    for _ in range(1000):
        rows = [[rng.normal(rng.normal(0, sd), 1, n).tolist() for n in row] for row in numbers]
        got = between(rows)
        assert got is not None
        inside += got.most >= sd
        sds.append(got.sd**2)
    assert inside == pytest.approx(950 if sd else 1000, abs=25)
    assert np.mean(sds) == pytest.approx(sd**2, abs=0.12)


def test_of_two_ends_the_worse_verdict_holds() -> None:
    assert worse("converged", "not told") == "not told"
    assert worse("still learning", "not told") == "still learning"
    assert worse("converged", "converged") == "converged"
