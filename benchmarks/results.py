"""What an evaluation says: the numbers of a record, in types. Torch-free."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, model_validator

from benchmarks.cells import Hashed

Interval = tuple[float, float]
"""95%, ends included."""


class ClassMetrics(Hashed):
    """AP of one class; None where the test images hold no box of it (or, of newer fields, in older records)."""

    AP: float | None
    AP50: float | None
    boxes: int
    AP50_interval: Interval | None = None
    AP75: float | None = None
    AP_small: float | None = None
    AP_medium: float | None = None
    AP_large: float | None = None
    AR_100: float | None = None
    precision: tuple[float, ...] | None = None
    """Interpolated precision at IoU 0.5, at the recalls 0, 0.01, ..., 1."""


class SizeMetrics(Hashed):
    """AP over the boxes of one bin of sizes, and how many there are."""

    AP: float | None
    AP50: float | None
    boxes: int


class OperatingPoint(Hashed):
    """What happens at one score threshold, at IoU 0.5. None where there is nothing to divide by.

    escape: share of the defective images without any detection; overkill: share of the defect-free ones with one.
    """

    threshold: float
    chosen_on: Literal["validation", "test"]
    precision: float | None
    recall: float | None
    F1: float | None
    false_positives_per_image: float
    escape: float | None
    overkill: float | None


class ImageCurve(Hashed):
    """Escape and overkill over the score threshold, and the area under the ROC curve of the images' highest scores."""

    thresholds: tuple[float, ...]
    escape: tuple[float, ...] | None
    overkill: tuple[float, ...] | None
    AUROC: float | None


class Confusion(Hashed):
    """matrix[i][j]: boxes of class i found as class j; the last row is background, the last column is missed."""

    threshold: float
    labels: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]


class Calibration(Hashed):
    """Detections by score: bin i of n goes from i/n to (i + 1)/n. ECE leaves the first bin out."""

    ECE: float | None
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    precision: tuple[float | None, ...]


class ErrorShare(Hashed):
    """How many errors of one kind there are, and what AP50 would gain without them."""

    count: int
    dAP50: float | None


class Inspection(Hashed):
    """What an inspection line asks of a detector; see `benchmarks.metrics.inspection`."""

    defect_free_images: int
    """Those without any box: one with nothing but ignored boxes is neither free of defects nor defective."""
    defective_images: int | None = None
    effective_defect_free: float | None = None
    """Effective number of the groups that these images are of, by the images in them (Kish's); None in old records."""
    effective_defective: float | None = None
    FROC: dict[str, float | None]
    """Recall by false positives per image."""
    FROC_defect_free: dict[str, float | None] | None
    """Recall by false positives per defect-free image; None where there is no such image."""
    operating_point: OperatingPoint | None
    """At the threshold of the best F1 on validation images; None where there are no detections of them."""
    best_F1: OperatingPoint | None
    """At the threshold of the best F1 on the test images themselves: an upper bound, not a result."""
    image_level: ImageCurve
    confusion: Confusion | None
    calibration: Calibration
    errors: dict[str, ErrorShare]


def _leads_to_a_number(kind: Any, name: str) -> bool:
    """Whether what is of a type holds a number of that name, like `errors.missed.count`; keys may hold points."""
    kind = next((one for one in get_args(kind) if isinstance(kind, UnionType) and one is not NoneType), kind)
    if not name:
        return kind in (int, float)
    if get_origin(kind) is dict:
        ends = [i for i, letter in enumerate(name) if letter == "."] + [len(name)]
        return any(_leads_to_a_number(get_args(kind)[1], name[end + 1 :]) for end in ends if end)
    key, _, rest = name.partition(".")
    its = getattr(kind, "model_fields", {})
    return key in its and _leads_to_a_number(its[key].annotation, rest)


class Metrics(Hashed):
    """Metrics in [0, 1]; None where they are not defined (no box of that size), or, of newer ones, in older records.

    AP to AR_100 are COCO's. The others differ from them by protocol and are not to be compared with them:
    VOC07_AP50 (11 recall points), VOC07_AP50_plus1 (the same with box widths of x2 - x1 + 1, as MMDetection's VOC path
    computes them), VOC12_AP50 (all points), DeepPCB_AP and DeepPCB_F (IoU above 0.33; best F-score over thresholds, or
    _operating: at the threshold that is best on validation images).
    `intervals` are 95% intervals over images of this one training, by name; `inspection.NAME` for what is in
    `inspection`; `standard_errors` are those over images. `draws` are some metrics of each resample of the test images,
    of which `groups` do not show the same place (`effective_groups` by the boxes in them, Kish's); the draws are the
    same for every model, in the same order.
    boxes_small, _medium and _large count as COCO does: a box of exactly 32 x 32 or 96 x 96 is in two bins.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    AR_100: float | None
    AR_1: float | None = None
    AR_10: float | None = None
    VOC07_AP50: float | None = None
    VOC07_AP50_plus1: float | None = None
    VOC12_AP50: float | None = None
    DeepPCB_AP: float | None = None
    DeepPCB_F: float | None = None
    DeepPCB_F_operating: float | None = None
    intervals: dict[str, Interval] = Field(default_factory=dict)
    standard_errors: dict[str, float] = Field(default_factory=dict)
    draws: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    groups: int | None = None
    effective_groups: float | None = None
    images: int
    boxes: int
    boxes_small: int
    boxes_medium: int
    boxes_large: int
    sizes: dict[str, SizeMetrics] = Field(default_factory=dict)
    """By relative area, and below 16 x 16 pixels."""
    per_class: dict[str, ClassMetrics]
    inspection: Inspection | None = None

    @model_validator(mode="before")
    @classmethod
    def _older(cls, content: Any) -> Any:
        """Records of evaluator 1 have one interval, in a field of its own; those of evaluator 2 have draws in one."""
        if isinstance(content, dict) and ("AP50_interval" in content or "AP50_draws" in content):
            content = dict(content)
            if (interval := content.pop("AP50_interval", None)) is not None:
                content["intervals"] = {**content.get("intervals", {}), "AP50": interval}
            if drawn := content.pop("AP50_draws", ()):
                content["draws"] = {**content.get("draws", {}), "AP50": drawn}
        return content

    @property
    def defective_images(self) -> int:
        """Images with a box that is asked for. Evaluators up to 4 took all others for free of defects."""
        seen = self.inspection
        if seen is None:
            return 0
        return self.images - seen.defect_free_images if seen.defective_images is None else seen.defective_images

    @property
    def AP50_interval(self) -> Interval | None:
        return self.intervals.get("AP50")

    def boxes_of(self, name: str) -> int:
        """How many boxes a metric is of; of a class or a bin all, where their own are not counted by size."""
        size = name.rpartition("_")[2]
        return int(
            getattr(self, f"boxes_{size}" if "." not in name and size in ("small", "medium", "large") else "boxes")
        )

    @classmethod
    def may_hold(cls, name: str) -> bool:
        """Whether `value` finds a number of that name in some record."""
        return _leads_to_a_number(cls, name)

    def value(self, name: str) -> float | None:
        """The number of a name as `intervals` has it, like `inspection.FROC.1`; None where it was not measured."""
        found: Any = self
        while name and found is not None:
            if isinstance(found, dict):
                key = _key(found, name)
                found = found.get(key)
            else:
                key = name.partition(".")[0]
                found = getattr(found, key)
            name = name[len(key) + 1 :]
        return None if found is None else float(found)


def _key(found: dict[str, Any], name: str) -> str:
    """The key that a name begins with: keys may hold points, and be another and a point, so the longest that fits."""
    for key in sorted(found, key=len, reverse=True):
        fields = type(found[key]).model_fields if isinstance(found[key], Hashed) else {"": None}
        if (name == key or name.startswith(f"{key}.")) and name[len(key) + 1 :].partition(".")[0] in fields:
            return key
    return name
