from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cells import Cell
from benchmarks.errors import DataError, RequestError
from benchmarks.merge import app, merge
from benchmarks.store import CellPaths, ProfileRecord, RunRecord, read_record, scan, write_atomic, write_record
from tests.benchmarks.conftest import full_after, make_cell, make_latencies, make_profile, make_record

CARD = {"device": "cuda", "device_name": "NVIDIA H200", "driver": "13.0"}


def put(
    folder: Path, cell: Cell | None = None, ended: str = "2026-01-01T00:01:00+00:00", content: int = 0, **where: str
) -> CellPaths:
    """A record with detections, as a run leaves them."""
    cell = cell or make_cell()
    saved = np.random.default_rng(content).bytes(100)
    provenance = make_record().provenance.model_copy(update={"ended": ended, **where})
    record = make_record(cell, detections_sha256=hashlib.sha256(saved).hexdigest(), provenance=provenance)
    paths = CellPaths.of(folder, cell)
    write_atomic(paths.detections, saved)
    write_record(paths.record, record)
    return paths


def test_records_of_two_machines_join_with_their_files(tmp_path: Path) -> None:
    for fold in range(3):
        put(tmp_path / ("a" if fold < 2 else "b"), make_cell(fold=fold))
    found = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ours")
    assert (found.joined, found.there) == (3, 0)
    assert not found.damaged + found.twice + found.split_folds
    for fold in range(3):
        paths = CellPaths.of(tmp_path / "ours", make_cell(fold=fold))
        assert read_record(paths.record, RunRecord).cell.fold == fold
        assert paths.detections.exists()
    again = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ours")
    assert (again.joined, again.there, again.twice) == (0, 3, [])


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_of_a_double_cell_the_older_stays_and_both_are_named(tmp_path: Path, order: tuple[str, str]) -> None:
    put(tmp_path / "old", ended="2026-01-01T00:01:00+00:00")
    put(tmp_path / "new", ended="2026-01-02T00:01:00+00:00")
    found = merge([tmp_path / name for name in order], tmp_path / "ours")
    (line,) = found.twice
    assert str(tmp_path / order[1]) in line
    assert "older" in line
    kept = read_record(CellPaths.of(tmp_path / "ours", make_cell()).record, RunRecord)
    assert kept.provenance.ended == "2026-01-01T00:01:00+00:00"


def test_files_that_ours_lacks_are_restored_and_a_profile_that_says_otherwise_is_named(tmp_path: Path) -> None:
    theirs, ours = (put(tmp_path / folder) for folder in ("theirs", "ours"))
    run = read_record(ours.record, RunRecord)
    for paths, session in ((theirs, "a"), (ours, "b")):
        write_record(paths.profile, make_profile(run, session=session))
    found = merge([tmp_path / "theirs"], tmp_path / "ours")
    assert (found.joined, found.there) == (0, 1)
    assert found.notes == [f"profile: {theirs.profile} says otherwise than {ours.profile}, which stays"]
    assert read_record(ours.profile, ProfileRecord).session == "b"
    for path in (ours.detections, ours.profile):
        path.unlink()
    found = merge([tmp_path / "theirs"], tmp_path / "ours")
    assert found.notes == [
        f"restored: {path} was missing beside its record" for path in (ours.detections, ours.profile)
    ]
    assert ours.detections.read_bytes() == theirs.detections.read_bytes()
    assert ours.profile.read_bytes() == theirs.profile.read_bytes()
    assert merge([tmp_path / "theirs"], tmp_path / "ours").notes == []


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("timed", ["ours", "theirs"])
def test_what_a_training_costs_stays_when_it_is_evaluated_again(tmp_path: Path, timed: str, same: bool) -> None:
    """Theirs, evaluated by the newer evaluator, takes the place of ours; the profile is of the weights."""
    cell = make_cell()
    for folder, evaluator, weights in (("ours", 1, "a" * 64), ("theirs", 2, ("a" if same else "b") * 64)):
        versions = make_record().fingerprint.model_copy(update={"evaluator": evaluator})
        ended = f"2026-01-01T00:0{2 if same or folder == 'ours' else 1}:00+00:00"
        made = make_record().provenance.model_copy(update={"ended": ended})
        run = make_record(cell, fingerprint=versions, weights_sha256=weights, provenance=made)
        paths = CellPaths.of(tmp_path / folder, cell)
        write_record(paths.record, run)
        if folder == timed:
            write_record(paths.profile, make_profile(run, weights_sha256=weights))
    ours = CellPaths.of(tmp_path / "ours", cell)
    found = merge([tmp_path / "theirs"], tmp_path / "ours")
    assert read_record(ours.record, RunRecord).fingerprint.evaluator == 2
    assert ours.profile.exists() is (same or timed == "theirs")
    gone = [f"profile: {ours.profile} was of the training that went, and went with it"]
    assert found.notes == (gone if timed == "ours" and not same else [])


def test_a_record_of_ours_that_stays_takes_the_profile_of_its_training(tmp_path: Path) -> None:
    cell = make_cell()
    for folder, evaluator in (("ours", 2), ("theirs", 1)):
        versions = make_record().fingerprint.model_copy(update={"evaluator": evaluator})
        run = make_record(cell, fingerprint=versions, weights_sha256="a" * 64)
        write_record(CellPaths.of(tmp_path / folder, cell).record, run)
    theirs, ours = (CellPaths.of(tmp_path / folder, cell) for folder in ("theirs", "ours"))
    write_record(theirs.profile, make_profile(read_record(theirs.record, RunRecord), weights_sha256="a" * 64))
    found = merge([tmp_path / "theirs"], tmp_path / "ours")
    assert found.notes == [f"restored: {ours.profile} was missing beside its record"]
    assert ours.profile.read_bytes() == theirs.profile.read_bytes()


def test_a_folder_of_records_within_is_named_unless_it_is_given_too(tmp_path: Path) -> None:
    put(tmp_path / "a")
    put(tmp_path / "a" / "_budget", make_cell(seed=1))
    write_atomic(tmp_path / "a" / "_latency" / "suite-cpu.json", b"{}")
    found = merge([tmp_path / "a"], tmp_path / "ours")
    assert found.notes == [f"{tmp_path / 'a' / '_budget'} is not merged: give it as a FOLDER of its own"]
    assert found.joined == 1
    found = merge([tmp_path / "a", tmp_path / "a" / "_budget"], tmp_path / "ours")
    assert (found.joined, found.notes) == (1, [])


def test_a_profile_of_another_training_stays_out(tmp_path: Path) -> None:
    paths = put(tmp_path / "a")
    run = read_record(paths.record, RunRecord)
    for changes in ({"cell_id": "0" * 16}, {"weights_sha256": "0" * 64}):
        write_record(paths.profile, make_profile(run, **changes))
        found = merge([tmp_path / "a"], tmp_path / "ours")
        assert found.joined == 0
        assert f"{paths.profile} is not the profile of {paths.record}" in found.damaged[0]


def test_what_does_not_name_its_source_joins_runs_and_not_results(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    dirty = make_record().provenance.model_copy(update={"commit": "0" * 40, "dirty": True})
    paths = put(tmp_path / "theirs")
    write_record(paths.record, read_record(paths.record, RunRecord).model_copy(update={"provenance": dirty}))
    for published in ("results", "results/_budget"):
        found = merge([tmp_path / "theirs"], Path(published))
        assert found.joined == 0
        (line,) = found.damaged
        assert "source that differs from its commit" in line
    monkeypatch.setattr("benchmarks.merge._OURS", tmp_path / "clone" / "results")
    assert merge([tmp_path / "theirs"], tmp_path / "clone" / "results" / "_budget").joined == 0, "from elsewhere too"
    assert merge([tmp_path / "theirs"], Path("runs")).joined == 1
    clean = dirty.model_copy(update={"dirty": False})
    write_record(paths.record, read_record(paths.record, RunRecord).model_copy(update={"provenance": clean}))
    assert merge([tmp_path / "theirs"], Path("results")).joined == 1


def test_what_is_damaged_stays_out_and_the_rest_joins(tmp_path: Path) -> None:
    good, altered, lost, moved, wrong = (put(tmp_path / "a", make_cell(fold=fold)) for fold in range(5))
    content = json.loads(altered.record.read_text())
    content["metrics"]["AP50"] = 0.99
    altered.record.write_text(json.dumps(content))
    lost.detections.unlink()
    moved.record.rename(moved.record.with_name("elsewhere.json"))
    wrong.detections.write_bytes(b"others")
    found = merge([tmp_path / "a"], tmp_path / "ours")
    assert found.joined == 1
    assert sorted(p.name for p in (tmp_path / "ours").rglob("*.json")) == [good.record.name]
    reasons = " ".join(found.damaged)
    for paths, reason in ((altered, "was changed"), (lost, "cannot read"), (wrong, "is not what was evaluated")):
        assert any(str(paths.record) in line and reason in line for line in found.damaged)
    assert "elsewhere.json lies where" in reasons


def test_another_class_of_device_is_another_cell_and_a_fold_of_both_is_said(tmp_path: Path) -> None:
    card = make_cell(device_class="nvidia-h200")
    put(tmp_path / "a")
    put(tmp_path / "b", card, **CARD)
    put(tmp_path / "b", make_cell(fold=1, device_class="nvidia-h200"), **CARD)
    found = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ours")
    assert (found.joined, found.twice) == (3, [])
    (line,) = found.split_folds
    assert "fold 0 of synthetic_small-4fold-v2" in line
    assert "CPU (1) and nvidia-h200 (1)" in line


def test_a_record_that_hides_its_device_stays_out(tmp_path: Path) -> None:
    put(tmp_path / "a", **CARD)
    found = merge([tmp_path / "a"], tmp_path / "ours")
    assert found.joined == 0
    assert "was made on nvidia-h200 and says a CPU" in found.damaged[0]


def test_wrong_folders_are_wrong_requests(tmp_path: Path) -> None:
    put(tmp_path / "a")
    with pytest.raises(RequestError, match="holds no records"):
        merge([tmp_path], tmp_path / "ours")
    with pytest.raises(RequestError, match="are to join"):
        merge([tmp_path / "a"], tmp_path / "a")


def timed(folder: Path, name: str = "gpu_study-nvidia-h200", **changes: object) -> Path:
    """A file of the latency phase, as a run leaves it."""
    path = folder / "_latency" / f"{name}.json"
    content = make_latencies({"fasterrcnn_fpn": (2.0,) * 8}, **changes)
    write_atomic(path, json.dumps(content).encode())
    return path


def test_latencies_join_too_and_alone(tmp_path: Path) -> None:
    theirs = timed(tmp_path / "a")
    found = merge([tmp_path / "a"], tmp_path / "ours")
    assert (found.joined, found.latencies, found.damaged) == (0, 1, [])
    assert (tmp_path / "ours" / "_latency" / theirs.name).read_bytes() == theirs.read_bytes()
    again = merge([tmp_path / "a"], tmp_path / "ours")
    assert (again.latencies, again.twice) == (0, [])
    put(tmp_path / "a")
    done = CliRunner().invoke(app, [str(tmp_path / "a"), "--into", str(tmp_path / "others")])
    assert "1 records joined" in done.output
    assert "1 files of latencies joined" in " ".join(done.output.split())


def at(minute: int) -> dict[str, object]:
    made = make_latencies({"a": (1.0,)})["provenance"]
    return {"provenance": {**made, "ended": f"2026-01-01T00:{minute:02}:00+00:00"}}


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ({"complete": True, **at(9)}, {"complete": False, **at(1)}, "the complete one stays"),
        ({"complete": True, **at(1)}, {"complete": True, **at(9)}, "the older one stays"),
        ({"complete": False, **at(1)}, {"complete": False, **at(9)}, "the older one stays"),
    ],
)
def test_of_double_latencies_the_complete_stay_else_the_older(
    tmp_path: Path, order: tuple[str, str], one: dict[str, object], two: dict[str, object], why: str
) -> None:
    kept = timed(tmp_path / "one", **one).read_bytes()
    timed(tmp_path / "two", **two)
    found = merge([tmp_path / name for name in order], tmp_path / "ours")
    (line,) = found.twice
    assert why in line
    assert (tmp_path / "ours" / "_latency" / "gpu_study-nvidia-h200.json").read_bytes() == kept


def test_latencies_that_are_none_or_of_another_device_or_source_stay_out(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    unknown = {"provenance": {**at(1)["provenance"], "commit": None, "dirty": None}}
    wrong = {
        timed(tmp_path / "a", "kind-nvidia-h200", kind="others"): "its kind is not",
        timed(tmp_path / "a", "device-nvidia-h100"): "was made on nvidia-h200",
        timed(tmp_path / "a", "commit-nvidia-h200", **unknown): "its commit is not known",
        timed(tmp_path / "a", "made-nvidia-h200", provenance={}): "provenance",
        timed(tmp_path / "a", "number-nvidia-h200", scale=float("nan")): "not a finite number",
    }
    found = merge([tmp_path / "a"], Path("results"))
    assert found.latencies == 0
    assert len(found.damaged) == len(wrong)
    for path, why in wrong.items():
        assert any(str(path) in line and why in line for line in found.damaged), why
    assert merge([tmp_path / "a"], Path("runs")).latencies == 1, "runs/ takes what names no source"
    theirs = timed(tmp_path / "b")
    assert merge([tmp_path / "b"], Path("results/_budget")).latencies == 1
    assert (tmp_path / "results" / "_latency" / theirs.name).exists(), "where the reports look"


def test_what_failed_replaces_nothing_that_was_measured(tmp_path: Path) -> None:
    failed = put(tmp_path / "failed")
    gone = {"status": "failed", "metrics": None, "detections_sha256": None, "error": "the disk is full"}
    write_record(failed.record, read_record(failed.record, RunRecord).model_copy(update=gone))
    failed.detections.unlink()
    good = put(tmp_path / "good", ended="2026-01-02T00:01:00+00:00")
    for theirs, ours in (("failed", "good"), ("good", "failed")):
        shutil.copytree(tmp_path / ours, tmp_path / f"into-{ours}")
        (line,) = merge([tmp_path / theirs], tmp_path / f"into-{ours}").twice
        assert "ended well and stays" in line
        (there,) = scan(tmp_path / f"into-{ours}")
        assert there.run.status == "ok"
        assert there.paths.detections.read_bytes() == good.detections.read_bytes()


def test_what_failed_is_no_published_result(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    failed = put(tmp_path / "failed", commit="0" * 40)
    gone = {"status": "failed", "metrics": None, "detections_sha256": None, "error": "the disk is full"}
    made = read_record(failed.record, RunRecord)
    clean = made.provenance.model_copy(update={"dirty": False, "changed_meanwhile": False})
    write_record(failed.record, made.model_copy(update={**gone, "provenance": clean}))
    found = merge([tmp_path / "failed"], Path("results"))
    assert (found.joined, found.damaged) == (0, [])
    assert "failed, which is no result (the disk is full)" in found.notes[0]
    assert merge([tmp_path / "failed"], Path("runs")).joined == 1, "runs/ tries it again"


@pytest.mark.parametrize("changed", [{"builder": 2}, {"evaluator": 2}], ids=["training", "evaluation"])
def test_an_older_version_replaces_no_newer_one(tmp_path: Path, changed: dict[str, int]) -> None:
    for seed in range(8):  # in which of two digests is the lower there is luck
        when = {"evaluator": "01", "builder": "02"}[next(iter(changed))]  # evaluated again, or trained again later
        put(tmp_path / "old", make_cell(seed=seed))
        new = put(tmp_path / "new", make_cell(seed=seed), ended=f"2026-01-{when}T00:01:00+00:00")
        record = read_record(new.record, RunRecord)
        mark = record.fingerprint.model_copy(update=changed)
        write_record(new.record, record.model_copy(update={"fingerprint": mark}))
    for theirs, ours in (("old", "new"), ("new", "old")):
        shutil.copytree(tmp_path / ours, tmp_path / f"into-{ours}")
        merge([tmp_path / theirs], tmp_path / f"into-{ours}")
        for stored in scan(tmp_path / f"into-{ours}"):
            assert changed.items() <= stored.run.fingerprint.model_dump().items()


@pytest.mark.parametrize("written", range(3))
def test_a_merge_that_was_interrupted_is_gone_on_with(tmp_path: Path, monkeypatch, written: int) -> None:
    old = put(tmp_path / "old")
    write_record(old.profile, make_profile(read_record(old.record, RunRecord)))
    new = put(tmp_path / "ours", ended="2026-01-02T00:01:00+00:00", content=1)
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.merge.write_atomic", full_after(written))
        with pytest.raises(DataError, match="full"):
            merge([tmp_path / "old"], tmp_path / "ours")
    assert merge([tmp_path / "old"], tmp_path / "ours").joined == 1
    (there,) = scan(tmp_path / "ours")
    assert there.profile is not None
    assert new.record.read_bytes() == old.record.read_bytes()
    assert new.detections.read_bytes() == old.detections.read_bytes()


def test_what_is_no_record_beside_ours_hides_nothing_that_is_told(tmp_path: Path) -> None:
    put(tmp_path / "a")
    put(tmp_path / "a", make_cell(seed=1)).detections.write_bytes(b"damaged")
    write_atomic(tmp_path / "ours" / make_cell().dataset / "notes.json", b"{}")
    found = merge([tmp_path / "a"], tmp_path / "ours")
    assert (found.joined, len(found.damaged)) == (1, 1)


@pytest.mark.parametrize("same", [True, False])
def test_a_record_that_is_replaced_takes_its_weights_and_state_along(tmp_path: Path, same: bool) -> None:
    """Else the next run finds weights that are none of the record's, and sets the record aside."""
    ours, theirs = put(tmp_path / "ours"), put(tmp_path / "theirs", content=1)
    mine = read_record(ours.record, RunRecord).model_copy(update={"status": "failed", "metrics": None})
    write_record(ours.record, mine)
    ours.weights.write_bytes(b"weights")
    ours.checkpoint.write_bytes(b"state")
    digest = hashlib.sha256(b"weights" if same else b"other").hexdigest()
    write_record(theirs.record, read_record(theirs.record, RunRecord).model_copy(update={"weights_sha256": digest}))
    assert merge([tmp_path / "theirs"], tmp_path / "ours").joined == 1
    assert ours.weights.exists() is same
    assert not ours.checkpoint.exists()


def test_records_of_other_images_stay_out(tmp_path: Path) -> None:
    put(tmp_path / "ours")
    for digest in ("data", "split"):
        other = put(tmp_path / digest, make_cell(seed=1))
        run = read_record(other.record, RunRecord)
        made = run.fingerprint.model_copy(update={digest: "other"})
        write_record(other.record, run.model_copy(update={"fingerprint": made}))
        found = merge([tmp_path / digest], tmp_path / "ours")
        assert found.joined == 0
        assert "digests of its data or split list" in found.damaged[0]
