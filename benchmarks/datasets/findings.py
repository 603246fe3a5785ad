"""What is wrong with a data set, by file, and what is done about it: nothing that was not asked for."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.datasets import images
from benchmarks.datasets.sources import Box, Sample, is_unsafe
from benchmarks.errors import DataError, RequestError, nearest

ROUNDING = 0.01
"""Pixels by which a box may leave its image without being a finding: what decimal text loses."""

KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "corrupt_image": ("cannot be decoded", {"drop": "leave the image out"}),
    "rotated_image": ("has an EXIF orientation", {"fix": "turn the pixels", "drop": "leave the image out"}),
    "deep_image": ("has more than 8 bits a channel", {"fix": "keep the upper 8 bits", "drop": "leave the image out"}),
    "duplicate_image": ("has the pixels of another", {"keep": "keep both", "drop": "leave the later one out"}),
    "duplicate_name": ("has the name of another", {"drop": "leave the later one out"}),
    "missing_image": ("is not there, or ambiguous", {"drop": "leave its annotation out"}),
    "missing_annotation": ("has no annotation", {"fix": "count it as defect-free", "drop": "leave the image out"}),
    "bad_annotation": ("cannot be read", {"drop": "leave the image out"}),
    "bad_object": ("has an object that cannot be read", {"drop": "leave the object out"}),
    "size_differs": ("states another size than the pixels have", {"fix": "believe the pixels", "drop": "leave it out"}),
    "unknown_class": ("names a class that the set has not", {"drop": "leave the box out"}),
    "duplicate_id": ("repeats an id", {"drop": "leave the later one out"}),
    "crowd": (
        "is a crowd region, COCO's iscrowd",
        {"ignore": "neither asked for nor false when it is found", "drop": "leave the box out"},
    ),
    "difficult": (
        "is marked as difficult or to be ignored",
        {
            "ignore": "neither asked for nor false when it is found",
            "keep": "an object like any other",
            "drop": "leave the box out",
        },
    ),
    "box_not_finite": ("has a corner that is no finite number", {"drop": "leave the box out"}),
    "box_empty": ("has no area", {"drop": "leave the box out"}),
    "box_inverted": ("has its corners exchanged", {"fix": "exchange them", "drop": "leave the box out"}),
    "box_outside": ("leaves the image", {"fix": "clip it to the image", "drop": "leave the box out"}),
}
"""Kind of finding -> what it means, and what a policy may do instead of refusing the set."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in one file, and what was done: "error", "fix", "drop" or "keep"."""

    kind: str
    file: str
    detail: str
    action: str


Policy = Mapping[str, str]

DEFAULTS: dict[str, str] = {"crowd": "ignore", "difficult": "ignore"}
"""What is done about a finding that no policy names; the set is refused for the others."""


def parse_policy(entries: Iterable[str]) -> dict[str, str]:
    """Policies as typed: `kind=action`. RequestError for what does not exist."""
    policy = {}
    for entry in entries:
        kind, _, action = entry.partition("=")
        if kind not in KINDS:
            raise RequestError(f"--policy {entry}: no finding is called {kind!r}; {nearest(kind, KINDS)}")
        if action not in KINDS[kind][1] and action != "error":
            raise RequestError(f"--policy {entry}: {kind} can be {', '.join(['error', *KINDS[kind][1]])}")
        policy[kind] = action
    return policy


@dataclass(frozen=True)
class Clean:
    """An image as it goes into a prepared set."""

    file_name: str
    data: bytes
    width: int
    height: int
    boxes: tuple[Box, ...]
    source_id: int | str | None = None
    source_file: str = ""


class Inspector:
    """Decodes samples, checks them, applies the policy, and remembers every finding.

    Args:
        classes: what boxes may be labelled with.
        policy: kind -> action; "error" for kinds that are not in it.
    """

    def __init__(self, classes: Iterable[str], policy: Policy) -> None:
        self.classes = frozenset(classes)
        self._listed = ", ".join(sorted(self.classes))
        self.policy = dict(policy)
        self.found: list[Finding] = []
        self._names: dict[str, str] = {}
        self._pixels: dict[str, str] = {}

    def report(self, kind: str, file: str, detail: str) -> str:
        """Note a finding; its action."""
        action = self.policy.get(kind, DEFAULTS.get(kind, "error"))
        self.found.append(Finding(kind, file, detail, action))
        return action

    def clean(self, samples: Iterable[Sample]) -> Iterator[Clean]:
        """The samples that remain. Where the action is "error" the sample is left out too: `finish` will refuse."""
        for sample in samples:
            result = self._inspect(sample)
            if result is not None:
                yield result

    def finish(self) -> None:
        """DataError when a finding has no policy: the first, and how many more there are."""
        errors = [f for f in self.found if f.action == "error"]
        if not errors:
            return
        first, rest = errors[0], Counter(f.kind for f in errors[1:])
        offers = KINDS[first.kind][1]
        remedy = "correct the source" + "".join(
            f", or --policy {first.kind}={k} to {what}" for k, what in offers.items()
        )
        more = ", ".join(f"{n} {kind}" for kind, n in sorted(rest.items()))
        raise DataError(f"{first.file}: {first.detail}; {remedy}" + (f" (also found: {more})" if more else ""))

    def changes(self) -> dict[str, int]:
        """How often each policy changed something, as `kind=action`: part of the manifest."""
        done = Counter(f"{f.kind}={f.action}" for f in self.found if f.action in ("fix", "drop", "ignore"))
        return dict(sorted(done.items()))

    def _inspect(self, sample: Sample) -> Clean | None:
        dropped = False
        for kind, file, detail in sample.problems:
            action = self.report(kind, file, detail)
            # For the other kinds the reader has left out an object already.
            dropped |= kind in ("missing_annotation", "bad_annotation", "missing_image") and action != "fix"
        name, data = sample.file_name, sample.data
        if is_unsafe(name):
            raise DataError(f"{sample.origin}: image name {name!r} points outside the data set")
        if dropped or data is None:
            return None
        try:
            decoded = images.examine(data, name)
        except DataError as e:
            self.report("corrupt_image", name, str(e).removeprefix(f"{name}: "))
            return None
        for kind in decoded.peculiar:
            if self.report(kind, name, f"the image {KINDS[kind][0]}") != "fix":
                return None
        if decoded.peculiar:
            data, name = images.encode(decoded.pixels), str(Path(name).with_suffix(".png").as_posix())
        key = name.casefold()  # some systems cannot keep `a.png` beside `A.png`
        if key in self._names:
            self.report("duplicate_name", name, f"a second image of this name, beside that of {self._names[key]}")
            return None
        height, width, _ = decoded.pixels.shape
        digest = hashlib.sha256(f"{width}x{height}".encode() + decoded.pixels.tobytes()).hexdigest()
        if digest in self._pixels:
            same = f"the image has the very pixels of {self._pixels[digest]}"
            if self.report("duplicate_image", name, same) != "keep":
                return None
        if sample.size is not None and sample.size != (width, height):
            stated = f"size is stated as {sample.size[0]}x{sample.size[1]}, the pixels are {width}x{height}"
            if self.report("size_differs", sample.origin, stated) != "fix":
                return None
        self._pixels.setdefault(digest, name)
        self._names[key] = sample.origin
        boxes = tuple(b for box in sample.boxes if (b := self._box(box, sample, width, height)) is not None)
        return Clean(name, data, width, height, boxes, sample.source_id, sample.source_file)

    def _box(self, box: Box, sample: Sample, width: int, height: int) -> Box | None:
        if sample.relative:
            box = replace(box, x1=box.x1 * width, x2=box.x2 * width, y1=box.y1 * height, y2=box.y2 * height)
        shown = f"box [{box.x1:g}, {box.y1:g}, {box.x2:g}, {box.y2:g}] ({box.label})"
        if box.label not in self.classes:
            self.report("unknown_class", sample.origin, f"class {box.label!r} is not one of {self._listed}")
            return None
        if box.ignore:
            action = self.report(box.ignore, sample.origin, f"{shown} {KINDS[box.ignore][0]}")
            if action == "keep":
                box = replace(box, ignore="")
            elif action != "ignore":
                return None
        if not all(math.isfinite(v) for v in (box.x1, box.y1, box.x2, box.y2)):
            self.report("box_not_finite", sample.origin, f"{shown} is not finite")
            return None
        if box.x2 == box.x1 or box.y2 == box.y1:
            self.report("box_empty", sample.origin, f"{shown} has no area")
            return None
        if box.x2 < box.x1 or box.y2 < box.y1:
            axis = "x" if box.x2 < box.x1 else "y"
            detail = f"{shown} is inverted: {axis}max is not beyond {axis}min"
            if self.report("box_inverted", sample.origin, detail) != "fix":
                return None
            low, high = (min(box.x1, box.x2), min(box.y1, box.y2)), (max(box.x1, box.x2), max(box.y1, box.y2))
            box = replace(box, x1=low[0], y1=low[1], x2=high[0], y2=high[1])
        inside = replace(box, x1=max(box.x1, 0), y1=max(box.y1, 0), x2=min(box.x2, width), y2=min(box.y2, height))
        beyond = max(inside.x1 - box.x1, inside.y1 - box.y1, box.x2 - inside.x2, box.y2 - inside.y2)
        if beyond > ROUNDING:
            detail = f"{shown} leaves the image of {width}x{height} pixels"
            if self.report("box_outside", sample.origin, detail) != "fix":
                return None
        if inside.x2 <= inside.x1 or inside.y2 <= inside.y1:
            if beyond <= ROUNDING:
                self.report("box_empty", sample.origin, f"{shown} has no area")
            return None  # clipped away
        return inside


def write_report(findings: Iterable[Finding], path: Path) -> None:
    """All findings as JSON, in the order in which they were met."""
    path.write_text(json.dumps([asdict(f) for f in findings], indent=1) + "\n", encoding="utf-8")
