"""What AP50 a trained model has in forms of computing: threads, channels-last, low precision, torch.compile.

    python -m tests.perf.forms RUNS [--images 80] [--form bf16 ...]
    python -m tests.perf.forms --family fcos --family rtdetr_l [--form ...]

RUNS is a folder of finished cells with their weights, detected on the test images of their folds, or the first so many.
A `--family` is trained here, on 8 scenes of the tests of the detector contract, and detects on 48 others under noise,
where it misses some: for families that no suite trains far enough for AP50 to say anything. Each form, or those named,
is compared with the one that records are made in: float32, one thread, eager; in AP50, and in the scores and boxes of
detections that go together.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cost.engines import Form
from benchmarks.cost.session import prepare
from benchmarks.datasets.loading import DetectionDataset
from benchmarks.datasets.prepared import ensure
from benchmarks.datasets.splits import load_split
from benchmarks.detections import Detections
from benchmarks.metrics.evaluator import evaluate
from benchmarks.metrics.scene import overlaps
from benchmarks.store import Stored, scan
from benchmarks.trained import load_trained
from tests.baselines import test_contract as contract

CPU = torch.device("cpu")
TRAINED_ON, TESTED_ON = range(8), range(100, 148)
NOISE = 0.2
"""Standard deviation of what is added to the images that are tested on, in [0, 1]."""
STEPS, RATE = 120, 1e-3
"""Of families that the contract's tests do not train."""
ENGINES = {"bf16": "torch:bf16", "compile": "compile:fp32"}
SHOWN = 0.05
"""Least score of a detection that is looked for in another form."""

Found = list[dict[str, Tensor]]


def compare(
    name: str,
    trained: Callable[[], nn.Module],
    images: Sequence[Tensor],
    AP50: Callable[[Found], float],
    forms: list[str],
) -> None:
    def engine(form: str) -> nn.Module:
        entries, skipped = prepare({"m": trained()}, {"m": ("m", Form.parse(ENGINES[form], "cpu"))}, images[:1])
        if skipped:
            raise RuntimeError(skipped["m"])
        return entries["m"].running

    makers: dict[str, tuple[int, Callable[[], nn.Module]]] = {
        "as recorded": (1, trained),
        "again": (1, trained),
        "2 threads": (2, trained),
        "channels-last": (1, lambda: trained().to(memory_format=torch.channels_last)),
        **{form: (1, partial(engine, form)) for form in ENGINES},
    }
    base: tuple[float, Found] | None = None
    for form, (threads, make) in makers.items():
        if forms and form not in ("as recorded", *forms):
            continue
        torch.set_num_threads(threads)
        try:
            model = make()
            with torch.inference_mode():
                found = [model([image])[0] for image in images]
            value = AP50(found)
        except Exception as e:
            print(f"{name}: {form}: {type(e).__name__}: {str(e)[:160]}", flush=True)
            if base is None:
                return
            continue
        base = (value, found) if base is None else base
        print(
            f"{name}: {form}: AP50 {100 * value:.4f}, {100 * (value - base[0]):+.4f}; {apart(base[1], found)}",
            flush=True,
        )


def apart(base: Found, other: Found) -> str:
    """How far detections lie from those that go with them, of the same class the box that overlaps most, both ways."""
    scores, boxes, count, alone = (max(pair) for pair in zip(_apart(base, other), _apart(other, base), strict=True))
    return f"of {count} detections {alone} have no counterpart, scores differ by {scores:.1e}, boxes by {boxes:.1e} px"


def _apart(base: Found, other: Found) -> tuple[float, float, int, int]:
    scores, boxes, alone, count = 0.0, 0.0, 0, 0
    for a, b in zip(base, other, strict=True):
        for box, score, label in zip(a["boxes"], a["scores"], a["labels"], strict=True):
            if score < SHOWN:
                continue
            count += 1
            same = b["labels"] == label
            corners = b["boxes"][same].double().numpy()
            own = np.broadcast_to(box.double().numpy(), corners.shape)
            shared = overlaps(*(np.concatenate([c[:, :2], c[:, 2:] - c[:, :2]], axis=1) for c in (own, corners)))
            if not len(shared) or shared.max() < 0.5:
                alone += 1
                continue
            at = int(shared.argmax())
            scores = max(scores, abs(float(b["scores"][same][at] - score)))
            boxes = max(boxes, float(np.abs(corners[at] - own[at]).max()))
    return scores, boxes, count, alone


def of_cell(stored: Stored, runs: Path, most: int | None, forms: list[str]) -> None:
    cell = stored.run.cell
    data = ensure(cell.dataset)
    files = load_split(cell.dataset, cell.split, cell.fold).test[:most]
    dataset = DetectionDataset(data, files)
    truth = data.coco(files)

    def AP50(found: Found) -> float:
        columns = [(r["boxes"].float().numpy(), r["scores"].float().numpy(), r["labels"].numpy()) for r in found]
        value = evaluate(truth, Detections.from_images(files, columns), data.classes, resamples=0).AP50
        return np.nan if value is None else value

    images = [dataset[i][0] for i in range(len(dataset))]
    compare(cell.name, lambda: load_trained(cell, data, runs, CPU), images, AP50, forms)


def of_family(name: str, forms: list[str]) -> None:
    steps, rate = contract.OVERFIT.get(name, (STEPS, RATE))
    model = contract._build(name)
    images, targets = (list(part) for part in zip(*map(contract.scene, TRAINED_ON), strict=True))
    contract.overfit(model, images, targets, steps, rate)
    tested, truth = (list(part) for part in zip(*map(contract.scene, TESTED_ON), strict=True))

    def AP50(found: Found) -> float:
        return contract.ap50(
            truth, [{k: v.float() if v.is_floating_point() else v for k, v in d.items()} for d in found]
        )

    rng = torch.Generator().manual_seed(0)
    noisy = [(image + NOISE * torch.randn(image.shape, generator=rng)).clamp(0, 1) for image in tested]
    compare(name, lambda: copy.deepcopy(model), noisy, AP50, forms)


def main() -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--family", action="append", default=[])
    parser.add_argument("--form", action="append", default=[])
    options = parser.parse_args()
    for name in options.family:
        torch.set_num_threads(1)
        of_family(name, options.form)
    for one in scan(options.runs) if options.runs else ():
        if one.run.status == "ok" and one.paths.weights.exists():
            of_cell(one, options.runs, options.images, options.form)


if __name__ == "__main__":
    main()
