from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.cells import Tile
from benchmarks.errors import DataError
from benchmarks.store import CellPaths, write_record
from benchmarks.train import Diverged
from benchmarks.trained import build_cell_model, load_trained, open_trained, save_trained
from tests.benchmarks.conftest import make_cell, make_record

CPU = torch.device("cpu")


def test_weights_say_themselves_what_they_are(tmp_path: Path, synthetic) -> None:
    cell = make_cell(model="retinanet", tile=Tile(size=64, overlap=16))
    path = CellPaths.of(tmp_path, cell).weights
    model = build_cell_model(cell, len(synthetic.classes))
    with torch.no_grad():
        next(model.parameters()).add_(1)
    save_trained(model, cell, synthetic.classes, path)
    alone = open_trained(path, CPU)
    assert (alone.cell, alone.classes) == (cell, synthetic.classes)
    image = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want, got = model.eval()([image]), alone.model([image])
        beside = load_trained(cell, synthetic, tmp_path, CPU)([image])
    for key in ("boxes", "scores", "labels"):
        assert torch.equal(want[0][key], got[0][key])
        assert torch.equal(want[0][key], beside[0][key])


def test_weights_of_another_cell_and_damaged_ones_are_refused(tmp_path: Path, synthetic) -> None:
    cell, other = make_cell(), make_cell(seed=1)
    paths = CellPaths.of(tmp_path, cell)
    save_trained(build_cell_model(other, len(synthetic.classes)), other, synthetic.classes, paths.weights)
    with pytest.raises(DataError, match="another cell"):
        load_trained(cell, synthetic, tmp_path, CPU)
    paths.weights.write_bytes(paths.weights.read_bytes()[:1000])
    for call in (lambda: load_trained(cell, synthetic, tmp_path, CPU), lambda: open_trained(paths.weights, CPU)):
        with pytest.raises(DataError, match=r"\.safetensors cannot be loaded"):
            call()
    with pytest.raises(DataError, match="cannot be loaded"):
        open_trained(tmp_path / "absent.safetensors", CPU)


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    cell = make_cell()
    model = build_cell_model(cell, 6)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if n.endswith("cls_score.bias")).fill_(float("nan"))
    with pytest.raises(Diverged, match=r"weights not finite after training \(.*cls_score\.bias\)"):
        save_trained(model, cell, ["a"] * 6, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_were_altered_are_refused(tmp_path: Path, synthetic) -> None:
    cell = make_cell(model="retinanet")
    paths = CellPaths.of(tmp_path, cell)
    model = build_cell_model(cell, len(synthetic.classes))
    digest = save_trained(model, cell, synthetic.classes, paths.weights)
    write_record(paths.record, make_record(cell, weights_sha256=digest))
    load_trained(cell, synthetic, tmp_path, CPU)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    save_trained(model, cell, synthetic.classes, paths.weights)
    with pytest.raises(DataError, match="not the file that its record was made from"):
        load_trained(cell, synthetic, tmp_path, CPU)
