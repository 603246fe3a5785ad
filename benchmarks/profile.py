"""What a model costs: parameters, multiply-accumulates, memory, latency, throughput, energy.

    python -m benchmarks.profile --model canet --model fasterrcnn_fpn --scale nano --image-size 160

Models are timed in turns within one process, in random order within every round, on the same images, so that
drift of the machine hits all alike; speeds are compared as ratios paired within rounds. Nothing is trimmed.
docs/cost-and-time.md says what is measured how, and which rules of the field are not obeyed.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib.util
import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich import box
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.engines import CannotRun, Form, settings
from benchmarks.errors import RequestError
from benchmarks.machine import energy_meter, watched_machine
from benchmarks.models import split_name
from benchmarks.store import now, provenance, require_writable, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from benchmarks.cells import Cell

PHASES = ("preprocess", "network", "postprocess", "end_to_end")

# On CUDA, what the network took between two events on the stream: without it, the host only waits.
NETWORK_ON_GPU = "network_gpu"

# Two windows of warm-up rounds whose medians differ by less count as stable.
STABLE = 0.05

# Images of the training step whose memory is measured.
TRAINING_BATCH = 8


def count_parameters(model: nn.Module) -> dict[str, Any]:
    """Elements of parameters and buffers.

    Returns:
        total, trainable, buffers, by_module (top-level child -> parameters), state_bytes (what a checkpoint
        of the state dict holds). Shared parameters count once; frozen batch norms hold theirs as buffers.
    """
    seen: set[int] = set()
    by_module: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            child = name.partition(".")[0]
            by_module[child] = by_module.get(child, 0) + parameter.numel()
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "buffers": sum(b.numel() for b in model.buffers()),
        "by_module": by_module,
        "state_bytes": sum(t.numel() * t.element_size() for t in model.state_dict().values()),
    }


def count_macs(model: nn.Module, images: Sequence[Tensor]) -> dict[str, Any]:
    """Multiply-accumulates of `network()` and `postprocess()`, each image alone, averaged over the images.

    Args:
        images: float32 (3, H, W) in [0, 1]. Real ones, since the number of proposals depends on them.

    Returns:
        macs: convolutions, linear layers, matrix products and attention of one image; flops = 2 * macs.
        sampling_macs: estimates for RoIAlign, interpolation, grid sampling and NMS, which `macs` leaves out.
        by_operator: operator -> multiply-accumulates, both kinds, largest first.
        uncounted: operator -> calls per image, for what computes something and has no formula.
        coverage: counted calls over counted and uncounted calls.
        activations: output elements of what `macs` counts, as fvcore counts them.
        uncounted_elements: output elements of uncounted operators.
        input_shape: what the first convolution saw of the first image, (1, 3, H, W) after resizing and padding.
        proposals: mean boxes pooled per image; None where the model pools none.
    """
    import torch

    from benchmarks.macs import counting

    if not images:
        raise ValueError("no images to count on")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    macs: Counter[str] = Counter()
    sampling: Counter[str] = Counter()
    uncounted: Counter[str] = Counter()
    elements = counted_calls = rois = activations = 0
    input_shape: list[int] = []

    def note_shape(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not input_shape:
            input_shape.extend(inputs[0].shape)

    hooks = [m.register_forward_pre_hook(note_shape) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    try:
        with torch.inference_mode():
            model([images[0].to(device)])  # what is made once (anchors) is no part of an image's cost
        for image in images:
            with torch.inference_mode():
                batch = model.preprocess([image.to(device)])
                with counting() as counter:
                    model.postprocess(model.network(batch), batch)
            macs.update(counter.macs)
            sampling.update(counter.sampling)
            uncounted.update(counter.uncounted)
            elements += sum(counter.uncounted_elements.values())
            counted_calls += sum(counter.calls.values())
            rois += counter.rois
            activations += counter.activations
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    n = len(images)
    total = sum(macs.values()) / n
    return {
        "macs": total,
        "flops": 2 * total,
        "sampling_macs": sum(sampling.values()) / n,
        "by_operator": {
            name: count / n for name, count in sorted((macs + sampling).items(), key=lambda item: (-item[1], item[0]))
        },
        "uncounted": {name: math.ceil(calls / n) for name, calls in sorted(uncounted.items())},
        "coverage": counted_calls / max(counted_calls + sum(uncounted.values()), 1),
        "uncounted_elements": elements / n,
        "activations": activations / n,
        "input_shape": input_shape,
        "proposals": rois / n if rois else None,
    }


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A call that returns when everything queued on `device` is done."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _to_host(detections: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{key: value.cpu() for key, value in one.items()} for one in detections]


def _run_whole(model: nn.Module, images: Sequence[Tensor], device: torch.device) -> None:
    _to_host(model([image.to(device) for image in images]))


def _time_whole(
    model: nn.Module, images: Sequence[Tensor], device: torch.device, synchronize: Callable[[], None]
) -> float:
    """Milliseconds from images in host memory to detections in host memory."""
    synchronize()
    began = time.perf_counter()
    _run_whole(model, images, device)
    synchronize()
    return (time.perf_counter() - began) * 1e3


def _time_phases(
    model: nn.Module, image: Tensor, device: torch.device, synchronize: Callable[[], None]
) -> dict[str, float]:
    """Milliseconds of the three phases; copies to and from the device belong to the outer two."""
    import torch

    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
    synchronize()
    began = time.perf_counter()
    batch = model.preprocess([image.to(device)])
    synchronize()
    prepared = time.perf_counter()
    for event in events[:1]:
        event.record()
    raw = model.network(batch)
    for event in events[1:]:
        event.record()
    synchronize()
    computed = time.perf_counter()
    _to_host(model.postprocess(raw, batch))
    synchronize()
    ended = time.perf_counter()
    edges = (began, prepared, computed, ended)
    times = {phase: (b - a) * 1e3 for phase, a, b in zip(PHASES, edges, edges[1:], strict=False)}
    if events:
        times[NETWORK_ON_GPU] = events[0].elapsed_time(events[1])
    return times


def measure_latency(
    models: Mapping[str, nn.Module],
    images: Sequence[Tensor],
    *,
    device: torch.device,
    runs: int,
    warmup: int,
    seed: int,
    reference: str | None = None,
    min_seconds: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """Latency of every model at batch 1, measured in turns.

    In each round every model runs once whole and once phase by phase, in random order, on the same image. The
    device is synchronised at both edges of whatever is timed. `end_to_end` is a run of its own, so that work
    which a model does outside its three phases shows as the difference to their sum.

    Args:
        models: name -> model; they are moved to `device` and set to evaluation.
        images: float32 (3, H, W) in host memory, used in turn.
        runs: rounds at least.
        warmup: rounds before, at least; up to five times as many until the medians of two successive windows
            differ by less than 5% for every model.
        seed: of the order within rounds.
        reference: the model that ratios are to; the first by default.
        min_seconds: go on until every model was timed for so long.

    Returns:
        name -> first_call_ms (before any warm-up); samples_ms, p50, p90, p99, iqr and outliers (samples above
        the third quartile + 3 IQR, flagged, never removed), each by phase; reference, ratio (median of the
        end-to-end times over the reference's in the same round) and ratio_interval (95%); session (rounds,
        warm-up, whether it became stable, state of the machine, settings), the same for all.

    Raises:
        ValueError: no models, no images, or a reference that is not among the models.
    """
    import torch

    if not models or not images:
        raise ValueError("latency needs at least one model and one image")
    reference = reference if reference is not None else next(iter(models))
    if reference not in models:
        raise ValueError(f"reference {reference!r} is not among the models")
    order = random.Random(seed)
    synchronize = synchronizer(device)
    for model in models.values():
        model.to(device).eval()
    gc.collect()
    _wake(device)
    with torch.inference_mode(), watched_machine(device) as machine:
        first = {name: _time_whole(model, images[:1], device, synchronize) for name, model in models.items()}
        warmed, stable = _warm_up(models, images, device, synchronize, warmup, order)
        samples: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in models}
        rounds = 0
        while rounds < runs or min(sum(s["end_to_end"]) for s in samples.values()) < min_seconds * 1e3:
            image = images[rounds % len(images)]
            for name in order.sample(list(models), len(models)):
                whole = _time_whole(models[name], [image], device, synchronize)
                phases = _time_phases(models[name], image, device, synchronize)
                for phase, value in {**phases, PHASES[-1]: whole}.items():
                    samples[name].setdefault(phase, []).append(value)
            rounds += 1
    session = {
        "rounds": rounds,
        "warmup_rounds": warmed,
        "stable": stable,
        "machine": machine,
        "settings": settings(),
    }
    out: dict[str, dict[str, Any]] = {}
    for name in models:
        ratio, interval = paired_ratio(samples[name]["end_to_end"], samples[reference]["end_to_end"])
        out[name] = {
            "first_call_ms": first[name],
            "samples_ms": samples[name],
            **_summary(samples[name]),
            "reference": reference,
            "ratio": ratio,
            "ratio_interval": interval,
            "session": session,
        }
    return out


def _wake(device: torch.device) -> None:
    """Make the libraries of a GPU initialise themselves, so that no model's first call pays for it."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)  # events are of the current device
        x = torch.ones(1, 8, 8, 8, device=device)
        torch.nn.functional.conv2d(x, x[:, :, :3, :3]).flatten() @ x.flatten()[:36]
        torch.cuda.synchronize(device)


def _warm_up(
    models: Mapping[str, nn.Module],
    images: Sequence[Tensor],
    device: torch.device,
    synchronize: Callable[[], None],
    warmup: int,
    order: random.Random,
) -> tuple[int, bool]:
    """Rounds run, and whether all models became stable; with `warmup` 0 nothing is run."""
    window = max(warmup // 2, 2)
    times: dict[str, list[float]] = {name: [] for name in models}
    rounds, stable = 0, False
    while rounds < warmup or (not stable and rounds < 5 * warmup):
        for name in order.sample(list(models), len(models)):
            image = images[rounds % len(images)]
            times[name].append(_time_whole(models[name], [image], device, synchronize))
        rounds += 1
        if rounds >= 2 * window:
            stable = all(
                abs(np.median(t[-window:]) / np.median(t[-2 * window : -window]) - 1) < STABLE for t in times.values()
            )
    return rounds, stable


def _summary(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {key: {} for key in ("p50", "p90", "p99", "iqr", "outliers")}
    for phase, values in samples.items():
        p25, p50, p75, p90, p99 = (float(v) for v in np.percentile(values, [25, 50, 75, 90, 99]))
        out["p50"][phase], out["p90"][phase], out["p99"][phase] = p50, p90, p99
        out["iqr"][phase] = p75 - p25
        out["outliers"][phase] = int((np.asarray(values) > p75 + 3 * (p75 - p25)).sum())
    return out


def paired_ratio(times: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[float, tuple[float, float]]:
    """Median of the ratios of two series paired by round, and its 95% interval.

    The interval is between order statistics (of the sign test): it assumes nothing of the ratios' distribution, be it
    drifting, spiky or two-humped, and holds at least 95% of the time. Ratios of successive rounds are not correlated
    (measured: below 0.03 at lags 1 to 10, on a busy machine), since pairing removes what the machine does to both.
    With fewer than 6 rounds it is all of them, and promises less.
    """
    from scipy.stats import binom

    ratios = np.sort(np.asarray(times, dtype=np.float64) / np.asarray(reference, dtype=np.float64))
    rank = max(int(binom.ppf(0.025, len(ratios), 0.5)), 1)
    return float(np.median(ratios)), (float(ratios[rank - 1]), float(ratios[-rank]))


def measure_throughput(
    models: Mapping[str, nn.Module],
    images: Sequence[Tensor],
    *,
    device: torch.device,
    batch_sizes: Sequence[int],
    seconds: float,
    seed: int,
) -> dict[str, dict[int, float | None]]:
    """Images per second by batch size, end to end, models in turns; None where the memory did not suffice.

    Args:
        seconds: time that every model gets at every batch size, after two calls that are not timed.
    """
    import torch

    synchronize = synchronizer(device)
    order = random.Random(seed)
    out: dict[str, dict[int, float | None]] = {name: {} for name in models}
    for model in models.values():
        model.to(device).eval()
    for size in batch_sizes:
        batch = [images[i % len(images)] for i in range(size)]
        spent = dict.fromkeys(models, 0.0)
        calls = dict.fromkeys(models, 0)
        running = set(models)
        with torch.inference_mode():
            while running:
                for name in order.sample(sorted(running), len(running)):
                    try:
                        elapsed = _time_whole(models[name], batch, device, synchronize) / 1e3
                    except torch.cuda.OutOfMemoryError:
                        torch.cuda.empty_cache()
                        out[name][size] = None
                        running.discard(name)
                        continue
                    calls[name] += 1
                    if calls[name] > 2:
                        spent[name] += elapsed
                    if spent[name] >= seconds:
                        out[name][size] = size * (calls[name] - 2) / spent[name]
                        running.discard(name)
    return out


def peak_memory(model: nn.Module, images: Sequence[Tensor], *, device: torch.device) -> int:
    """Bytes that inference on `images` as one batch needs at most: weights, input and all that torch allocates."""
    import torch

    model.to(device).eval()

    def run() -> None:
        with torch.inference_mode():
            _run_whole(model, images, device)

    run()  # what is made once is no part of it
    return _held(model) + _peak(run, device)


def training_memory(
    model: nn.Module,
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Any]],
    *,
    device: torch.device,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
) -> int | None:
    """The same for a training step of a copy: forward, backward, gradients and the state of `optimizer`.

    None where the memory did not suffice.
    """
    import torch

    model = copy.deepcopy(model).to(device).train()
    stepper = optimizer(model)

    def step() -> None:
        inputs = [image.to(device) for image in images]
        goals = [{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
        sum(model(inputs, goals).values()).backward()
        stepper.step()
        stepper.zero_grad(set_to_none=True)

    def steps() -> None:  # the second one starts with the optimiser's state
        step()
        step()

    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return _held(model) + _peak(steps, device)
    except (torch.OutOfMemoryError, MemoryError):
        return None


def _held(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for part in (model.parameters(), model.buffers()) for t in part)


def _peak(run: Callable[[], None], device: torch.device) -> int:
    """Bytes that torch's allocator hands out at most during `run`, above what it had handed out before."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    watched = torch.autograd.profiler.profile(profile_memory=True, use_kineto=False)
    with _quiet_stderr():
        watched.__enter__()
    try:
        run()
    finally:
        with _quiet_stderr():
            watched.__exit__(None, None, None)
    events = [e for e in watched.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in events), initial=0))


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The profiler's library writes about its own start, stop and missing GPUs past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def measure_energy(
    models: Mapping[str, nn.Module], images: Sequence[Tensor], *, device: torch.device, seconds: float
) -> dict[str, float | None]:
    """Joules per image at batch 1, of the whole GPU board, idle power included; None where nothing counts them.

    One model after the other: the counter moves a few dozen times a second only.
    """
    import torch

    out: dict[str, float | None] = dict.fromkeys(models)
    synchronize = synchronizer(device)
    with torch.inference_mode(), energy_meter(device) as joules:
        if joules() is None:
            return out
        for name, model in models.items():
            _time_whole(model, images[:1], device, synchronize)
            runs, before, began = 0, joules(), time.monotonic()
            while time.monotonic() - began < seconds:
                _time_whole(model, [images[runs % len(images)]], device, synchronize)
                runs += 1
            out[name] = (joules() - before) / runs
    return out


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Model, or MODEL:VARIANT; repeat it. Default: those of --suite.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Suite whose models are taken where none is named.")] = "small_defects",
    form: Annotated[
        list[str] | None,
        typer.Option(
            help="ENGINE or ENGINE:PRECISION in which every model runs; repeat it. Engines: torch (default), deploy "
            "(CANet), compile, graphs (CUDA), onnx (CPU); precisions: fp32 (default), tf32 (CUDA), bf16, fp16 (CUDA)."
        ),
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the models.")] = "nano",
    image_size: Annotated[int, typer.Option(help="Longer side in pixels that images are resized to.")] = 160,
    dataset: Annotated[str, typer.Option(help="Set that the images come from.")] = "synthetic_small",
    images: Annotated[int, typer.Option(help="How many of its images.", min=1)] = 8,
    trained: Annotated[
        Path | None, typer.Option(help="Folder of runs to take trained weights and test images from. Default: random.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where prepared sets are.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's own.", min=1)] = None,
    runs: Annotated[int, typer.Option(help="Timed rounds at least.", min=1)] = 200,
    min_seconds: Annotated[float, typer.Option(help="Seconds timed per model at least.", min=0.0)] = 10.0,
    warmup: Annotated[int, typer.Option(help="Warm-up rounds at least.", min=0)] = 50,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Batch size to measure throughput at; repeat it. Default: 1 and 16.", min=1)
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Entry that ratios are to. Default: the first.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights and of the order.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for everything, raw samples included.")] = None,
) -> None:
    """What models cost, in turns in one process: counts, memory, latency by phase, throughput, energy.

    The number of proposals, and with it the time of two-stage models, depends on the weights: what is quoted
    comes from trained ones (--trained, or the profiles that benchmarks.run makes).
    """
    from benchmarks import models as registry
    from benchmarks import suites
    from benchmarks.datasets.catalogue import data_root as default_root
    from benchmarks.datasets.catalogue import get as get_dataset

    listed = [m if v == "default" else f"{m}:{v}" for m, v in suites.load(suite).selected(())]
    names = _distinct(model or [name for name in listed if registry.missing_extra(name.partition(":")[0]) is None])
    for base, variant in names.values():
        registry.get(base).scale(scale)
        registry.check_variant(base, variant)
        if (missing := registry.missing_extra(base)) is not None:
            raise RequestError(missing)
    classes = len(get_dataset(dataset).classes)
    forms = [Form.parse(text, device.partition(":")[0]) for text in dict.fromkeys(form or ["torch"])]
    wanted = {f"{shown} {one}".strip(): (shown, one) for shown in names for one in forms}
    reference = reference or next(iter(wanted))
    if reference not in wanted:
        raise RequestError(f"the reference {reference!r} is not among what is measured: {', '.join(wanted)}")
    if out is not None:
        require_writable(out.parent)

    import torch

    target = _device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    began = now()
    root = default_root(data_root)
    with console.status("building"):
        if trained is None:
            samples = _samples(dataset, root, None, images)
            built = {name: _random(*pair, classes, image_size, scale, seed) for name, pair in names.items()}
        else:
            cells = {name: _trained_cell(trained, dataset, *pair, scale, image_size) for name, pair in names.items()}
            samples = _samples(dataset, root, next(iter(cells.values())), images)
            built = {name: _load(cell, dataset, root, trained) for name, cell in cells.items()}
        inputs = [image for image, _ in samples]
        entries, skipped = _in_forms({k: m.to(target) for k, m in built.items()}, wanted, inputs)
    if reference not in entries:
        raise RequestError(f"the reference cannot be measured: {reference}: {skipped[reference]}")
    running = {name: entry.running for name, entry in entries.items()}
    with console.status("counting"):
        costs = _costs(entries, samples, target)
    # No spinner from here on: its thread would be measured too.
    console.print(f"timing {len(running)} entries in turns", highlight=False)
    latency = measure_latency(
        running,
        inputs,
        device=target,
        runs=runs,
        warmup=warmup,
        seed=seed,
        reference=reference,
        min_seconds=min_seconds,
    )
    seconds = max(min_seconds / 5, 0.2)
    throughput = measure_throughput(
        running, inputs, device=target, batch_sizes=batch_size or [1, 16], seconds=seconds, seed=seed
    )
    energy = measure_energy(running, inputs, device=target, seconds=seconds)
    session = next(iter(latency.values()))["session"]
    machine = session["machine"]
    for table in _tables(costs, latency, throughput, energy):
        console.print(table)
    _print_uncounted(costs)
    for name, reason in skipped.items():
        console.print(f"[yellow]not measured:[/] {name}: {reason}", highlight=False)
    weights = "Random weights" if trained is None else f"Weights of {trained}"
    console.print(
        f"{weights}, {len(inputs)} images of {dataset}, network input "
        f"{' x '.join(map(str, next(iter(costs.values()))['macs']['input_shape']))}, {device}, batch 1 for latency.",
        highlight=False,
    )
    console.print(
        f"{session['rounds']} rounds after {session['warmup_rounds']} of warm-up"
        f"{'' if session['stable'] else ' (did not become stable)'}; {machine['threads']} threads, "
        f"{machine['cores']} cores, governor {machine['governor'] or 'unknown'}.",
        highlight=False,
    )
    if machine["busy"]:
        console.print(
            f"[bold yellow]Busy machine:[/] others kept {machine['other_cores']:.2f} cores busy, or were on the GPU; "
            "ratios hold, absolute times do not.",
            highlight=False,
        )
    if target.type == "cuda" and importlib.util.find_spec("pynvml") is None:
        console.print("Energy was not measured: python -m pip install nvidia-ml-py", highlight=False)
    if out is not None:
        content = {
            "kind": "profile",
            "weights": "random" if trained is None else str(trained),
            "dataset": dataset,
            "image_size": image_size,
            "scale": scale,
            "session": session,
            "provenance": provenance(
                started=began, threads=machine["threads"], device=device, device_name=_device_name(target)
            ).model_dump(),
            "models": {
                name: {
                    "label": registry.label(*names[wanted[name][0]]),
                    "engine": wanted[name][1].engine,
                    "precision": wanted[name][1].precision,
                    "preparation_s": entry.preparation_s,
                    **costs[name],
                    "latency": {k: v for k, v in latency[name].items() if k != "session"},
                    "throughput": throughput[name],
                    "energy_j": energy[name],
                }
                for name, entry in entries.items()
            },
            "not_measured": skipped,
        }
        write_atomic(out, (json.dumps(content, indent=1) + "\n").encode())
        console.print(f"wrote {out}", highlight=False)


@dataclass(frozen=True)
class Entry:
    """A model, the form it runs in, and the seconds that making the form took (export, compilation, capture)."""

    model: nn.Module
    form: Form
    running: nn.Module
    preparation_s: float | None


def _in_forms(
    built: Mapping[str, nn.Module], wanted: Mapping[str, tuple[str, Form]], images: Sequence[Tensor]
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Name -> entry, and name -> why it cannot be measured."""
    import torch

    entries: dict[str, Entry] = {}
    skipped: dict[str, str] = {}
    for name, (shown, form) in wanted.items():
        model = built[shown].eval()
        began = time.monotonic()
        try:
            running = form.of(model, images)
            if form.engine in ("compile", "graphs"):
                with torch.inference_mode():
                    running([image.to(next(model.parameters()).device) for image in images[:1]])
        except CannotRun as e:
            skipped[name] = str(e)
        except Exception as e:
            if form.engine not in ("compile", "graphs"):
                raise
            skipped[name] = f"{type(e).__name__}: {(str(e).strip() or 'no message').splitlines()[0]}"
        else:
            plain = form.engine == "torch"
            entries[name] = Entry(model, form, running, None if plain else time.monotonic() - began)
    return entries, skipped


def _costs(
    entries: Mapping[str, Entry], samples: Sequence[tuple[Tensor, Any]], device: torch.device
) -> dict[str, dict[str, Any]]:
    """Counts and memory. What a form leaves as it is is counted once, on the model itself: its parameters always,
    since an inference form holds them as constants; its arithmetic in all but `deploy`.
    """
    import torch

    images, targets = [image for image, _ in samples], [target for _, target in samples]
    counts: dict[int, dict[str, Any]] = {}
    out = {}
    for name, entry in entries.items():
        counted = entry.running.model if entry.form.engine == "deploy" else entry.model
        if id(counted) not in counts:
            counts[id(counted)] = {"parameters": count_parameters(entry.model), "macs": count_macs(counted, images)}
        # ONNX Runtime and captured graphs have memory of their own, which torch's allocator does not count.
        peak = training = None
        if entry.form.engine not in ("onnx", "graphs"):
            peak = peak_memory(entry.running, images[:1], device=device)
        if entry.form == Form():
            training = training_memory(
                entry.model,
                images[:TRAINING_BATCH],
                targets[:TRAINING_BATCH],
                device=device,
                optimizer=lambda model: torch.optim.AdamW(model.parameters()),
            )
        out[name] = {**counts[id(counted)], "peak_memory_bytes": peak, "training_memory_bytes": training}
    return out


def _distinct(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name to show -> model and variant. A model may be named twice, to see what the clock makes of that."""
    out: dict[str, tuple[str, str]] = {}
    for text in models:
        base, variant = split_name(text)
        shown, again = text, 2
        while shown in out:
            shown, again = f"{text} ({again})", again + 1
        out[shown] = base, variant or "default"
    return out


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"unknown device {name!r}; cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError("no CUDA device here; use --device cpu")
    return device


def _device_name(device: torch.device) -> str | None:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _random(base: str, variant: str, classes: int, image_size: int, scale: str, seed: int) -> nn.Module:
    import torch

    from benchmarks import models as registry

    torch.manual_seed(seed)
    own = registry.get(base).scale(scale)
    return registry.build_model(base, num_classes=classes, image_size=image_size, scale=own, variant=variant)


def _trained_cell(runs: Path, dataset: str, base: str, variant: str, scale: str, image_size: int) -> Cell:
    """The first cell (by fold and seed) below `runs` that trained this model; RequestError where there is none."""
    from benchmarks import models as registry
    from benchmarks.store import scan

    asked = (dataset, base, variant, registry.get(base).scale(scale), image_size)
    found = [
        stored.run.cell
        for stored in scan(runs)
        if stored.run.status == "ok" and stored.paths.weights.exists() and _asked(stored.run.cell) == asked
    ]
    if not found:
        name = base if variant == "default" else f"{base}:{variant}"
        raise RequestError(
            f"{runs} holds no trained {name} for {dataset} at scale {asked[3]} and {image_size} px; "
            "train it with benchmarks.run, or leave out --trained"
        )
    return min(found, key=lambda cell: (cell.fold, cell.seed))


def _asked(cell: Cell) -> tuple[str, str, str, str, int]:
    return cell.dataset, cell.model, cell.variant, cell.scale, cell.image_size


def _load(cell: Cell, dataset: str, root: Path, runs: Path) -> nn.Module:
    import torch

    from benchmarks.datasets.prepared import ensure
    from benchmarks.runner import load_trained

    return load_trained(cell, ensure(dataset, root), runs, torch.device("cpu"))


def _samples(dataset: str, root: Path, cell: Cell | None, count: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The first `count` images of a set, or of a cell's test images, with targets; an embedded set is made."""
    from benchmarks.datasets.loading import DetectionDataset
    from benchmarks.datasets.prepared import ensure
    from benchmarks.datasets.splits import load_split

    prepared = ensure(dataset, root)
    if cell is None:
        files: Sequence[str] = [image["file_name"] for image in prepared.images]
    else:
        files = load_split(cell.dataset, cell.split, cell.fold).test
    samples = DetectionDataset(prepared, files[:count])
    return [samples[i] for i in range(len(samples))]


def _tables(
    costs: Mapping[str, Any],
    latency: Mapping[str, Any],
    throughput: Mapping[str, Mapping[int, float | None]],
    energy: Mapping[str, float | None],
) -> Iterable[Table]:
    """Three tables that fit a terminal of 100 columns."""
    cost = _columns(
        "Cost of an image: parameters, activations in millions; memory in MiB; FLOPs are twice the MACs",
        *("param.", "trainable", "GMACs", "counted", "activ.", "proposals", "weights", "peak", "training"),
    )
    for name, one in costs.items():
        parameters, macs = one["parameters"], one["macs"]
        cost.add_row(
            name,
            f"{parameters['total'] / 1e6:.2f}",
            f"{parameters['trainable'] / 1e6:.2f}",
            f"{macs['macs'] / 1e9:.3f}",
            f"{macs['coverage']:.0%}",
            f"{macs['activations'] / 1e6:.2f}",
            _or_dash(macs["proposals"], "{:.0f}"),
            f"{parameters['state_bytes'] / 2**20:.1f}",
            _or_dash(one["peak_memory_bytes"], "{:.1f}", 2**20),
            _or_dash(one["training_memory_bytes"], "{:.0f}", 2**20),
        )
    yield cost
    reference = next(iter(latency.values()))["reference"]
    times = _columns(
        f"Latency at batch 1 in ms: medians; p90 and p99 of end to end; ratio to {reference} (95%)",
        *("pre", "network", "post", "end to end", "p90", "p99", "first", "ratio"),
    )
    for name, one in latency.items():
        low, high = one["ratio_interval"]
        times.add_row(
            name,
            *(f"{one['p50'][phase]:.2f}" for phase in PHASES),
            f"{one['p90']['end_to_end']:.2f}",
            f"{one['p99']['end_to_end']:.2f}",
            f"{one['first_call_ms']:.0f}",
            "1" if name == reference else f"{one['ratio']:.3f} \\[{low:.3f}, {high:.3f}]",
        )
    yield times
    sizes = sorted({size for by_size in throughput.values() for size in by_size})
    joules = ["J per image"] if any(value is not None for value in energy.values()) else []
    rate = _columns("Images per second, end to end", *(f"batch {size}" for size in sizes), *joules)
    for name, by_size in throughput.items():
        values = [f"{v:.1f}" if (v := by_size[size]) is not None else "out of memory" for size in sizes]
        rate.add_row(name, *values, *([_or_dash(energy[name], "{:.3f}")] if joules else []))
    yield rate


def _columns(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("model", overflow="fold", min_width=14)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _or_dash(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else form.format(value / unit)


def _print_uncounted(costs: Mapping[str, Any], most: int = 5) -> None:
    """The operators that `counted` leaves out, each list once."""
    console.print("Calls per image of operators without a formula (--out has all):", highlight=False)
    printed: list[Any] = []
    for name, one in costs.items():
        if (uncounted := one["macs"]["uncounted"]) in printed:
            continue
        printed.append(uncounted)
        calls = sorted(uncounted.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count} {operator.removeprefix('aten.').strip('_')}" for operator, count in calls[:most]]
        rest = sum(count for _, count in calls[most:])
        console.print(f"  {name}: {', '.join([*shown, f'{rest} others'])}", highlight=False)


if __name__ == "__main__":
    run_app(app)
