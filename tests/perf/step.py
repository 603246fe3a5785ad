"""What a training step of the study's models costs, and two ways of computing that might make it cheaper.

    python -m tests.perf.step --model canet --model fasterrcnn_fpn --rounds 25 [--arithmetic portable]

A step is what `benchmarks.train` does with a batch of real images, on one thread: losses, gradients, clipping, update.
The forms take turns, each with a model of its own that starts from the same weights, over the same batches and draws:

- as trained: torch chooses, which on one thread computes 1x1 convolutions of fewer than 16 images by its own matrix
  products instead of oneDNN;
- 1x1 through oneDNN: those convolutions get a dilation of 2, which changes nothing of what a kernel of one pixel
  computes, but torch leaves dilated ones to oneDNN, forward and backward;
- and the fused update: AdamW in one call for all parameters besides.

`--where` prints in which operators the first form spends its time.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.devices import Arithmetic, compute_with

AS_TRAINED = "as trained"


def measure(model: str, suite: str, dataset: str, rounds: int, root: Path, where: bool) -> list[str]:
    """Markdown rows of a model: form, median time of a step, ratio of it to the first form's with its interval."""
    import torch

    from benchmarks import suites
    from benchmarks.datasets.loading import DetectionDataset, batches, train_transform
    from benchmarks.datasets.prepared import ensure
    from benchmarks.datasets.splits import load_split
    from benchmarks.train import Recipe, build_optimizer, seed_everything
    from benchmarks.trained import build_cell_model
    from tests.perf.ratios import interval
    from tests.perf.ratios import measure as in_turns
    from tests.perf.workloads import Run

    torch.set_num_threads(1)
    (cell, *_) = suites.load(suite, root).cells(
        "study", datasets=[dataset], select=[model], folds=[0], seeds=[0], root=root
    )
    recipe = cell.recipe
    assert isinstance(recipe, Recipe)
    data = ensure(dataset, root)
    split = load_split(dataset, cell.split, 0, root)
    training = DetectionDataset(
        data, split.train[: 8 * recipe.batch_size], transform=train_transform(recipe.augment), seed=0
    )
    loader = batches(training, batch_size=recipe.batch_size, seed=0, epoch=0, shuffle=True, drop_last=True, workers=0)
    content = list(loader)

    def form(*, onednn: bool, fused: bool) -> Callable[[], None]:
        seed_everything(0)
        net = build_cell_model(cell, len(data.classes), None).train()
        changed = 0
        for layer in net.modules():
            if onednn and isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
                layer.dilation = (2, 2)
                changed += 1
        assert changed or not onednn
        optimizer = build_optimizer(net, recipe)
        for group in optimizer.param_groups:
            group["fused"] = fused
        done = Counter[str]()

        def step() -> None:
            images, targets = content[done["steps"] % len(content)]
            torch.manual_seed(done["steps"])
            done["steps"] += 1
            loss = sum(net(images, targets).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(net.parameters(), recipe.clip_norm, norm)
            optimizer.step()

        return step

    forms: dict[str, Run] = {
        AS_TRAINED: form(onednn=False, fused=False),
        "1x1 through oneDNN": form(onednn=True, fused=False),
        "1x1 through oneDNN, fused update": form(onednn=True, fused=True),
    }
    times = in_turns(forms, rounds, torch.device("cpu"), training=True)
    out = []
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[AS_TRAINED], strict=True)]
        low, high = interval(ratios)
        ratio = "1" if name == AS_TRAINED else f"{statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})"
        out.append(f"| {cell.name} | {name} | {1000 * statistics.median(values):.0f} ms | {ratio} |")
    if where:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(6):
                forms[AS_TRAINED]()
        out.append(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    return out


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--suite", default="small_defects")
    parser.add_argument("--dataset", default="synthetic_small")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--arithmetic", type=Arithmetic, default=Arithmetic.native)
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--where", action="store_true")
    args = parser.parse_args()
    compute_with(args.arithmetic)  # before torch is imported
    from benchmarks.datasets import catalogue

    root = catalogue.data_root(args.data_root)
    print("| model | form | a step | time to the first (95%) |\n|-|-|-|-|")
    for model in args.model:
        print("\n".join(measure(model, args.suite, args.dataset, args.rounds, root, args.where)), flush=True)


if __name__ == "__main__":
    main()
