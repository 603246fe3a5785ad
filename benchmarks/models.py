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
    that a model with a single scale of its own still fits into every suite. `variants` are named
    changes to `options`; an ablatable model has those of `ablations.variants` instead. `native` says that
    it has `fit_natively`, the trainer of its own library.
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
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ablatable: bool = False
    native: bool = False

    def scale(self, requested: str) -> str:
        """The builder's scale for the scale a suite asks for."""
        if requested not in self.scales:
            raise RequestError(f"model {self.name!r} has no scale {requested!r}; {nearest(requested, self.scales)}")
        return self.scales[requested]


_ALL = {"nano": "nano", "small": "small", "r50": "r50"}
_TORCHVISION = "baselines.torchvision_models:"
_LIBRARY_ANCHORS = {"library_anchors": {"anchors": "library"}}


def _only(scale: str) -> Mapping[str, str]:
    """Scales of a model that has one of its own."""
    return {"nano": scale, "small": scale, "r50": scale}


def _yolo(name: str, label: str, scale: str, *, yaml: str | None = None, two_heads: bool = False) -> ModelSpec:
    return ModelSpec(
        name,
        "baselines.ultralytics_models:build_yolo",
        label,
        "yolo",
        "one-stage",
        1,
        _only(scale),
        extra="yolo",
        options={"yaml": yaml or f"{name}.yaml"},
        variants={"nms_free": {"nms_free": True}} if two_heads else {},
        native=True,
    )


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("canet", "canet.detector:build_canet", "CANet", "canet", "two-stage", 1, _ALL, ablatable=True),
        ModelSpec(
            "fasterrcnn_fpn",
            _TORCHVISION + "build_fasterrcnn_fpn",
            "Faster R-CNN FPN",
            "fasterrcnn",
            "two-stage",
            1,
            _ALL,
            variants=_LIBRARY_ANCHORS,
        ),
        ModelSpec(
            "fasterrcnn_fpn_v2",
            _TORCHVISION + "build_fasterrcnn_fpn",
            "Faster R-CNN FPN v2",
            "fasterrcnn",
            "two-stage",
            1,
            _ALL,
            options={"version": 2},
            variants=_LIBRARY_ANCHORS,
        ),
        ModelSpec(
            "fasterrcnn_mobilenet",
            _TORCHVISION + "build_fasterrcnn_mobilenet",
            "Faster R-CNN MobileNetV3",
            "fasterrcnn",
            "two-stage",
            1,
            _only("mobilenet_v3_large"),
            variants=_LIBRARY_ANCHORS,
        ),
        ModelSpec(
            "retinanet",
            _TORCHVISION + "build_retinanet",
            "RetinaNet",
            "retinanet",
            "one-stage",
            1,
            _ALL,
            variants=_LIBRARY_ANCHORS,
        ),
        ModelSpec(
            "retinanet_v2",
            _TORCHVISION + "build_retinanet",
            "RetinaNet v2",
            "retinanet",
            "one-stage",
            1,
            _ALL,
            options={"version": 2},
            variants=_LIBRARY_ANCHORS,
        ),
        ModelSpec("fcos", _TORCHVISION + "build_fcos", "FCOS", "fcos", "one-stage", 1, _ALL),
        ModelSpec(
            "ssd300",
            _TORCHVISION + "build_ssd300",
            "SSD300",
            "ssd",
            "one-stage",
            1,
            _only("vgg16"),
            variants=_LIBRARY_ANCHORS,
        ),
        ModelSpec(
            "ssdlite",
            _TORCHVISION + "build_ssdlite",
            "SSDLite",
            "ssd",
            "one-stage",
            1,
            _only("mobilenet_v3_large"),
            variants=_LIBRARY_ANCHORS,
        ),
        _yolo("yolov3_tiny", "YOLOv3-tiny", "tiny", yaml="yolov3-tiny.yaml"),
        _yolo("yolov5n", "YOLOv5n", "n"),
        _yolo("yolov5s", "YOLOv5s", "s"),
        _yolo("yolov8n", "YOLOv8n", "n"),
        _yolo("yolov8s", "YOLOv8s", "s"),
        _yolo("yolov9t", "YOLOv9t", "t"),
        _yolo("yolov9s", "YOLOv9s", "s"),
        _yolo("yolov10n", "YOLOv10n", "n", two_heads=True),
        _yolo("yolov10s", "YOLOv10s", "s", two_heads=True),
        _yolo("yolo11n", "YOLO11n", "n"),
        _yolo("yolo11s", "YOLO11s", "s"),
        _yolo("yolo12n", "YOLO12n", "n"),
        _yolo("yolo12s", "YOLO12s", "s"),
        _yolo("yolo26n", "YOLO26n", "n", two_heads=True),
        _yolo("yolo26s", "YOLO26s", "s", two_heads=True),
        ModelSpec(
            "rtdetr_l",
            "baselines.ultralytics_models:build_rtdetr",
            "RT-DETR-L",
            "rtdetr",
            "one-stage",
            1,
            _only("l"),
            extra="yolo",
            native=True,
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
    known = VARIANTS if spec.ablatable else spec.variants
    if not known:
        raise RequestError(f"model {name!r} has no variants; leave out {variant!r}")
    if variant not in known:
        raise RequestError(f"unknown variant {variant!r} of {name!r}; {nearest(variant, known)}")


def label(name: str, variant: str) -> str:
    """How figures and tables name a model and its variant."""
    spec = get(name)
    if variant == "default":
        return spec.label
    return f"{spec.label} {VARIANTS[variant].label if spec.ablatable else variant.replace('_', ' ')}"


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
        variant: "default", or one that the model has.

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
    options = {**spec.options, **spec.variants.get(variant, {})}
    if spec.ablatable:
        from ablations.variants import apply
        from canet.config import CANetConfig

        options["config"] = apply(variant, CANetConfig.preset("pytorch", scale=scale))
    build = getattr(importlib.import_module(module), function)
    return build(num_classes=num_classes, image_size=image_size, scale=scale, weights=weights, **options)
