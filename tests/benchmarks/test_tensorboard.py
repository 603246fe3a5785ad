"""TensorBoard logs, read back by TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tensorboard
from benchmarks.errors import RequestError
from tests.benchmarks.conftest import make_cell, make_record


def read(out: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Log -> tag -> steps and values."""
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    found = {}
    for folder in (out / tensorboard.FOLDER).iterdir():
        log = accumulator.EventAccumulator(str(folder))
        log.Reload()
        tags = log.Tags()["scalars"]
        found[folder.name] = {t: [(e.step, pytest.approx(e.value)) for e in log.Scalars(t)] for t in tags}
    return found


def test_a_training_that_goes_on_goes_on_in_its_log(tmp_path: Path) -> None:
    cell, other = make_cell(), make_cell(seed=1)
    logs = tensorboard.Logs(tmp_path)
    for epoch in range(3):
        logs.epoch(cell, epoch, {"a": 1.0 + epoch, "b": 0.5}, 10.0)
    logs.epoch(other, 0, {"a": 4.0}, 11.0)
    logs.close()
    logs = tensorboard.Logs(tmp_path)
    logs.epoch(cell, 2, {"a": 7.0, "b": 0.5}, 12.0)  # the state of the third epoch was not saved
    record = make_record(cell)
    logs.end(record)
    logs.close()
    mine, its = (next(v for k, v in read(tmp_path).items() if f"-s{seed}-" in k) for seed in (0, 1))
    assert mine["loss/a"] == [(0, 1.0), (1, 2.0), (2, 7.0)]
    assert mine["loss/sum"] == [(0, 1.5), (1, 2.5), (2, 7.5)]
    assert mine["images per second"][-1] == (2, 12.0)
    assert mine["test/AP50"] == [(len(record.curve), record.metrics.AP50)]
    assert {tag for tag in mine if tag.startswith("test/AP50 of ")} == {
        f"test/AP50 of {name}" for name, entry in record.metrics.per_class.items() if entry.AP50 is not None
    }
    assert its["loss/a"] == [(0, 4.0)]


def test_without_the_extra_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tensorboard, "missing", lambda extra: f"{extra}: install it")
    with pytest.raises(RequestError, match=r"^--tensorboard needs tensorboard: install it$"):
        tensorboard.Logs(tmp_path)
    assert not list(tmp_path.iterdir())
