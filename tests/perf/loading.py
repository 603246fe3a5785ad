"""The loader beside torchvision's own CocoDetection: images per second on NEU-DET, interleaved, with intervals.

    python -m tests.perf.loading --data-root PATH --workers 0 1 2 --rounds 15

Both read the training images of fold 0 with the same flips into batches of eight float images with their boxes. An
epoch of each runs in every round, in random order; ours has its pixels in memory, as from its second epoch on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from benchmarks.datasets.loading import DetectionDataset, batches, train_transform
from benchmarks.datasets.prepared import PreparedDataset, open_prepared
from benchmarks.datasets.splits import load_split
from tests.perf.ratios import interval, measure
from tests.perf.workloads import Run

THEIRS, OURS = "CocoDetection", "ours"


def forms(data: PreparedDataset, file_names: Sequence[str], workers: int) -> dict[str, Run]:
    """An epoch of each loader; it returns the number of images and of boxes."""
    flips = [v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)]
    transform = v2.Compose([v2.ToImage(), *flips, v2.ToDtype(torch.float32, scale=True)])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = CocoDetection(str(data.root / "images"), str(data.root / "annotations.json"), transforms=transform)
    wrapped = wrap_dataset_for_transforms_v2(coco, target_keys=("boxes", "labels", "image_id"))
    theirs = Subset(wrapped, [coco.ids.index(data.image(name)["id"]) for name in file_names])
    ours = DetectionDataset(data, file_names, train_transform("flips"))
    ours.fill()

    def epoch_of_theirs() -> tuple[int, int]:
        loader = DataLoader(theirs, batch_size=8, shuffle=True, num_workers=workers, collate_fn=list)
        return _count(item for batch in loader for item in batch)

    def epoch_of_ours() -> tuple[int, int]:
        loader = batches(ours, batch_size=8, seed=0, epoch=0, shuffle=True, drop_last=False, workers=workers)
        return _count(item for batch in loader for item in zip(*batch, strict=True))

    return {THEIRS: epoch_of_theirs, OURS: epoch_of_ours}


def _count(items: Iterable[tuple[Tensor, dict]]) -> tuple[int, int]:
    images = boxes = 0
    for image, target in items:
        assert image.dtype == torch.float32
        assert image.shape == (3, 200, 200)
        images += 1
        boxes += len(target["boxes"])
    return images, boxes


def ratios(times: dict[str, list[float]]) -> list[float]:
    """How many times faster ours was, round by round."""
    return [a / b for a, b in zip(times[THEIRS], times[OURS], strict=True)]


def main() -> None:
    """Measure and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    data = open_prepared("neu_det", args.data_root)
    names = load_split("neu_det", "neu_det-5fold-v1", 0).train
    print(
        f"{platform.processor() or 'CPU'}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{len(names)} images of NEU-DET, {args.rounds} rounds"
    )
    print(f"| workers | {THEIRS}, images/s | {OURS}, images/s | times faster (95%) |\n|-|-|-|-|")
    for workers in args.workers:
        runs = forms(data, names, workers)
        counts = {name: run() for name, run in runs.items()}
        assert counts[OURS] == counts[THEIRS], counts
        times = measure(runs, args.rounds, torch.device("cpu"))
        rates = [f"{len(names) / statistics.median(times[name]):.0f}" for name in (THEIRS, OURS)]
        low, high = interval(ratios(times))
        print(
            f"| {workers} | {rates[0]} | {rates[1]} | {statistics.median(ratios(times)):.2f} ({low:.2f}-{high:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
