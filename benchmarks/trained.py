"""The one door to a cell's model: build it, save it, load it, detect with it.

A weights file says itself what it is: the cell, the classes and the image size stand in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks import models
from benchmarks.cells import Cell
from benchmarks.cost.engines import arithmetic
from benchmarks.datasets.loading import DetectionDataset
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.detections import Detections
from benchmarks.errors import DataError
from benchmarks.store import CellPaths, RunRecord, read_named, read_record, write_atomic
from benchmarks.train import require_finite, seed_everything
from canet.contract import Detector

DETECTION_VERSION = 1
"""Raise it when `detect`, the cutting and merging of tiles or the limits of all models give other detections from the
same weights. What one model does after its network is part of its builder's version."""


@dataclass(frozen=True)
class Trained:
    """A model with what its weights file says of it."""

    model: Detector
    cell: Cell
    classes: tuple[str, ...]


def build_cell_model(cell: Cell, num_classes: int, weights_file: Path | None = None) -> Detector:
    """The cell's model, initialised from its own random stream.

    Args:
        weights_file: the file whose digest the recipe names, where it names one; without it, as where the weights are
            replaced by trained ones, the model is built with random numbers.

    Raises:
        DataError: `weights_file` is not the file that the recipe names.
    """
    weights = cell.recipe.weights
    if weights is not None and weights.startswith("sha256:"):
        if weights_file is not None and f"sha256:{_digest(weights_file)}" != weights:
            raise DataError(f"{weights_file} has changed since the run began: its digest is not that of the cell")
        weights = None if weights_file is None else str(weights_file)
    seed_everything(cell.stream("init"))
    return models.build_model(
        cell.model,
        num_classes=num_classes,
        image_size=cell.image_size,
        scale=cell.scale,
        weights=weights,
        variant=cell.variant,
    )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from None


def save_trained(model: nn.Module, cell: Cell, classes: Sequence[str], path: Path) -> str:
    """Write the weights of a cell's model with what they are. Returns the file's SHA-256.

    Raises:
        Diverged: a weight is not finite; nothing is written.
    """
    require_finite(model, "after training")
    # Cloned: safetensors refuses tensors that share memory, and tied weights do.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    about = {
        "cell_id": cell.id,
        "cell": cell.model_dump_json(),
        "classes": json.dumps(list(classes)),
        "image_size": str(cell.image_size),
    }
    # One entry: safetensors writes several in a random order, and the same weights are to be the same file.
    content = save(tensors, metadata={"about": json.dumps(about)})
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def open_trained(path: Path, device: torch.device) -> Trained:
    """The model of a weights file, from nothing but the file, in evaluation mode.

    Raises:
        DataError: damaged, not one of ours, or of a model that is built otherwise now.
    """
    about, tensors = _read(path)
    try:
        cell = Cell.model_validate_json(about["cell"])
        classes = tuple(json.loads(about["classes"]))
    except (KeyError, ValueError, ValidationError) as e:
        raise DataError(f"{path} does not say of which cell it is ({type(e).__name__}); train it again") from None
    model = build_cell_model(cell, len(classes))
    _fill(model, tensors, path)
    return Trained(model.to(device).eval(), cell, classes)


def load_trained(cell: Cell, data: PreparedDataset, runs: Path, device: torch.device) -> Detector:
    """The trained model of a finished cell, in evaluation mode.

    Raises:
        DataError: its weights are missing, damaged, or not those that its record was made with.
    """
    paths = CellPaths.of(runs, cell)
    path = paths.weights
    if paths.record.exists() and (digest := read_record(paths.record, RunRecord).weights_sha256) is not None:
        read_named(path, digest)
    about, tensors = _read(path)
    if about.get("cell_id") != cell.id:
        raise DataError(f"{path} holds the weights of another cell; move it away and run again")
    model = build_cell_model(cell, len(data.classes))
    _fill(model, tensors, path)
    return model.to(device).eval()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a weights file; DataError when it cannot be read."""
    try:
        with safe_open(str(path), framework="pt") as f:
            about = json.loads((f.metadata() or {}).get("about", "{}"))
            return about, {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as e:
        raise DataError(f"{path} cannot be loaded ({e}); move its record away and run again") from None


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        line = " ".join(str(e).split())[:200]
        raise DataError(f"{path} does not fit its model as it is built now: {line}; run its cell again") from None


@torch.inference_mode()
def detect(model: nn.Module, data: PreparedDataset, file_names: Sequence[str], device: torch.device) -> Detections:
    """Detections of `model` on images, one image at a time: batches would change the padding."""
    model.eval()
    images = DetectionDataset(data, file_names, cache=False)
    results = []
    for i in range(len(images)):
        with arithmetic("fp32", device.type):  # in which the model is timed too
            (found,) = model([images[i][0].to(device)])
        results.append(tuple(found[k].cpu().numpy() for k in ("boxes", "scores", "labels")))
    return Detections.from_images(file_names, results)
