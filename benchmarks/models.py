"""The registry: every model the harness can train, by name. Adding one is a builder and an entry here.

Torch-free: builders are named by string and imported when a model is built.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ablations.variants import VARIANTS
from benchmarks.errors import RequestError, nearest

if TYPE_CHECKING:
    from torch import nn

Stage = Literal["one-stage", "two-stage", "multi-stage"]


@dataclass(frozen=True)
class ModelSpec:
    """One entry: where the builder is, how figures name the model, and its numeric version.

    `version` is part of every fingerprint: raise it when the numbers that the builder's model
    computes change. `scales` maps the scale that a suite names to the one the builder gets, so
    that a model with a single scale of its own still fits into every suite.
    """

    name: str
    builder: str
    label: str
    family: str
    stage: Stage
    version: int
    scales: Mapping[str, str]
    extra: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ablatable: bool = False

    def scale(self, requested: str) -> str:
        """The builder's scale for the scale a suite asks for."""
        if requested not in self.scales:
            raise RequestError(f"model {self.name!r} has no scale {requested!r}; {nearest(requested, self.scales)}")
        return self.scales[requested]


_ALL = {"nano": "nano", "small": "small", "r50": "r50"}

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("canet", "canet.detector:build_canet", "CANet", "canet", "two-stage", 1, _ALL, ablatable=True),
        ModelSpec(
            "fasterrcnn_fpn",
            "baselines.torchvision_models:build_fasterrcnn_fpn",
            "Faster R-CNN FPN",
            "fasterrcnn",
            "two-stage",
            1,
            _ALL,
        ),
        ModelSpec(
            "retinanet",
            "baselines.torchvision_models:build_retinanet",
            "RetinaNet",
            "retinanet",
            "one-stage",
            1,
            _ALL,
        ),
        ModelSpec(
            "yolov8n",
            "baselines.ultralytics_models:build_yolo",
            "YOLOv8n",
            "yolo",
            "one-stage",
            1,
            {"nano": "n", "small": "n", "r50": "n"},
            extra="yolo",
            options={"yaml": "yolov8n.yaml"},
        ),
    )
}


def get(name: str) -> ModelSpec:
    """The entry called `name`; an unknown one is a RequestError with the nearest names."""
    if name not in MODELS:
        raise RequestError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def check_variant(name: str, variant: str) -> None:
    """RequestError unless `variant` is one that model `name` has."""
    spec = get(name)
    if variant == "default":
        return
    if not spec.ablatable:
        raise RequestError(f"model {name!r} has no variants; leave out {variant!r}")
    if variant not in VARIANTS:
        raise RequestError(f"unknown variant {variant!r} of {name!r}; {nearest(variant, VARIANTS)}")


def label(name: str, variant: str) -> str:
    """How figures and tables name a model and its variant."""
    spec = get(name)
    return spec.label if variant == "default" else f"{spec.label} {VARIANTS[variant].label}"


def missing_extra(name: str) -> str | None:
    """The one line to print when the library behind model `name` is not installed, else None."""
    extra = get(name).extra
    module = {"yolo": "ultralytics", "mmdet": "mmdet"}.get(extra or "")
    if module is None or importlib.util.find_spec(module) is not None:
        return None
    return f"model {name!r} needs {module}: python -m pip install -c constraints.txt -e '.[{extra}]'"


def build_model(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    scale: str,
    weights: str | None = None,
    variant: str = "default",
) -> nn.Module:
    """Build model `name` under the detector contract.

    Args:
        num_classes: foreground classes, K; labels are 1..K.
        image_size: longer side in pixels that images are resized to inside the model.
        scale: one of the builder's own, the values of the entry's `scales`.
        weights: "imagenet" for a pretrained backbone, None to train from scratch.
        variant: name in `ablations.variants`, for models that can be ablated.

    Raises:
        RequestError: unknown model, scale or variant, or an extra that is not installed.
    """
    spec = get(name)
    check_variant(name, variant)
    if scale not in spec.scales.values():
        raise RequestError(f"model {name!r} has no scale {scale!r}; {nearest(scale, spec.scales.values())}")
    if (message := missing_extra(name)) is not None:
        raise RequestError(message)
    module, _, function = spec.builder.partition(":")
    options = dict(spec.options)
    if spec.ablatable:
        from ablations.variants import apply
        from canet.config import CANetConfig

        options["config"] = apply(variant, CANetConfig.preset("pytorch", scale=scale))
    build = getattr(importlib.import_module(module), function)
    return build(num_classes=num_classes, image_size=image_size, scale=scale, weights=weights, **options)
