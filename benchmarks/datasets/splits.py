"""Split lists: k folds of file names, near-duplicates kept together, classes spread evenly. Files, never changed.

A file has one of three forms:
- `folds`: with fold i asked for, fold i is the test part, fold i+1 the validation part, the others are trained on;
  `only_tested`, a list for each fold, joins it where it is a test or validation part and is never trained on;
- `base` and `train`: as the list named `base`, but only these images of each fold's training part are trained on;
- `parts`: train, val and test as they stand, an official split.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import catalogue, duplicates, grouping
from benchmarks.datasets.duplicates import THRESHOLD, linked, near_duplicates, overlapping
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.errors import DataError, RequestError, nearest

SHIPPED = Path(__file__).parent / "splits"
SEED = 20261123
SUPERSEDED = {
    f"neu_det-{which}-v1": "superseded: a tenth of its images show a place that another fold shows too (docs/folds.md)"
    for which in ("5fold", "few10", "few30", "few100")
} | {
    f"synthetic_small-{which}-v1": "superseded: of version 1 of the set, whose images this version does not have"
    for which in ("5fold", "few10", "few30", "few100")
}
"""Lists that nothing new should be run on, and why; they can still be read."""

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


def titles(dataset_name: str, root: Path | str | None = None) -> list[str]:
    """The lists of a data set, shipped or made on this machine."""
    return sorted(_paths(dataset_name, root))


def count_folds(dataset_name: str, split_name: str, root: Path | str | None = None) -> int:
    """How many folds a list of the data set has that can be trained and tested on.

    RequestError for a name that does not exist, or a list without a training or a test part.
    """
    parts, _ = _load(dataset_name, split_name, root)
    for train, _val, test in parts:
        if not train or not test:
            raise RequestError(f"split {split_name!r} has no {'test' if train else 'training'} part: choose another")
    return len(parts)


def load_split(dataset_name: str, split_name: str, fold: int, root: Path | str | None = None) -> Split:
    """Fold `fold` of a list of the data set, shipped or lying with the set under the data root `root`.

    RequestError for a name or fold that does not exist.
    """
    parts, digest = _load(dataset_name, split_name, root)
    if not 0 <= fold < len(parts):
        raise RequestError(f"split {split_name!r} has folds 0 to {len(parts) - 1}, not {fold}")
    return Split(split_name, fold, *parts[fold], digest)


def groups_of(dataset_name: str, split_name: str, root: Path | str | None = None) -> dict[str, int]:
    """Which images of a list belong together: image -> number of its group, from 0 in the order of the list.

    Images of one group show the same place, or are near-duplicates, or come from one board: they are no independent
    draws. Who is in no group is one of its own. The official `parts` and lists on a base have the groups that their
    file or their base states.

    RequestError for a list that does not exist, DataError for a damaged one.
    """
    parts, _ = _load(dataset_name, split_name, root)
    path = _paths(dataset_name, root)[split_name]
    content = json.loads(path.read_bytes())
    if "base" in content:
        content = json.loads(path.with_name(f"{content['base']}.json").read_bytes())
    return numbered([names for part in parts for names in part], stated(content))


def stated(content: Mapping[str, Any]) -> list[list[str]]:
    """The groups of more than one image that the content of a list file states."""
    groups = content.get("groups", content.get("near_duplicate_groups", []))
    return [list(group) for group in (groups.values() if isinstance(groups, dict) else groups)]


def numbered(parts: Iterable[Iterable[str]], groups: Iterable[Sequence[str]]) -> dict[str, int]:
    """Image -> number of its group; who is in none is a group of one."""
    first = {name: group[0] for group in groups for name in group}
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(first.get(name, name), len(numbers)) for part in parts for name in part}


def _load(dataset_name: str, split_name: str, root: Path | str | None) -> tuple[tuple[_Parts, ...], str]:
    paths = _paths(dataset_name, root)
    if split_name not in paths:
        raise RequestError(f"data set {dataset_name!r} has no split {split_name!r}; {nearest(split_name, paths)}")
    path = paths[split_name]
    return _read(path, path.stat().st_mtime_ns, dataset_name)


def _sums() -> list[str]:
    """A line per shipped list, as `sha256sum --check` reads it."""
    return (SHIPPED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()


_Names = tuple[str, ...]
_Parts = tuple[_Names, _Names, _Names]


def _paths(dataset_name: str, root: Path | str | None) -> dict[str, Path]:
    paths = {p.stem: p for p in catalogue.files_of(root, f"{glob.escape(dataset_name)}/splits/*.json")}
    return paths | {p.stem: p for p in SHIPPED.glob(f"{dataset_name}-*.json")}


@lru_cache(maxsize=32)
def _read(path: Path, changed_ns: int, dataset_name: str) -> tuple[tuple[_Parts, ...], str]:
    """Train, val and test of every fold of a list file, and the file's digest."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    try:
        if path.parent == SHIPPED and f"{digest}  {path.name}" not in _sums():
            raise ValueError("its digest is not that in SHA256SUMS")
        listed = json.loads(content)
        if listed["dataset"] != dataset_name:
            raise ValueError(f"it is a list of {listed['dataset']!r}")
        if "base" in listed:
            base = path.with_name(f"{listed['base']}.json")
            if hashlib.sha256(base.read_bytes()).hexdigest() != listed["base_sha256"]:
                raise ValueError(f"{base.name} is not the list that it builds on")
            whole, _ = _read(base, base.stat().st_mtime_ns, dataset_name)
            parts = tuple((tuple(few), val, test) for few, (_, val, test) in zip(listed["train"], whole, strict=True))
            if any(set(few) - set(train) for (few, _, _), (train, _, _) in zip(parts, whole, strict=True)):
                raise ValueError(f"it trains on images that {base.name} does not train on")
        elif "parts" in listed:
            parts = ((tuple(listed["parts"]["train"]), tuple(listed["parts"]["val"]), tuple(listed["parts"]["test"])),)
        else:
            if not all(listed["folds"]):
                raise ValueError("a fold of it has no image")
            parts = _rotated(listed)
        for part in parts:
            names = [name for names in part for name in names]
            if len(set(names)) != len(names):
                raise ValueError("an image stands in it twice")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"split list {path} is damaged ({type(e).__name__}: {e}); restore the file") from None
    return parts, digest


def _rotated(content: Mapping[str, Any]) -> tuple[_Parts, ...]:
    """Train, val and test of every fold of a list of the form `folds`."""
    folds = [tuple(part) for part in content["folds"]]
    only_tested = [tuple(part) for part in content.get("only_tested", [()] * len(folds))]
    if len(only_tested) != len(folds):
        raise ValueError(f"{len(folds)} folds and {len(only_tested)} lists of what is only tested on")
    k = len(folds)
    out = []
    for i in range(k):
        val = (i + 1) % k
        train = tuple(name for j, part in enumerate(folds) if j not in (i, val) for name in part)
        out.append((train, folds[val] + only_tested[val], folds[i] + only_tested[i]))
    return tuple(out)


def make_folds(
    labels: Mapping[str, Sequence[str]],
    groups: Sequence[Sequence[str]] = (),
    *,
    folds: int = 5,
    seed: int = SEED,
    spread: bool = False,
) -> list[list[str]]:
    """Spread images over folds so that each fold has its share of every class's boxes and of images.

    Largest groups first, each to the fold where the squared relative deviations grow least; then single exchanges
    while they help. Only Python integers and floats in a fixed order: the same on every machine.

    Args:
        labels: file name -> class of each of its boxes; none for a defect-free image.
        groups: file names that must stay together; who is in none stands alone.
        seed: decides between equals.
        spread: whether each fold also gets its share of every class's groups, above its share of boxes: what is
            measured on many images of one group is measured once.

    Returns:
        One sorted list of file names per fold.
    """
    grouped = {name for group in groups for name in group}
    units = [sorted(group) for group in groups] + [[name] for name in labels if name not in grouped]

    def key(unit: list[str]) -> str:
        return hashlib.sha256(f"{seed}/{unit[0]}".encode()).hexdigest()

    counts = {unit[0]: _count(unit, labels, spread) for unit in units}
    total: Counter[str] = sum(counts.values(), Counter())
    # Folds of equal size come first: 100 is enough for that. Then groups.
    weight = {
        k: (100.0 if k == _IMAGES else 10.0 if k.startswith(_GROUPS) else 1.0) / (n * n) for k, n in total.items()
    }
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
_GROUPS = "groups "


def _count(unit: Sequence[str], labels: Mapping[str, Sequence[str]], spread: bool) -> Counter[str]:
    """Boxes per class, images per class, defect-free images and images of a group; with `spread`, its classes."""
    count: Counter[str] = Counter({_IMAGES: len(unit)})
    for name in unit:
        for label in labels[name]:
            count["boxes " + label] += 1
        for label in set(labels[name]) or {_CLEAN}:
            count["images " + label] += 1
    if spread:
        shown = [label for name in unit for label in labels[name] or [_CLEAN]]
        for label in set(shown):
            count[_GROUPS + label] = 1
        # The class that a group is about too: others are in it by the way.
        count[f"{_GROUPS}of {max(sorted(set(shown)), key=shown.count)}"] = 1
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

    Units with the same counts in the same fold are equals, of which the first is taken. The gains are added column by
    column, in one order, so that equals stay equal on every machine.
    """
    keys = sorted(total)
    table, kind = np.unique(
        np.array([[counts[unit][k] for k in keys] for unit in units], dtype=np.int64), axis=0, return_inverse=True
    )
    kind = kind.ravel()
    home = np.array([place[unit] for unit in units])
    present = np.zeros((len(table), folds), dtype=np.int64)
    np.add.at(present, (kind, home), 1)
    have = np.zeros((folds, len(keys)), dtype=np.int64)
    np.add.at(have, home, table[kind])
    target = np.array([total[k] for k in keys])
    kinds, homes = np.nonzero(present)
    for _ in range(20):
        moved = False
        for i in range(len(units)):
            change = folds * (table[kinds] - table[kind[i]])
            here = folds * have[home[i]] - target
            there = (folds * have - target)[homes]
            gain = np.zeros(len(kinds))
            for c, k in enumerate(keys):
                d, a, b = change[:, c], here[c], there[:, c]
                gain += weight[k] * ((a + d) * (a + d) - a * a + (b - d) * (b - d) - b * b)
            gain[homes == home[i]] = 0.0
            if gain.min() < -1e-9:
                best = np.zeros_like(present, dtype=bool)
                best[kinds, homes] = gain == gain.min()
                j = int(best[kind, home].argmax())
                have[home[i]] += table[kind[j]] - table[kind[i]]
                have[home[j]] += table[kind[i]] - table[kind[j]]
                for unit, other in ((i, j), (j, i)):
                    present[kind[unit], home[unit]] -= 1
                    present[kind[unit], home[other]] += 1
                kinds, homes = np.nonzero(present)
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
    how: str = "",
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """The content of a data set's split list file.

    Args:
        overlaps: whether to look for overlapping crops too; minutes for thousands of images.
        how: what else stays together, a way of `grouping.groups`; "" for near-duplicates, as shipped lists have it.

    DataError where there are fewer groups than folds.
    """
    labels = _labels(data)
    paths = {name: data.path(name) for name in labels}
    groups = grouping.groups(paths, how, folds) if how else near_duplicates(paths)
    content: dict[str, Any] = {"schema": 1, "dataset": data.name}
    found: dict[str, Any] = {"seed": seed, **({"grouped_by": how} if how else {"near_duplicate_threshold": THRESHOLD})}
    if overlaps:
        pairs = overlapping(paths, labels, report=report)
        groups = linked(paths, [(g[0], other) for g in groups for other in g[1:]] + [(p.a, p.b) for p in pairs])
        found["overlap_search"] = {
            name: getattr(duplicates, name.upper())
            for name in ("min_overlap", "sure", "likely", "sharp", "thin", "stands_out", "very_sharp")
        }
    grouping.refuse_too_few(data.name, len(labels), groups, folds)
    if how and (largest := max(map(len, groups), default=0)) * folds > len(labels):
        report(f"{data.name}: {largest} of {len(labels)} images stay in one fold (--groups {how}): folds are uneven")
    content["folds"] = make_folds(labels, groups, folds=folds, seed=seed, spread=overlaps or bool(how and groups))
    prefix = catalogue.CATALOGUE[data.name].only_tested if data.name in catalogue.CATALOGUE else ""
    if prefix:
        dealt = sorted(image["file_name"] for image in data.images if image["file_name"].startswith(prefix))
        content["only_tested"] = [dealt[i::folds] for i in range(folds)]
    return {**content, **found, "near_duplicate_groups": groups}


def _labels(data: PreparedDataset) -> dict[str, list[str]]:
    """Class of each box, difficult ones too, of the images that fold lists are about."""
    spec = catalogue.CATALOGUE.get(data.name)
    excluded = tuple(filter(None, (spec.excluded, spec.only_tested))) if spec else ()
    names = [image["file_name"] for image in data.images]
    return {name: _classes(data, name) for name in names if not name.startswith(excluded)}


def _classes(data: PreparedDataset, name: str) -> list[str]:
    """Class of each box of an image, difficult ones too."""
    return [data.classes[a["category_id"] - 1] for a in (*data.boxes(name), *data.ignored(name))]


def make_few(
    data: PreparedDataset, base: str, content: Mapping[str, Any], count: int, *, seed: int = SEED
) -> dict[str, Any]:
    """A list that trains on `count` images of each fold of the fold list `base`.

    Image after image is taken for the class that has had the smallest share so far, so that a longer list contains the
    shorter ones and every class is there as early as can be.

    Raises:
        RequestError: a fold has fewer training images than that.
    """
    labels = _labels(data)
    digest = hashlib.sha256(dumps(content).encode()).hexdigest()
    parts = _rotated(content)
    chosen = []
    for train, _, _ in parts:
        if count > len(train):
            raise RequestError(f"{base} trains on {len(train)} images, {count} cannot be chosen of them")
        left = sorted(train, key=lambda name: hashlib.sha256(f"{seed}/few/{name}".encode()).hexdigest())
        total = Counter(label for name in train for label in labels[name] or [_CLEAN])
        have: Counter[str] = Counter()
        taken: list[str] = []
        for _ in range(count):
            wanted = sorted(total, key=lambda label: (have[label] / total[label], label))
            pick = next(name for label in wanted for name in left if label in (labels[name] or [_CLEAN]))
            left.remove(pick)
            taken.append(pick)
            have.update(labels[pick] or [_CLEAN])
        chosen.append(taken)
    return {"schema": 1, "dataset": data.name, "base": base, "base_sha256": digest, "seed": seed, "train": chosen}


def make_grouped(
    data: PreparedDataset, group: Callable[[str], str], *, folds: int = 5, seed: int = SEED
) -> dict[str, Any]:
    """A fold list in which images with the same `group(file_name)` stay together."""
    labels = _labels(data)
    groups: dict[str, list[str]] = {}
    for name in labels:
        groups.setdefault(group(name), []).append(name)
    made = make_folds(labels, list(groups.values()), folds=folds, seed=seed)
    return {"schema": 1, "dataset": data.name, "folds": made, "seed": seed, "groups": groups}


FEW = (10, 30, 100)


def make_fews(data: PreparedDataset, base: str, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The few-shot lists of the fold list `base`, by name, as far as its folds have so many images.

    They have the version of the base.
    """
    version = base.rpartition("-")[2]
    smallest = min(len(train) for train, _, _ in _rotated(content))
    counts = [count for count in FEW if count <= smallest]
    return {f"{data.name}-few{count}-{version}": make_few(data, base, content, count) for count in counts}


def make_all(data: PreparedDataset, report: Callable[[str], object] = lambda line: None) -> dict[str, dict[str, Any]]:
    """Every list of a catalogued set, by name: folds, few-shot, and what its module adds (`lists(data)`)."""
    spec = catalogue.CATALOGUE[data.name]
    content = make_list(data, folds=spec.folds, overlaps=spec.overlaps, report=report)
    out = {spec.split: content, **make_fews(data, spec.split, content)}
    more = getattr(importlib.import_module(spec.module), "lists", None)
    return {**out, **more(data)} if more else out


@dataclass(frozen=True)
class Share:
    """What a fold has of a class: boxes, images with one, groups of such images, images of the largest."""

    boxes: int
    images: int
    groups: int
    largest: int


def shares(data: PreparedDataset, folds: Sequence[Sequence[str]], group: Mapping[str, int]) -> list[dict[str, Share]]:
    """Per fold what it has of each class, in the order of the set's classes.

    Args:
        group: image -> group, as `groups_of` gives it.
    """
    names = [name for fold in folds for name in fold]
    labels = {name: _classes(data, name) for name in names}
    out = []
    for fold in folds:
        row = {}
        for label in data.classes:
            shown = [name for name in fold if label in labels[name]]
            sizes = Counter(group[name] for name in shown)
            boxes = sum(labels[name].count(label) for name in shown)
            row[label] = Share(boxes, len(shown), len(sizes), max(sizes.values(), default=0))
        out.append(row)
    return out


def dumps(content: Mapping[str, Any]) -> str:
    """A split list as its file has it."""
    return json.dumps(content, indent=1) + "\n"
