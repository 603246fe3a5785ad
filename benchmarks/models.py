"""The registry: every model the harness can train, by name. Adding one is a builder and an entry here.

Torch-free: builders are named by string and imported when a model is built.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablations.registry import by_name
from ablations.variants import VARIANTS
from benchmarks import extras
from benchmarks.errors import RequestError, nearest

if TYPE_CHECKING:
    from canet.contract import Detector

Stage = Literal["one-stage", "two-stage", "multi-stage", "other"]


@dataclass(frozen=True)
class ModelSpec:
    """One entry: where the builder is, how figures name the model, and its numeric version.

    `version` is part of every fingerprint: raise it when the numbers that the builder's model
    computes change. `scales` maps the scale that a suite names to the one the builder gets, so
    that a model with a single scale of its own still fits into every suite. `variants` are named
    changes to `options`; an ablatable model has those of `ablations.variants` instead. `native` says that
    it has `fit_natively`, the trainer of its own library, and `weights_files` that its builder loads a weights file.
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
    weights_files: bool = False

    def scale(self, requested: str) -> str:
        """The builder's scale for the scale a suite asks for."""
        if requested not in self.scales:
            raise RequestError(f"model {self.name!r} has no scale {requested!r}; {nearest(requested, self.scales)}")
        return self.scales[requested]


_ALL = {"nano": "nano", "small": "small", "lite0": "lite0", "r50": "r50"}
_TORCHVISION = "baselines.torchvision_models:"
_LIBRARY_ANCHORS: Mapping[str, Mapping[str, Any]] = {"library_anchors": {"anchors": "library"}}
_LIVE: Mapping[str, Mapping[str, Any]] = {"live_backbone": {"live": True}}
"""Of a pretrained backbone all is trained, the stem and the first stages too."""


def _only(scale: str) -> Mapping[str, str]:
    """Scales of a model that has one of its own."""
    return dict.fromkeys(_ALL, scale)


def _yolo(
    name: str, label: str, scale: str, *, yaml: str | None = None, two_heads: bool = False, bins: bool = True
) -> ModelSpec:
    """`bins`: its head predicts distances as distributions over bins, so that it has the variant `near_start`."""
    variants = {"near_start": {"near_start": True}} if bins else {}
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
        variants=variants | ({"nms_free": {"nms_free": True}} if two_heads else {}),
        native=True,
        weights_files=True,
    )


MMDET = "mmdet:"
"""What the name of a model begins with that is a configuration of MMDetection, by its path there."""


def _mmdet(name: str, config: str, label: str, stage: Stage, family: str) -> ModelSpec:
    scales = {"nano": "nano", "small": "nano", "lite0": "nano", "r50": "published"}
    options = {"config": config}
    return ModelSpec(name, "baselines.mmdet_models:build_mmdet", label, family, stage, 1, scales, "mmdet", options)


MODELS: dict[str, ModelSpec] = by_name(
    (
        ModelSpec("canet", "canet.detector:build_canet", "CANet", "canet", "two-stage", 2, _ALL, ablatable=True),
        ModelSpec(
            "fasterrcnn_fpn",
            _TORCHVISION + "build_fasterrcnn_fpn",
            "Faster R-CNN FPN",
            "fasterrcnn",
            "two-stage",
            2,
            _ALL,
            variants={**_LIBRARY_ANCHORS, **_LIVE},
        ),
        ModelSpec(
            "fasterrcnn_fpn_v2",
            _TORCHVISION + "build_fasterrcnn_fpn",
            "Faster R-CNN FPN v2",
            "fasterrcnn",
            "two-stage",
            2,
            _ALL,
            options={"version": 2},
            variants={**_LIBRARY_ANCHORS, **_LIVE},
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
            4,
            _ALL,
            variants={**_LIBRARY_ANCHORS, **_LIVE},
        ),
        ModelSpec(
            "retinanet_v2",
            _TORCHVISION + "build_retinanet",
            "RetinaNet v2",
            "retinanet",
            "one-stage",
            4,
            _ALL,
            options={"version": 2},
            variants={**_LIBRARY_ANCHORS, **_LIVE},
        ),
        ModelSpec("fcos", _TORCHVISION + "build_fcos", "FCOS", "fcos", "one-stage", 3, _ALL),
        ModelSpec(
            "ssd300",
            _TORCHVISION + "build_ssd300",
            "SSD300",
            "ssd",
            "one-stage",
            3,
            _only("vgg16"),
            variants=_LIBRARY_ANCHORS,
        ),
        ModelSpec(
            "ssdlite",
            _TORCHVISION + "build_ssdlite",
            "SSDLite",
            "ssd",
            "one-stage",
            3,
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
        _yolo("yolo26n", "YOLO26n", "n", two_heads=True, bins=False),
        _yolo("yolo26s", "YOLO26s", "s", two_heads=True, bins=False),
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
            weights_files=True,
        ),
        ModelSpec(
            "dfine",
            "baselines.transformers_models:build_dfine",
            "D-FINE",
            "dfine",
            "one-stage",
            1,
            {"nano": "n", "small": "s", "lite0": "n", "r50": "s"},
            extra="transformers",
        ),
        # The published figure's, in its order.
        _mmdet("yolox", "yolox/yolox_s_8xb8-300e_coco.py", "YOLOX", "one-stage", "yolox"),
        _mmdet(
            "efficientnet",
            "efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py",
            "EfficientNet",
            "one-stage",
            "efficientnet",
        ),
        _mmdet("ssd512", "ssd/ssd512_coco.py", "SSD512", "one-stage", "ssd"),
        _mmdet("atss", "atss/atss_r50_fpn_1x_coco.py", "ATSS", "one-stage", "atss"),
        _mmdet("autoassign", "autoassign/autoassign_r50-caffe_fpn_1x_coco.py", "AutoAssign", "one-stage", "autoassign"),
        _mmdet(
            "retinanet_mmdet",
            "retinanet/retinanet_r50_fpn_1x_coco.py",
            "RetinaNet (mmdet)",
            "one-stage",
            "retinanet_mmdet",
        ),
        _mmdet("yolov3", "yolo/yolov3_d53_8xb8-ms-608-273e_coco.py", "YOLOv3", "one-stage", "yolov3"),
        _mmdet(
            "deformable_detr",
            "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
            "Deformable-DETR",
            "two-stage",
            "deformable_detr",
        ),
        _mmdet(
            "fasterrcnn_mmdet",
            "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
            "Faster R-CNN (mmdet)",
            "two-stage",
            "rcnn_mmdet",
        ),
        _mmdet(
            "libra_rcnn", "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py", "Libra R-CNN", "two-stage", "rcnn_mmdet"
        ),
        _mmdet("swin", "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py", "Swin-T", "two-stage", "swin"),
        _mmdet("canet_mmdet", "canet_r50_fpn_1x_coco.py", "CANet (mmdet)", "two-stage", "rcnn_mmdet"),
        _mmdet("res2net", "res2net/faster-rcnn_res2net-101_fpn_2x_coco.py", "Res2Net", "two-stage", "rcnn_mmdet"),
        _mmdet("resnext", "faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py", "ResNeXt", "two-stage", "rcnn_mmdet"),
        _mmdet("htc", "htc/htc-without-semantic_r50_fpn_1x_coco.py", "HTC", "multi-stage", "rcnn_mmdet"),
        _mmdet(
            "cascade_rcnn", "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", "Cascade R-CNN", "multi-stage", "rcnn_mmdet"
        ),
    )
)


def get(name: str) -> ModelSpec:
    """The entry called `name`, or one for `mmdet:PATH` or for a builder of the user's own, `package.module:function`.

    An unknown one is a RequestError with the nearest names.
    """
    if name.startswith(MMDET):
        config = name[len(MMDET) :]
        _require_config(config)
        spec = _mmdet(name, config, Path(config).stem, "other", "mmdet")
        return replace(spec, scales=dict.fromkeys(_ALL, "published"))
    if is_own(name):
        return _own(name)
    if name not in MODELS:
        raise RequestError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def is_own(name: str) -> bool:
    """Whether `name` has the form `package.module:function` of a builder that is none of ours."""
    module, _, function = name.partition(":")
    return (
        module not in MODELS
        and not name.startswith(MMDET)
        and function.isidentifier()
        and "." in module  # a name without one is a model's, written wrongly perhaps
        and all(part.isidentifier() for part in module.split("."))
    )


def _own(name: str) -> ModelSpec:
    """An entry for the user's own builder; its version is the digest of the file that it stands in."""
    file = _own_file(name)
    # Records of it are drawn where its module is not, too.
    version = 0 if file is None else int(hashlib.sha256(file.read_bytes()).hexdigest()[:8], 16)
    return ModelSpec(name, name, name.partition(":")[2], "own", "other", version, _ALL)


def _own_file(name: str) -> Path | None:
    """Where the builder `package.module:function` stands; None where Python finds no such module."""
    try:
        found = importlib.util.find_spec(name.partition(":")[0])
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found is not None and found.origin else None


def _require_config(config: str) -> None:
    """RequestError when the library is here and ships no such configuration."""
    spec = importlib.util.find_spec("mmdet")
    if spec is None or not spec.submodule_search_locations:
        return
    folder = Path(spec.submodule_search_locations[0]) / ".mim" / "configs"
    if config.startswith(("/", ".")) or not config.endswith(".py") or not (folder / config).is_file():
        shipped = (path.relative_to(folder).as_posix() for path in folder.glob("[!_]*/*.py"))
        close = difflib.get_close_matches(config, shipped, n=3, cutoff=0.5)
        hint = "did you mean " + " or ".join(close) + "?" if close else f"those that it has lie in {folder}"
        raise RequestError(f"mmdet ships no configuration {config!r}; {hint}")


def split_name(text: str) -> tuple[str, str]:
    """(model, variant) of `model` or `model:variant`; the colon of `mmdet:PATH` is no variant's."""
    model, _, variant = (text, "", "") if text.startswith(MMDET) or is_own(text) else text.partition(":")
    return model, variant


def check_variant(name: str, variant: str) -> None:
    """RequestError unless `variant` is one that model `name` has, and a builder of the user's own can be imported."""
    spec = get(name)
    if is_own(name) and _own_file(name) is None:
        module = name.partition(":")[0]
        raise RequestError(f"model {name!r}: Python finds no module {module!r}; run where it can be imported")
    if variant == "default":
        return
    known = VARIANTS if spec.ablatable else spec.variants
    if not known:
        raise RequestError(f"model {name!r} has no variants; leave out {variant!r}")
    if variant not in known:
        raise RequestError(f"unknown variant {variant!r} of {name!r}; {nearest(variant, known)}")


def variants(name: str) -> list[str]:
    """`default`, and those that model `name` has."""
    spec = get(name)
    return list(dict.fromkeys(("default", *(VARIANTS if spec.ablatable else spec.variants))))


def label(name: str, variant: str) -> str:
    """How figures and tables name a model and its variant."""
    spec = get(name)
    if variant == "default":
        return spec.label
    return f"{spec.label} {VARIANTS[variant].label if spec.ablatable else variant.replace('_', ' ')}"


def label_of(name: str) -> str:
    """The label of `model` or `model:variant`, as `Cell.name` has it."""
    model, variant = split_name(name)
    return label(model, variant or "default")


def missing_extra(name: str) -> str | None:
    """The one line to print when the library behind model `name` is not installed, else None."""
    return next(iter(missing_extras([name])), None)


def missing_extras(names: Iterable[str]) -> list[str]:
    """One line for each library that is not installed: which of the models `names` need it, and the command."""
    return extras.missing_for({name: get(name).extra for name in names})


def build_model(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    scale: str,
    weights: str | None = None,
    variant: str = "default",
) -> Detector:
    """Build model `name` under the detector contract.

    Args:
        num_classes: foreground classes, K; labels are 1..K.
        image_size: longer side in pixels that images are resized to inside the model.
        scale: one of the builder's own, the values of the entry's `scales`.
        weights: "imagenet" for a pretrained backbone, None to train from scratch, or the path of a weights file
            for a family whose library loads one (ultralytics').
        variant: "default", or one that the model has.

    Raises:
        RequestError: unknown model, scale or variant, or an extra that is not installed.
    """
    spec = get(name)
    check_variant(name, variant)
    if scale not in spec.scales.values():
        raise RequestError(f"model {name!r} has no scale {scale!r}; {nearest(scale, spec.scales.values())}")
    if (message := missing_extra(name) or extras.missing_weights(scale, weights)) is not None:
        raise RequestError(message)
    module, _, function = spec.builder.partition(":")
    options = {**spec.options, **spec.variants.get(variant, {})}
    if options.get("live") and weights is None:
        raise RequestError(f"variant {variant!r} of {name!r} changes nothing without pretrained weights; leave it out")
    if spec.ablatable:
        from ablations.variants import apply
        from canet.config import CANetConfig

        preset = CANetConfig.preset("pytorch", scale=scale)
        options["config"] = apply(variant, preset)
        if variant != "default" and options["config"] == preset:
            raise RequestError(f"variant {variant!r} of {name!r} changes nothing at scale {scale!r}; leave it out")
        frozen = [s for s in options["config"].context_stages if weights is not None and s <= preset.frozen_stages]
        if frozen:  # they would stay as they are initialised, for good
            raise RequestError(
                f"variant {variant!r} of {name!r} puts blocks into stage {frozen[0]}, which pretrained weights freeze, "
                "so that they never learn; train it with weights=null, or leave it out"
            )
    try:
        build = getattr(importlib.import_module(module), function)
    except AttributeError:
        raise RequestError(f"model {name!r}: module {module!r} has no function {function!r}") from None
    from canet.contract import Detector

    model = build(num_classes=num_classes, image_size=image_size, scale=scale, weights=weights, **options)
    if not isinstance(model, Detector):
        raise RequestError(f"{spec.builder} returns {type(model).__name__}, expected a canet.contract.Detector")
    return model
