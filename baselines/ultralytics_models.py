"""YOLO detectors of the ultralytics library under the detector contract.

https://github.com/ultralytics/ultralytics (AGPL-3.0) is an optional extra, imported when a model is built and
never before. Models are built from the YAML files that it ships, without weights and without network access;
its own loss trains them and its own non-maximum suppression makes their detections. Nothing of its code is
copied here.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_convert, clip_boxes_to_image

INSTALL = "python -m pip install 'canet-bench[yolo]'"

# Read once, when the library is imported: no DNS look-up, analytics, crash reports or package installation,
# errors only in its log.
_QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}


def import_ultralytics() -> ModuleType:
    """Import the library so that it stays silent, offline and inside a temporary settings folder.

    What it changes in the process as it is imported (environment, print options, warning filters, random
    streams, `torch.save`) is put back. A library that somebody imported earlier is returned as it is.

    Raises:
        ImportError: it is not installed; the message is one line with the command that installs it.
    """
    if (loaded := sys.modules.get("ultralytics")) is not None:
        return loaded
    settings = tempfile.mkdtemp(prefix="canet-bench-yolo-")
    atexit.register(shutil.rmtree, settings, ignore_errors=True)
    environment = dict(os.environ)
    os.environ.update(_QUIET, YOLO_CONFIG_DIR=settings)
    save, print_options = torch.save, np.get_printoptions()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            import ultralytics
            import ultralytics.nn.tasks
            import ultralytics.utils.nms
    except ImportError as error:
        raise ImportError(f"YOLO models need the ultralytics library: {INSTALL} ({error})") from error
    finally:
        kept = {*_QUIET, "YOLO_CONFIG_DIR"}  # processes started from here stay quiet too
        for name in set(os.environ) - set(environment) - kept:
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if name not in kept})
        torch.save = save
        torch.set_printoptions(profile="default")
        np.set_printoptions(**print_options)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    ultralytics.settings.update(sync=False)
    return ultralytics


@dataclass
class Batch:
    """What `YOLODetector.preprocess` makes of a list of images.

    Attributes:
        images: float32 (B, 3, H, W), resized and padded, H and W multiples of 32.
        sizes: (height, width) of every image inside `images`, padding excluded.
        original_sizes: (height, width) of every image as given.
        targets: boxes in pixels of `images`, labels 1..K; None for inference.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    targets: list[dict[str, Tensor]] | None


class YOLODetector(nn.Module):
    """An ultralytics detection model under the detector contract.

    Losses: `box`, `cls` and `dfl` as the library's criterion returns them: gains applied, normalised by the
    sum of the target scores in the batch, then *multiplied by the batch size*. The library's trainer sums
    them and calls `backward`, so the gradient of our sum equals its gradient for the same batch. What its
    trainer does afterwards (accumulation up to a nominal batch of 64, clipping the norm at 10, weight decay
    scaled by the batch) belongs to a recipe, not to the model.

    Detections: the library's `non_max_suppression` with the values of its validator (IoU 0.7, several labels
    per box) and the limits of the contract (score above 0.001, best 100). Its wall-clock limit is lifted,
    since detections must not depend on how busy the machine is.
    """

    score_threshold = 0.001
    iou_threshold = 0.7
    max_detections = 100
    multi_label = True

    def __init__(self, detector: nn.Module, image_size: int) -> None:
        super().__init__()
        # The library feeds pixels in [0, 1] without further normalisation.
        mean, std = [0.0] * 3, [1.0] * 3
        self.transform = GeneralizedRCNNTransform(image_size, image_size, mean, std, size_divisible=32)
        self.detector = detector
        frozen = [name.rsplit(".", 1)[0] for name, p in self.named_parameters() if not p.requires_grad]
        self.provenance: dict[str, Any] = {"weights": None, "frozen": frozen, "norm": "batch"}
        self._criterion: tuple[torch.device, Any] | None = None

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation; see the detector contract."""
        batch = self.preprocess(images, targets)
        raw = self.network(batch)
        return self.losses(raw, batch) if self.training else self.postprocess(raw, batch)

    def preprocess(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Batch:
        """Resize the longer side to `image_size`, pad bottom-right to a multiple of 32, stack.

        Raises:
            ValueError: training without targets.
        """
        if self.training and targets is None:
            raise ValueError("targets are needed in training mode")
        original = [(int(i.shape[-2]), int(i.shape[-1])) for i in images]
        stacked, resized = self.transform(images, targets)
        return Batch(stacked.tensors, stacked.image_sizes, original, resized)

    def network(self, batch: Batch) -> Any:
        """Backbone, neck and head: raw maps in training, decoded boxes beside them in evaluation."""
        return self.detector(batch.images)

    def losses(self, raw: Any, batch: Batch) -> dict[str, Tensor]:
        """The library's losses for the raw output of a training step; see the class for their scale."""
        assert batch.targets is not None
        total, _ = self._criterion_on(batch.images.device)(raw, library_targets(batch))
        return dict(zip(("box", "cls", "dfl"), total.unbind(), strict=True))

    def postprocess(self, raw: Any, batch: Batch) -> list[dict[str, Tensor]]:
        """Non-maximum suppression, boxes in pixels of the images as given, clipped, empty ones dropped."""
        from ultralytics.utils.nms import non_max_suppression

        found = non_max_suppression(
            raw[0].float(),
            conf_thres=self.score_threshold,
            iou_thres=self.iou_threshold,
            multi_label=self.multi_label,
            max_det=self.max_detections,
            max_time_img=float("inf"),
        )
        return [
            _detections(rows, size, original)
            for rows, size, original in zip(found, batch.sizes, batch.original_sizes, strict=True)
        ]

    def _criterion_on(self, device: torch.device) -> Any:
        # Built late and once per device: the criterion copies strides and anchors to where the model is.
        if self._criterion is None or self._criterion[0] != device:
            self._criterion = device, self.detector.init_criterion()  # type: ignore[operator]
        return self._criterion[1]


def library_targets(batch: Batch) -> dict[str, Tensor]:
    """The batch's targets as the library's criteria read them.

    Returns:
        `img` (B, 3, H, W); `batch_idx` (N,), `cls` (N, 1) in 0..K-1 and `bboxes` (N, 4) as centre, width and
        height relative to the padded image, all boxes of the batch one after the other.
    """
    targets = batch.targets or []
    height, width = batch.images.shape[-2:]
    scale = batch.images.new_tensor([width, height, width, height])
    boxes = torch.cat([t["boxes"].reshape(-1, 4) for t in targets]).to(scale)
    labels = torch.cat([t["labels"].reshape(-1) for t in targets])
    index = torch.cat([t["labels"].new_full((len(t["labels"]),), i) for i, t in enumerate(targets)])
    return {
        "img": batch.images,
        "batch_idx": index.to(scale),
        "cls": (labels - 1).to(scale)[:, None],
        "bboxes": box_convert(boxes, "xyxy", "cxcywh") / scale,
    }


def _detections(rows: Tensor, size: Sequence[int], original: tuple[int, int]) -> dict[str, Tensor]:
    """Rows (n, 6) of x1, y1, x2, y2, score, class in pixels of the resized image, as the contract wants."""
    scale = rows.new_tensor([original[1] / size[1], original[0] / size[0]]).repeat(2)
    boxes = clip_boxes_to_image(rows[:, :4] * scale, original)
    # A box that lay in the padding has no area left.
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {"boxes": boxes[kept], "scores": rows[kept, 4], "labels": rows[kept, 5].long() + 1}


def build_yolo(
    *, num_classes: int, image_size: int, scale: str, weights: str | None = None, yaml: str = "yolov8n.yaml"
) -> YOLODetector:
    """Build a YOLO detector from one of the library's YAML files, with random weights.

    Args:
        num_classes: foreground classes, K.
        image_size: longer side in pixels that images are resized to.
        scale: the scale in the YAML file's name, for example "n" in "yolov8n.yaml".
        weights: None; the library publishes no backbone that it could load without a download.
        yaml: name of a detection model file of the library.

    Raises:
        ImportError: the library is not installed.
        ValueError: `scale` is not the one that `yaml` names.
        RuntimeError: `weights` other than None.
    """
    stem = Path(yaml).stem
    if not stem.endswith(scale):
        raise ValueError(f"{yaml} is not of scale {scale!r}")
    if weights is not None:
        raise RuntimeError(
            f"no {weights!r} weights for {stem}: the library has no backbone for it, use weights=None"
        )
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    detector = DetectionModel(yaml, ch=3, nc=num_classes, verbose=False)
    # Loss gains; the library's trainer sets the same attribute.
    detector.args = copy(DEFAULT_CFG)  # type: ignore[assignment]
    return YOLODetector(detector, image_size)
