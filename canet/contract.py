"""The detector contract, torchvision's own convention: what every model of the benchmark is.

For images float32 RGB (3, H, W) in [0, 1] of any sizes, boxes float32 (N, 4) as x1, y1, x2, y2 in pixels of the image
as given, labels int64 1..K (no boxes is fine):

    training:    model(images, targets) -> dict of scalar losses, which the loop sums
    evaluation:  model(images) -> one {"boxes", "scores", "labels"} per image
                 = postprocess(network(preprocess(images)))

A target may carry "ignore", boxes (M, 4) that are neither asked for nor false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import boxes as box_ops

from canet.ignore import Target as Target
from canet.ignore import any_ignored

SCORE_THRESHOLD = 0.001
DETECTIONS = 100
"""What every model keeps of an image: detections of at least this score, and the best of them."""


@dataclass
class Batch:
    """What `preprocess` hands to `network`: one padded tensor, sizes before padding, sizes as given."""

    images: ImageList
    original_sizes: list[tuple[int, int]]
    targets: list[Target] | None


class ResizeNormalizePad(GeneralizedRCNNTransform):
    """Longer side to `image_size` (bilinear, no antialias), normalisation (ImageNet's), padding to `divisor`.

    torchvision's own transform computes the size through a float32 factor, which can lose a pixel.
    """

    def __init__(
        self,
        image_size: int,
        divisor: int = 32,
        *,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(
            min_size=image_size,
            max_size=image_size,
            image_mean=list(mean),
            image_std=list(std),
            size_divisible=divisor,
        )

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        old = (image.shape[-2], image.shape[-1])
        longer = max(old)
        new = tuple(max(1, (2 * side * self.max_size + longer) // (2 * longer)) for side in old)
        if new == old:
            return image, target
        image = F.interpolate(image[None], size=new, mode="bilinear", align_corners=False)[0]
        if target is not None:
            for name in {"boxes", "ignore"} & target.keys():
                target[name] = resize_boxes(target[name], list(old), list(new))
        return image, target


class Detector(nn.Module):
    """The contract's outer half: `preprocess`, `forward` and checks. Subclasses give `network`, `postprocess`."""

    ignores = False
    """Whether boxes under a target's "ignore" are left out of the loss. Where not, such a target is refused."""

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        self.transform = transform
        self.provenance: dict[str, Any] = {"weights": None, "frozen": [], "norm": "batch"}

    def preprocess(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Batch:
        """Resize, normalise and pad; targets are resized alike. Raises ValueError for malformed input."""
        if not images:
            raise ValueError("a batch needs at least one image")
        if targets is not None:
            check_targets(images, targets)
            if not self.ignores and any_ignored(targets):
                raise ValueError(
                    f"{type(self).__name__} cannot leave ignored boxes (crowds, difficult objects) out of its loss; "
                    "leave these images out of the training"
                )
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        image_list, resized = self.transform(list(images), None if targets is None else list(targets))
        return Batch(image_list, sizes, resized)

    def network(self, batch: Batch) -> Any:
        """Backbone, neck and heads. In training mode the value is the dict of losses."""
        raise NotImplementedError

    def postprocess(self, raw: Any, batch: Batch) -> list[Target]:
        """Decode, keep the best detections, and return to pixels of the images as given."""
        raise NotImplementedError

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        if self.training and targets is None:
            raise ValueError("training needs targets")
        batch = self.preprocess(images, targets if self.training else None)
        raw = self.network(batch)
        return raw if self.training else self.postprocess(raw, batch)

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Called before epoch `epoch` (from 0) of `epochs`, for models with a schedule of their own; most have none."""

    def fit_natively(
        self,
        data: Path,
        folder: Path,
        *,
        epochs: int,
        batch_size: int,
        seed: int,
        epoch_ended: Callable[[int, dict[str, float], float], None],
    ) -> None:
        """Train with the trainer of the model's own library at its defaults, then carry the weights that it chose.

        Args:
            data: data file of a set in the library's own format, with parts train and val.
            folder: where everything it writes goes.
            epoch_ended: called with the epoch (from 0), mean losses and learning rate.

        Raises NotImplementedError for a model whose library has none, as most.
        """
        raise NotImplementedError(f"{type(self).__name__} has no trainer of its own library")

    def curve_scalars(self) -> dict[str, float]:
        """Named numbers that tell, after each epoch, what parts of the model have become; none by default."""
        return {}

    def to_original(self, detections: list[Target], batch: Batch) -> list[Target]:
        """Boxes from pixels of the resized image to pixels of the image as given, clipped to it.

        What lies in the padding alone has no area left and goes.
        """
        out = []
        for found, size, original in zip(detections, batch.images.image_sizes, batch.original_sizes, strict=True):
            boxes = box_ops.clip_boxes_to_image(found["boxes"], size)
            if size != original:
                boxes = box_ops.clip_boxes_to_image(resize_boxes(boxes, list(size), list(original)), original)
            kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            out.append({name: value[kept] for name, value in {**found, "boxes": boxes}.items()})
        return out


def check_targets(images: Sequence[Tensor], targets: Sequence[Target]) -> None:
    """Raises ValueError unless there is one well-formed target per image."""
    if len(images) != len(targets):
        raise ValueError(f"{len(images)} images and {len(targets)} targets")
    for index, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(labels):
            raise ValueError(
                f"target {index}: boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}, expected (N, 4) and (N,)"
            )
        if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise ValueError(f"target {index}: a box has no positive width and height")
        if (ignore := target.get("ignore")) is not None and (ignore.ndim != 2 or ignore.shape[1] != 4):
            raise ValueError(f"target {index}: ignored boxes {tuple(ignore.shape)}, expected (M, 4)")
