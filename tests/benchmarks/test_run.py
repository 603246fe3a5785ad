"""The commands as a user runs them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from benchmarks import suites
from benchmarks.cells import digest_of
from benchmarks.errors import DataError
from benchmarks.metrics import EVALUATOR_VERSION
from benchmarks.store import CellPaths, RunRecord, Stored, read_record, scan, write_atomic, write_record
from tests.benchmarks.conftest import full_after, make_cell, make_latencies, make_profile, make_record
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("synthetic")  # with the list TINY

MODULES = ["run", "datasets", "evaluate", "profile", "compare", "report", "doctor", "merge", "published"]


def start(module: str, *arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """A command as on a terminal, in a process of its own: seconds of imports each time."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": root, **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)


def call(module: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same in this process, for commands of which it is known that they start (`MODULES`)."""
    from benchmarks import cli

    name = f"benchmarks.{module}"
    name += ".__main__" if importlib.util.find_spec(name).submodule_search_locations is not None else ""
    app = importlib.import_module(name).app
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        patch.setenv("MPLBACKEND", "agg")
        patch.chdir(cwd or Path.cwd())
        out, err = (stack.enter_context(to(io.StringIO())) for to in (redirect_stdout, redirect_stderr))
        try:
            cli.run_app(app)
            code = 0
        except SystemExit as e:
            code = e.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


# With none of ours imported: a process for each would take longer than all that is tested in it.
FORGET = (
    "def forget():\n"
    "    for name in list(sys.modules):\n"
    "        if name.partition('.')[0] in ('ablations', 'baselines', 'benchmarks', 'canet'):\n"
    "            del sys.modules[name]\n"
)


def test_help_starts_without_torch() -> None:
    code = (
        "import sys, runpy\n"
        f"{FORGET}"
        "sys.argv = ['x', '--help']\n"
        f"for module in {MODULES}:\n"
        "    forget()\n"
        "    try:\n"
        "        runpy.run_module(f'benchmarks.{module}', run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as e:\n"
        "        assert not e.code, (module, e.code)\n"
        "    assert 'torch' not in sys.modules, module"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage") == len(MODULES)


TORCH_FREE = (
    *("store", "cells", "compare", "report", "suites", "models", "metrics", "evaluate", "detections"),
    *("metrics.records", "results", "extras", "published"),
)


def test_these_rooms_are_torch_free() -> None:
    code = (
        "import importlib, sys\n"
        f"{FORGET}"
        f"for name in {TORCH_FREE}:\n"
        "    forget()\n"
        "    importlib.import_module(f'benchmarks.{name}')\n"
        "    assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--suite", "smal_defects"), "did you mean 'small_defects'"),
        (("--suite", "small_defects", "--tier", "quik"), "quick"),
        (("--suite", "small_defects", "--model", "yolo8n"), "did you mean 'yolov8n'"),
        (("--suite", "small_defects", "--model", "canet:nosae"), "no_sae"),
        (("--suite", "small_defects", "--dataset", "neu_dett"), "neu_det"),
        (("--suite", "small_defects", "--dataset", "neu_det"), "benchmarks.datasets prepare neu_det --from"),
        (("--suite", "small_defects", "--fold", "9"), "folds 0 to 3"),
        (("--suite", "small_defects", "--device", "cuda:77"), "--device cuda:77"),
        (("--suite", "small_defects", "--epochs", "0"), "epochs"),
        (("--suite", "small_defects", "--tile", "50"), "tile"),
        (("--suite", "smoke", "--time-limit", "9x"), "write it like 9m"),
        (("--suite", "smoke", "--weights", "x.pt"), "canet, fasterrcnn_fpn load no weights file"),
        (("--suite", "smoke", "--split", "synthetic_smoke-few11-v1"), "did you mean 'synthetic_smoke-few10-v1'"),
        (("--suite", "smoke", "--model", "my.detectors:build"), "no module 'my.detectors'"),
        (("--suite", "nowhere/mine.yaml"), "No such file"),
        (("--suite", "smoke", "--loaders", "2", "--workers", "2"), "--workers 1"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_wrong_request_is_one_line_and_exit_2(tmp_path: Path, data_root: Path, synthetic, arguments, hint) -> None:
    out = tmp_path / "runs"
    done = call("run", *arguments, "--out", out, "--data-root", data_root)
    assert done.returncode == 2, done.stderr
    assert hint in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(out.rglob("*.json"))


def test_an_output_folder_that_cannot_be_written(tmp_path: Path, data_root: Path, synthetic) -> None:
    (tmp_path / "file").write_text("")
    done = call("run", "--suite", "smoke", "--out", tmp_path / "file" / "runs", "--data-root", data_root)
    assert done.returncode == 2
    assert "choose another with --out" in done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_root: Path, synthetic) -> tuple[Path, str]:
    """The smoke suite's RetinaNet for one epoch, run from start to end by the command; once for all workers."""
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished" / "runs"
    out.parent.mkdir(exist_ok=True)
    said = out.parent / "stdout.txt"
    with FileLock(out.parent / "lock"):
        if not said.exists():
            done = start("run", *smoke(out, data_root))
            assert done.returncode == 0, done.stderr + done.stdout
            said.write_text(done.stdout)
    return out, said.read_text()


def smoke(out: Path, data_root: Path, model: str = "retinanet", epochs: int = 1) -> list[object]:
    return [
        *("--suite", "smoke", "--tier", "quick", "--device", "cpu", "--model", model, "--epochs", epochs),
        *("--out", out, "--data-root", data_root, "--dataset", "synthetic_small", "--split", TINY),
    ]


def tiny(synthetic) -> dict[str, object]:
    """What narrows a suite's cells to a list that takes seconds."""
    return {"datasets": ["synthetic_small"], "split": {"synthetic_small": TINY}, "root": synthetic.root.parent}


def test_a_run_leaves_records_detections_weights_and_reports(finished: tuple[Path, str]) -> None:
    out, stdout = finished
    (stored,) = scan(out)
    run = stored.run
    assert run.status == "ok"
    assert run.metrics.images == 30
    assert len(run.curve) == 1
    assert set(run.timings_s) == {"build", "load", "train", "detect", "val_detect", "evaluate"}
    assert run.provenance.threads == 1
    assert stored.profile.macs.macs > 1e7
    assert stored.profile.parameters["total"] == run.model.parameters
    assert len(stored.profile.latency.samples_ms["end_to_end"]) >= 60
    assert run.train_images == 100
    assert stored.paths.detections.exists()
    assert stored.paths.val_detections.exists()
    assert stored.paths.weights.exists()
    assert not stored.paths.checkpoint.exists()
    assert (out / "report" / "trade_off.svg").exists()
    assert "RetinaNet" in (out / "report" / "summary.md").read_text()
    assert "epoch 1/1" in stdout


def test_a_finished_cell_is_not_run_again(finished: tuple[Path, str], data_root: Path) -> None:
    out, _ = finished
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.rglob("*") if p.is_file()}
    done = call("run", *smoke(out, data_root))
    assert done.returncode == 0
    assert "nothing to train" in done.stdout
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.rglob("*") if p.is_file()} == before


def test_list_shows_states(finished: tuple[Path, str], data_root: Path) -> None:
    out, _ = finished
    done = call("run", *smoke(out, data_root), "--list")
    assert "finished" in done.stdout
    done = call("run", *smoke(out, data_root, epochs=2), "--list")
    assert "to run" in done.stdout


def test_evaluate_reproduces_the_record(finished: tuple[Path, str], data_root: Path) -> None:
    out, _ = finished
    (stored,) = scan(out)
    done = call("evaluate", stored.paths.record, "--data-root", data_root)
    assert done.returncode == 0, done.stderr


def outdated(path: Path) -> RunRecord:
    """The record as evaluator 1 would have left it: fewer metrics, no detections of validation images."""
    record = json.loads(path.read_text())
    record["fingerprint"]["evaluator"] = 1
    for name in ("val_detections_sha256", "train_images", "digest"):
        record.pop(name)
    known = (*("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100", "images", "boxes"), "per_class")
    sizes = ("boxes_small", "boxes_medium", "boxes_large")
    metrics = {name: record["metrics"][name] for name in (*known, *sizes)}
    metrics["per_class"] = {k: {n: v[n] for n in ("AP", "AP50", "boxes")} for k, v in metrics["per_class"].items()}
    record["metrics"] = {**metrics, "AP50_interval": record["metrics"]["intervals"].get("AP50")}
    path.write_text(json.dumps({**record, "digest": digest_of(record)}))
    return read_record(path, RunRecord)


def test_another_evaluator_asks_for_no_training(finished: tuple[Path, str], data_root: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    (stored,) = scan(copy)
    new, old = stored.run, outdated(stored.paths.record)
    assert old.metrics.inspection is None
    assert old.metrics.AP50_interval == new.metrics.AP50_interval
    done = call("run", *smoke(copy, data_root))
    assert done.returncode == 0, done.stderr
    assert "1 finished cells evaluated again" in done.stdout
    assert "nothing to train" in done.stdout
    again = read_record(stored.paths.record, RunRecord)
    assert again.fingerprint == new.fingerprint
    assert again.train_images == new.train_images
    assert again.metrics.AP50 == new.metrics.AP50
    assert again.metrics.intervals["AP"] == new.metrics.intervals["AP"]
    assert again.metrics.inspection.operating_point is None, "there are no detections of validation images"
    assert again.metrics.inspection.best_F1 == new.metrics.inspection.best_F1


def test_evaluate_rewrites_records_and_says_what_differs(
    finished: tuple[Path, str], data_root: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    (stored,) = scan(copy)
    path = stored.paths.record
    outdated(path)
    assert call("evaluate", path, "--data-root", data_root).returncode == 0, "what was recorded comes out again"
    done = call("evaluate", path, stored.paths.profile, "--rewrite", "--data-root", data_root)
    assert done.returncode == 0, done.stderr
    assert f"1 -> {EVALUATOR_VERSION}" in done.stdout
    assert read_record(path, RunRecord).metrics.inspection.best_F1 == stored.run.metrics.inspection.best_F1
    wrong = stored.run.model_copy(update={"metrics": stored.run.metrics.model_copy(update={"AR_10": 0.123})})
    write_record(path, wrong)
    done = call("evaluate", path, "--data-root", data_root)
    assert done.returncode == 1
    assert "differ from the recorded ones" in " ".join(done.stderr.split())


def test_compare_passes_on_itself_and_fails_on_changed_detections(
    finished: tuple[Path, str], data_root: Path, tmp_path: Path
) -> None:
    import shutil

    out, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    assert call("compare", out, copy, "--data-root", data_root, "--strict").returncode == 0
    (stored,) = scan(copy)
    content = bytearray(stored.paths.detections.read_bytes())
    content[len(content) // 2] ^= 1
    stored.paths.detections.write_bytes(content)
    done = call("compare", out, copy, "--data-root", data_root)
    assert done.returncode == 1
    message = " ".join(done.stderr.split())
    assert stored.paths.detections.name in message
    assert "digest mismatch" in message


@pytest.mark.slow
def test_a_damaged_record_is_set_aside_and_its_cell_run_again(
    finished: tuple[Path, str], data_root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    (stored,) = scan(copy)
    path = stored.paths.record
    record = json.loads(path.read_text())
    record["metrics"]["AP50"] = 0.99
    path.write_text(json.dumps(record))
    assert "to run" in call("run", *smoke(copy, data_root), "--list").stdout
    assert path.exists(), "a list changes nothing"
    done = call("run", *smoke(copy, data_root))
    assert done.returncode == 0, done.stderr
    assert f"set aside as {path.name}.damaged" in " ".join(done.stdout.split())
    assert json.loads(path.with_name(f"{path.name}.damaged").read_text()) == record
    assert read_record(path, RunRecord).metrics == stored.run.metrics


OWN = """
from canet.detector import build_canet

def build(*, num_classes, image_size, scale, weights=None):
    return build_canet(num_classes=num_classes, image_size=image_size, scale=scale, weights=weights)
"""


@pytest.mark.slow
def test_a_detector_and_a_suite_of_the_users_own_on_another_list(tmp_path: Path, data_root: Path, synthetic) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "parts.py").write_text(OWN)
    suite = (Path(suites.__file__).parent / "suites" / "smoke.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(
        suite.replace("name: smoke", "name: mine").replace("synthetic_smoke", "synthetic_small")
    )
    command = [
        *("--suite", "mine.yaml", "--model", "shop.parts:build", "--split", TINY, "--epochs", 1),
        *("--device", "cpu", "--out", tmp_path / "runs", "--data-root", data_root),
    ]
    path = f"{Path(__file__).parents[2]}{os.pathsep}{tmp_path}"
    done = start("run", *command, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr + done.stdout
    (stored,) = scan(tmp_path / "runs")
    assert (stored.run.cell.model, stored.run.train_images, stored.run.status) == ("shop.parts:build", 100, "ok")
    assert "nothing to train" in start("run", *command, cwd=tmp_path, PYTHONPATH=path).stdout
    (tmp_path / "shop" / "parts.py").write_text(OWN + "# changed")
    assert "to run" in start("run", *command, "--list", cwd=tmp_path, PYTHONPATH=path).stdout
    assert start("report", "--results", tmp_path / "runs", "--reports", tmp_path / "report").returncode == 0


GPU_STUDY = ("--suite", "gpu_study", "--dataset", "synthetic_small", "--device", "cpu")


def test_the_gpu_study_lists_its_cells_without_a_gpu(tmp_path: Path, data_root: Path, synthetic) -> None:
    done = call("run", *GPU_STUDY, "--list", "--out", tmp_path / "runs", "--data-root", data_root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("to run") == len(suites.load("gpu_study").cells("study", datasets=["synthetic_small"]))


def test_a_run_without_a_prepared_set_is_told_what_prepares_one_and_that_merge_will_refuse_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import run
    from benchmarks.devices import SourceState

    monkeypatch.setattr(run, "source_at_start", lambda: SourceState(None, None))
    done = call("run", "--suite", "gpu_study", "--out", tmp_path / "runs", "--data-root", tmp_path / "data")
    assert done.returncode == 2
    text = " ".join(done.stderr.split())
    assert "no data set of this suite is prepared" in text
    assert "neu_det is not prepared; prepare it: python -m benchmarks.datasets prepare neu_det --from PATH" in text
    assert "no known commit" in done.stdout + text
    assert "merge will refuse" in done.stdout + text


@pytest.mark.parametrize("how", ["asked", "deadline", "too long"])
def test_a_command_within_a_run_ends_when_the_run_is_to_stop(how: str) -> None:
    from benchmarks.executors import Limits
    from benchmarks.run import _within

    limits = Limits(time.monotonic() + (1.0 if how == "deadline" else 60.0))
    if how == "asked":
        threading.Timer(1.0, limits.stop).start()
    began = time.monotonic()
    ended = _within([sys.executable, "-c", "import time; time.sleep(60)"], limits, 1.0 if how == "too long" else 60.0)
    assert time.monotonic() - began < 10
    assert ended == ("ended, it took too long" if how == "too long" else "ended, since the run stops")
    assert _within([sys.executable, "-c", "raise SystemExit(3)"], Limits(), 60.0) == "exit code of the command: 3"


def test_the_latency_phase_is_gone_on_with_until_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from benchmarks import run
    from benchmarks.executors import Limits

    suite, complete, begun = suites.load("gpu_study"), [False, True], []

    def within(command: list[str], *_: object) -> str:
        begun.append(command)
        out = Path(command[command.index("--out") + 1])
        out.write_text(json.dumps({"complete": complete[len(begun) - 1]}))
        return "its time limit cut it"

    monkeypatch.setattr(run, "_within", within)
    for _ in range(3):
        run._latency(suite, "neu_det", torch.device("cpu"), tmp_path, tmp_path, Limits())
    assert len(begun) == 2, "complete, it is not measured again"
    assert begun[0] == begun[1]
    assert " ".join(begun[0]).count("--runs 30 --warmup 5 --min-seconds 0") == 1
    assert "latency is not complete: its time limit cut it" in " ".join(capsys.readouterr().out.split())


def test_a_latency_phase_that_fails_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from benchmarks import run
    from benchmarks.executors import Limits

    suite = suites.load("gpu_study")
    for how, well in (("exit code of the command: 2", False), ("its time limit cut it", True)):
        monkeypatch.setattr(run, "_within", lambda *_, how=how: how)
        assert run._latency(suite, "neu_det", torch.device("cpu"), tmp_path, tmp_path, Limits()) is well
        assert ("goes on with it" in " ".join(capsys.readouterr().out.split())) is well


def test_what_was_computed_otherwise_stays_and_is_said(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from benchmarks import run

    records = [make_record(), make_record()]
    threads = records[0].provenance.threads
    run._say_what_was_computed_otherwise(records, threads)
    assert "finished cells" not in capsys.readouterr().out
    monkeypatch.setattr(run, "arithmetic_in_use", lambda: "portable")
    run._say_what_was_computed_otherwise(records, threads + 1)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 finished cells were trained in other arithmetic than portable" in said
    assert f"2 finished cells were trained with other than {threads + 1} threads" in said


def test_what_is_published_is_of_the_training_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored) -> None:
    """A training that diverged is a finding; a profile of the training before is none of this one's."""
    from benchmarks import run

    monkeypatch.chdir(tmp_path)
    known = make_record().provenance.model_copy(update={"commit": "0" * 40, "dirty": False})
    old = stored("results", provenance=known)
    write_record(old.paths.profile, make_profile(old.run))
    gone = stored("out", status="diverged", metrics=None, error="loss", provenance=known)
    run._publish([gone.run.cell], tmp_path / "out", Path("results"), tmp_path / "none.json")
    (now,) = scan(tmp_path / "results")
    assert (now.run.status, now.profile) == ("diverged", None)
    assert "every training diverged (1)" in (tmp_path / "reports" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, None),
        ({"scale": "lite0"}, "scale"),
        ({"image_size": 320}, "image_size"),
        ({"models": {"ssd300": {}}}, "models"),
        ({"asked": {"forms": ["deploy"]}}, "forms"),
        ({"asked": {"batch_sizes": [1]}}, "batch sizes"),
        ({"asked": {"rounds": 3}}, "rounds"),
    ],
)
def test_latencies_that_another_suite_asked_for_are_not_taken_for_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], told: str | None
) -> None:
    import torch

    from benchmarks import run
    from benchmarks.executors import Limits

    suite = suites.load("gpu_study")
    names = ("canet", "canet:fpn_convs", "fasterrcnn_fpn", "retinanet", "yolov8n:near_start compile")
    there = make_latencies(dict.fromkeys(names, (1.0,)), reference="fasterrcnn_fpn") | changed
    path = run._latency_path(tmp_path, suite, torch.device("cpu"))
    write_atomic(path, json.dumps(there).encode())
    run._latency(suite, "neu_det", torch.device("cpu"), tmp_path, tmp_path, Limits())
    out = capsys.readouterr().out
    assert (told is None) == ("latency not measured" not in out)
    assert told is None or told in " ".join(out.split())
    assert json.loads(path.read_bytes()) == there


@pytest.mark.parametrize("written", range(3))
def test_publishing_that_was_interrupted_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    from benchmarks import run

    monkeypatch.chdir(tmp_path)
    known = make_record().provenance.model_copy(update={"commit": "0" * 40, "dirty": False})
    both = {}
    for folder in ("results", "out"):  # two trainings of one cell
        content = folder.encode()
        record = make_record(provenance=known, detections_sha256=hashlib.sha256(content).hexdigest())
        both[folder] = CellPaths.of(Path(folder), record.cell)
        write_atomic(both[folder].detections, content)
        write_record(both[folder].record, record)
    write_record(both["out"].profile, make_profile(read_record(both["out"].record, RunRecord), provenance=known))
    publish = partial(run._publish, [record.cell], Path("out"), Path("results"), tmp_path / "none.json")
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.run.write_atomic", full_after(written))
        with pytest.raises(DataError, match="full"):
            publish()
    publish()
    (now,) = scan(Path("results"))
    assert now.run.digest == read_record(both["out"].record, RunRecord).digest
    assert now.profile is not None
    assert now.paths.detections.read_bytes() == b"out"


def test_publishing_refuses_latencies_of_an_unknown_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import run
    from benchmarks.errors import RequestError

    (tmp_path / "results").mkdir()
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "REPORTS", tmp_path / "reports")
    content = make_latencies({"fasterrcnn_fpn": (1.0,) * 8, "canet": (2.0,) * 8})
    timed = tmp_path / "_latency" / "gpu_study-nvidia-h200.json"
    timed.parent.mkdir()
    timed.write_text(json.dumps({**content, "provenance": {**content["provenance"], "commit": None}}))
    with pytest.raises(RequestError, match="its commit is not known"):
        run._publish([], tmp_path, tmp_path / "results", timed)
    timed.write_text(json.dumps(content))
    run._publish([], tmp_path, tmp_path / "results", timed)
    assert (tmp_path / "results" / "_latency" / timed.name).read_bytes() == timed.read_bytes()
    assert "## Latency, gpu_study-nvidia-h200" in (tmp_path / "reports" / "summary.md").read_text(), "and told of"


def test_a_record_says_how_many_cells_ran_beside_it_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first on a GPU begins alone, and others join it."""
    from benchmarks import run, runner
    from benchmarks.executors import Ended, Limits, Started

    cells = [make_cell(seed=seed) for seed in range(4)]
    jobs = {cell: runner.Job(cell, tmp_path, tmp_path, "cpu", 1) for cell in cells}

    class Scripted:
        def __init__(self, *_: object) -> None: ...

        def run(self, pulled, tell) -> None:
            first, *others = pulled

            def end(job: runner.Job) -> None:
                write_record(CellPaths.of(tmp_path, job.cell).record, make_record(job.cell, beside=job.beside))
                tell(Ended(job, "done"))

            tell(Started(first))
            for job in others[:2]:
                tell(Started(job))
            end(others[0])
            end(first)
            tell(Started(others[2]))
            end(others[2])
            end(others[1])

    monkeypatch.setattr(run, "Processes", Scripted)
    monkeypatch.setattr(runner, "training_iterations", lambda *_: 10)
    room = run.GpuRoom(8, lambda: 10**9)
    assert run._run(jobs, {"synthetic_small": None}, room, Limits(), [], None) == []
    assert [read_record(CellPaths.of(tmp_path, cell).record, RunRecord).beside for cell in cells] == [3, 3, 3, 2]


@pytest.mark.slow
@pytest.mark.nightly
def test_the_gpu_study_takes_a_step_on_a_cpu(tmp_path: Path, data_root: Path, synthetic) -> None:
    """Of its own cells one iteration of each kind of model, and its latency phase at another size."""
    few = ("--split", "synthetic_small-few10-v2", "--epochs", 1, "--fold", 0, "--seed", 0, "--time-limit", "30m")
    own = ("--model", "canet", "--model", "yolov8n:near_start", "--out", tmp_path / "runs", "--data-root", data_root)
    done = start("run", *GPU_STUDY, *few, *own)
    assert done.returncode == 0, done.stderr + done.stdout
    assert {s.run.status for s in scan(tmp_path / "runs")} == {"ok"}
    text = (Path(suites.__file__).parent / "suites" / "smoke.yaml").read_text()
    text = text.replace("  - {model: canet}", "  - {model: retinanet}")
    text = text.replace("reference: canet", "reference: fasterrcnn_fpn").replace("synthetic_smoke", "synthetic_small")
    phase = "latency: {scale: nano, image_size: 64, rounds: 6, limit: 60s, batch_sizes: [1, 2]"
    phase += ", forms: [torch, 'torch:bf16']}"
    (tmp_path / "mine.yaml").write_text(f"{text}\n{phase}\n")
    command = [*("--suite", tmp_path / "mine.yaml", "--out", tmp_path / "mine", "--device", "cpu"), *few]
    done = start("run", *command, "--data-root", data_root)
    assert done.returncode == 0, done.stderr + done.stdout
    measured = json.loads((tmp_path / "mine" / "_latency" / "smoke-cpu.json").read_text())
    assert measured["complete"]
    names = ("retinanet", "fasterrcnn_fpn")
    assert set(measured["models"]) == {f"{name}{form}" for name in names for form in ("", " bf16")}
    assert "latency of" not in start("run", *command, "--data-root", data_root).stdout, "it is there"


@pytest.mark.timing
def test_a_run_is_kept_to_its_time_and_goes_on(tmp_path: Path, data_root: Path, synthetic) -> None:
    """Eight workers, too little time: nothing is lost, and each cell is there once at the end."""
    command = ["--suite", "smoke", "--device", "cpu", "--model", "retinanet", "--epochs", 3, "--workers", 8]
    command += [part for seed in range(8) for part in ("--seed", seed)]
    command += ["--out", tmp_path, "--data-root", data_root, "--dataset", "synthetic_small"]
    command += ["--split", "synthetic_small-few100-v2"]
    began = time.monotonic()
    first = start("run", *command, "--time-limit", "40s")
    assert first.returncode == 0, first.stderr
    assert time.monotonic() - began < 40 + 20
    left = [line for line in first.stdout.splitlines() if line.startswith("  retinanet on")]
    assert len(left) + len(list(scan(tmp_path))) == 8
    interrupted = [line for line in left if line.endswith("interrupted")]
    assert len(interrupted) == len(list(tmp_path.rglob("*.resume.safetensors")))
    done = start("run", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resuming after epoch") == len(interrupted)
    records = [stored.run for stored in scan(tmp_path)]
    assert sorted(record.cell.seed for record in records) == list(range(8))
    assert {(record.status, len(record.curve)) for record in records} == {("ok", 3)}


@pytest.mark.slow
@pytest.mark.nightly
def test_a_worker_that_ran_other_cells_computes_the_same(tmp_path: Path, data_root: Path, synthetic) -> None:
    """In one worker after two other models, and in a process of its own."""
    command = ["--suite", "smoke", "--device", "cpu", "--epochs", 1, "--data-root", data_root]
    command += ["--dataset", "synthetic_small", "--split", TINY]
    others = ["--model", "canet", "--model", "yolov8n"]
    assert start("run", *command, *others, "--model", "retinanet", "--out", tmp_path / "all").returncode == 0
    assert start("run", *command, "--model", "retinanet", "--out", tmp_path / "one").returncode == 0
    (alone,) = scan(tmp_path / "one")
    among = next(stored for stored in scan(tmp_path / "all") if stored.run.cell == alone.run.cell)
    assert among.paths.weights.read_bytes() == alone.paths.weights.read_bytes()
    assert among.run.metrics == alone.run.metrics


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_root: Path, synthetic) -> Stored:
    """Two epochs in one go."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert start("run", *smoke(out, data_root, epochs=2)).returncode == 0
    (stored,) = scan(out)
    return stored


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_interrupted_and_run_again_gives_the_same_numbers(
    tmp_path: Path, data_root: Path, undisturbed: Stored, name: str
) -> None:
    """Killed after its first epoch, a run goes on and ends where an undisturbed one ends."""
    how = getattr(signal, name)
    arguments = [str(a) for a in smoke(tmp_path, data_root, epochs=2)]
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.run", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        # A shell's background jobs ignore SIGINT, and children inherit that: as on a terminal, do not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 600
    while not list(tmp_path.rglob("*.resume.safetensors")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(how)
    child.wait()
    assert child.returncode == (130 if how == signal.SIGINT else -9)
    assert not list(scan(tmp_path))
    resumed = start("run", *smoke(tmp_path, data_root, epochs=2))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch 1" in resumed.stdout
    (again,) = scan(tmp_path)
    assert again.run.metrics == undisturbed.run.metrics
    assert [p.losses for p in again.run.curve] == [p.losses for p in undisturbed.run.curve]
    assert again.paths.weights.read_bytes() == undisturbed.paths.weights.read_bytes()


def made_from(out: Path, *, dirty: bool) -> None:
    """Sign records and profiles as if the source had been so: that of a clone under development changes."""
    for one in scan(out):
        for record, path in ((one.run, one.paths.record), (one.profile, one.paths.profile)):
            made = record.provenance.model_copy(update={"commit": "0" * 40, "dirty": dirty, "changed_meanwhile": False})
            write_record(path, record.model_copy(update={"provenance": made}))


@pytest.mark.slow
def test_publish_copies_what_belongs_in_a_repository(
    finished: tuple[Path, str], data_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    done = call("run", *smoke(out, data_root), "--publish", cwd=tmp_path)
    assert done.returncode == 2
    assert "--epochs makes other trainings" in " ".join(done.stderr.split())
    done = call("run", "--suite", "smoke", "--out", out, "--data-root", data_root, "--publish", cwd=tmp_path)
    assert "--update-baseline" in " ".join(done.stderr.split())
    mine = yaml.safe_load((Path(suites.__file__).parent / "suites" / "smoke.yaml").read_text())
    mine["results"], mine["datasets"] = "_mine", ["synthetic_small"]
    mine["tiers"]["quick"] |= {"split": {"synthetic_small": TINY}, "models": [{"model": "retinanet"}]}
    mine["tiers"]["quick"]["recipe"]["epochs"] = 1
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    publish = ("run", "--suite", "mine.yaml", "--device", "cpu", "--out", out, "--data-root", data_root, "--publish")
    done = call(*publish, cwd=tmp_path)
    assert done.returncode == 2
    assert "repository's root" in done.stderr
    (tmp_path / "results").mkdir()
    made_from(out, dirty=True)
    done = call(*publish, cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing is published" in done.stderr
    assert "differs from its commit 00000000 and 1 more" in " ".join(done.stderr.split())
    assert not list(scan(tmp_path / "results" / "_mine"))
    made_from(out, dirty=False)
    done = call(*publish, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (stored,) = scan(tmp_path / "results" / "_mine")
    names = {p.name.split(".", 1)[1] for p in stored.paths.record.parent.iterdir()}
    assert names == {"json", "profile.json", "detections.npz", "val.detections.npz"}


def test_a_cell_that_diverges_is_recorded_as_such_and_is_not_tried_again(tmp_path: Path, synthetic) -> None:
    import torch

    from benchmarks import runner, suites
    from benchmarks.progress import CellProgress

    (cell,) = suites.load("smoke").cells("quick", select=["retinanet"], epochs=1, **tiny(synthetic))
    wild = cell.recipe.model_copy(update={"lr": 1e30, "optimizer": "sgd", "clip_norm": None})
    cell = cell.model_copy(update={"recipe": wild})
    record = runner.run_cell(cell, synthetic, runs=tmp_path, device=torch.device("cpu"), progress=CellProgress())
    assert record.status == "diverged"
    assert "lower the recipe's lr" in record.error
    assert record.metrics is None
    assert read_record(CellPaths.of(tmp_path, cell).record, RunRecord).status == "diverged"
    assert runner.finished(cell, tmp_path, synthetic) is not None


def test_a_cell_that_fails_is_recorded_and_tried_again(tmp_path: Path, synthetic, monkeypatch) -> None:
    import torch

    from benchmarks import runner, suites
    from benchmarks.progress import CellProgress

    (cell,) = suites.load("smoke").cells("quick", select=["retinanet"], epochs=1, **tiny(synthetic))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(runner, "train", broken)
    record = runner.run_cell(cell, synthetic, runs=tmp_path, device=torch.device("cpu"), progress=CellProgress())
    assert record.status == "failed"
    assert "no such operator (in broken, test_run.py" in record.error
    assert record.model.parameters > 1e6, "what was known before it failed is kept"
    assert runner.finished(cell, tmp_path, synthetic) is None


@pytest.mark.slow
def test_a_cell_in_tiles_is_evaluated_on_whole_images(tmp_path: Path, synthetic) -> None:
    import torch

    from benchmarks import runner, suites
    from benchmarks.cells import Tile
    from benchmarks.cost.cell_profiles import profile_cells
    from benchmarks.detections import Detections
    from benchmarks.metrics.records import recompute
    from benchmarks.progress import CellProgress
    from benchmarks.trained import load_trained

    (cell,) = suites.load("smoke").cells(
        "quick", select=["retinanet"], epochs=1, tile=Tile(size=96, overlap=32), **tiny(synthetic)
    )
    several = cell.recipe.model_copy(update={"augment": ("mosaic", "copy_paste", "scale_jitter", "flips")})
    cell = cell.model_copy(update={"recipe": several})
    record = runner.run_cell(cell, synthetic, runs=tmp_path, device=torch.device("cpu"), progress=CellProgress())
    assert record.status == "ok", record.error
    assert (record.cell.image_size, record.metrics.images) == (96, 30)
    paths = CellPaths.of(tmp_path, cell)
    found = Detections.loads(paths.detections.read_bytes(), "it")
    assert 100 < found.boxes.max() <= 128, "in pixels of the whole image"
    assert recompute(read_record(paths.record, RunRecord), paths, synthetic.root.parent) == record.metrics
    cpu = torch.device("cpu")
    profile_cells(
        [cell],
        synthetic,
        runs=tmp_path,
        device=cpu,
        reference=cell.name,
        load_model=lambda cell: load_trained(cell, synthetic, tmp_path, cpu),
        threads=torch.get_num_threads(),
    )
    assert paths.profile.exists()
