"""The detectors of the published figure, and any other of MMDetection, under the detector contract.

MMDetection lives on as onedl-mmdetection (https://github.com/VBTI-development/onedl-mmdetection, Apache-2.0), with
onedl-mmcv and onedl-mmengine; all import under their old names. Models are read from the configurations that it
ships and changed in place: classes, mask branches, pretrained initialisation, norms that need several processes.
Nothing of its code or its configurations is copied here.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from canet.contract import DETECTIONS, SCORE_THRESHOLD, Batch, Detector, ResizeNormalizePad, Target

OWN_CONFIGS = Path(__file__).parent / "mmdet_configs"

# Parts that are left out: they need masks, which defect sets do not have.
_MASK_PARTS = ("mask_head", "mask_roi_extractor", "semantic_head", "semantic_roi_extractor", "mask_iou_head")


def import_mmdet() -> None:
    """Import the library and register its models, without its log lines.

    Raises:
        ImportError: it, or the operators of mmcv, are not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mmcv.ops  # noqa: F401  (fails where mmcv was built without its operators)
        import mmdet.models  # noqa: F401
        from mmengine.logging import MMLogger
        from mmengine.registry import init_default_scope

        MMLogger.get_current_instance().setLevel(logging.ERROR)  # a line for every parameter that is initialised
        init_default_scope("mmdet")


def config_folder() -> Path:
    """Where the library keeps the configurations that it ships. Does not import it."""
    spec = importlib.util.find_spec("mmdet")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("mmdet is not installed")
    return Path(spec.submodule_search_locations[0]) / ".mim" / "configs"


def read_config(path: str) -> Any:
    """The `model` part of a configuration that we (`OWN_CONFIGS`) or the library ship, as its ConfigDict.

    Raises:
        ValueError: there is no such file, or it configures no model.
    """
    from mmengine.config import Config

    folders = (OWN_CONFIGS, config_folder())
    file = next((f / path for f in folders if (f / path).is_file()), None)
    if file is None:
        raise ValueError(f"mmdet ships no configuration {path!r}; those it has lie in {folders[1]}")
    model = Config.fromfile(file).get("model")
    if model is None:
        raise ValueError(f"{file} configures no model")
    return model


def _dicts(node: Any) -> Iterator[Any]:
    """Every dict within a configuration, itself first."""
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    for child in children:
        yield from _dicts(child)


def for_boxes(model: Any, num_classes: int) -> None:
    """Change a model's configuration in place to boxes of `num_classes` classes and the contract's limits."""
    roi_head = model.get("roi_head") or {}
    for part in _MASK_PARTS:
        if part in roi_head:
            roi_head[part] = None
    if model.type in ("MaskRCNN", "MaskScoringRCNN"):
        model.type = "FasterRCNN"
    for head in (model.get("bbox_head"), roi_head.get("bbox_head")):
        for part in _dicts(head):
            if "num_classes" in part:
                part["num_classes"] = num_classes
    for part in _dicts(model):
        if part.get("type") in ("SyncBN", "MMSyncBN"):
            part["type"] = "BN"  # the same in a single process
        if part.get("type") == "RoIAlign":
            part["use_torchvision"] = True  # the same numbers from an operator that the count of MACs sees
    prior = (model.get("bbox_head") or {}).get("anchor_generator") or {}
    if fixed := prior.get("input_size"):
        model.data_preprocessor.pad_size_divisor = fixed  # SSD's last maps vanish on smaller images
    limits = model.get("test_cfg") or {}
    limits = limits.get("rcnn", limits)
    for name in ("score_thr", "conf_thr"):
        if name in limits:
            limits[name] = SCORE_THRESHOLD
    limits["max_per_img"] = DETECTIONS


def without_weights(model: Any) -> None:
    """Change a configuration in place so that nothing is loaded."""
    for part in _dicts(model):
        initial = part.get("init_cfg")
        if isinstance(initial, dict) and initial.get("type") == "Pretrained":
            part["init_cfg"] = None
        if part.get("pretrained"):
            part["pretrained"] = None


def from_scratch(model: Any) -> None:
    """Change a configuration in place so that nothing is loaded, nothing is frozen and batch norm is live."""
    without_weights(model)
    backbone = model.backbone
    unfrozen = 0 if backbone.type == "EfficientNet" else -1  # it counts from the stem
    live = {"frozen_stages": unfrozen, "norm_eval": False, "norm": "batch"}
    backbone.update({name: value for name, value in live.items() if name in backbone})
    if backbone.get("norm_cfg"):
        backbone.norm_cfg.requires_grad = True


class MMDetDetector(Detector):
    """A model of MMDetection under the detector contract.

    Losses: those that the library's own trainer sums, each as its scalar. Detections: the library's own, with a score
    of at least 0.001, the best 100. Images are resized and padded as for every model here (to multiples of 32, or of
    the configuration's divisor where it is larger), and normalised as the configuration says.

    `network` ends before the last step of the library's prediction (decoding, NMS), which is `postprocess`.
    """

    def __init__(self, detector: nn.Module, image_size: int) -> None:
        data: Any = detector.data_preprocessor
        transform = ResizeNormalizePad(image_size, max(32, data.pad_size_divisor))
        mean, std = [0.0] * 3, [1.0] * 3
        if data._enable_normalize:
            mean, std = data.mean.flatten().tolist(), data.std.flatten().tolist()
        # It is given RGB images; what was configured for BGR is swapped behind the transform.
        bgr = not data._channel_conversion
        if bgr:
            mean, std = mean[::-1], std[::-1]
        transform.image_mean, transform.image_std = [m / 255 for m in mean], [s / 255 for s in std]
        super().__init__(transform)
        self.bgr = bgr
        self.detector = detector
        frozen = dict.fromkeys(n.rsplit(".", 1)[0] for n, p in self.named_parameters() if not p.requires_grad)
        self.provenance = {"weights": None, "frozen": list(frozen), "norm": self._norm()}

    def _norm(self) -> str:
        if getattr(self.detector.backbone, "norm_eval", False):
            return "frozen_batch"
        kinds = {"batch": nn.modules.batchnorm._BatchNorm, "group": nn.GroupNorm, "layer": nn.LayerNorm}
        return next((n for n, kind in kinds.items() if any(isinstance(m, kind) for m in self.modules())), "none")

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Tell heads whose assignment changes during training (TOOD and the like)."""
        from mmengine.logging import MessageHub

        MessageHub.get_current_instance().update_info("epoch", epoch)

    def network(self, batch: Batch) -> Any:
        """The losses in training; in evaluation, arguments of the last step, or detections where it was not reached."""
        inputs, samples = self.library_batch(batch)
        if self.training:
            return _scalars(self.detector(inputs, samples, mode="loss"))
        with _held_back(self._last_head, len(samples)) as calls:
            found = self.detector(inputs, samples, mode="predict")
        return {"call": calls[0] if calls else None, "found": [sample.pred_instances for sample in found]}

    def postprocess(self, raw: Any, batch: Batch) -> list[Target]:
        """Decoding and NMS as the library does them, then boxes in pixels of the images as given."""
        found = raw["found"]
        if raw["call"] is not None:
            args, kwargs = raw["call"]
            found = self._last_head.predict_by_feat(*args, **kwargs)
        out = []
        for instances in found:
            best = instances.scores.sort(descending=True, stable=True).indices[:DETECTIONS]
            best = best[instances.scores[best] >= SCORE_THRESHOLD]
            boxes, scores = instances.bboxes[best], instances.scores[best]
            out.append({"boxes": boxes.float(), "scores": scores.float(), "labels": instances.labels[best].long() + 1})
        return self.to_original(out, batch)

    @property
    def _last_head(self) -> Any:
        """The head whose `predict_by_feat` ends a prediction."""
        heads = getattr(self.detector, "roi_head", None)
        head = self.detector.bbox_head if heads is None else heads.bbox_head
        return head[-1] if isinstance(head, nn.ModuleList) else head

    def library_batch(self, batch: Batch) -> tuple[Tensor, list[Any]]:
        """The batch as the library takes it: normalised images, and a DetDataSample for each."""
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        inputs = batch.images.tensors
        if self.bgr:
            inputs = inputs.flip(1)
        padded = tuple(inputs.shape[-2:])
        samples = []
        for i, (size, original) in enumerate(zip(batch.images.image_sizes, batch.original_sizes, strict=True)):
            about = {"img_id": i, "img_shape": size, "ori_shape": original, "scale_factor": (1.0, 1.0)}
            sample = DetDataSample(metainfo={**about, "pad_shape": padded, "batch_input_shape": padded})
            if batch.targets is not None:
                target = batch.targets[i]
                sample.gt_instances = InstanceData(bboxes=target["boxes"], labels=target["labels"] - 1)
            samples.append(sample)
        return inputs, samples


@contextmanager
def _held_back(head: Any, images: int) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Within it, `head.predict_by_feat` does nothing but note its arguments."""
    from mmengine.structures import InstanceData

    calls = []

    def note(*args: Any, **kwargs: Any) -> list[Any]:
        calls.append((args, kwargs))
        nothing = {"bboxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        return [InstanceData(**nothing) for _ in range(images)]

    head.predict_by_feat = note
    try:
        yield calls
    finally:
        del head.predict_by_feat


def _scalars(losses: dict[str, Any]) -> dict[str, Tensor]:
    """What the library's trainer adds up: means of tensors, sums over lists; entries that are no loss go."""
    out = {}
    for name, value in losses.items():
        if "loss" in name:
            parts = value if isinstance(value, list | tuple) else [value]
            out[name] = torch.stack([part.mean() for part in parts]).sum()
    return out


def build_mmdet(
    *, num_classes: int, image_size: int, scale: str, weights: str | None = None, config: str
) -> MMDetDetector:
    """Build the model of a configuration under the detector contract.

    Args:
        num_classes: foreground classes, K.
        image_size: longer side in pixels that images are resized to.
        scale: "published" for the configuration as it is; "nano" for its heads at a size for two CPU cores.
        weights: None to train from scratch: nothing frozen, batch norm live. "imagenet" loads what the configuration
            names, through the library's own loader, and freezes what it freezes.
        config: path below the library's configurations.

    Raises:
        ImportError: the library or its operators are not installed.
        ValueError: no such configuration, or no such scale of it.
        RuntimeError: weights that cannot be had.
    """
    import_mmdet()
    model = read_config(config)
    if scale == "nano":
        from baselines.mmdet_nano import shrink

        model = shrink(config, model)
    elif scale != "published":
        raise ValueError(f"{config} has no scale {scale!r}: 'published' or 'nano'")
    for_boxes(model, num_classes)
    loaded = None
    if weights is None:
        from_scratch(model)
    else:
        loaded = _require_weights(model, config, scale, weights)
    detector: Any = _build(model)
    try:
        detector.init_weights()
    except Exception as error:
        if loaded is None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(f"{loaded} could not be loaded ({reason}); train from scratch (weights=None)") from error
    out = MMDetDetector(detector, image_size)
    out.provenance["weights"] = loaded
    return out


def published_counts(config: str, *, num_classes: int, anchors: int | None = None) -> dict[str, int]:
    """Parameters, "total" and "trainable", of a configuration with what it freezes frozen; no weights are loaded.

    Args:
        anchors: per location, 3 or 9, where the model has an RPN; None leaves it as configured.
    """
    import_mmdet()
    model = read_config(config)
    for_boxes(model, num_classes)
    without_weights(model)
    if anchors is not None:
        model.rpn_head.anchor_generator.scales = {3: [8], 9: [2, 4, 8]}[anchors]
    detector = _build(model)
    parameters = list(detector.parameters())
    pyramid = getattr(getattr(detector, "neck", None), "pyramid", None)
    # The authors' code holds a fusion block that it never uses, and their count has it.
    unused = sum(p.numel() for p in pyramid.fusion[0].parameters()) if pyramid is not None else 0
    return {
        "total": sum(p.numel() for p in parameters) + unused,
        "trainable": sum(p.numel() for p in parameters if p.requires_grad) + unused,
    }


def has_rpn(config: str) -> bool:
    """Whether the model of a configuration proposes regions from anchors, of which 3 or 9 can be had."""
    import_mmdet()
    return "rpn_head" in read_config(config)


def _build(model: Any) -> nn.Module:
    from mmdet.registry import MODELS

    data = model.setdefault("data_preprocessor", {"type": "DetDataPreprocessor"})
    data.pop("batch_augments", None)  # resizing is the contract's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = MODELS.build(model)
    head = getattr(detector, "bbox_head", None)
    if head is not None and not hasattr(head, "loss_cls"):
        head.loss_cls = None  # SSDHead has none and can be given none, and mmdet 3.5.1 reads it in every prediction
    return detector


def _require_weights(model: Any, config: str, scale: str, weights: str) -> str:
    """The checkpoint that a configuration loads; raises where there is none."""
    if weights != "imagenet":
        raise ValueError(f"weights={weights!r}: expected None or 'imagenet'")
    initial: Any = model.backbone.get("init_cfg") or {}
    if scale != "published" or initial.get("type") != "Pretrained":
        raise RuntimeError(f"there are no weights for {config} at scale {scale!r}: use weights=None")
    return str(initial.checkpoint)
