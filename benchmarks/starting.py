"""Whether a model can start to learn the boxes it will be given: what its assigner gives them before any training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks import models
from benchmarks.cells import Cell
from benchmarks.datasets.loading import DetectionDataset
from benchmarks.datasets.prepared import PreparedDataset

IMAGES = 64
"""At most so many training images are looked at, evenly spaced: a few seconds."""

_BATCH = 8  # the statistics of batch norms need several images


def cannot_start(
    model: nn.Module, cell: Cell, data: PreparedDataset, names: Sequence[str], device: torch.device
) -> str | None:
    """One line about the boxes that get no target with the weights as they are, and what helps; None if all do.

    Models without an assigner that can leave a box out have no `boxes_without_target`, and get None.

    Args:
        model: as built for `cell`, before training; it is left as it was.
        names: training images.
    """
    ask = getattr(model, "boxes_without_target", None)
    if ask is None or not names:
        return None
    images = DetectionDataset(
        data,
        names[:: -(-len(names) // IMAGES)],
        seed=cell.stream("augment"),
        tile=cell.tile.size if cell.tile else None,
        cache=False,
    )
    without = boxes = 0
    for first in range(0, len(images), _BATCH):
        pairs = [images[i] for i in range(first, min(first + _BATCH, len(images)))]
        moved = [{k: t[k].to(device) for k in ("boxes", "labels")} for _, t in pairs]
        some, there = ask([image.to(device) for image, _ in pairs], moved)
        without, boxes = without + some, boxes + there
    if not without:
        return None
    remedies = ["a larger image size", "tiles", "pretrained weights"]
    if cell.variant == "default" and "near_start" in models.get(cell.model).variants:
        remedies.append(f"the variant {cell.model}:near_start")
    return (
        f"{without} of {boxes} boxes in {len(images)} training images get no target at the start and may never be "
        f"learned; what helps: {', '.join(remedies[:-1])} or {remedies[-1]}"
    )
