"""What is wrong with a data set, by file, and what is done about it: nothing that was not asked for."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.datasets import images
from benchmarks.datasets.sources import Box, RawSample, is_unsafe
from benchmarks.errors import DataError, RequestError, nearest

ROUNDING = 0.01
"""Pixels by which a box may leave its image without being a finding: what decimal text loses."""

TINY = 0.99
"""Pixels below which a side of a box is a finding: 1, and what decimal text loses."""

_OUT = "leave the image out"
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "corrupt_image": ("cannot be decoded", {"drop": _OUT}),
    "rotated_image": ("has an EXIF orientation", {"fix": "turn the pixels", "drop": _OUT}),
    "deep_image": (
        "has more than 8 bits a channel",
        {"fix": "scale to 8 bits by the range of values that the whole set uses", "drop": _OUT},
    ),
    "many_frames": ("has more than one frame", {"fix": "take the first", "drop": _OUT}),
    "duplicate_image": ("has the pixels of another", {"keep": "keep both", "drop": "leave the later one out"}),
    "duplicate_name": ("has the name of another", {"drop": "leave the later one out"}),
    "missing_image": ("is not there, or ambiguous", {"drop": _OUT}),
    "missing_annotation": ("has no annotation", {"fix": "count it as defect-free", "drop": _OUT}),
    "missing_label": ("has no YOLO txt file", {"fix": "count it as defect-free, YOLO's rule", "drop": _OUT}),
    "unclaimed_label": ("is a label file of no image", {"drop": "do without it"}),
    "flat_label": ("is a label file paired by its bare name", {"fix": "pair it so", "drop": _OUT}),
    "shared_label": ("is the label file of several images", {"fix": "each has its objects", "drop": _OUT}),
    "unlisted_image": ("is in no part that data.yaml lists", {"drop": _OUT, "keep": "keep it"}),
    "unusable_part": (
        "names a part that is not there, or shares images with another",
        {"keep": "do without the parts"},
    ),
    "unread_image": ("is an image in a format that is not read", {"drop": _OUT}),
    "broken_link": ("is a link to nothing", {"drop": "do without it"}),
    "bad_annotation": ("cannot be read", {"drop": _OUT}),
    "bad_object": ("has an object that cannot be read", {"drop": "leave the object out"}),
    "size_differs": (
        "states another size than the pixels have",
        {
            "fix": "believe the pixels; boxes of a mask are stretched to them",
            "scale": "stretch the boxes from the stated size to the pixels",
            "drop": _OUT,
        },
    ),
    "unknown_class": ("names a class that the set has not", {"drop": "leave the box out"}),
    "root_category": (
        "has a category that only groups the others",
        {"drop": "it is no class", "keep": "it is a class"},
    ),
    "class_without_box": ("is a class that no box has", {"keep": "it stays a class"}),
    "shared_name": ("names a class as another category with boxes does", {"keep": "they are one class"}),
    "alike_class": ("is a class called as another but for capitals and blanks", {"keep": "they stay two classes"}),
    "mask_folders": (
        "lies in one of several folders of masks that images have too",
        {"keep": "one class, defect", "fix": "a class for each folder"},
    ),
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
    "polygon": ("has polygons", {"fix": "take the box around each"}),
    "keypoints": ("has keypoints beside the boxes", {"fix": "take the boxes alone"}),
    "fractions": ("states boxes as fractions", {"fix": "multiply by the image's size"}),
    "box_fraction": (
        "has a box in fractions among others in pixels",
        {"fix": "multiply it by the image's size", "keep": "it is in pixels", "drop": "leave the box out"},
    ),
    "bare_area": (
        "states areas smaller than their boxes, without masks",
        {"keep": "the boxes' areas count", "fix": "believe them"},
    ),
    "duplicate_box": ("states a box twice", {"drop": "leave the later one out", "keep": "keep both"}),
    "box_below_pixel": ("has a box below a pixel", {"keep": "keep it", "drop": "leave the box out"}),
    "box_not_finite": ("has a corner that is no finite number", {"drop": "leave the box out"}),
    "box_empty": ("has a box without area", {"drop": "leave the box out"}),
    "box_inverted": ("has a box with its corners exchanged", {"fix": "exchange them", "drop": "leave the box out"}),
    "box_outside": ("has a box that leaves the image", {"fix": "clip it to the image", "drop": "leave the box out"}),
}
"""Kind of finding -> what it means of a file, and what a policy may do instead of refusing the set."""

DEFAULTS: dict[str, str] = {
    "crowd": "ignore",
    "difficult": "ignore",
    "polygon": "fix",
    "keypoints": "fix",
    "fractions": "fix",
    "missing_label": "fix",
    "flat_label": "fix",
    "many_frames": "fix",
    "unlisted_image": "drop",
    "unusable_part": "keep",
    "root_category": "drop",
    "class_without_box": "keep",
    "shared_name": "keep",
    "alike_class": "keep",
    "bare_area": "keep",
    "box_below_pixel": "keep",
    "mask_folders": "keep",
}
"""What is done, and said, about a finding that no policy names; for the others, and with --strict, it is an error."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in one file, and what was done: "error", "fix", "drop" or "keep"."""

    kind: str
    file: str
    detail: str
    action: str


Policy = Mapping[str, str]


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
        policy: kind -> action; DEFAULTS for kinds that are not in it.
        strict: "error" instead of DEFAULTS.
    """

    def __init__(self, classes: Iterable[str], policy: Policy, strict: bool = False) -> None:
        self.expect(classes)
        self.policy = ({} if strict else DEFAULTS) | dict(policy)
        self.deep = images.FULL
        """What becomes 0 and 255 of images with more than 8 bits."""
        self.found: list[Finding] = []
        self.renamed: dict[str, str] = {}
        """Image that was encoded anew -> what the source calls it."""
        self._names: dict[str, str] = {}
        self._pixels: dict[str, str] = {}

    def expect(self, classes: Iterable[str]) -> None:
        """What boxes may be labelled with."""
        self.classes = tuple(dict.fromkeys(classes))
        self._without = dict.fromkeys(self.classes)

    def report(self, kind: str, file: str, detail: str) -> str:
        """Note a finding; its action."""
        action = self.policy.get(kind, "error")
        self.found.append(Finding(kind, file, detail, action))
        return action

    def clean(self, samples: Iterable[RawSample]) -> Iterator[Clean]:
        """The samples that remain. Where the action is "error" the sample is left out too: `finish` will refuse."""
        for sample in samples:
            result = self._inspect(sample)
            if result is not None:
                yield result

    def finish(self) -> None:
        """DataError when a finding has no policy: the first, and how many more there are."""
        if len(self._without) < len(self.classes):  # a set without any box says so by its numbers
            for label in self._without:
                self.report("class_without_box", label, "no box is of this class")
        alike: dict[str, str] = {}
        for label in self.classes:  # a slip of the keyboard makes a class, which the mean over classes counts
            other = alike.setdefault("".join(label.split()).casefold(), label)
            if other != label:
                self.report("alike_class", repr(label), f"another class is called {other!r}")
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

    def refusals(self, most: int = 20) -> list[str]:
        """A line for each finding that refuses the set, the first `most` of them."""
        errors = [f for f in self.found if f.action == "error"]
        more = [f"... and {len(errors) - most} more; --findings FILE lists all"] if len(errors) > most else []
        return [f"{f.file}: {f.detail} ({f.kind})" for f in errors[:most]] + more

    def changes(self) -> dict[str, int]:
        """How often each policy changed something, as `kind=action`: part of the manifest."""
        done = Counter(f"{f.kind}={f.action}" for f in self.found if f.action not in ("error", "keep"))
        return dict(sorted(done.items()))

    def examples(self) -> dict[str, str]:
        """The first finding of each `kind=action`: part of the manifest, but for what a policy kept as it was."""
        out: dict[str, str] = {}
        for f in self.found:
            if f.action != "error" and (f.action != "keep" or DEFAULTS.get(f.kind) == "keep"):
                out.setdefault(f"{f.kind}={f.action}", f"{f.file}: {f.detail}")
        return dict(sorted(out.items()))

    def lines(self) -> list[str]:
        """A line for each kind of thing that was changed, left out or could not be told: count and an example."""
        first: dict[str, Finding] = {}
        count = Counter(f"{f.kind}={f.action}" for f in self.found)
        for f in self.found:
            first.setdefault(f"{f.kind}={f.action}", f)
        return [
            f"{count[name]} x {name} ({KINDS[f.kind][1][f.action]}), for example {f.file}: {f.detail}"
            for name, f in first.items()
            if f.action != "error"
        ]

    def _inspect(self, sample: RawSample) -> Clean | None:
        dropped = False
        for kind, file, detail in sample.problems:
            action = self.report(kind, file, detail)
            # For the other kinds the reader has left out an object already.
            dropped |= KINDS[kind][1].get("drop") == _OUT and action != "fix"
        name, data = sample.file_name, sample.data
        if is_unsafe(name):
            raise DataError(f"{sample.origin}: image name {name!r} points outside the data set")
        if dropped or data is None:
            return None
        try:
            decoded = images.examine(data, name, self.deep)
        except DataError as e:
            self.report("corrupt_image", name, str(e).removeprefix(f"{name}: "))
            return None
        for kind in decoded.peculiar:
            fixed = kind == "deep_image" and self.policy.get(kind) == "fix"
            scaled = f"; values {self.deep} of the set become 0 to 255" if fixed else ""
            if self.report(kind, name, f"the image {KINDS[kind][0]}{scaled}") != "fix":
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
        if (size := sample.size) is not None and size != (width, height):
            stated = f"size is stated as {size[0]}x{size[1]}, the pixels are {width}x{height}"
            aside = decoded.orientation > 4 and size == (height, width)
            if aside:
                stated += " after they were turned; the boxes, of the image as it lay, are turned with them"
            action = self.report("size_differs", sample.origin, stated)
            if action not in ("fix", "scale"):
                return None
            if aside:
                frame = (1.0, 1.0) if sample.relative else (float(height), float(width))
                sample = replace(sample, boxes=_turned(sample.boxes, decoded.orientation, *frame))
            elif not sample.relative and (action == "scale" or sample.measured):
                sample = replace(sample, boxes=_stretched(sample.boxes, width / size[0], height / size[1]))
        if name != sample.file_name:
            self.renamed[name] = sample.file_name
        self._pixels.setdefault(digest, name)
        self._names[key] = sample.origin
        boxes = self._once(sample, [b for box in sample.boxes if (b := self._box(box, sample, width, height))])
        return Clean(name, data, width, height, boxes, sample.source_id, sample.source_file)

    def _once(self, sample: RawSample, boxes: list[Box]) -> tuple[Box, ...]:
        """The boxes, without those that were stated before if the policy says so."""
        corners = np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes]).reshape(-1, 4)
        labels = np.array([box.label for box in boxes])
        out = []
        for k, box in enumerate(boxes):
            same = (labels[:k] == box.label) & (np.abs(corners[:k] - corners[k]).max(axis=1, initial=0) <= ROUNDING)
            if same.any():
                detail = f"box [{', '.join(f'{v:g}' for v in corners[k])}] ({box.label}) is stated twice"
                if self.report("duplicate_box", sample.origin, detail) != "keep":
                    continue
            out.append(box)
        return tuple(out)

    def _box(self, box: Box, sample: RawSample, width: int, height: int) -> Box | None:
        if sample.relative:
            (box,) = _stretched((box,), width, height)
        shown = f"box [{box.x1:g}, {box.y1:g}, {box.x2:g}, {box.y2:g}] ({box.label})"
        if not sample.relative and are_fractions([box]):
            action = self.report("box_fraction", sample.origin, f"{shown} is within one pixel: fractions of the image")
            if action == "fix":
                (box,) = _stretched((box,), width, height)
            elif action != "keep":
                return None
        if box.label not in self.classes:
            self.report(
                "unknown_class", sample.origin, f"class {box.label!r} is not one of {', '.join(sorted(self.classes))}"
            )
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
        if beyond > ROUNDING and not (inside.x2 > inside.x1 and inside.y2 > inside.y1):
            self.report("box_empty", sample.origin, f"{shown} lies outside the image of {width}x{height} pixels")
            return None
        if beyond > ROUNDING:
            detail = f"{shown} leaves the image of {width}x{height} pixels"
            if self.report("box_outside", sample.origin, detail) != "fix":
                return None
        # As models and metrics have them, in single precision.
        if not (np.float32(inside.x2) > np.float32(inside.x1) and np.float32(inside.y2) > np.float32(inside.y1)):
            if beyond <= ROUNDING:
                self.report("box_empty", sample.origin, f"{shown} has no area")
            return None  # clipped away
        if min(inside.x2 - inside.x1, inside.y2 - inside.y1) < TINY:
            detail = f"{shown} is less than a pixel wide or high"
            if self.report("box_below_pixel", sample.origin, detail) != "keep":
                return None
        self._without.pop(box.label, None)
        area = (inside.x2 - inside.x1) * (inside.y2 - inside.y1)
        return inside if box.area is None else replace(inside, area=min(box.area, area))


def are_fractions(boxes: Iterable[Box]) -> bool:
    """Whether boxes that should be in pixels are fractions of their images: all within 0 to 1, and not whole."""
    corners = [v for box in boxes for v in (box.x1, box.y1, box.x2, box.y2)]
    return bool(corners) and all(-0.001 <= v <= 1.001 for v in corners) and any(v != round(v) for v in corners)


def _turned(boxes: tuple[Box, ...], orientation: int, width: float, height: float) -> tuple[Box, ...]:
    """Boxes of a frame of that size where EXIF's orientations 5 to 8 leave them."""

    def at(x: float, y: float) -> tuple[float, float]:
        return {5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}[orientation]

    out = []
    for b in boxes:
        (x1, y1), (x2, y2) = at(b.x1, b.y1), at(b.x2, b.y2)
        out.append(replace(b, x1=min(x1, x2), y1=min(y1, y2), x2=max(x1, x2), y2=max(y1, y2)))
    return tuple(out)


def _stretched(boxes: tuple[Box, ...], x: float, y: float) -> tuple[Box, ...]:
    return tuple(
        replace(b, x1=b.x1 * x, x2=b.x2 * x, y1=b.y1 * y, y2=b.y2 * y, area=None if b.area is None else b.area * x * y)
        for b in boxes
    )


def write_report(findings: Iterable[Finding], path: Path) -> None:
    """All findings as JSON, in the order in which they were met."""
    path.write_text(json.dumps([asdict(f) for f in findings], indent=1) + "\n", encoding="utf-8")
