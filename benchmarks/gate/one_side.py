"""One side of a comparison in turns: the model of a weights file, timed whenever a line comes in.

`benchmarks.gate.turns` runs this text in the checkout of a commit, with the interpreter that has its packages: model
and clock are those of that commit, which need not have this module. The argument is JSON: weights, device, threads and
samples, an .npz of float32 images (3, H, W), of which those of the training batch have boxes and labels. A line of
standard input is the number of a turn; the answer is a line of milliseconds by phase, of a batch and of a step.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cost.clock import measure_latency
from benchmarks.train import build_optimizer
from benchmarks.trained import open_trained

WARMUP = 10
"""Rounds before the first turn."""

ROUNDS = 3
"""Of a turn, after one call that is not timed and makes up for the other side's work in between."""


BATCH = 8
"""Images of a batch, whose time is one over the throughput."""


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(asked["threads"])
    device = torch.device(asked["device"])
    trained = open_trained(Path(asked["weights"]), device)
    model = {"model": trained.model}
    with np.load(asked["samples"]) as archive:
        arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
    images = [value for name, value in arrays.items() if name.startswith("image")]
    step = training_step(trained, arrays, device)
    measure_latency(model, images, device=device, runs=WARMUP, warmup=0, seed=0)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        turn = int(line)
        some = [images[(turn * ROUNDS + i) % len(images)] for i in range(ROUNDS)]
        found = measure_latency(model, some, device=device, runs=ROUNDS, warmup=0, seed=0)["model"]["samples_ms"]
        batch = [images[(turn * BATCH + i) % len(images)].to(device) for i in range(BATCH)]

        def infer(batch: list[torch.Tensor] = batch) -> None:
            with torch.inference_mode():
                trained.model(batch)

        found["batch"] = [timed(infer, device) for _ in range(2)][1:]
        if step is not None:
            found["training_step"] = [timed(step, device) for _ in range(2)][1:]
        print(json.dumps(found), file=answers, flush=True)


def training_step(trained: Any, arrays: dict[str, torch.Tensor], device: torch.device) -> Callable[[], None] | None:
    """A step on one batch, always the same, of a copy that trains; None for a recipe that is a library's own."""
    images = [value.to(device) for name, value in arrays.items() if name.startswith("training")]
    boxes, labels = ([arrays[f"{what}{i}"].to(device) for i in range(len(images))] for what in ("boxes", "labels"))
    recipe = trained.cell.recipe
    if not images or not hasattr(recipe, "optimizer"):
        return None
    model = copy.deepcopy(trained.model).train()
    optimizer = build_optimizer(model, recipe)
    for group in optimizer.param_groups:  # as at the end of a schedule: the weights stay what they are
        group["lr"] *= 1e-6

    def step() -> None:
        targets = [{"boxes": own, "labels": its} for own, its in zip(boxes, labels, strict=True)]
        torch.manual_seed(0)
        sum(model(images, targets).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Milliseconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
