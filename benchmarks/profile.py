"""What a model costs: parameters, multiply-accumulates, memory, latency, throughput.

    python -m benchmarks.profile --model canet --model fasterrcnn_fpn --scale nano --image-size 160

Models are timed in turns within one process, in random order within every round, on the same images, so that
drift of the machine hits all alike; speeds are compared as ratios paired within rounds. Nothing is trimmed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import psutil
import typer
from rich.table import Table

from benchmarks.cli import console, run_app
from benchmarks.errors import RequestError
from benchmarks.store import now, provenance, require_writable, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PHASES = ("preprocess", "network", "postprocess", "end_to_end")

# Cores that other processes kept busy, on average, above which a measurement is marked.
BUSY_CORES = 0.25

# Two windows of warm-up rounds whose medians differ by less count as stable.
STABLE = 0.05

RESAMPLES = 2000


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
    elements = counted_calls = rois = 0
    input_shape: list[int] = []

    def note_shape(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not input_shape:
            input_shape.extend(inputs[0].shape)

    hooks = [m.register_forward_pre_hook(note_shape) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    try:
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
) -> tuple[float, float, float]:
    """Milliseconds of the three phases; copies to and from the device belong to the outer two."""
    synchronize()
    began = time.perf_counter()
    batch = model.preprocess([image.to(device)])
    synchronize()
    prepared = time.perf_counter()
    raw = model.network(batch)
    synchronize()
    computed = time.perf_counter()
    _to_host(model.postprocess(raw, batch))
    synchronize()
    ended = time.perf_counter()
    return (prepared - began) * 1e3, (computed - prepared) * 1e3, (ended - computed) * 1e3


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
        seed: of the order within rounds and of the bootstrap.
        reference: the model that ratios are to; the first by default.
        min_seconds: go on until every model was timed for so long.

    Returns:
        name -> first_call_ms (before any warm-up); samples_ms, p50, p90, p99, iqr and outliers (samples above
        the third quartile + 3 IQR, flagged, never removed), each by phase; reference, ratio (median of the
        end-to-end times over the reference's in the same round) and ratio_interval (95%, bootstrap over
        rounds); session (rounds, warm-up, whether it became stable, state of the machine), the same for all.

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
    with torch.inference_mode(), watched_machine(device) as machine:
        first = {name: _time_whole(model, images[:1], device, synchronize) for name, model in models.items()}
        warmed, stable = _warm_up(models, images, device, synchronize, warmup, order)
        samples = {name: {phase: [] for phase in PHASES} for name in models}
        rounds = 0
        while rounds < runs or min(sum(s["end_to_end"]) for s in samples.values()) < min_seconds * 1e3:
            image = images[rounds % len(images)]
            for name in order.sample(list(models), len(models)):
                whole = _time_whole(models[name], [image], device, synchronize)
                phases = _time_phases(models[name], image, device, synchronize)
                for phase, value in zip(PHASES, (*phases, whole), strict=True):
                    samples[name][phase].append(value)
            rounds += 1
    session = {"rounds": rounds, "warmup_rounds": warmed, "stable": stable, "machine": machine}
    out: dict[str, dict[str, Any]] = {}
    for name in models:
        ratio, interval = paired_ratio(samples[name]["end_to_end"], samples[reference]["end_to_end"], seed=seed)
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


def paired_ratio(times: npt.ArrayLike, reference: npt.ArrayLike, *, seed: int) -> tuple[float, tuple[float, float]]:
    """Median of the ratios of two series paired by round, and its 95% percentile-bootstrap interval."""
    ratios = np.asarray(times, dtype=np.float64) / np.asarray(reference, dtype=np.float64)
    rng = np.random.default_rng(seed)
    medians = np.median(ratios[rng.integers(0, len(ratios), (RESAMPLES, len(ratios)))], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), (float(low), float(high))


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


def peak_memory(model: nn.Module, images: Sequence[Tensor], *, device: torch.device) -> int | None:
    """Bytes that inference on `images` as one batch allocates at most, weights included; None off CUDA."""
    import torch

    if device.type != "cuda":
        return None
    model.to(device).eval()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        _run_whole(model, images, device)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


@contextlib.contextmanager
def watched_machine(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a dictionary that is filled, at the end, with the state of the machine meanwhile.

    threads, cores; governor, cpu_mhz and temperature_c where the system tells; load_1min; other_cores: cores
    that other processes kept busy on average; busy: whether those were more than a quarter; gpu: clocks,
    power, temperature and throttle reasons as nvidia-smi gives them, before and after.
    """
    import torch

    state: dict[str, Any] = {}
    gpu_before = _gpu_state(device)
    process, cpu_before = psutil.Process(), psutil.cpu_times()
    own_before, began = process.cpu_times(), time.monotonic()
    try:
        yield state
    finally:
        elapsed = max(time.monotonic() - began, 1e-3)
        own = process.cpu_times()
        used = _busy_seconds(psutil.cpu_times()) - _busy_seconds(cpu_before)
        ours = own.user + own.system - own_before.user - own_before.system
        other = max(used - ours, 0.0) / elapsed
        frequency = _or_none(psutil.cpu_freq)
        state.update(
            threads=torch.get_num_threads(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            governor=_governor(),
            cpu_mhz=frequency.current if frequency else None,
            temperature_c=_temperature(),
            load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            other_cores=round(other, 3),
            busy=other > BUSY_CORES,
            gpu=None if gpu_before is None else {"before": gpu_before, "after": _gpu_state(device)},
        )


def _busy_seconds(times: Any) -> float:
    # Guest time is contained in user time already.
    return sum(times) - sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (AttributeError, NotImplementedError, OSError):
        return None


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return _or_none(lambda: path.read_text().strip())


def _temperature() -> float | None:
    sensors = _or_none(lambda: psutil.sensors_temperatures()) or {}
    return max((s.current for group in sensors.values() for s in group), default=None)


_GPU_FIELDS = (
    "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active,utilization.gpu"
)


def _gpu_state(device: torch.device) -> dict[str, str] | None:
    if device.type != "cuda":
        return None
    command = [
        "nvidia-smi",
        f"--query-gpu={_GPU_FIELDS}",
        "--format=csv,noheader",
        f"--id={device.index or 0}",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in answer.strip().split(",")]
    return dict(zip(_GPU_FIELDS.split(","), values, strict=True))


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def main(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model, or MODEL:VARIANT; repeat it. Default: all that can be built here."),
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the models.")] = "nano",
    image_size: Annotated[int, typer.Option(help="Longer side in pixels that images are resized to.")] = 160,
    dataset: Annotated[str, typer.Option(help="Set that the images come from.")] = "synthetic_small",
    images: Annotated[int, typer.Option(help="How many of its images.", min=1)] = 8,
    data_root: Annotated[Path | None, typer.Option(help="Where prepared sets are.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's own.", min=1)] = None,
    runs: Annotated[int, typer.Option(help="Timed rounds at least.", min=1)] = 200,
    min_seconds: Annotated[float, typer.Option(help="Seconds timed per model at least.", min=0.0)] = 10.0,
    warmup: Annotated[int, typer.Option(help="Warm-up rounds at least.", min=0)] = 50,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Measure throughput at this batch size too; repeat it.", min=1)
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Model that ratios are to. Default: the first.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for everything, raw samples included.")] = None,
) -> None:
    """Parameters, multiply-accumulates, latency and throughput of models with random weights.

    The number of proposals, and with it the time of two-stage models, depends on the weights: what is quoted
    comes from the profiles of trained models that benchmarks.run makes.
    """
    from benchmarks import models as registry
    from benchmarks.datasets.catalogue import data_root as default_root
    from benchmarks.datasets.catalogue import get as get_dataset

    names = _distinct(model or [name for name in registry.MODELS if registry.missing_extra(name) is None])
    for base, variant in names.values():
        registry.get(base).scale(scale)
        registry.check_variant(base, variant)
        if (missing := registry.missing_extra(base)) is not None:
            raise RequestError(missing)
    if reference is not None and reference not in names:
        raise RequestError(f"the reference {reference!r} is not among the models: {', '.join(names)}")
    classes = len(get_dataset(dataset).classes)
    if out is not None:
        require_writable(out.parent)

    import torch

    target = _device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    began = now()
    inputs = _images(dataset, default_root(data_root), images)
    built: dict[str, nn.Module] = {}
    for name, (base, variant) in names.items():
        torch.manual_seed(seed)
        built[name] = registry.build_model(
            base,
            num_classes=classes,
            image_size=image_size,
            scale=registry.get(base).scale(scale),
            variant=variant,
        ).eval()
    costs = {name: {"parameters": count_parameters(m), "macs": count_macs(m, inputs)} for name, m in built.items()}
    latency = measure_latency(
        built,
        inputs,
        device=target,
        runs=runs,
        warmup=warmup,
        seed=seed,
        reference=reference,
        min_seconds=min_seconds,
    )
    memory = {name: peak_memory(m, inputs[:1], device=target) for name, m in built.items()}
    throughput = measure_throughput(
        built, inputs, device=target, batch_sizes=batch_size or [], seconds=max(min_seconds / 5, 0.2), seed=seed
    )
    session = next(iter(latency.values()))["session"]
    console.print(_table(costs, latency, memory, throughput))
    console.print(f"Random weights, {len(inputs)} images of {dataset}, {device}, fp32, batch 1 for latency.")
    machine = session["machine"]
    console.print(
        f"{session['rounds']} rounds after {session['warmup_rounds']} of warm-up"
        f"{'' if session['stable'] else ' (did not become stable)'}; {machine['threads']} threads, "
        f"{machine['cores']} cores, governor {machine['governor'] or 'unknown'}"
    )
    if machine["busy"]:
        console.print(
            f"[bold yellow]busy machine:[/] others kept {machine['other_cores']:.2f} cores busy; "
            "ratios hold, absolute times do not"
        )
    if out is not None:
        content = {
            "kind": "profile",
            "weights": "random",
            "dataset": dataset,
            "image_size": image_size,
            "scale": scale,
            "precision": "fp32",
            "session": session,
            "provenance": provenance(
                started=began, threads=machine["threads"], device=device, device_name=_device_name(target)
            ).model_dump(),
            "models": {
                name: {
                    "label": registry.label(*names[name]),
                    **costs[name],
                    "latency": {k: v for k, v in latency[name].items() if k != "session"},
                    "peak_memory_bytes": memory[name],
                    "throughput": throughput[name],
                }
                for name in names
            },
        }
        write_atomic(out, (json.dumps(content, indent=1) + "\n").encode())
        console.print(f"wrote {out}")


def _distinct(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name to show -> model and variant. A model may be named twice, to see what the clock makes of that."""
    out: dict[str, tuple[str, str]] = {}
    for text in models:
        base, _, variant = text.partition(":")
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


def _images(dataset: str, root: Path, count: int) -> list[Tensor]:
    """The first `count` images of a set; an embedded one is made where it is missing."""
    from benchmarks.datasets.loading import DetectionDataset
    from benchmarks.datasets.prepared import ensure

    prepared = ensure(dataset, root)
    files = [image["file_name"] for image in prepared.images[:count]]
    samples = DetectionDataset(prepared, files)
    return [samples[i][0] for i in range(len(samples))]


def _table(
    costs: Mapping[str, Any],
    latency: Mapping[str, Any],
    memory: Mapping[str, int | None],
    throughput: Mapping[str, Mapping[int, float | None]],
) -> Table:
    sizes = sorted({size for by_size in throughput.values() for size in by_size})
    reference = next(iter(latency.values()))["reference"]
    table = Table(title="Cost and time", caption="milliseconds are medians; the interval is 95%")
    for column in (
        *("model", "param. M", "GMACs", "proposals", "pre", "network", "post", "end to end", "p90", "p99"),
        *(f"ratio to {reference}", "first call"),
        *(["peak MiB"] if any(m is not None for m in memory.values()) else []),
        *(f"img/s at {size}" for size in sizes),
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, time_ in latency.items():
        macs, p50 = costs[name]["macs"], time_["p50"]
        low, high = time_["ratio_interval"]
        peak = memory[name]
        table.add_row(
            name,
            f"{costs[name]['parameters']['total'] / 1e6:.2f}",
            f"{macs['macs'] / 1e9:.3f}",
            "-" if macs["proposals"] is None else f"{macs['proposals']:.0f}",
            *(f"{p50[phase]:.2f}" for phase in PHASES),
            f"{time_['p90']['end_to_end']:.2f}",
            f"{time_['p99']['end_to_end']:.2f}",
            f"{time_['ratio']:.3f} [{low:.3f}, {high:.3f}]",
            f"{time_['first_call_ms']:.1f}",
            *([] if peak is None else [f"{peak / 2**20:.0f}"]),
            *(_per_second(throughput[name].get(size)) for size in sizes),
        )
    return table


def _per_second(value: float | None) -> str:
    return "out of memory" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    run_app(app)
