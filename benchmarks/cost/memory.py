"""Peak memory of inference and of a training step, as torch's allocator hands it out."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from benchmarks.cost.clock import run_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def peak_memory(model: nn.Module, images: Sequence[Tensor], *, device: torch.device) -> int:
    """Bytes that inference on `images` as one batch needs at most: weights, input and all that torch allocates."""
    import torch

    model.to(device).eval()

    def run() -> None:
        with torch.inference_mode():
            run_whole(model, images, device)

    run()  # what is made once is no part of it
    return _held(model) + _peak(run, device)


def training_memory(
    model: nn.Module,
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Any]],
    *,
    device: torch.device,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    forward_in: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> int:
    """Peak memory of a training step of a copy: forward, backward, gradients and the state of `optimizer`.

    forward_in: the context of the forward pass, as autocast.
    """
    import torch

    model = copy.deepcopy(model).to(device).train()
    stepper = optimizer(model)

    def step() -> None:
        inputs = [image.to(device) for image in images]
        goals = [{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
        with forward_in():
            loss = sum(model(inputs, goals).values())
        loss.backward()
        stepper.step()
        stepper.zero_grad(set_to_none=True)

    def steps() -> None:  # the second one starts with the optimiser's state
        step()
        step()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return _held(model) + _peak(steps, device)


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
    return max(accumulate(_changes(watched.kineto_results), initial=0))


def _changes(recorded: Any) -> Iterator[int]:
    """Bytes handed out and, as negative numbers, given back, in order; of blocks of this recording alone.

    By address: torch remembers the blocks of earlier recordings that were freed after them, so the release of another
    block that got such an address in between is reported with the bytes of the old one.
    """
    import torch

    nodes, found = list(recorded.experimental_event_tree()), []
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children)
        if node.tag == torch._C._profiler._EventType.Allocation:
            found.append((node.start_time_ns, node.extra_fields.ptr, node.extra_fields.alloc_size))
    held: dict[int, int] = {}
    for _, address, size in sorted(found, key=lambda it: it[0]):
        if size > 0:
            held[address] = size
            yield size
        else:
            yield -held.pop(address, 0)


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
