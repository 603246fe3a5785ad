"""Latency by phase and throughput: models in turns within one process, synchronised, nothing trimmed."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.cost.engines import settings
from benchmarks.cost.failures import is_out_of_memory, reason, release
from benchmarks.cost.machine import watched_machine

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PHASES = ("preprocess", "network", "postprocess", "end_to_end")

# On CUDA, the time between two events on the stream around the network, waits for the host included.
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
    model: nn.Module, images: Sequence[Tensor], device: torch.device, synchronize: Callable[[], None]
) -> dict[str, float]:
    """Milliseconds of the three phases; copies to and from the device belong to the outer two."""
    import torch

    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
    synchronize()
    began = time.perf_counter()
    batch = model.preprocess([image.to(device) for image in images])  # type: ignore[operator]
    synchronize()
    prepared = time.perf_counter()
    for event in events[:1]:
        event.record()
    raw = model.network(batch)  # type: ignore[operator]
    for event in events[1:]:
        event.record()
    synchronize()
    computed = time.perf_counter()
    _to_host(model.postprocess(raw, batch))  # type: ignore[operator]
    synchronize()
    ended = time.perf_counter()
    edges = (began, prepared, computed, ended)
    times = {phase: (b - a) * 1e3 for phase, a, b in zip(PHASES, edges, edges[1:], strict=False)}
    if events:
        times[NETWORK_ON_GPU] = events[0].elapsed_time(events[1])
    return times


Results = dict[str, dict[str, Any]]


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
    batch_size: int = 1,
    deadline: float = math.inf,
    failed: dict[str, str] | None = None,
    between: Callable[[int, Callable[[], Results]], None] = lambda rounds, so_far: None,
) -> Results:
    """Latency of every model, measured in turns.

    In each round every model runs once whole and once phase by phase, in random order, on the same images. The
    device is synchronised at both edges of whatever is timed. `end_to_end` is a run of its own, so that work
    which a model does outside its three phases shows as the difference to their sum.

    Args:
        models: name -> model; they are moved to `device` and set to evaluation.
        images: float32 (3, H, W) in host memory, used in turn.
        runs: rounds at least.
        warmup: rounds before, at least; up to five times as many until the medians of two successive windows
            differ by less than 5% for every model.
        seed: of the order within rounds.
        reference: the model that ratios are to; the first by default, and where it fails.
        min_seconds: go on until every model was timed for so long.
        batch_size: images that go in together.
        deadline: time.monotonic() after which no round begins, but for the first; warm-up takes a third of the time.
        failed: takes name -> reason of the models that raised an error and were left out from there on, without their
            samples. None: errors are raised.
        between: called after each timed round with the number of rounds and what gives the results so far.

    Returns:
        name -> first_call_ms (before any warm-up); samples_ms, p50, p90, p99, iqr and outliers (samples above
        the third quartile + 3 IQR, flagged, never removed), each by phase; reference, ratio (median of the
        end-to-end times over the reference's in the same round) and ratio_interval (95%); session (rounds,
        batch size, warm-up, whether it became stable, whether the deadline cut it short, state of the machine,
        settings), the same for all.

    Raises:
        ValueError: no models, no images, or a reference that is not among the models.
    """
    import torch

    if not models or not images:
        raise ValueError("latency needs at least one model and one image")
    if reference is not None and reference not in models:
        raise ValueError(f"reference {reference!r} is not among the models")
    order = random.Random(seed)
    synchronize = synchronizer(device)
    running = dict(models)
    for model in models.values():
        model.to(device).eval()

    def inputs(round_: int) -> list[Tensor]:
        return [images[(round_ * batch_size + i) % len(images)] for i in range(batch_size)]

    def each(once: Callable[[str], None]) -> None:
        """Once for every running model, in random order; what fails leaves."""
        for name in order.sample(list(running), len(running)):
            try:
                once(name)
            except Exception as e:
                if failed is None:
                    raise
                failed[name] = reason(e)
                del running[name]
                release()

    first: dict[str, float] = {}
    samples: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in models}
    session: dict[str, Any] = {"rounds": 0, "batch_size": batch_size}

    def one_round(name: str) -> None:
        batch = inputs(session["rounds"])
        whole = time_whole(running[name], batch, device, synchronize)
        phases = _time_phases(running[name], batch, device, synchronize)
        for phase, value in {**phases, PHASES[-1]: whole}.items():
            samples[name].setdefault(phase, []).append(value)

    def results() -> Results:
        left = {name: samples[name] for name in running}
        base = reference if reference in left else next(iter(left), "")
        out: Results = {}
        for name, of_name in left.items():
            ratio, interval = paired_ratio(of_name[PHASES[-1]], left[base][PHASES[-1]])
            out[name] = {
                "first_call_ms": first[name],
                "samples_ms": of_name,
                **summary(of_name),
                "reference": base,
                "ratio": ratio,
                "ratio_interval": interval,
                "session": session,
            }
        return out

    gc.collect()
    _wake(device)
    with torch.inference_mode(), watched_machine(device) as machine:
        each(lambda name: first.update({name: time_whole(running[name], inputs(0), device, synchronize)}))
        began = time.monotonic()
        warm_until = began + (deadline - began) / 3
        session["warmup_rounds"], session["stable"] = _warm_up(
            running,
            each,
            lambda name, round_: time_whole(running[name], inputs(round_), device, synchronize),
            warmup,
            warm_until,
        )
        session.update(cut=False, machine={}, settings=settings())
        while running and (
            session["rounds"] < runs or min(sum(samples[n][PHASES[-1]]) for n in running) < min_seconds * 1e3
        ):
            if session["rounds"] and time.monotonic() >= deadline:
                session["cut"] = True
                break
            each(one_round)
            session["rounds"] += 1
            if running:
                between(session["rounds"], results)
    session["machine"] = machine
    return results()


def _wake(device: torch.device) -> None:
    """Make the libraries of a GPU initialise themselves, so that no model's first call pays for it."""
    import torch

    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # events are of the current device; "cuda" is that one
        x = torch.ones(1, 8, 8, 8, device=device)
        torch.nn.functional.conv2d(x, x[:, :, :3, :3]).flatten() @ x.flatten()[:36]
        torch.cuda.synchronize(device)


def _warm_up(
    running: Mapping[str, nn.Module],
    each: Callable[[Callable[[str], None]], None],
    timed: Callable[[str, int], float],
    warmup: int,
    until: float,
) -> tuple[int, bool]:
    """Rounds run, and whether all models became stable; with `warmup` 0 nothing is run."""
    window = max(warmup // 2, 2)
    times: dict[str, list[float]] = {name: [] for name in running}
    rounds, stable = 0, False

    def steady(t: list[float]) -> bool:
        return bool(abs(np.median(t[-window:]) / np.median(t[-2 * window : -window]) - 1) < STABLE)

    while running and time.monotonic() < until and (rounds < warmup or (not stable and rounds < 5 * warmup)):
        each(lambda name, round_=rounds: times[name].append(timed(name, round_)))  # type: ignore[misc]
        rounds += 1
        if rounds >= 2 * window:
            stable = all(steady(times[name]) for name in running)
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
    batch_size: int,
    seconds: float,
    seed: int,
    failed: dict[str, str] | None = None,
) -> dict[str, float | None]:
    """Images per second, end to end, models in turns; None where the memory did not suffice.

    Args:
        seconds: time that every model gets, after two calls that are not timed.
        failed: takes name -> reason of those that are None. None: errors but for missing memory are raised.
    """
    import torch

    synchronize = synchronizer(device)
    order = random.Random(seed)
    out: dict[str, float | None] = dict.fromkeys(models)
    for model in models.values():
        model.to(device).eval()
    batch = [images[i % len(images)] for i in range(batch_size)]
    spent = dict.fromkeys(models, 0.0)
    calls = dict.fromkeys(models, 0)
    running = set(models)
    with torch.inference_mode():
        while running:
            for name in order.sample(sorted(running), len(running)):
                try:
                    elapsed = time_whole(models[name], batch, device, synchronize) / 1e3
                except Exception as e:
                    if failed is None and not is_out_of_memory(e):
                        raise
                    if failed is not None:
                        failed[name] = reason(e)
                    release()
                    running.discard(name)
                    continue
                calls[name] += 1
                if calls[name] > 2:
                    spent[name] += elapsed
                if calls[name] > 2 and spent[name] >= seconds:
                    out[name] = batch_size * (calls[name] - 2) / spent[name]
                    running.discard(name)
    return out
