"""How often the two-level interval covers: tests of detections that are drawn from published records.

    python -m tests.benchmarks.coverage

`coverage.npz` holds what AP50 needs of two records' detections (image, class, score, whether it is a hit; boxes of each
class and group of each image): CANet at 0.002 on version 1 of `synthetic_small` (fold 4 and its validation part,
120 images, none of which another shows; its record is no longer published) and CANet on NEU-DET (fold 0 of v1, 360
images in groups of 1 to 18; v1's
one group of 73 is split into groups of those sizes). Scores below 0.05 are left out.

A test set is a number of groups drawn with replacement. Trainings differ as measured (SD of 1.4 to 2 points of AP50 on
the same images): each loses another share of each class's hits, and ranks each detection anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.metrics.spread import RunMetric, Training, effective, estimate

FILE = Path(__file__).with_name("coverage.npz")
RUNS = (1, 3, 5, 10)
TRAININGS = 200
DRAWS = 150
_STEPS = 100

Floats = npt.NDArray[np.floating]
Class = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Images of the detections down to the last hit, best first; where each hit's part begins; images of the hits."""


@dataclass(frozen=True)
class Population:
    image: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    score: Floats
    hit: npt.NDArray[np.bool_]
    boxes: Floats
    """(images, classes)."""
    group: npt.NDArray[np.int64]

    @classmethod
    def load(cls, name: str) -> Population:
        with np.load(FILE) as z:
            return cls(*(z[f"{name}_{field}"] for field in ("image", "label", "score", "hit", "boxes", "group")))

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1

    def training(self, rng: np.random.Generator) -> list[Class]:
        """Another training of the model, by class."""
        classes = self.boxes.shape[1]
        lost = np.clip(0.06 + rng.normal(0, 0.03, classes) + rng.normal(0, 0.015), 0, 0.9)
        kept = ~(self.hit & (rng.random(len(self.hit)) < lost[self.label]))
        rank = np.log(self.score / (1 - self.score + 1e-9)) + rng.normal(0, 0.35, len(self.score))
        out = []
        for k in range(classes):
            mine = np.flatnonzero((self.label == k) & kept)
            mine = mine[np.argsort(-rank[mine], kind="stable")]
            hits = np.flatnonzero(self.hit[mine])
            starts = np.concatenate([[0], hits[:-1] + 1]) if len(hits) else hits
            last = hits[-1] + 1 if len(hits) else 0
            out.append((self.image[mine[:last]], starts, self.image[mine[hits]]))
        return out

    def AP50(self, training: list[Class], weights: Floats) -> Floats:
        """COCO's AP50 of weighted images, weights (images, B): (B,)."""
        values = np.full((len(training), weights.shape[1]), np.nan)
        for k, (images, starts, of_hits) in enumerate(training):
            boxes = self.boxes[:, k] @ weights
            if not len(of_hits):
                values[k] = np.where(boxes > 0, 0, np.nan)
                continue
            total = np.cumsum(np.add.reduceat(weights[images], starts, axis=0), axis=0)
            found = np.cumsum(weights[of_hits], axis=0)
            recall = found / np.where(boxes > 0, boxes, 1)
            precision = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            reached = (recall * _STEPS + 1e-4).astype(np.intp) + 1
            ap = (envelope * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / (_STEPS + 1)
            values[k] = np.where(boxes > 0, ap, np.nan)
        return np.nanmean(values, axis=0)


def simulate(name: str, groups: int, times: int, seed: int = 0) -> tuple[dict[int, float], float]:
    """Share of the intervals of 1, 3, 5 and 10 trainings that cover, and what AP50 of such a test set lies too high.

    What is to be covered is the mean AP50 over trainings and test sets of so many groups.
    """
    rng = np.random.default_rng(seed)
    population = Population.load(name)
    pool = [population.training(rng) for _ in range(TRAININGS)]
    whole = np.ones((len(population.group), 1), dtype=np.float32)
    each = np.array([population.AP50(training, whole)[0] for training in pool])
    borrowed = Training(float(each.var(ddof=1)), 20, 25)
    runs = np.empty((times, max(RUNS), 1 + DRAWS))
    boxes = np.bincount(population.group, population.boxes.sum(axis=1)).astype(int)
    number = np.empty(times)
    for i in range(times):
        drawn = np.bincount(rng.integers(0, population.groups, groups), minlength=population.groups)
        # Groups that were drawn twice are two groups: a resample takes each of them so many times.
        owner = np.repeat(np.arange(population.groups), drawn)
        number[i] = effective(boxes[owner])
        counts = np.concatenate(
            [np.ones((groups, 1)), rng.multinomial(groups, np.full(groups, 1 / groups), DRAWS).T], 1
        )
        by_group = np.zeros((population.groups, 1 + DRAWS), dtype=np.float32)
        np.add.at(by_group, owner, counts.astype(np.float32))
        weights = by_group[population.group]
        chosen = rng.choice(TRAININGS, max(RUNS), replace=False)
        runs[i] = [population.AP50(pool[t], weights) for t in chosen]
    truth = float(runs[:, :, 0].mean())
    covered = {}
    for n in RUNS:
        hits = 0
        for i, sample in enumerate(runs):
            seeds = {(0, s): RunMetric(float(r[0]), r[1:], number[i]) for s, r in enumerate(sample[:n])}
            got = estimate(seeds, training=borrowed)
            assert got is not None
            assert got.interval is not None
            hits += got.interval[0] <= truth <= got.interval[1]
        covered[n] = hits / times
    return covered, truth - float(each.mean())


if __name__ == "__main__":
    for name, groups in (("synthetic_small", 60), ("neu_det", 30)):
        covered, high = simulate(name, groups, 2000)
        print(name, groups, "groups:", {n: f"{100 * v:.1f}%" for n, v in covered.items()}, f"bias {100 * high:+.1f}")
