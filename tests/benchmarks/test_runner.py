"""When a cell is finished, and what is done about files that are not as they were written."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import runner
from benchmarks.cells import Cell
from benchmarks.datasets.prepared import PreparedDataset, require_unchanged
from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.devices import SourceState
from benchmarks.errors import DataError
from benchmarks.progress import CellProgress
from benchmarks.store import CellPaths, RunRecord, read_record, write_atomic, write_record
from tests.benchmarks.conftest import RECIPE, make_cell, make_profile, make_record


def done(runs: Path, data: PreparedDataset, cell: Cell) -> CellPaths:
    """The files of a cell that has ended well."""
    paths = CellPaths.of(runs, cell)
    digests = {}
    for path, field in (
        (paths.detections, "detections_sha256"),
        (paths.val_detections, "val_detections_sha256"),
        (paths.weights, "weights_sha256"),
    ):
        content = Detections.from_images([path.name], [((), (), ())]).dumps()
        write_atomic(path, content)
        digests[field] = hashlib.sha256(content).hexdigest()
    write_record(paths.record, make_record(cell, fingerprint=runner.fingerprint(cell, data), **digests))
    return paths


@pytest.mark.parametrize("damaged", ["record", "detections", "val_detections", "weights"])
@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b.replace(b"0.5", b"NaN", 1) + b" "])
def test_a_damaged_cell_alone_is_set_aside_and_run_again(tmp_path: Path, synthetic, damaged: str, damage) -> None:
    cells = [make_cell(), make_cell(seed=1)]
    paths, other = (done(tmp_path, synthetic, cell) for cell in cells)
    assert runner.set_damaged_aside(cells, tmp_path) == []
    assert all(runner.finished(cell, tmp_path, synthetic) for cell in cells)
    path = getattr(paths, damaged)
    path.write_bytes(damage(path.read_bytes()))
    assert runner.finished(cells[0], tmp_path, synthetic) is None
    (line,) = runner.set_damaged_aside(cells, tmp_path)
    assert "set aside as" in line
    assert f"{path.name}.damaged" in line
    assert not paths.record.exists()
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").exists()
    assert runner.finished(cells[1], tmp_path, synthetic) is not None
    assert other.record.exists()


def test_lost_validation_detections_are_made_again(tmp_path: Path, synthetic) -> None:
    """A run that began with another evaluator would ask for them before anything else, at every try."""
    paths = done(tmp_path, synthetic, make_cell())
    paths.val_detections.unlink()
    assert runner.finished(make_cell(), tmp_path, synthetic) is None


def test_a_damaged_profile_costs_no_training(tmp_path: Path, synthetic) -> None:
    cell = make_cell()
    paths = done(tmp_path, synthetic, cell)
    paths.profile.write_text("{")
    (line,) = runner.set_damaged_aside([cell], tmp_path)
    assert "to be profiled again" in line
    assert not paths.profile.exists()
    assert runner.finished(cell, tmp_path, synthetic) is not None


def test_a_profile_of_an_earlier_training_is_set_aside_and_does_not_outlive_the_next(tmp_path: Path, synthetic) -> None:
    cell = make_cell()
    paths = done(tmp_path, synthetic, cell)
    run = read_record(paths.record, RunRecord)
    write_record(paths.profile, make_profile(run, weights_sha256=run.weights_sha256))
    assert runner.set_damaged_aside([cell], tmp_path) == []
    write_record(paths.profile, make_profile(run, weights_sha256="0" * 64))
    (line,) = runner.set_damaged_aside([cell], tmp_path)
    assert "to be profiled again" in line
    assert runner.finished(cell, tmp_path, synthetic) is not None
    write_record(paths.profile, make_profile(run))
    job = runner.Job(cell, synthetic.root.parent, tmp_path, "cpu", None)
    runner.record_death(job, "failed", "its process was killed")
    assert not paths.profile.exists()


def test_images_that_changed_on_disk_are_noticed_at_equal_size(tmp_path: Path, synthetic) -> None:
    root = tmp_path / "set"
    shutil.copytree(synthetic.root, root)
    data = dataclasses.replace(synthetic, root=root)
    names = [image["file_name"] for image in data.images[:3]]
    require_unchanged(data, names)  # younger than the manifest, all of them, and sound
    path = data.path(names[1])
    content, old = bytearray(path.read_bytes()), os.stat(path)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))  # as tools that keep times do
    with pytest.raises(DataError, match=f"{path.name} was changed; prepare it again: .* --force"):
        require_unchanged(data, names)
    cell = make_cell(recipe=RECIPE.model_copy(update={"epochs": 1}))
    split = runner.load_split(cell.dataset, cell.split, cell.fold)
    data.path(split.val[0]).write_bytes(b"")
    record = runner.run_cell(cell, data, runs=tmp_path, device=torch.device("cpu"), progress=CellProgress())
    assert record.status == "failed"
    assert "was changed; prepare it again" in record.error
    assert "train" not in record.timings_s


def test_a_number_that_is_not_finite_fails_its_cell_and_no_other(tmp_path: Path, synthetic, monkeypatch) -> None:
    """What metrics or a library report is not ours to foresee."""

    def some(*phases) -> None:
        known = phases[-1]
        known["curve"] = (make_point(math.inf),)

    monkeypatch.setattr(runner, "_train_and_evaluate", some)
    cell, cpu, as_begun = make_cell(), torch.device("cpu"), SourceState("0" * 40, False)
    record = runner.run_cell(cell, synthetic, runs=tmp_path, device=cpu, progress=CellProgress(), before=as_begun)
    assert (record.status, record.error) == ("failed", "curve.0.losses.loss is not a finite number")
    assert record.provenance.commit == as_begun.commit, "as the run began"
    assert record.provenance.unpublishable == "the source was changed while it was made"
    assert read_record(CellPaths.of(tmp_path, cell).record, RunRecord).status == "failed"


def test_a_training_that_went_on_took_the_time_of_all_its_epochs(tmp_path: Path, synthetic, monkeypatch) -> None:
    def refuses(*_: object) -> None:
        raise DataError("the rest is not asked for")

    monkeypatch.setattr(runner, "train", lambda *_, **__: (make_point(1.0), make_point(1.0)))
    monkeypatch.setattr(runner, "save_trained", refuses)
    cell, cpu = make_cell(), torch.device("cpu")
    record = runner.run_cell(cell, synthetic, runs=tmp_path, device=cpu, progress=CellProgress())
    assert record.error == "the rest is not asked for"
    assert record.train_images is not None
    assert record.timings_s["train"] == 2 * (record.train_images // 4 * 4), "at one image a second"


def make_point(loss: float) -> runner.EpochPoint:
    return runner.EpochPoint(epoch=0, lr=1e-3, losses={"loss": loss}, images_per_second=1.0)


def test_a_librarys_trainer_does_not_choose_by_the_test_images(synthetic: PreparedDataset, tmp_path: Path) -> None:
    """Without a validation part the export names the test part as one, since the library asks for one."""
    split = load_split("synthetic_small", "synthetic_small-4fold-v2", 0)
    none = dataclasses.replace(split, val=())
    with pytest.raises(DataError, match="has no validation part"):
        runner.train_natively(torch.nn.Identity(), synthetic, none, make_cell(), tmp_path / "x", CellProgress(print))
    assert not list(tmp_path.iterdir())
