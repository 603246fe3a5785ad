"""Split lists: k folds of file names, near-duplicates kept together, classes spread evenly. Files, never changed.

With fold i asked for, fold i is the test part, fold i+1 the validation part, the others are trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import catalogue
from benchmarks.datasets.duplicates import OVERLAP_THRESHOLD, THRESHOLD, linked, near_duplicates, overlapping
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.errors import DataError, RequestError, nearest

SHIPPED = Path(__file__).parent / "splits"
SEED = 20261123
_CLEAN = ""  # counts as a class, so that defect-free images are spread as well


@dataclass(frozen=True)
class Split:
    """One fold of a split list; `digest` is the SHA-256 of the whole list file."""

    name: str
    fold: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    digest: str


def load_split(dataset_name: str, split_name: str, fold: int, root: Path | str | None = None) -> Split:
    """Fold `fold` of a list of the data set, shipped or lying with the set under the data root `root`.

    RequestError for a name or fold that does not exist.
    """
    paths = {p.stem: p for p in (catalogue.data_root(root) / dataset_name / "splits").glob("*.json")}
    paths.update({p.stem: p for p in SHIPPED.glob(f"{dataset_name}-*.json")})
    if split_name not in paths:
        raise RequestError(f"data set {dataset_name!r} has no split {split_name!r}; {nearest(split_name, paths)}")
    path = paths[split_name]
    folds, digest = _read(path, path.stat().st_mtime_ns, dataset_name)
    if not 0 <= fold < len(folds):
        raise RequestError(f"split {split_name!r} has folds 0 to {len(folds) - 1}, not {fold}")
    val = (fold + 1) % len(folds)
    train = tuple(name for i, part in enumerate(folds) if i not in (fold, val) for name in part)
    return Split(split_name, fold, train, folds[val], folds[fold], digest)


@lru_cache(maxsize=32)
def _read(path: Path, changed_ns: int, dataset_name: str) -> tuple[tuple[tuple[str, ...], ...], str]:
    content = path.read_bytes()
    try:
        listed = json.loads(content)
        folds = tuple(tuple(part) for part in listed["folds"])
        owner = listed["dataset"]
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"split list {path} is damaged ({type(e).__name__}: {e}); restore the file") from None
    names = [name for part in folds for name in part]
    if owner != dataset_name or len(set(names)) != len(names):
        raise DataError(f"split list {path} is damaged: another data set's, or a file in two folds; restore the file")
    return folds, hashlib.sha256(content).hexdigest()


def make_folds(
    labels: Mapping[str, Sequence[str]],
    groups: Sequence[Sequence[str]] = (),
    *,
    folds: int = 5,
    seed: int = SEED,
) -> list[list[str]]:
    """Spread images over folds so that each fold has its share of every class's boxes and of images.

    Largest groups first, each to the fold where the squared relative deviations grow least; then single exchanges
    while they help. Only Python integers and floats in a fixed order: the same on every machine.

    Args:
        labels: file name -> class of each of its boxes; none for a defect-free image.
        groups: file names that must stay together; who is in none stands alone.
        seed: decides between equals.

    Returns:
        One sorted list of file names per fold.
    """
    grouped = {name for group in groups for name in group}
    units = [sorted(group) for group in groups] + [[name] for name in labels if name not in grouped]

    def key(unit: list[str]) -> str:
        return hashlib.sha256(f"{seed}/{unit[0]}".encode()).hexdigest()

    counts = {unit[0]: _count(unit, labels) for unit in units}
    total: Counter[str] = sum(counts.values(), Counter())
    # Folds of equal size come first: 100 is enough for that.
    weight = {k: (100.0 if k == _IMAGES else 1.0) / (n * n) for k, n in total.items()}
    rarest = sorted(total, key=lambda k: (total[k], k))
    # Hard ones first: big groups, then those with much of a rare class.
    units.sort(key=lambda u: (-len(u), [-counts[u[0]][k] for k in rarest], key(u)))
    have: list[Counter[str]] = [Counter() for _ in range(folds)]
    place: dict[str, int] = {}

    def cost(f: int, change: Counter[str], sign: int) -> float:
        """How much fold f's deviation grows when `change` is added (sign 1) or removed (sign -1)."""
        grown = 0.0
        for k in sorted(change):
            before = folds * have[f][k] - total[k]
            after = before + sign * folds * change[k]
            grown += weight[k] * (after * after - before * before)
        return grown

    for unit in units:
        change = counts[unit[0]]
        best = min(range(folds), key=lambda f: (cost(f, change, 1), sum(have[f].values()), f))
        have[best].update(change)
        place[unit[0]] = best
    _exchange([unit[0] for unit in units], counts, place, total, weight, folds)
    out: list[list[str]] = [[] for _ in range(folds)]
    for unit in units:
        out[place[unit[0]]].extend(unit)
    return [sorted(part) for part in out]


_IMAGES = "images"


def _count(unit: Sequence[str], labels: Mapping[str, Sequence[str]]) -> Counter[str]:
    """Boxes per class, images per class, defect-free images and images of a group."""
    count: Counter[str] = Counter({_IMAGES: len(unit)})
    for name in unit:
        for label in labels[name]:
            count["boxes " + label] += 1
        for label in set(labels[name]) or {_CLEAN}:
            count["images " + label] += 1
    return count


def _exchange(
    units: Sequence[str],
    counts: Mapping[str, Counter[str]],
    place: dict[str, int],
    total: Mapping[str, int],
    weight: Mapping[str, float],
    folds: int,
) -> None:
    """Exchange units between folds, each with the one that helps most, until nothing helps any more.

    The gains are added column by column, in one order, so that equals stay equal on every machine.
    """
    keys = sorted(total)
    table = np.array([[counts[unit][k] for k in keys] for unit in units], dtype=np.int64)
    home = np.array([place[unit] for unit in units])
    have = np.zeros((folds, len(keys)), dtype=np.int64)
    np.add.at(have, home, table)
    target = np.array([total[k] for k in keys])
    for _ in range(20):
        moved = False
        for i in range(len(units)):
            change = folds * (table - table[i])
            here = folds * have[home[i]] - target
            there = (folds * have - target)[home]
            gain = np.zeros(len(units))
            for c, k in enumerate(keys):
                d, a, b = change[:, c], here[c], there[:, c]
                gain += weight[k] * ((a + d) * (a + d) - a * a + (b - d) * (b - d) - b * b)
            gain[home == home[i]] = 0.0
            j = int(gain.argmin())
            if gain[j] < -1e-9:
                have[home[i]] += table[j] - table[i]
                have[home[j]] += table[i] - table[j]
                home[i], home[j] = home[j], home[i]
                moved = True
        if not moved:
            break
    place.update(zip(units, home.tolist(), strict=True))


def make_list(
    data: PreparedDataset,
    *,
    folds: int = 5,
    seed: int = SEED,
    overlaps: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """The content of a data set's split list file.

    Args:
        overlaps: whether to look for overlapping crops too; minutes for thousands of images.
    """
    paths = {image["file_name"]: data.path(image["file_name"]) for image in data.images}
    labels = {name: [data.classes[a["category_id"] - 1] for a in data.boxes(name)] for name in paths}
    groups = near_duplicates(paths)
    content: dict[str, Any] = {"schema": 1, "dataset": data.name}
    found: dict[str, Any] = {"seed": seed, "near_duplicate_threshold": THRESHOLD}
    if overlaps:
        pairs = overlapping(paths, labels, report=report)
        groups = linked(paths, [(g[0], other) for g in groups for other in g[1:]] + [(a, b) for a, b, _ in pairs])
        found["overlap_threshold"] = OVERLAP_THRESHOLD
    content["folds"] = make_folds(labels, groups, folds=folds, seed=seed)
    return {**content, **found, "near_duplicate_groups": groups}


def dumps(content: Mapping[str, Any]) -> str:
    """A split list as its file has it."""
    return json.dumps(content, indent=1) + "\n"
