"""One side of a comparison in turns: the model of a weights file, timed whenever a line comes in.

`benchmarks.gate.turns` runs this text in the checkout of a commit, with the interpreter that has its packages: model
and clock are those of that commit, which need not have this module. The argument is JSON: weights, device, threads and
samples, an .npz of float32 images (3, H, W), of which those of the training batch have boxes and labels.

The first answer says that it is ready. From then on a line of standard input is a kind (image, batch or step) and the
number of a turn; the answer is a line of milliseconds by phase, or `not timed` and why.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cost.clock import measure_latency, synchronizer
from benchmarks.train import build_optimizer
from benchmarks.trained import open_trained

WARMUP = 10
"""Rounds before the first turn."""

ROUNDS = 3
"""Of a turn, after one call that is not timed and makes up for the other side's work in between."""

BATCH = 8
"""Images of a batch, which are on the device already: over its time, they are the throughput of the network."""


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
    # Before anything is inferred: what a model keeps of inference mode is of no use to a gradient.
    step, reason = training_step(trained, arrays, device)
    measure_latency(model, images, device=device, runs=WARMUP, warmup=0, seed=0)

    def take(kind: str, turn: int) -> dict[str, Any]:
        if kind == "image":
            some = [images[(turn * ROUNDS + i) % len(images)] for i in range(ROUNDS)]
            return measure_latency(model, some, device=device, runs=ROUNDS, warmup=0, seed=0)["model"]["samples_ms"]
        if kind == "batch":
            batch = [images[(turn * BATCH + i) % len(images)].to(device) for i in range(BATCH)]
            return {"batch": [timed(partial(infer, trained.model, batch), device) for _ in range(2)][1:]}
        if step is None:
            return {"not timed": reason}
        return {"training_step": [timed(step, device) for _ in range(2)][1:]}

    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        try:
            found = take(kind, int(number))
        except Exception as e:  # what else is asked can be told all the same
            found = {"not timed": failed(e)}
        print(json.dumps(found), file=answers, flush=True)


def failed(error: Exception) -> str:
    return f"it failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


@torch.inference_mode()
def infer(model: Any, batch: list[torch.Tensor]) -> None:
    model(batch)


def training_step(
    trained: Any, arrays: dict[str, torch.Tensor], device: torch.device
) -> tuple[Callable[[], None] | None, str | None]:
    """A step on one batch, always the same, of a copy that trains, as the recipe says but without CUDA graphs.

    Returns:
        The step, which was taken once, and None; or None and the reason.
    """
    images = [value.to(device) for name, value in arrays.items() if name.startswith("training")]
    recipe = trained.cell.recipe
    if not hasattr(recipe, "optimizer"):
        return None, "the library's own trainer takes it"
    if not images:
        return None, "there is no batch that both sides train on"
    targets = [
        {"boxes": arrays[f"boxes{i}"].to(device), "labels": arrays[f"labels{i}"].to(device), "image_id": i}
        for i in range(len(images))
    ]
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
    try:
        model = copy.deepcopy(trained.model).train()
        optimizer = build_optimizer(model, recipe)
        for group in optimizer.param_groups:  # the weights stay what they are
            group["lr"] *= 1e-6

        def step() -> None:
            torch.manual_seed(0)
            with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                loss = sum(model(images, [dict(target) for target in targets]).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()

        step()
    except Exception as e:  # whatever ends it
        return None, failed(e)
    return step, None


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Milliseconds."""
    synchronize = synchronizer(device)
    synchronize()
    began = time.perf_counter()
    run()
    synchronize()
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
