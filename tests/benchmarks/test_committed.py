"""Committed records are found again by what is hashed: nothing that is added may change it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.cost.latency_files import files, read
from benchmarks.datasets.splits import load_split
from benchmarks.gate.ratios import compare
from benchmarks.store import CellPaths, ProfileRecord, RunRecord, read_record

RESULTS = Path(__file__).parents[2] / "results"
RATIOS = RESULTS / "_ratios"  # of pytest-benchmark's files, which `benchmarks.gate.ratios` reads
LATENCIES = files(RESULTS)
OTHERS = {*RATIOS.glob("*.json"), *LATENCIES}
RUNS = sorted(p for p in RESULTS.rglob("*.json") if not p.name.endswith(".profile.json") and p not in OTHERS)
PROFILES = sorted(RESULTS.rglob("*.profile.json"))


@pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(RESULTS)))
def test_a_committed_record_is_still_that_of_its_cell(path: Path) -> None:
    record = read_record(path, RunRecord)  # with its digest
    written = json.loads(path.read_bytes())
    assert record.cell.model_dump(mode="json") == written["cell"]
    assert record.cell.id == record.cell_id
    assert record.fingerprint.model_dump(mode="json") == written["fingerprint"]
    assert CellPaths.of(path.parents[1], record.cell).record == path
    cell = record.cell
    assert load_split(cell.dataset, cell.split, cell.fold).digest == record.fingerprint.split


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: str(p.relative_to(RESULTS)))
def test_a_committed_profile_is_of_a_committed_run(path: Path) -> None:
    run = path.with_name(path.name.replace(".profile.json", ".json"))
    assert read_record(path, ProfileRecord).cell_id == read_record(run, RunRecord).cell_id


@pytest.mark.parametrize("path", [*RUNS, *PROFILES], ids=lambda p: str(p.relative_to(RESULTS)))
def test_what_is_committed_names_the_source_that_made_it(path: Path) -> None:
    record = read_record(path, ProfileRecord if path in PROFILES else RunRecord)
    assert record.provenance.unpublishable is None


def test_committed_latencies_are_read_and_name_the_source_that_made_them() -> None:
    assert [path for path in LATENCIES if read(path).provenance.unpublishable] == []


@pytest.mark.parametrize("path", sorted(RATIOS.glob("*.json")), ids=lambda p: p.name)
def test_a_committed_baseline_of_ratios_is_read_as_that_of_its_machine_type(path: Path) -> None:
    checks = compare(RATIOS, path, 0.25)
    assert {check.verdict for check in checks} == {"pass"}
    assert json.loads(path.read_bytes())["reason"]


def _data(dataset: str) -> set[str]:
    records = [read_record(p, RunRecord) for p in RUNS if p.parent.name == dataset]
    assert records, f"no committed records of {dataset}"
    return {record.fingerprint.data for record in records}


def test_the_embedded_set_is_prepared_to_the_digest_that_records_name(synthetic) -> None:
    assert _data(synthetic.name) == {synthetic.manifest_digest}


@pytest.mark.slow
def test_neu_det_is_prepared_to_the_digest_that_records_name(data_root: Path) -> None:
    from benchmarks.datasets.prepared import prepare

    if not (archives := os.environ.get("CANET_BENCH_ARCHIVES")):
        pytest.skip("CANET_BENCH_ARCHIVES is not set")
    known = _data("neu_det")
    assert known == {prepare("neu_det", data_root, Path(archives) / "NEU-DET.zip").manifest_digest}
