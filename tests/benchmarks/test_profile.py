"""The command that profiles models."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from benchmarks import profile
from benchmarks.cli import run_app
from benchmarks.cost.clock import measure_latency
from benchmarks.cost.counts import count_parameters
from benchmarks.cost.engines import Form
from benchmarks.cost.session import Cost
from benchmarks.datasets import catalogue
from benchmarks.errors import RequestError
from benchmarks.models import build_model
from benchmarks.store import CellPaths, ModelFacts, scan, write_record
from tests.benchmarks.conftest import make_cell, make_record
from tests.benchmarks.cost.planted import Planted


def quote(path: Path) -> str:
    return shlex.quote(str(path))


def test_command_profiles_models_beside_each_other(data_root: Path, synthetic, tmp_path: Path):
    out = tmp_path / "with a space" / "profile.json"
    arguments = "--model fasterrcnn_fpn --model canet:no_sae --model fasterrcnn_fpn --images 2 --runs 3 --warmup 1"
    arguments += f" --min-seconds 0 --batch-size 2 --image-size 64 --data-root {quote(data_root)} --out {quote(out)}"
    done = CliRunner().invoke(profile.app, shlex.split(arguments))
    assert done.exit_code == 0, done.output
    assert "Random weights" in done.output
    assert max(map(len, done.output.splitlines())) <= 140
    content = json.loads(out.read_text())
    assert list(content["models"]) == ["fasterrcnn_fpn", "canet:no_sae", "fasterrcnn_fpn (2)"]
    first, _, again = content["models"].values()
    assert first["macs"] == again["macs"]
    assert len(first["latency"]["samples_ms"]["end_to_end"]) == 3
    assert first["latency"]["ratio"] == 1.0
    assert first["throughput"]["2"] > 0
    assert content["weights"] == "random"
    assert content["provenance"]["threads"] == torch.get_num_threads()


def test_command_measures_forms_and_says_what_has_none(data_root: Path, synthetic, tmp_path: Path):
    out = tmp_path / "with a space" / "profile.json"
    arguments = "--model fasterrcnn_fpn --form torch --form deploy --form torch:bf16 --images 1 --runs 2 --warmup 0"
    arguments += f" --min-seconds 0 --batch-size 1 --image-size 96 --data-root {quote(data_root)} --out {quote(out)}"
    done = CliRunner().invoke(profile.app, shlex.split(arguments))
    assert done.exit_code == 0, done.output
    assert "not measured: fasterrcnn_fpn deploy: it has no exact inference form" in done.output
    content = json.loads(out.read_text())
    assert list(content["models"]) == ["fasterrcnn_fpn", "fasterrcnn_fpn bf16"]
    assert list(content["not_measured"]) == ["fasterrcnn_fpn deploy"]
    plain, low = content["models"].values()
    assert (low["engine"], low["precision"]) == ("torch", "bf16")
    assert plain["macs"] == low["macs"]
    assert plain["training_memory_bytes"] > plain["peak_memory_bytes"] > plain["parameters"]["state_bytes"]
    assert low["training_memory_bytes"] is None
    assert plain["energy_j"] is None
    assert {"cudnn_benchmark", "mkldnn", "deterministic"} <= set(content["sessions"][0]["settings"])


def test_command_takes_trained_weights(data_root: Path, synthetic, tmp_path: Path):
    classes = len(catalogue.get("synthetic_small").classes)
    for fold in (1, 0):
        cell = make_cell(model="fasterrcnn_fpn", image_size=96, fold=fold)
        paths = CellPaths.of(tmp_path, cell)
        write_record(paths.record, make_record(cell))
        torch.manual_seed(5 + fold)
        weights = build_model("fasterrcnn_fpn", num_classes=classes, image_size=96, scale="nano").state_dict()
        save_file(
            {k: v.contiguous() for k, v in weights.items()}, paths.weights, {"about": json.dumps({"cell_id": cell.id})}
        )
    found = profile._trained_cell(tmp_path, "synthetic_small", "fasterrcnn_fpn", "default", "nano", 96)
    assert found == cell, "the first fold"
    model = profile._load(found, "synthetic_small", data_root, tmp_path)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    with pytest.raises(RequestError, match="no trained fasterrcnn_fpn for synthetic_small at scale nano and 128 px"):
        profile._trained_cell(tmp_path, "synthetic_small", "fasterrcnn_fpn", "default", "nano", 128)
    arguments = f"--model fasterrcnn_fpn --image-size 96 --images 1 --trained {quote(tmp_path)}"
    arguments += f" --data-root {quote(data_root)}"
    arguments += " --runs 1 --warmup 0 --min-seconds 0 --batch-size 1"
    done = CliRunner().invoke(profile.app, shlex.split(arguments))
    assert done.exit_code == 0, done.output
    assert f"Weights of {tmp_path}" in done.output.replace("\n", "")


def test_a_refusal_names_the_options_of_what_is_trained(tmp_path: Path):
    paths = CellPaths.of(tmp_path, cell := make_cell(model="fasterrcnn_fpn", image_size=96))
    write_record(paths.record, make_record(cell))
    paths.weights.touch()
    with pytest.raises(RequestError, match=r"ask for what it holds: --scale nano --image-size 96$"):
        profile._trained_cell(tmp_path, "synthetic_small", "fasterrcnn_fpn", "default", "lite0", 160)
    with pytest.raises(RequestError, match=r"train it with benchmarks\.run"):
        profile._trained_cell(tmp_path, "synthetic_small", "retinanet", "default", "nano", 96)


def test_an_interrupted_command_goes_on(data_root: Path, synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from benchmarks.cost import session

    out = tmp_path / "profile.json"
    arguments = "--model fasterrcnn_fpn --images 1 --runs 2 --warmup 0 --min-seconds 0 --batch-size 1 --image-size 96"
    command = shlex.split(f"{arguments} --data-root {quote(data_root)} --json {quote(out)}")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "measure_throughput", interrupted)
        assert CliRunner().invoke(profile.app, command).exit_code == 130
    cut = json.loads(out.read_text())
    assert not cut["complete"]
    (before,) = cut["models"].values()
    assert before["latency"] is not None
    assert before["throughput"] == {}
    with monkeypatch.context() as patch:
        for measured in ("count_macs", "training_memory", "measure_latency"):
            patch.setattr(session, measured, interrupted)
        done = CliRunner().invoke(profile.app, command)
    assert done.exit_code == 0, done.output
    assert "going on with" in done.output
    whole = json.loads(out.read_text())
    assert whole["complete"]
    (after,) = whole["models"].values()
    assert after["throughput"]["1"] > 0
    rates = ("throughput", "throughput_s")
    assert {k: v for k, v in after.items() if k not in rates} == {k: v for k, v in before.items() if k not in rates}
    assert [p.name for p in tmp_path.iterdir()] == ["profile.json"]


def test_what_another_source_measured_is_measured_again(
    data_root: Path, synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from benchmarks.cost import session

    arguments = "--model fasterrcnn_fpn --images 1 --runs 2 --warmup 0 --min-seconds 0 --batch-size 1 --image-size 96"
    out = quote(tmp_path / "profile.json")
    command = shlex.split(f"{arguments} --data-root {quote(data_root)} --json {out}")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "measure_throughput", interrupted)
        assert CliRunner().invoke(profile.app, command).exit_code == 130
    monkeypatch.setattr(profile, "source_digest", lambda: "f" * 64)
    done = CliRunner().invoke(profile.app, command)
    assert done.exit_code == 0, done.output
    assert "going on with" not in done.output


def test_what_a_time_limit_cut_is_shown_as_cut_and_measured_again(data_root: Path, synthetic, tmp_path: Path):
    out = tmp_path / "profile.json"
    arguments = "--model fasterrcnn_fpn --model canet --images 1 --runs 6 --warmup 0 --min-seconds 0 --image-size 64"
    arguments += " --batch-size 1 --latency-batch-size 1 --latency-batch-size 2"
    command = shlex.split(f"{arguments} --data-root {quote(data_root)} --json {quote(out)}")
    done = CliRunner().invoke(profile.app, [*command, "--time-limit", "1s"])
    assert done.exit_code == 0, done.output
    assert "not complete: latency at batch 2 was cut after" in " ".join(done.output.split())
    cut = json.loads(out.read_text())
    assert not cut["complete"]
    (session,) = cut["sessions"]
    assert (session["cut"], session["batch_size"], session["throughput_s"]["1"]) == (True, 1, 0.0)
    assert (session["batch_latency"]["2"]["cut"], session["batch_latency"]["2"]["batch_size"]) == (True, 2)
    assert len(cut["models"]["canet"]["batch_latency"]["2"]["samples_ms"]["end_to_end"]) < 6, "it is there all the same"
    done = CliRunner().invoke(profile.app, [*command, "--time-limit", "10m"])
    assert done.exit_code == 0, done.output
    whole = json.loads(out.read_text())
    assert whole["complete"]
    assert not whole["sessions"][0]["cut"]
    assert len(whole["models"]["canet"]["batch_latency"]["2"]["samples_ms"]["end_to_end"]) == 6
    assert whole["models"]["canet"]["parameters"] == cut["models"]["canet"]["parameters"]
    assert [p.name for p in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.slow
def test_within_a_time_limit_forms_that_take_long_to_make_come_last(data_root: Path, synthetic, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "profile.json"
    arguments = "--model fasterrcnn_fpn --form torch --form onnx --images 1 --runs 10000 --warmup 1 --batch-size 1"
    arguments += f" --time-limit 40s --image-size 96 --data-root {quote(data_root)} --json {quote(out)}"
    done = CliRunner().invoke(profile.app, shlex.split(arguments))
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    plain, exported = content["models"].values()
    assert (plain["session"], exported["session"]) == (0, 1)
    assert [one["cut"] for one in content["sessions"]] == [True, True]
    assert exported["latency"]["reference"] == "fasterrcnn_fpn"
    assert exported["latency"]["ratio"] != 1.0
    assert exported["throughput"]["1"] > 0


def test_what_is_timed_in_turns():
    wanted = {"a": ("a", Form()), "a compile": ("a", Form("compile")), "b bf16": ("b", Form("torch", "bf16"))}
    assert profile._groups(wanted, "a", limited=False) == [wanted]
    assert [list(group) for group in profile._groups(wanted, "a", limited=True)] == [
        ["a", "b bf16"],
        ["a", "a compile"],
    ]
    assert profile._groups(wanted, "a compile", limited=True) == [wanted]
    compiled = {f"{name} compile": (name, Form("compile")) for name in ("b", "a")}
    _, second = profile._groups({"b": ("b", Form()), "a": ("a", Form()), **compiled}, "a", limited=True)
    assert list(second) == ["a", "a compile", "b compile"], "the reference first: all others are compared with it"


@pytest.mark.slow
def test_training_memory_is_of_as_many_images_as_it_says(data_root: Path, synthetic, tmp_path: Path):
    out = tmp_path / "profile.json"
    batch = profile.TRAINING_BATCH
    arguments = "--model ssdlite --images 1 --runs 1 --warmup 0 --min-seconds 0 --batch-size 1 --image-size 96"
    done = CliRunner().invoke(
        profile.app, shlex.split(f"{arguments} --data-root {quote(data_root)} --json {quote(out)}")
    )
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    (model,) = content["models"].values()
    assert (content["images"], model["training_batch"]) == (1, batch)
    assert model["training_memory_bytes"] > model["peak_memory_bytes"]
    assert model["missing"] == {}


def test_records_are_completed_without_weights(data_root: Path, synthetic, tmp_path: Path):
    classes = len(catalogue.get("synthetic_small").classes)
    network = build_model("fasterrcnn_fpn", num_classes=classes, image_size=96, scale="nano")
    total = sum(p.numel() for p in network.parameters())
    for fold, parameters in ((0, total), (1, total + 1)):
        cell = make_cell(model="fasterrcnn_fpn", image_size=96, fold=fold)
        facts = ModelFacts(parameters=parameters, trainable=total, weights=None, frozen=(), norm="batch")
        write_record(CellPaths.of(tmp_path, cell).record, make_record(cell, model=facts))
    command = ["--rewrite", str(tmp_path), "--data-root", str(data_root)]
    done = CliRunner().invoke(profile.app, command)
    assert done.exit_code == 0, done.output
    assert "completed 1 records" in done.output
    assert f"it has {total} parameters, and had {total + 1}" in " ".join(done.output.split())
    found = {one.run.cell.fold: one.run.model.in_evaluation for one in scan(tmp_path)}
    assert found == {0: total, 1: None}
    assert "completed 0 records" in CliRunner().invoke(profile.app, command).output


def test_fvcores_count_stands_beside_ours(data_root: Path, synthetic):
    arguments = f"--counter fvcore --model fasterrcnn_fpn --images 1 --image-size 96 --data-root {quote(data_root)}"
    done = CliRunner().invoke(profile.app, shlex.split(arguments))
    assert done.exit_code == 0, done.output
    (row,) = (line.split() for line in done.output.splitlines() if line.strip().startswith("fasterrcnn_fpn  "))
    ours, theirs, ratio, everything = map(float, row[1:])
    assert (ours, ratio) == (theirs, 1.0)
    assert everything > theirs
    assert "aten.add" in done.output, "what we leave out"
    assert "aten::add" in done.output, "what fvcore leaves out"


def test_tables_fit_a_terminal_of_100_columns():
    (one,) = measure_latency(
        {"a": Planted(net=2.0)}, [torch.rand(3, 8, 8)], device=torch.device("cpu"), runs=3, warmup=0, seed=0
    ).values()
    latency = {**one, "reference": "canet:mutual_attention", "p50": dict.fromkeys(one["p50"], 1234.5)}
    parameters = count_parameters(nn.Linear(9, 9))
    parameters |= {
        "total": 41_300_000,
        "trainable": 41_100_000,
        "in_evaluation": 41_200_000,
        "state_bytes": 165_000_000,
    }
    cost = Cost(
        parameters=parameters,
        macs={"macs": 207e9, "coverage": 0.5, "activations": 3e8, "proposals": 1000.0, "uncounted": {"aten.add": 3}},
        peak_memory_bytes=3 * 10**9,
        training_memory_bytes=9 * 10**9,
        latency=latency,
        batch_latency={16: {**latency, "p50": {**latency["p50"], "network_gpu": 77.25}}},
        throughput={1: 20.0, 16: None},
        energy_j=1.5,
        missing={"throughput.16": "out of memory"},
    )
    lost = Cost(missing={"latency": "out of memory"})
    console = Console(width=100, file=io.StringIO())
    for table in profile._tables({"canet:mutual_attention compile fp16": cost, "yolov8n": cost, "retinanet": lost}):
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    needed = ("training", "8583", "41.20", "1234.50", "77.25", "batch 16 in ms", "out of memory", "J per image")
    for words in (*needed, "1.000 [1.000, 1.000]"):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model canet --form graphs", "--device cuda"),
        ("--suite small_defect", "small_defects"),
        ("--model canet --reference fasterrcnn_fpn --form torch:bf16", "reference"),
        ("--model canet --counter fvcore --out x.json", "--counter shows a table"),
        ("--model canet --rewrite nowhere", "no such folder"),
        ("--model canet --trained nowhere", "no trained canet"),
        ("--model fastrcnn_fpn", "fasterrcnn_fpn"),
        ("--model canet:no_sea", "no_sae"),
        ("--model fasterrcnn_fpn:no_sae", "library_anchors"),
        ("--model canet --scale nanno", "nano"),
        ("--model canet --dataset synthetic_smal", "synthetic_small"),
        ("--model canet --device cudda", "device"),
        ("--model canet --reference retinanet", "reference"),
        ("--model canet --counter ptflops", "fvcore"),
        ("--model canet --time-limit soon", "9m"),
    ],
)
def test_wrong_requests_end_with_one_line_and_2(
    arguments: str, message: str, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["profile", *shlex.split(arguments), "--data-root", str(data_root)])
    with pytest.raises(SystemExit) as left:
        run_app(profile.app)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error:")
    assert message in line


def test_help_starts_without_torch():
    program = "import sys; import benchmarks.profile; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 0
