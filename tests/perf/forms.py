"""What AP50 a trained model has in forms of computing: threads, channels-last, low precision, torch.compile.

    python -m tests.perf.forms RUNS [IMAGES [FORM ...]]

RUNS is a folder of finished cells with their weights; of each, its fold's test images, or the first IMAGES. Each form,
or those named, is compared with the one that records are made in: float32, one thread, eager.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.cost.engines import Form
from benchmarks.cost.session import prepare
from benchmarks.datasets.loading import DetectionDataset
from benchmarks.datasets.prepared import ensure
from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.metrics.evaluator import evaluate
from benchmarks.store import Stored, scan
from benchmarks.trained import load_trained

CPU = torch.device("cpu")


def compare(stored: Stored, runs: Path, most: int | None, wanted: list[str]) -> None:
    cell = stored.run.cell
    data = ensure(cell.dataset)
    files = load_split(cell.dataset, cell.split, cell.fold).test[:most]
    images = DetectionDataset(data, files)
    truth = data.coco(files)

    def AP50(model: nn.Module) -> float:
        with torch.inference_mode():
            results = [model([images[i][0]])[0] for i in range(len(images))]
        columns = [(r["boxes"].float().numpy(), r["scores"].float().numpy(), r["labels"].numpy()) for r in results]
        value = evaluate(truth, Detections.from_images(files, columns), data.classes, resamples=0).AP50
        return np.nan if value is None else value

    def trained() -> nn.Module:
        return load_trained(cell, data, runs, CPU)

    def engine(name: str) -> nn.Module:
        entries, skipped = prepare({"m": trained()}, {"m": ("m", Form.parse(name, "cpu"))}, [images[0][0]])
        if skipped:
            raise RuntimeError(skipped["m"])
        return entries["m"].running

    forms: dict[str, tuple[int, Callable[[], nn.Module]]] = {
        "as recorded": (1, trained),
        "again": (1, trained),
        "2 threads": (2, trained),
        "channels-last": (1, lambda: trained().to(memory_format=torch.channels_last)),
        "bf16": (1, lambda: engine("torch:bf16")),
        "compile": (1, lambda: engine("compile:fp32")),
    }
    base = None
    for name, (threads, make) in forms.items():
        if wanted and name not in ("as recorded", *wanted):
            continue
        torch.set_num_threads(threads)
        try:
            value = AP50(make())
        except Exception as e:
            print(f"{cell.name}: {name}: {type(e).__name__}: {str(e)[:160]}", flush=True)
            continue
        base = value if base is None else base
        print(f"{cell.name}: {name}: AP50 {100 * value:.4f}, {100 * (value - base):+.4f}", flush=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for one in scan(folder):
        if one.run.status == "ok" and one.paths.weights.exists():
            compare(one, folder, int(sys.argv[2]) if len(sys.argv) > 2 else None, sys.argv[3:])
