"""Latency by phase and throughput: models in turns within one process, synchronised, nothing trimmed."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.cost.engines import settings
from benchmarks.cost.machine import watched_machine

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PHASES = ("preprocess", "network", "postprocess", "end_to_end")

# On CUDA, what the network took between two events on the stream: without it, the host only waits.
NETWORK_ON_GPU = "network_gpu"

# Two windows of warm-up rounds whose medians differ by less count as stable.
STABLE = 0.05


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A call that returns when everything queued on `device` is done."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _to_host(detections: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{key: value.cpu() for key, value in one.items()} for one in detections]


def run_whole(model: nn.Module, images: Sequence[Tensor], device: torch.device) -> None:
    _to_host(model([image.to(device) for image in images]))


def time_whole(
    model: nn.Module, images: Sequence[Tensor], device: torch.device, synchronize: Callable[[], None]
) -> float:
    """Milliseconds from images in host memory to detections in host memory."""
    synchronize()
    began = time.perf_counter()
    run_whole(model, images, device)
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
        first = {name: time_whole(model, images[:1], device, synchronize) for name, model in models.items()}
        warmed, stable = _warm_up(models, images, device, synchronize, warmup, order)
        samples: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in models}
        rounds = 0
        while rounds < runs or min(sum(s["end_to_end"]) for s in samples.values()) < min_seconds * 1e3:
            image = images[rounds % len(images)]
            for name in order.sample(list(models), len(models)):
                whole = time_whole(models[name], [image], device, synchronize)
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
            **summary(samples[name]),
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
            times[name].append(time_whole(models[name], [image], device, synchronize))
        rounds += 1
        if rounds >= 2 * window:
            stable = all(
                abs(np.median(t[-window:]) / np.median(t[-2 * window : -window]) - 1) < STABLE for t in times.values()
            )
    return rounds, stable


def summary(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
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
                        elapsed = time_whole(models[name], batch, device, synchronize) / 1e3
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
