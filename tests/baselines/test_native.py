"""The `native` recipe: the library's own trainer on our split, and its own metrics beside ours on the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.datasets.exporting import export
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import Split
from benchmarks.metrics.evaluator import evaluate
from benchmarks.models import build_model, missing_extra
from benchmarks.runner import detect

pytestmark = [
    pytest.mark.yolo,
    pytest.mark.slow,
    pytest.mark.skipif(missing_extra("yolov8n") is not None, reason="ultralytics is not installed"),
]


@pytest.mark.parametrize(("model", "variant"), [("yolov8n", "near_start"), ("yolo26n", "default")])
def test_trains_on_our_split_offline_and_writes_into_its_folder_alone(
    model: str, variant: str, synthetic: PreparedDataset, data_root: Path, tmp_path: Path
):
    program = f"""
        import os, socket
        from dataclasses import replace
        from pathlib import Path

        def refuse(*args, **kwargs):
            raise AssertionError(f"network access: {{args}}")

        socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
        import torch
        from benchmarks import runner
        from benchmarks.cells import NativeRecipe
        from benchmarks.datasets.prepared import open_prepared
        from benchmarks.datasets.splits import load_split
        from benchmarks.progress import CellProgress
        from tests.benchmarks.conftest import make_cell

        torch.set_num_threads(1)
        environment, events = dict(os.environ), []
        recipe = NativeRecipe(trainer="library", epochs=2, batch_size=4)
        cell = make_cell(model={model!r}, variant={variant!r}, scale="n", recipe=recipe)
        data = open_prepared(cell.dataset, Path({str(data_root)!r}))
        split = load_split(cell.dataset, cell.split, 0)
        split = replace(split, train=split.train[:8], val=split.val[:4], test=split.test[:4])
        network = runner.build_cell_model(cell, 6)
        before = {{k: v.clone() for k, v in network.state_dict().items()}}
        curve = runner.train_natively(network, data, split, cell, Path("out"), CellProgress(events.append))
        assert [p.epoch for p in curve] == [0, 1]
        assert all(p.losses["box"] > 0 and p.images_per_second > 0 for p in curve)
        assert [e[1]["epoch"] for e in events if e[0] == "epoch"] == [0, 1]
        assert any(not torch.equal(v, before[k]) for k, v in network.state_dict().items())
        if {variant!r} == "near_start":  # the library's trainer builds a model of its own, which starts near too
            bins = network._head.cv2[0][-1].bias.view(4, -1).mean(dim=0)
            assert (bins + torch.arange(len(bins))).abs().max() < 0.1
        assert torch.get_num_threads() == 1 and not torch.are_deterministic_algorithms_enabled()
        changed = {{k for k in {{*os.environ, *environment}} if os.environ.get(k) != environment.get(k)}}
        assert all(k.startswith("YOLO_") for k in changed), changed
    """
    folders = {name: tmp_path / name for name in ("home", "tmp", "work")}
    for folder in folders.values():
        folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "XDG_", "PYTEST_"))}
    environment |= {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "OMP_NUM_THREADS": "1"}
    environment |= {"MPLCONFIGDIR": str(tmp_path.parent)}  # matplotlib's list of fonts, which our own figures make too
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=folders["work"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    written = {"args.yaml", "results.csv", "weights/best.pt", "weights/last.pt"}
    assert left == {f"work/out/train/{name}" for name in written}


def test_a_size_that_the_trainer_would_change_is_refused(tmp_path: Path) -> None:
    model = build_model("yolov8n", num_classes=2, image_size=200, scale="n")
    with pytest.raises(ValueError, match="multiples of 32 px, not 200"):
        model.fit_natively(tmp_path, tmp_path, epochs=1, batch_size=1, seed=0, epoch_ended=lambda *_: None)


def their_validator(
    detector: torch.nn.Module, data: Path, folder: Path, **changes: object
) -> tuple[float, list[dict[str, Any]]]:
    """mAP50 that the library's own validator prints for a part of an exported set, and its detections (`save_json`)."""
    from ultralytics.models.yolo.detect import DetectionValidator

    arguments = {"data": str(data), "split": "test", "imgsz": 160, "batch": 1, "workers": 0, "device": "cpu"}
    validator = DetectionValidator(save_dir=folder, args={**arguments, "plots": False, "verbose": False, **changes})
    value = float(validator(model=deepcopy(detector).eval())["metrics/mAP50(B)"])
    return value, validator.jdict


def our_map50(model: torch.nn.Module, data: PreparedDataset, names: tuple[str, ...]) -> float:
    found = detect(model, data, names, torch.device("cpu"))
    value = evaluate(data.coco(names), found, data.classes).AP50
    assert value is not None
    return value


def test_our_ap50_is_the_librarys_within_half_a_point(synthetic: PreparedDataset, tmp_path: Path):
    """On 12 images that the model was fitted to and 18 that it never saw: it finds some boxes and misses others."""
    names = tuple(i["file_name"] for i in synthetic.images if synthetic.boxes(i["file_name"]))[:30]
    torch.manual_seed(0)
    model = build_model("yolov8n", num_classes=6, image_size=160, scale="n", variant="near_start").train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    from benchmarks.datasets.loading import DetectionDataset

    items = DetectionDataset(synthetic, names[:12])
    images, targets = [items[i][0] for i in range(12)], [items[i][1] for i in range(12)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=90)
    for _ in range(90):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    split = Split("thirty", 0, names, names, names, "")
    export(synthetic, "yolo", tmp_path / "data", split)
    theirs, _ = their_validator(model.detector, tmp_path / "data" / "data.yaml", tmp_path / "val")
    ours = our_map50(model, synthetic, names)
    assert 0.2 < ours < 0.95, "a model that finds all or nothing compares nothing"
    assert ours == pytest.approx(theirs, abs=0.005)
