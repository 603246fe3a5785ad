"""What a pool of 60 trainings of `smoke` says of the gate: its spread, and how seldom unchanged code alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.gate.judge import compare
from tests.benchmarks import pool as a_pool
from tests.benchmarks.conftest import make_cell

ERRORS = {"AP": 0.02, "AP75": 0.02, "AP_small": 0.02}


@pytest.fixture(scope="module")
def pool() -> a_pool.Pool:
    return a_pool.saved()


def test_the_pool_is_of_todays_smoke() -> None:
    """Where not: train it again (tests/benchmarks/pool.py), and the baseline in results/_gate with it."""
    assert a_pool.cell_ids() == {cell.id for cell in a_pool.cells(range(60))}


def test_the_pool_is_steady_and_far_from_0_and_1(pool: a_pool.Pool) -> None:
    assert set(pool) == {"canet", "fasterrcnn_fpn"}
    for trainings in pool.values():
        values = [a_pool.metric(stored, "AP50").value for stored in trainings]
        assert len(values) == 60
        assert np.std(values, ddof=1) < 0.03
        assert 0.2 < min(values) < max(values) < 0.9


def test_what_is_kept_of_the_resampled_images_has_their_covariance(pool: a_pool.Pool, tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 1000)) + rng.normal(size=1000)
    some = {}
    for model, trainings in pool.items():
        stored = []
        for it, mine in zip(trainings[:4], values, strict=True):
            metrics = it.run.metrics.model_copy(update={"draws": {"AP50": tuple(mine)}, "standard_errors": ERRORS})
            stored.append(replace(it, run=it.run.model_copy(update={"metrics": metrics})))
        some[model] = stored
    monkeypatch.setattr(a_pool, "FILE", tmp_path / "pool.npz")
    a_pool.save(some)
    kept = [a_pool.metric(stored, "AP50").draws for stored in a_pool.saved()["canet"]]
    np.testing.assert_allclose(np.cov(kept), np.cov(values), rtol=1e-10)


def test_a_pool_takes_trainings_of_todays_smoke_alone(tmp_path, stored) -> None:
    stored("runs", make_cell(dataset="synthetic_smoke", split="synthetic_smoke-4fold-v1"))
    with pytest.raises(ValueError, match="today's smoke"):
        a_pool.of_records(tmp_path / "runs")


def test_a_check_is_of_one_metric(pool: a_pool.Pool) -> None:
    (checks,) = a_pool.drawn(pool, 1)
    names = list(a_pool.limits().accuracy)
    assert len(checks) == len(pool) * len(names)
    assert all(sum(a_pool.is_of(check, name) for name in names) == 1 for check in checks)


@pytest.mark.slow
def test_unchanged_code_alarms_in_at_most_2_of_100_draws(pool: a_pool.Pool) -> None:
    assert a_pool.alarms(a_pool.drawn(pool)) <= 0.02 * a_pool.DRAWS


def test_of_ten_comparisons_without_a_seed_in_common_at_most_one_alarms(pool: a_pool.Pool) -> None:
    some = [
        compare(*a_pool.sides(pool, range(at, at + 3), range(at + 3, at + 6)), limits=a_pool.limits())
        for at in range(0, 60, 6)
    ]
    assert a_pool.alarms(some) <= 1


@pytest.mark.slow
def test_a_drop_as_large_as_is_said_is_caught_in_about_four_of_five_draws(pool: a_pool.Pool) -> None:
    said = a_pool.median_caught(a_pool.drawn(pool, 300), "AP50")
    assert 0.02 < said < a_pool.limits().certain
    checks = [c for found in a_pool.drawn(pool, 300, said) for c in found if a_pool.is_of(c, "AP50")]
    assert np.mean([c.verdict == "fail" for c in checks]) == pytest.approx(0.8, abs=0.15)
