"""How often the gate alarms where nothing changed: comparisons of trainings from one pool of `smoke`.

    python -m benchmarks.run --suite smoke --arithmetic portable --no-profile --out RUNS --seed 0 ... --seed 59
    python -m tests.benchmarks.pool RUNS

prints the spread over seeds, ten comparisons of three seeds with three others, no seed twice, by all that the gate says
of such records (accuracy, counts, status), and 2,000 by its accuracy alone, of seeds that are drawn: draws share seeds,
so that they are far from 2,000 independent ones. It writes `pool.npz`, which holds of each training what the gate's
accuracy needs, so that a test can draw again without the records: values, standard errors, and numbers that have the
covariance of the resampled images' metrics.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from scipy.linalg import helmert

from benchmarks.cells import Cell
from benchmarks.gate import accuracy
from benchmarks.gate.checks import Check, Pair
from benchmarks.gate.judge import compare
from benchmarks.metrics.spread import RunMetric
from benchmarks.report.rows import run_metric
from benchmarks.store import Stored, scan
from benchmarks.suites import GateLimits, load
from tests.benchmarks.conftest import make_cell, make_metrics
from tests.benchmarks.test_compare import one

FILE = Path(__file__).with_name("pool.npz")
DRAWS = 2000
SEEDS = 3  # a side
Pool = Mapping[str, Sequence[Stored]]
"""Trainings of each model, one for each seed, in the same order."""


def limits() -> GateLimits:
    return load("smoke").limits


def cells(seeds: Sequence[int]) -> list[Cell]:
    """Of today's smoke."""
    return load("smoke").cells("quick", datasets=("synthetic_smoke",), seeds=seeds)


def of_records(runs: Path) -> Pool:
    """The pool of a folder; ValueError unless it holds today's `smoke` alone, with the same seeds of each model."""
    found: dict[str, dict[int, Stored]] = {}
    for stored in scan(runs):
        cell = stored.run.cell
        if cell not in cells((cell.seed,)) or stored.run.status != "ok":
            raise ValueError(f"{stored.paths.record}: not a cell of today's smoke, or one that failed")
        found.setdefault(cell.model, {})[cell.seed] = replace(stored, profile=None)  # few may have one
    seeds = {tuple(sorted(mine)) for mine in found.values()}
    if len(seeds) != 1:
        raise ValueError(f"{runs}: no seeds, or not the same of each model")
    return {model: [mine[seed] for seed in sorted(mine)] for model, mine in sorted(found.items())}


def metric(stored: Stored, name: str) -> RunMetric:
    assert stored.run.metrics is not None
    found = run_metric(name, stored.run.metrics)
    assert found is not None
    return found


def save(pool: Pool) -> None:
    """Write `FILE`.

    The draws D of n trainings, centred (n, 1000), become (n, n + 1) numbers with their covariance, which is all that is
    asked of them: D = U S V gives U S H, with the rows of H orthonormal, and orthogonal to the mean.
    """
    out: dict[str, npt.NDArray[Any]] = {
        "cells": np.array([stored.run.cell_id for trainings in pool.values() for stored in trainings])
    }
    for model, trainings in pool.items():
        for name in limits().accuracy:
            found = [metric(stored, name) for stored in trainings]
            out[f"{model} {name} value"] = np.array([it.value for it in found])
            if all(len(it.draws) for it in found):
                drawn = np.array([it.draws for it in found])
                u, s, _ = np.linalg.svd(drawn - drawn.mean(1, keepdims=True), full_matrices=False)
                n = len(found)
                scale = np.sqrt(n / (drawn.shape[1] - 1))
                out[f"{model} {name} draws"] = scale * (u * s) @ helmert(n + 1)[: len(s)]
            else:
                out[f"{model} {name} error"] = np.array([it.error for it in found], dtype=float)
        first = trainings[0].run
        assert first.metrics is not None
        assert first.metrics.groups is not None
        assert first.metrics.effective_groups is not None
        out[f"{model} groups"] = np.array([first.metrics.groups, first.metrics.effective_groups], dtype=float)
    np.savez_compressed(FILE, **out)


def cell_ids() -> set[str]:
    """Of which trainings `FILE` is."""
    with np.load(FILE) as z:
        return set(z["cells"].tolist())


def saved() -> Pool:
    """The pool of `FILE`, as records with nothing but their accuracy."""
    with np.load(FILE) as z:
        models = {key.split()[0] for key in z if key != "cells"}
        return {model: list(_saved(z, model)) for model in sorted(models)}


def _saved(z: Mapping[str, npt.NDArray[np.float64]], model: str) -> Iterator[Stored]:
    groups, effective = z[f"{model} groups"]
    names = [key.split()[1] for key in z if key.startswith(f"{model} ") and key.endswith(" value")]
    for seed in range(len(z[f"{model} {names[0]} value"])):
        values = {name: float(z[f"{model} {name} value"][seed]) for name in names}
        drawn = {n: tuple(z[f"{model} {n} draws"][seed].tolist()) for n in names if f"{model} {n} draws" in z}
        errors = {n: float(z[f"{model} {n} error"][seed]) for n in names if f"{model} {n} error" in z}
        metrics = make_metrics(
            values.pop("AP50"),
            **values,
            draws=drawn,
            standard_errors=errors,
            groups=int(groups),
            effective_groups=float(effective),
        )
        yield one("pool", cell=make_cell(dataset="synthetic_smoke", model=model, seed=seed), metrics=metrics)


def sides(pool: Pool, base: Sequence[int], head: Sequence[int]) -> tuple[list[Stored], list[Stored]]:
    """Trainings of all models with those seeds, by their places in the pool."""
    return [mine[i] for mine in pool.values() for i in base], [mine[i] for mine in pool.values() for i in head]


def drawn(pool: Pool, draws: int = DRAWS, lost: float = 0.0) -> list[list[Check]]:
    """The accuracy checks of comparisons of seeds that are drawn, none on both sides.

    Args:
        lost: what the head's AP50 has less than the trainings of the pool have.
    """
    rng, limit = np.random.default_rng(0), limits()
    heads = {model: [_less(stored, lost) for stored in mine] if lost else mine for model, mine in pool.items()}
    number = len(next(iter(pool.values())))
    out = []
    with _without_collections():
        for _ in range(draws):
            which = rng.permutation(number)[: 2 * SEEDS]
            rows = [
                (model, [Pair(mine[a], heads[model][b]) for a, b in zip(which[:SEEDS], which[SEEDS:], strict=True)])
                for model, mine in pool.items()
            ]
            out.append(accuracy.judged(rows, limit))
    return out


def _less(stored: Stored, lost: float) -> Stored:
    metrics = stored.run.metrics
    assert metrics is not None
    assert metrics.AP50 is not None
    less = {"AP50": tuple(value - lost for value in metrics.draws["AP50"])}
    changed = metrics.model_copy(update={"AP50": metrics.AP50 - lost, "draws": {**metrics.draws, **less}})
    return replace(stored, run=stored.run.model_copy(update={"metrics": changed}))


@contextmanager
def _without_collections() -> Iterator[None]:
    """statsmodels collects garbage at every correction, which is most of the time of so many of them."""
    with mock.patch.object(gc, "collect", return_value=0):
        yield


def alarms(comparisons: Sequence[Sequence[Check]]) -> int:
    return sum(any(check.verdict == "fail" for check in checks) for checks in comparisons)


def grey(comparisons: Sequence[Sequence[Check]]) -> int:
    return sum(any(check.verdict == "inconclusive" for check in checks) for checks in comparisons)


def is_of(check: Check, name: str) -> bool:
    return check.what.startswith(f"{accuracy.LABELS.get(name, name)} (")


def median_caught(comparisons: Sequence[Sequence[Check]], name: str) -> float:
    """The drop of a metric that a check says would be caught in 80% of tries: the median over checks."""
    return float(np.median([c.caught for checks in comparisons for c in checks if c.caught and is_of(c, name)]))


def main(runs: Path) -> None:
    pool = of_records(runs)
    number = len(next(iter(pool.values())))
    for model, trainings in pool.items():
        for name in limits().accuracy:
            values = np.array([metric(stored, name).value for stored in trainings]) * 100
            span = f"{values.min():.1f} to {values.max():.1f}"
            print(f"{model} {name}: {values.mean():.1f} (SD {values.std(ddof=1):.1f}, {span}), {number} seeds")
    whole = []
    for first in range(0, number - 2 * SEEDS + 1, 2 * SEEDS):
        base, head = (range(at, at + SEEDS) for at in (first, first + SEEDS))
        whole.append(compare(*sides(pool, base, head), limits=limits()))
        bad = [f"{c.cell} {c.what}: {c.base} -> {c.head}" for c in whole[-1] if c.verdict == "fail"]
        print(f"seeds {base} against {head}: {len(whole[-1])} checks", *bad, sep="\n  ")
    print(f"{len(whole)} comparisons: {alarms(whole)} alarms, {grey(whole)} with something that could not be told")
    many = drawn(pool)
    print(f"{len(many)} draws: {alarms(many)} alarms, {grey(many)} with something that could not be told")
    for name in limits().accuracy:
        own = [check.verdict for checks in many for check in checks if is_of(check, name)]
        print(
            f"{name}: of {len(own)} checks {own.count('fail')} failed, {own.count('inconclusive')} could not be told;"
        )
        print(f"  a drop of {100 * median_caught(many, name):.1f} points would be caught in 80% of tries (median)")
    seen = median_caught(many, "AP50")
    found = [c.verdict == "fail" for checks in drawn(pool, 500, seen) for c in checks if is_of(c, "AP50")]
    print(f"AP50 {100 * seen:.1f} points lower in the heads: {np.mean(found):.0%} of its checks fail")
    save(pool)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
