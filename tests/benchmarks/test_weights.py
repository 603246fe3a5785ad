"""`run --weights FILE`: the digest of the file is part of the cell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from benchmarks.cells import Recipe
from benchmarks.errors import DataError, RequestError
from benchmarks.models import missing_extra
from benchmarks.run import _from_weights
from benchmarks.trained import build_cell_model
from tests.benchmarks.conftest import RECIPE, make_cell

pytestmark = [pytest.mark.yolo, pytest.mark.skipif(missing_extra("yolov8n") is not None, reason="needs ultralytics")]


def test_a_cell_from_a_weights_file_names_its_digest_and_starts_from_it(tmp_path: Path) -> None:
    cell = make_cell(model="yolov8n", scale="n", image_size=64)
    file = tmp_path / "other.safetensors"
    donor = {
        k: v.contiguous() for k, v in build_cell_model(cell.model_copy(update={"seed": 9}), 3).state_dict().items()
    }
    save_file(donor, file)
    (started,) = _from_weights([cell], file)
    assert started.recipe.weights.startswith("sha256:")
    assert started.id != cell.id
    assert Recipe.model_validate_json(started.recipe.model_dump_json()) == started.recipe
    model = build_cell_model(started, 3, file)
    assert all(torch.equal(v, donor[k]) for k, v in model.state_dict().items())
    assert "other.safetensors" in model.provenance["weights"]
    # Where trained weights take their place, the file is not needed.
    assert build_cell_model(started, 3).provenance["weights"] is None
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="has changed since the run began"):
        build_cell_model(started, 3, file)


def test_what_cannot_start_from_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="canet load no weights file"):
        _from_weights([make_cell(), make_cell(model="yolov8n", scale="n")], tmp_path / "x.pt")
    with pytest.raises(RequestError, match="yolov8n:near_start start from random weights"):
        _from_weights([make_cell(model="yolov8n", variant="near_start", scale="n")], tmp_path / "x.pt")
    with pytest.raises(RequestError, match="No such file"):
        _from_weights([make_cell(model="yolov8n", scale="n")], tmp_path / "x.pt")
    with pytest.raises(ValidationError):
        Recipe(**{**RECIPE.model_dump(), "weights": "sha256:12"})
