"""Which images of a set of the user's own must stay in one fold: `prepare --groups`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from benchmarks.datasets.duplicates import THRESHOLD, look_alike, source_name
from benchmarks.errors import DataError, RequestError

DEFAULT = "near"
HELP = (
    "for a set of your own, what stays in one fold: near (images that look alike, and an exporter's copies), "
    f"near:BITS (stricter below {THRESHOLD}), name (an exporter's copies only), none, or a CSV file with the columns "
    "image,group"
)


def check(how: str) -> None:
    """RequestError unless `how` is one of the ways of `groups`, before any work."""
    _bits(how)
    if how.partition(":")[0] not in ("near", "name", "none") and not Path(how).is_file():
        raise RequestError(f"--groups {how}: near, near:BITS, name, none, or a CSV file with the columns image,group")


def _bits(how: str) -> int:
    kind, colon, bits = how.partition(":")
    if kind != "near" or not colon:
        return THRESHOLD
    if not bits.isdigit() or int(bits) > 100:
        raise RequestError(f"--groups {how}: BITS is a whole number up to 100, of 255; {THRESHOLD} is usual")
    return int(bits)


def groups(paths: Mapping[str, Path], how: str, folds: int) -> list[list[str]]:
    """Groups of two or more images, as `how` says.

    DataError where a file leaves an image out or names one that is not there.
    """
    if how == "none":
        return []
    if how.partition(":")[0] == "near":
        return look_alike(paths, _bits(how), folds)
    key = {name: source_name(name) for name in paths} if how == "name" else _stated(paths, Path(how))
    by_key: dict[str, list[str]] = {}
    for name in paths:
        by_key.setdefault(key[name], []).append(name)
    return sorted(sorted(group) for group in by_key.values() if len(group) > 1)


def _stated(names: Mapping[str, Path], file: Path) -> dict[str, str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"--groups {file}: {e}") from None
    if not rows or not {"image", "group"} <= set(rows[0]):
        raise DataError(f"--groups {file}: it has no columns image and group in its first line")
    stated: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, group = (row["image"] or "").strip(), (row["group"] or "").strip()
        if name not in names and (encoded_anew := str(PurePosixPath(name).with_suffix(".png"))) in names:
            name = encoded_anew  # a turned or deep image, of the source's name
        if name not in names or not group:
            wrong = "no group" if name in names else f"the set has no image {name!r}"
            raise DataError(f"--groups {file}: line {number}: {wrong}")
        if stated.setdefault(name, group) != group:
            raise DataError(f"--groups {file}: line {number}: {name} is in group {stated[name]!r} already")
    if left := [name for name in names if name not in stated]:
        raise DataError(f"--groups {file}: {len(left)} images have no line in it, {left[0]!r} for one")
    return stated


def refuse_too_few(name: str, images: int, found: Sequence[Sequence[str]], folds: int) -> None:
    """DataError where the groups do not suffice for a group in each fold."""
    count = images - sum(map(len, found)) + len(found)
    if count < folds:
        fewer = f", or --folds {count}" if count >= LEAST_FOLDS else ""
        raise DataError(
            f"{name}: {images} images are {count} group{'s' if count > 1 else ''}; {folds} folds need {folds}: a "
            f"stricter --groups near:{THRESHOLD // 2}, --groups name, none or FILE{fewer}"
        )


LEAST_FOLDS = 3
"""One to test, one to choose on, one to train on."""
