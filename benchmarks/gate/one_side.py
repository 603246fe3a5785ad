"""One side of a comparison in turns: the model of a weights file, timed whenever a line comes in.

`benchmarks.gate.turns` runs this text in the checkout of a commit, with the interpreter that has its packages: model
and clock are those of that commit, which need not have this module. The argument is JSON: weights, images (an .npz of
float32 (3, H, W)), device, threads. A line of standard input is the number of a turn; the answer is a line of
milliseconds by phase.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.cost.clock import measure_latency
from benchmarks.trained import open_trained

WARMUP = 10
"""Rounds before the first turn."""

ROUNDS = 3
"""Of a turn, after one call that is not timed and makes up for the other side's work in between."""


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(asked["threads"])
    device = torch.device(asked["device"])
    model = {"model": open_trained(Path(asked["weights"]), device).model}
    with np.load(asked["images"]) as archive:
        images = [torch.from_numpy(archive[name]) for name in archive.files]
    measure_latency(model, images, device=device, runs=WARMUP, warmup=0, seed=0)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        batch = [images[(int(line) * ROUNDS + i) % len(images)] for i in range(ROUNDS)]
        found = measure_latency(model, batch, device=device, runs=ROUNDS, warmup=0, seed=0)
        print(json.dumps(found["model"]["samples_ms"]), file=answers, flush=True)


if __name__ == "__main__":
    main()
