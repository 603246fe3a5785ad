"""Files of pytest-benchmark's: ratios within each are compared, whatever the machine did between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace as replaced
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.compare import app
from benchmarks.errors import DataError, RequestError
from benchmarks.gate.outputs import markdown
from benchmarks.gate.ratios import compare, is_report, replace

ROUNDS = (1.00, 1.01, 1.02, 1.03, 1.04)


def written(
    path: Path, forms: dict[str, float | Sequence[float]], cpu: str = "cpu", flags: Sequence[str] = ("sse4_1",)
) -> Path:
    """A file as pytest-benchmark 5 writes it, of one group: milliseconds by form."""
    benchmarks = [
        {
            "group": "neck",
            "name": name,
            "stats": {"data": [1e-3 * ms * r for r in ROUNDS] if isinstance(ms, float) else [1e-3 * t for t in ms]},
        }
        for name, ms in forms.items()
    ]
    machine = {"system": "Linux", "machine": "x86_64", "cpu": {"brand_raw": cpu, "count": 2, "flags": list(flags)}}
    path.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks, "version": "5.3.1"}))
    return path


def verdicts(tmp_path: Path, head: dict[str, float | Sequence[float]]) -> dict[str, str]:
    base = written(tmp_path / "base.json", {"literal": 20.0, "exact": 8.0, "deployed": 5.0})
    checks = compare(base, written(tmp_path / "head.json", head), 0.25)
    return {check.what.partition(" ")[0]: check.verdict for check in checks}


def test_ratios_to_the_first_of_a_group_are_judged(tmp_path: Path) -> None:
    same = {"exact": "pass", "deployed": "pass"}
    assert verdicts(tmp_path, {"literal": 20.0, "exact": 8.0, "deployed": 5.0}) == same
    assert verdicts(tmp_path, {"literal": 60.0, "exact": 24.0, "deployed": 15.0}) == same, "a machine thrice as slow"
    assert verdicts(tmp_path, {"literal": 20.0, "exact": 12.0, "deployed": 5.0}) == {**same, "exact": "fail"}
    spiky = (9.0, 11.0, 12.0, 12.0, 30.0)
    assert verdicts(tmp_path, {"literal": 20.0, "exact": spiky, "deployed": 5.0}) == {**same, "exact": "inconclusive"}
    assert verdicts(tmp_path, {"literal": 20.0, "exact": 8.0}) == {"exact": "pass", "deployed": "fail"}
    more = {"literal": 20.0, "exact": 8.0, "deployed": 5.0, "compiled": 4.0}
    assert verdicts(tmp_path, more) == {**same, "compiled": "new"}


def test_another_machine_type_is_not_compared_and_files_without_rounds_are_refused(tmp_path: Path) -> None:
    base = written(tmp_path / "base.json", {"literal": 20.0, "exact": 8.0})
    other = written(tmp_path / "other.json", {"literal": 20.0, "exact": 80.0}, cpu="another")
    assert [check.verdict for check in compare(base, other, 0.25)] == ["inconclusive"]
    content = json.loads(base.read_text())
    del content["benchmarks"][1]["stats"]["data"]
    (tmp_path / "short.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="exact has no times"):
        compare(base, tmp_path / "short.json", 0.25)
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(DataError, match="no file of pytest-benchmark's"):
        compare(base, tmp_path / "record.json", 0.25)
    assert not is_report(str(tmp_path / "absent.json"))


def test_the_command_exits_as_for_records(tmp_path: Path) -> None:
    base = written(tmp_path / "base.json", {"literal": 20.0, "exact": 8.0})
    slow = written(tmp_path / "slow.json", {"literal": 20.0, "exact": 16.0})
    spiky = written(tmp_path / "spiky.json", {"literal": 20.0, "exact": (9.0, 11.0, 12.0, 12.0, 30.0)})

    def code(head: Path, *options: str) -> int:
        return CliRunner().invoke(app, [str(base), str(head), *options]).exit_code

    assert (code(base), code(slow), code(spiky), code(spiky, "--strict")) == (0, 1, 0, 3)
    assert code(slow, "--json", str(tmp_path / "gate.json")) == 1
    assert json.loads((tmp_path / "gate.json").read_text())["verdict"] == "fail"
    for asked in (["--any"], ["--reproduce"], ["--one-job"], ["--tolerance", "0.5"]):
        refused = CliRunner().invoke(app, [str(base), str(base), *asked])
        assert isinstance(refused.exception, RequestError)


def test_a_folder_of_baselines_has_one_for_each_machine_type(tmp_path: Path) -> None:
    folder = tmp_path / "ratios"
    folder.mkdir()

    def timed(cpu: str, ms: float, **commit: object) -> Path:
        path = written(tmp_path / "made.json", {"literal": 20.0, "exact": ms}, cpu)
        path.write_text(json.dumps({**json.loads(path.read_text()), "commit_info": commit}))
        return path

    (check,) = compare(folder, timed("A (tm) 7", 8.0), 0.25)
    assert (check.verdict, check.base) == ("inconclusive", "none")
    for commit in ({}, {"id": "abc"}, {"id": "abc", "dirty": True}):
        with pytest.raises(RequestError, match="nothing was replaced"):
            replace(folder, timed("A (tm) 7", 8.0, **commit), "first")
    assert not list(folder.iterdir())
    made = replace(folder, timed("A (tm) 7", 8.0, id="abc", dirty=False), "first")
    assert made.name == "linux-a-tm-7-2-cores.json"
    assert json.loads(made.read_text())["reason"] == "first"
    assert [check.verdict for check in compare(folder, timed("A (tm) 7", 8.0), 0.25)] == ["pass"]
    assert [check.verdict for check in compare(folder, timed("A (tm) 7", 16.0), 0.25)] == ["fail"]
    (check,) = compare(folder, timed("B", 16.0), 0.25)
    assert (check.verdict, check.base) == ("inconclusive", "linux-a-tm-7-2-cores")
    head = timed("B", 16.0, id="abc", dirty=False)
    done = CliRunner().invoke(app, [str(folder), str(head), "--update-baseline", "--reason", "another machine"])
    assert done.exit_code == 0, done.output
    assert len(list(folder.iterdir())) == 2


def test_one_name_with_and_without_wide_vectors_is_two_machine_types(tmp_path: Path) -> None:
    folder = tmp_path / "ratios"
    folder.mkdir()

    def timed(flags: Sequence[str]) -> Path:
        path = written(tmp_path / "made.json", {"literal": 20.0, "exact": 8.0}, "EPYC", flags)
        path.write_text(json.dumps({**json.loads(path.read_text()), "commit_info": {"id": "abc", "dirty": False}}))
        return path

    narrow = replace(folder, timed(["avx2", "sse4_1"]), "first")
    assert narrow.name == "linux-epyc-avx2-2-cores.json"
    assert [check.verdict for check in compare(folder, timed(["avx2", "fma"]), 0.25)] == ["pass"]
    wide = timed(["avx2", "avx512f"])
    assert [check.verdict for check in compare(folder, wide, 0.25)] == ["inconclusive"]
    assert replace(folder, wide, "second").name == "linux-epyc-avx-512-2-cores.json"


def test_a_folder_of_records_is_a_wrong_request_and_nothing_compared_is_grey(tmp_path: Path) -> None:
    records, empty = tmp_path / "records", tmp_path / "empty"
    (records / "set").mkdir(parents=True)
    (records / "set" / "x.json").write_text("{}")
    empty.mkdir()
    head = written(tmp_path / "head.json", {"literal": 20.0, "exact": 8.0})
    for sides in ((records, head), (head, records)):
        with pytest.raises(RequestError, match="no folder of pytest-benchmark's files"):
            compare(*sides, 0.25)
    checks = compare(empty, head, 0.25)
    assert [check.verdict for check in checks] == ["inconclusive"]
    assert "Nothing got worse" not in markdown([replaced(checks[0], verdict="note")], "a", "b", 1)
    codes = [CliRunner().invoke(app, [str(empty), str(head), *strict]).exit_code for strict in ([], ["--strict"])]
    assert codes == [0, 3]


@pytest.mark.parametrize("took", [float("nan"), float("inf"), 0.0, -1.0])
def test_times_that_are_none_and_a_benchmark_twice_are_refused(tmp_path: Path, took: float) -> None:
    base = written(tmp_path / "base.json", {"literal": 20.0, "exact": 8.0})
    with pytest.raises(DataError, match="exact has a time that is none"):
        compare(base, written(tmp_path / "head.json", {"literal": 20.0, "exact": (8.0, took)}), 0.25)
    content = json.loads(base.read_text())
    content["benchmarks"].append(content["benchmarks"][1])
    (tmp_path / "twice.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="exact is twice"):
        compare(base, tmp_path / "twice.json", 0.25)


@pytest.mark.slow
def test_a_file_that_pytest_benchmark_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_sums.py").write_text(
        "import pytest\n\n\n@pytest.mark.parametrize('n', [20000, 10000])\ndef test_sum(benchmark, n):\n"
        "    benchmark.group = 'sums'\n    benchmark.pedantic(lambda: sum(range(n)), rounds=9, iterations=1)\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    asked = ["-q", "-n0", "-c", "pytest.ini", "--benchmark-json", "made.json"]
    # Not as a child of a worker of xdist: there pytest-benchmark measures nothing.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *asked, "test_sums.py"]
    subprocess.run(command, cwd=tmp_path, env=alone, check=True, timeout=120)
    (check,) = compare(tmp_path / "made.json", tmp_path / "made.json", 0.25)
    assert (check.cell, check.what, check.verdict) == ("sums", "test_sum[10000] to test_sum[20000]", "pass")
