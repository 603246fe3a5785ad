"""Before a training starts: images that a model cannot be trained on, and boxes that it cannot start to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks import models
from benchmarks.cells import Cell, NativeRecipe
from benchmarks.datasets.loading import DetectionDataset
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import Split
from benchmarks.errors import DataError
from canet.contract import Detector

IMAGES = 64
"""At most so many training images are looked at, evenly spaced: a few seconds."""

_BATCH = 8  # the statistics of batch norms need several images


def trainable(model: Detector, cell: Cell, data: PreparedDataset, split: Split) -> tuple[Split, str | None]:
    """The split without training images that `model` cannot be trained on, and a line that names them, if any.

    These are the images with ignored boxes (crowds, difficult objects), for a model that cannot leave such boxes out
    of its loss and for a library's own trainer: they would be taught as background.
    """
    if model.ignores and not isinstance(cell.recipe, NativeRecipe):
        return split, None
    left = [name for name in split.train if data.ignored(name)]
    if not left:
        return split, None
    kept = tuple(name for name in split.train if not data.ignored(name))
    who = "the library's own trainer" if isinstance(cell.recipe, NativeRecipe) else cell.model
    names = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    line = (
        f"{len(left)} of {len(split.train)} training images hold ignored boxes (crowds, difficult objects), which "
        f"{who} cannot leave out of its loss, and are left out: {names}"
    )
    if not kept:
        raise DataError(f"{line}; no image remains to train on")
    return replace(split, train=kept), line


def cannot_start(
    model: Detector, cell: Cell, data: PreparedDataset, names: Sequence[str], device: torch.device
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
    remedies = ["a larger image size", "tiles"]
    if getattr(model, "assigns_by_weights", True):
        remedies.append("pretrained weights")
    if cell.variant == "default" and "near_start" in models.get(cell.model).variants:
        remedies.append(f"the variant {cell.model}:near_start")
    return (
        f"{without} of {boxes} boxes in {len(images)} training images get no target at the start and may never be "
        f"learned; what helps: {', '.join(remedies[:-1])} or {remedies[-1]}"
    )
