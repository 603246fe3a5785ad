"""Interleaved speed ratios with intervals, and the memory of a training step.

    python -m tests.perf.ratios --size 800 1344 --rounds 15
    python -m tests.perf.ratios --device cuda --batch 16 --precision bfloat16

In each round every form runs once, in random order; a ratio is the median over rounds of the paired ratio to the
first form of its part, with a bootstrap 95% interval. Weights are random (seeded), so that the two-stage models see
about as many proposals as they keep at most; the detections are stated below the table's part. The memory of a training
step is measured in a fresh process for each form.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import platform
import random
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn

from tests.canet.reference import literal
from tests.perf.workloads import (
    Run,
    backbone_forms,
    canet,
    detector_forms,
    image,
    neck_forms,
    sae_forms,
    step_forms,
)


def measure(forms: dict[str, Run], rounds: int, device: torch.device, training: bool = False) -> dict[str, list[float]]:
    """Seconds of each form in each round, after one warm-up round."""
    order, times = list(forms), {name: [] for name in forms}
    shuffle = random.Random(0)
    with torch.inference_mode(not training):
        for index in range(rounds + 1):
            shuffle.shuffle(order)
            for name in order:
                _synchronise(device)
                start = time.perf_counter()
                forms[name]()
                _synchronise(device)
                if index:
                    times[name].append(time.perf_counter() - start)
    return times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interval(ratios: list[float], draws: int = 2000) -> tuple[float, float]:
    """Bootstrap 95% interval of the median."""
    r = random.Random(0)
    medians = sorted(statistics.median(r.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def rows(part: str, times: dict[str, list[float]]) -> list[str]:
    """Markdown rows: median time, and how many times faster than the first form."""
    reference = next(iter(times))
    out = []
    for name, values in times.items():
        median = f"{1000 * statistics.median(values):.0f} ms"
        if name == reference:
            out.append(f"| {part} | {name} | {median} | 1 |")
            continue
        ratios = [a / b for a, b in zip(times[reference], values, strict=True)]
        low, high = interval(ratios)
        out.append(f"| {part} | {name} | {median} | {statistics.median(ratios):.2f} ({low:.2f}-{high:.2f}) |")
    return out


def kept_by_a_step(module: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Bytes of the largest tensor, and of all distinct ones, that a forward pass keeps for its backward pass."""
    storages: dict[int, int] = {}
    largest = 0

    def keep(t: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, t.numel() * t.element_size())
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = module(x)
    total = sum(storages.values())
    del out
    return largest, total


def resident_by_a_step(form: str, origin: str, scale: str, size: tuple[int, int]) -> int:
    """Bytes by which one training step of a form adds at most to the resident size of this process (Linux)."""
    run = step_forms(canet(origin, scale, max(size)), image(size))[form]

    def read(field: str) -> int:
        return 1024 * int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = read("VmRSS")
    run()
    return read("VmHWM") - before


def main() -> None:
    """Measure and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"))
    parser.add_argument("--step-size", type=int, nargs=2, default=(608, 608), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--scale", default="r50")
    parser.add_argument("--origin", default="pytorch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--parts", nargs="+", default=["sae", "backbone", "neck", "detector", "step", "memory"])
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    size, step_size = tuple(args.size), tuple(args.step_size)
    model = canet(args.origin, args.scale, max(size)).to(device)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(
        f"{hardware}, torch {torch.__version__}, {torch.get_num_threads()} threads, {args.origin} {args.scale}, "
        f"batch {args.batch}, {args.precision}, {size[0]}x{size[1]}, training step at {step_size[0]}x{step_size[1]}, "
        f"{args.rounds} rounds, random weights"
    )
    x = image(size, args.batch).to(device)
    small = image(step_size, args.batch).to(device)
    makers = {
        "sae": lambda: sae_forms(model, x, args.precision),
        "backbone": lambda: backbone_forms(model, x, args.precision),
        "neck": lambda: neck_forms(model, x, args.precision),
        "detector": lambda: detector_forms(model, size, args.batch, args.precision),
        "step": lambda: step_forms(model, small, args.precision),
    }
    print("| part | form | median | times faster (95%) |\n|-|-|-|-|")
    for part in args.parts:
        if part == "memory":
            continue
        forms = makers[part]()
        times = measure(forms, args.rounds, device, training=part == "step")
        print("\n".join(rows(part, times)), flush=True)
        if part == "detector":
            with torch.inference_mode():
                counts = {name: len(run()[0]["boxes"]) for name, run in forms.items()}
            print(f"detections: {counts}", flush=True)
        del forms
        gc.collect()
    if "memory" in args.parts:
        ours = nn.Sequential(model.backbone, model.neck).train()
        print("\n| training step | largest tensor kept | all kept | peak of the process |\n|-|-|-|-|")
        for name, module in (("literal", literal(ours)), ("exact", ours)):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                peak = fresh.submit(resident_by_a_step, name, args.origin, args.scale, step_size).result()
            numbers = (f"{n / 2**20:.0f} MiB" for n in (*kept_by_a_step(module, small), peak))
            print(f"| {name} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()
