"""Boxes that are neither asked for nor false (VOC's difficult, COCO's crowds), left out of the losses.

A target's `ignore`, (M, 4), is absent where there is none, and without it nothing here changes a number. What a
candidate matches counts as ever; a candidate that matches nothing and lies in an ignored box is no negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

Target = dict[str, Tensor]

COVERED = 0.5
"""A candidate lies in an ignored box when that covers at least this share of its area."""


def ignored_boxes(target: Target) -> Tensor | None:
    """The target's ignored boxes, (M, 4), or None where it has none."""
    boxes = target.get("ignore")
    return boxes if boxes is not None and len(boxes) else None


def any_ignored(targets: Sequence[Target] | None) -> bool:
    """Whether a target of the batch has an ignored box."""
    return any(ignored_boxes(target) is not None for target in targets or ())


def covered(boxes: Tensor, ignore: Tensor) -> Tensor:
    """Which of `boxes`, (N, 4), have half of their area or more in one of `ignore`, (M, 4): (N,), bool."""
    corner = torch.maximum(boxes[:, None, :2], ignore[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], ignore[None, :, 2:]) - corner).clamp(min=0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (sides.prod(dim=2) >= COVERED * area[:, None]).any(dim=1) & (area > 0)


def inside(points: Tensor, ignore: Tensor) -> Tensor:
    """Which of `points`, (N, 2) as x, y, lie in one of `ignore`, (M, 4): (N,), bool."""
    points = points[:, None]
    return ((points >= ignore[None, :, :2]) & (points < ignore[None, :, 2:])).all(dim=2).any(dim=1)


class IgnoringRPN(RegionProposalNetwork):
    """torchvision's RPN; anchors that match nothing and are `covered` by an ignored box are not sampled."""

    @classmethod
    def of(cls, rpn: RegionProposalNetwork) -> IgnoringRPN:
        """One with the parts and settings of `rpn`."""
        return cls(
            rpn.anchor_generator,
            rpn.head,
            rpn.proposal_matcher.high_threshold,
            rpn.proposal_matcher.low_threshold,
            rpn.fg_bg_sampler.batch_size_per_image,
            rpn.fg_bg_sampler.positive_fraction,
            rpn._pre_nms_top_n,
            rpn._post_nms_top_n,
            rpn.nms_thresh,
            rpn.score_thresh,
        )

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for index, (label, target) in enumerate(zip(labels, targets, strict=True)):
            if (ignore := ignored_boxes(target)) is not None:
                labels[index] = label.masked_fill((label == 0) & covered(anchors[index], ignore), -1)
        return labels, matched

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        if all(bool((label < 0).all()) for label in labels):  # nothing to sample: its mean would be NaN
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


def without_ignored(proposals: list[Tensor], targets: list[Target], iou: float) -> list[Tensor]:
    """Proposals per image without those that are `covered` by an ignored box and reach `iou` with no box."""
    kept = []
    for boxes, target in zip(proposals, targets, strict=True):
        if (ignore := ignored_boxes(target)) is not None:
            out = covered(boxes, ignore)
            if len(target["boxes"]):
                out &= box_iou(target["boxes"], boxes).amax(dim=0) < iou
            boxes = boxes[~out]
        kept.append(boxes)
    return kept
