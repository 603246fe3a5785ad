"""How often the sentence above a table names a lead of one model over another where all are equally good.

    python -m tests.benchmarks.leads [--tables 300]

Tables of 2, 4, 6 and 8 models with five trainings each. Trainings differ by an SD of 1 point of AP50 and of AP small,
the difference of two models over other images by one of 0.57, as measured on `synthetic_small`. All else of the rows
is that of a published one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.metrics.spread import RunMetric
from benchmarks.report.comparisons import compared, verdict
from benchmarks.report.rows import Row, Value, rows
from benchmarks.store import scan

RESULTS = Path(__file__).parents[2] / "results"
BETWEEN_TRAININGS, OF_A_MODEL, SEEDS, GROUPS = 0.010, 0.004, 5, 350.0


def equal_models(like: Row, count: int, rng: np.random.Generator) -> list[Row]:
    """Rows of models whose true AP50 and AP small are the same."""

    def drawn(level: float) -> dict[tuple[int, int], RunMetric]:
        images, off = rng.normal(0, OF_A_MODEL, 300), rng.normal(0, OF_A_MODEL)
        own = rng.normal(0, BETWEEN_TRAININGS, (2, SEEDS))
        return {
            (0, s): RunMetric(level + off + own[0, s], tuple(level + images + own[1, s]), GROUPS) for s in range(SEEDS)
        }

    out = []
    for i in range(count):
        samples, small = drawn(0.68), drawn(0.35)
        means = {
            name: Value(float(np.mean([run.value for run in runs.values()])), None)
            for name, runs in (("AP50", samples), ("AP_small", small))
        }
        name = "fasterrcnn_fpn" if i == 0 else "canet" if i == 1 else f"canet:{i}"
        label = "Faster R-CNN FPN" if i == 0 else "CANet" if i == 1 else f"CANet {i}"
        out.append(
            replace(
                like,
                name=name,
                label=label,
                samples=samples,
                samples_small=small,
                accuracy={**like.accuracy, **means},
                runs=SEEDS,
                learning="converged",
                twice={},
            )
        )
    return out


def named(section: Sequence[Row]) -> tuple[bool, bool, bool]:
    """Whether the verdict names a lead in AP50, one in AP small, and whether the table has a Holm's p below 0.05."""
    said = verdict(section)
    small = any("small defects" in sentence and " over " in sentence for sentence in said)
    table = any(one.adjusted is not None and one.adjusted < 0.05 for one in compared(section))
    return any("Best on AP50" in sentence and " over " in sentence for sentence in said), small, table


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=300)
    args = parser.parse_args()
    published = rows(list(scan(RESULTS)), list(scan(RESULTS / "_budget")))
    like = next(row for row in published if row.dataset == "synthetic_small" and row.device_class is None)
    rng = np.random.default_rng(0)
    print(
        "| equal models | a lead in AP50 | in AP small | Holm's p < 0.05 in the table |\n| ---: | ---: | ---: | ---: |"
    )
    for count in (2, 4, 6, 8):
        found = np.mean([named(equal_models(like, count, rng)) for _ in range(args.tables)], axis=0)
        print(f"| {count} | " + " | ".join(f"{share:.0%}" for share in found) + " |", flush=True)


if __name__ == "__main__":
    main()
