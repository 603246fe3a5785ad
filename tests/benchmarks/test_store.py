from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import preflight, store
from benchmarks.detections import Detections
from benchmarks.errors import DataError, RequestError
from benchmarks.store import CellPaths, EpochPoint, RunRecord, read_record, scan, write_atomic, write_record
from tests.benchmarks.conftest import make_cell, make_profile, make_record


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = make_record()
    write_record(tmp_path / "r.json", record)
    again = read_record(tmp_path / "r.json", RunRecord)
    assert again.model_copy(update={"digest": ""}) == record
    assert again.digest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[: len(b) // 2], "not a RunRecord"),
        (lambda b: b.replace(b'"boxes": 100', b'"boxes": 101', 1), "digest mismatch"),
        (lambda b: b.replace(b'"schema_version": 1', b'"schema_version": 9'), "schema_version"),
        (lambda b: b"", "not a RunRecord"),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "r.json"
    write_record(path, make_record())
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    with pytest.raises(DataError, match=message) as error:
        read_record(path, RunRecord)
    assert str(path) in str(error.value)


def test_nan_never_reaches_a_record(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(DataError, match=r"r\.json: timings_s\.train is not a finite number"):
        write_record(path, make_record(timings_s={"train": float("nan")}))
    assert list(tmp_path.iterdir()) == []
    write_record(path, make_record())
    path.write_bytes(path.read_bytes().replace(b'"AP50": 0.5', b'"AP50": NaN', 1))
    with pytest.raises(DataError, match=r"r\.json: metrics\.AP50 is not a finite number"):
        read_record(path, RunRecord)


def test_a_file_that_nobody_here_wrote_is_not_ours_to_delete(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match=r"is not a record of this project$"):
        read_record(path, RunRecord)


def test_a_record_with_other_detections_than_it_was_made_from_is_not_loaded(tmp_path: Path, rng) -> None:
    content = detections(rng).dumps()
    record = make_record(detections_sha256=hashlib.sha256(content).hexdigest())
    paths = CellPaths.of(tmp_path, record.cell)
    write_record(paths.record, record)
    write_atomic(paths.detections, content)
    assert store.load(paths).run.cell_id == record.cell_id
    paths.detections.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"detections\.npz is not the file that its record was made from"):
        store.load(paths)


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"cell_id": "0" * 16}, "of cell 0000000000000000"), ({"weights_sha256": "b" * 64}, "of weights bbbbbbbbbbbb")],
)
def test_a_profile_of_another_training_is_refused_and_both_files_are_named(
    stored, tmp_path: Path, changes: dict, what: str
) -> None:
    one = stored("runs", weights_sha256="a" * 64)
    write_record(one.paths.profile, make_profile(one.run, weights_sha256="a" * 64))
    assert store.load(one.paths).profile is not None
    write_record(one.paths.profile, make_profile(one.run, **{"weights_sha256": "a" * 64, **changes}))
    for reading in (lambda: store.load(one.paths), lambda: list(scan(tmp_path / "runs"))):
        with pytest.raises(DataError, match=what) as error:
            reading()
        assert str(one.paths.profile) in str(error.value)
        assert str(one.paths.record) in str(error.value)
    write_record(one.paths.profile, make_profile(one.run))
    assert store.load(one.paths).profile is not None, "an older profile names no weights"


def test_what_is_set_aside_is_still_there(tmp_path: Path) -> None:
    for text, name in (("one", "r.json.damaged"), ("two", "r.json.damaged-2")):
        (tmp_path / "r.json").write_text(text)
        assert store.set_aside(tmp_path / "r.json") == name
        assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, call: str) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, call, full)
    with pytest.raises(DataError, match=r"a\.json: No space left on device"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that rewrites a file without end is killed; what is there is one of its two versions."""
    path = tmp_path / "a.bin"
    code = (
        "import sys; from pathlib import Path; from benchmarks.store import write_atomic\n"
        "p = Path(sys.argv[1]); write_atomic(p, b'a' * 100000); print('go', flush=True)\n"
        "while True:\n    write_atomic(p, b'b' * 300000); write_atomic(p, b'a' * 100000)"
    )
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert path.read_bytes() in (b"a" * 100000, b"b" * 300000)


@pytest.mark.skipif(
    getattr(os, "geteuid", int)() == 0, reason="root may write everywhere, and Windows knows no such user"
)
def test_a_read_only_folder_is_a_wrong_request(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="choose another with --out"):
        preflight.require_files(tmp_path / "runs")
    tmp_path.chmod(0o700)


def test_a_file_in_the_way_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RequestError, match="choose another with --out"):
        preflight.require_files(tmp_path / "runs")


def test_scan_leaves_out_what_is_no_record_of_a_suite(tmp_path: Path, stored) -> None:
    one = stored("runs")
    gate = CellPaths(tmp_path / "runs" / "_gate", "synthetic_small", "x")
    write_record(gate.record, make_record())
    (one.paths.record.parent / ".left.json.tmp").write_text("half")
    assert [s.run.cell_id for s in scan(tmp_path / "runs")] == [one.run.cell_id]
    assert list(scan(tmp_path / "absent")) == []


def test_one_cell_twice_or_in_another_place_is_refused_with_the_paths(tmp_path: Path, stored) -> None:
    runs = tmp_path / "runs"
    one = stored("runs").paths.record
    copy = one.with_name(one.stem + "_before.json")
    copy.write_bytes(one.read_bytes())
    with pytest.raises(DataError, match="one cell twice") as error:
        list(scan(runs))
    assert str(one) in str(error.value)
    assert str(copy) in str(error.value)
    one.unlink()
    with pytest.raises(
        DataError, match=f"{copy.name} is the record of canet on synthetic_small and belongs at .*{one.name}"
    ):
        list(scan(runs))
    other = runs / "neu_det" / one.name
    other.parent.mkdir()
    copy.rename(other)
    with pytest.raises(DataError, match=f"neu_det/{one.name} is the record of canet on synthetic_small"):
        list(scan(runs))
    other.rename(one)
    assert len(list(scan(runs))) == 1
    (runs / "again").symlink_to(one.parent)
    with pytest.raises(DataError, match="again is a link"):
        list(scan(runs))


def test_a_record_that_claims_another_cell_is_refused(stored, tmp_path: Path) -> None:
    stored("runs", cell_id="0" * 16)
    with pytest.raises(DataError, match="cell_id 0000000000000000 is not that of its cell"):
        list(scan(tmp_path / "runs"))


def test_other_peoples_json_is_left_out_and_named(stored, tmp_path: Path) -> None:
    one = stored("runs")
    labels = one.paths.record.with_name("labels.json")
    labels.write_text('{"images": []}')
    notes = one.paths.record.with_name("notes.json")
    notes.write_text("not JSON")
    lines: list[str] = []
    assert [s.run.cell_id for s in scan(tmp_path / "runs", lines.append)] == [one.run.cell_id]
    assert lines == [f"{labels} is not a record; left out", f"{notes} is not a record; left out"]
    one.paths.record.write_bytes(one.paths.record.read_bytes()[:100])  # ours, by its name
    with pytest.raises(DataError, match=one.paths.record.name) as error:
        list(scan(tmp_path / "runs", lines.append))
    assert "delete" not in str(error.value)


def test_a_profile_without_its_record_hides_no_records_and_is_named(stored, tmp_path: Path) -> None:
    one = stored("runs")
    write_record(one.paths.profile, make_profile(one.run))
    other = CellPaths.of(tmp_path / "runs", make_cell(seed=1)).profile
    for stray in (tmp_path / "runs" / one.paths.profile.name, other):
        write_record(stray, make_profile(one.run))
        for folder in {tmp_path / "runs", stray.parent}:
            lines: list[str] = []
            assert [s.run.cell_id for s in scan(folder, lines.append)] == [one.run.cell_id], folder
            assert lines == [f"{stray} is a profile without its record; left out"]
        stray.unlink()


def test_a_data_sets_own_folder_is_scanned_too(stored, tmp_path: Path, monkeypatch) -> None:
    one = stored("runs")
    assert [s.run.cell_id for s in scan(one.paths.record.parent)] == [one.run.cell_id]
    monkeypatch.chdir(one.paths.record.parent)
    assert [s.run.cell_id for s in scan(Path())] == [one.run.cell_id]


def detections(rng: np.random.Generator, images: int = 5, size: float = 160) -> Detections:
    per_image = []
    for n in [0, *rng.integers(0, 100, images - 1)]:
        corner = rng.uniform(0, size - 20, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(1, 20, (n, 2))], axis=1)
        per_image.append((boxes, rng.uniform(0.001, 1, n), rng.integers(1, 7, n)))
    return Detections.from_images([f"{i}.png" for i in range(images)], per_image)


@pytest.mark.parametrize(("size", "tolerance"), [(160, 1 / 64), (600, 1 / 64), (4608, 1 / 16)])
def test_detections_survive_within_the_quantisation(rng, size: float, tolerance: float) -> None:
    found = detections(rng, size=size)
    content = found.dumps()
    assert content == found.dumps()
    again = Detections.loads(content, "x")
    assert again.file_names == found.file_names
    np.testing.assert_array_equal(again.offsets, found.offsets)
    np.testing.assert_array_equal(again.labels, found.labels)
    np.testing.assert_allclose(again.boxes, found.boxes, atol=tolerance * 1.01)
    np.testing.assert_allclose(again.scores, found.scores, atol=1 / 131070 * 1.01)
    assert again.dumps() == content, "quantising twice must change nothing"


def test_no_detections_at_all(tmp_path: Path) -> None:
    nothing = Detections.from_images(["a", "b"], [((), (), ()), ((), (), ())])
    again = Detections.loads(nothing.dumps(), "x")
    assert again.boxes.shape == (0, 4)
    assert list(again.offsets) == [0, 0, 0]


def test_damaged_detections_are_refused_by_name(rng) -> None:
    content = detections(rng).dumps()
    with pytest.raises(DataError, match=r"some\.npz is damaged"):
        Detections.loads(content[:100], "some.npz")


def test_paths_of_a_cell_carry_its_id() -> None:
    cell = make_cell(variant="no_sae", fold=2, seed=1)
    paths = CellPaths.of(Path("results"), cell)
    assert str(paths.record) == f"results/synthetic_small/canet-no_sae-nano-f2-s1-{cell.id[:8]}.json"
    card = make_cell(device_class="nvidia-l4")
    assert CellPaths.of(Path(), card).record.name == f"canet-default-nano-f0-s0-nvidia-l4-{card.id[:8]}.json"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"commit": "a" * 40, "dirty": False}, None),
        ({"commit": "a" * 40, "dirty": True}, "differs from its commit aaaaaaaa"),
        ({"commit": "a" * 40, "dirty": False, "changed_meanwhile": True}, "changed while"),
        ({"commit": None, "dirty": None}, "not known"),
    ],
)
def test_a_record_of_no_known_source_is_not_for_publication(changes: dict, why: str | None) -> None:
    got = make_record().provenance.model_copy(update=changes).unpublishable
    assert got is None if why is None else why in got


def test_what_else_runs_on_a_cpu_does_not_count_as_training_time() -> None:
    curve = tuple(EpochPoint(epoch=e, lr=1e-3, losses={}, images_per_second=r) for e, r in enumerate((10.0, 5.0)))
    record = make_record(timings_s={"train": 30.0}, curve=curve)
    assert record.training_seconds == pytest.approx(20.0)
    card = record.model_copy(update={"cell": record.cell.model_copy(update={"device_class": "some-card"})})
    assert card.training_seconds == 30.0
    assert make_record(timings_s={}, curve=curve).training_seconds is None
    assert make_record(timings_s={"train": 30.0}).training_seconds == 30.0
