"""One training loop for every model under the detector contract.

The loop is a function of the recipe and of the cell's random streams alone. It can be interrupted
after any epoch and goes on to the same numbers, to the last bit, on the same machine.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.cells import Cell, NativeRecipe, Recipe, canonical, digest_of
from benchmarks.datasets.loading import Batches, DetectionDataset
from benchmarks.devices import arithmetic_in_use, source_digest
from benchmarks.progress import CellProgress, Stopped
from benchmarks.store import EpochPoint, FirstSteps, write_atomic
from canet.contract import Detector
from canet.graphs import Graphs, graphed


class Diverged(Exception):
    """A loss, a gradient or a weight was not finite; the message says when, and which."""


def iterations_per_epoch(images: int, recipe: Recipe | NativeRecipe) -> int:
    """Full batches only, since a batch of one has no batch statistics; a set below one batch is one batch."""
    return max(images // recipe.batch_size, 1)


def lr_factor(recipe: Recipe, step: int, per_epoch: int) -> float:
    """What the peak learning rate is multiplied by at iteration `step` (from 0).

    one_cycle is Smith's (2018) in its cosine form: from 1/25 up over the first 30%, then down to
    1e-4 / 25. Others start with a linear warm-up of at most one epoch where the recipe has one.
    """
    total = recipe.epochs * per_epoch
    if recipe.schedule == "one_cycle":
        top = max(0.3 * total - 1, 1)
        if step <= top:
            return _cosine(1 / 25, 1.0, step / top)
        return _cosine(1.0, 4e-6, (step - top) / max(total - 1 - top, 1))
    factor = 1.0
    warmup = min(recipe.warmup_iters, per_epoch)
    if step < warmup:
        factor = recipe.warmup_factor + (1 - recipe.warmup_factor) * step / warmup
    if recipe.schedule == "cosine":
        factor *= _cosine(1.0, 0.0, step / total)
    elif recipe.schedule == "step":
        factor *= recipe.gamma ** sum(step // per_epoch >= m for m in recipe.milestones)
    return factor


def _cosine(a: float, b: float, t: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * min(t, 1.0))) / 2


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Trainable parameters, by whether they are decayed and whether they belong to the backbone.

    What has one dimension or none (norms, biases, and of CANet the gates and the shared query of SAE) is not decayed;
    CANet's authors decay all but what is called a norm or a bias. A pyramid or further layers that torchvision's
    RetinaNet, FCOS and SSD keep within their backbone are no part of it here, as they are none of CANet's and Faster
    R-CNN's: no weights come with them.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, p in model.named_parameters():
        if p.requires_grad:
            within = name.removeprefix("detector.")  # of another library's, below its adapter
            backbone = within.startswith("backbone.") and not within.startswith(("backbone.fpn.", "backbone.extra."))
            groups[p.ndim > 1, backbone].append(p)
    out = []
    for (decayed, backbone), parameters in sorted(groups.items(), key=lambda kv: kv[0]):
        lr = recipe.lr * (recipe.backbone_lr_factor if backbone else 1.0)
        decay = recipe.weight_decay if decayed else 0.0
        out.append({"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    return out


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW over `parameter_groups`."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.lr)


LEAST_BATCH = 8
"""Images that live batch norm should see at a time."""
SHOWN_STEPS = 20
"""First iterations whose losses are kept as numbers."""
DIGESTED_STEPS = (1, 10, 100)
"""Numbers of first iterations whose losses are kept as a digest."""


class Beginning:
    """What a training's first iterations tell, as it goes: their losses, whole also where it was interrupted meanwhile.

    Attributes:
        graphs: whether its steps replay CUDA graphs.
        other_source: it went on from a file that other source files wrote.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] | None = []
        """None: not known, since the training went on from a file that does not say."""
        self.graphs = Graphs()
        self.other_source = False

    def add(self, step: int, losses: dict[str, float]) -> None:
        """The losses of iteration `step`, counted from 0."""
        if self.steps is not None and step == len(self.steps) < DIGESTED_STEPS[-1]:
            self.steps.append(losses)

    def summary(self) -> FirstSteps | None:
        """For the record; None before the first iteration, or where it is not known."""
        if not self.steps:
            return None
        shown = self.steps[:SHOWN_STEPS]
        terms = dict.fromkeys(term for step in shown for term in step)
        return FirstSteps(
            losses={term: tuple(step.get(term) for step in shown) for term in terms},
            digests={n: digest_of(self.steps[:n]) for n in DIGESTED_STEPS if n <= len(self.steps)},
        )


def train(
    model: Detector,
    dataset: DetectionDataset,
    cell: Cell,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    tag: str = "",
    progress: CellProgress | None = None,
    loaders: int = 0,
    beginning: Beginning | None = None,
) -> tuple[EpochPoint, ...]:
    """Train `model` in place for the cell's recipe and return its training curve.

    Args:
        model: as built; where `checkpoint` cannot be gone on from, it is trained from the weights it has.
        dataset: training images, with the recipe's augmentation.
        checkpoint: file to resume from and to write after every epoch; None for neither.
        tag: what must agree for `checkpoint` to be gone on from (cell id and fingerprint).
        loaders: processes that read images; the numbers do not depend on it.
        beginning: is filled with what the first iterations tell, also where the training fails after them.

    Raises:
        Diverged: a loss term, a gradient or a weight was NaN or infinite.
        Stopped: `progress` asked for it after an epoch, whose state is in `checkpoint`.
        TypeError: the cell's recipe is the library's own, which this loop does not run.
    """
    recipe = cell.recipe
    if not isinstance(recipe, Recipe):
        raise TypeError(f"{type(recipe).__name__}: this recipe is run by the model's own library (fit_natively)")
    per_epoch = iterations_per_epoch(len(dataset), recipe)
    optimizer = build_optimizer(model, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    autocast = autocast_of(recipe, device)
    first, curve = 0, list[EpochPoint]()
    beginning = beginning or Beginning()
    if checkpoint is not None and checkpoint.exists():
        first, curve = _restore(checkpoint, tag, recipe.epochs, model, optimizer, scaler, beginning, progress)
        if progress is not None:
            progress.skip(first * per_epoch)
    say = progress.line if progress is not None else (lambda line: None)
    batch_size = min(recipe.batch_size, len(dataset))
    live = [m for m in model.train().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if live and batch_size < LEAST_BATCH:
        say(f"batch norm takes its statistics from {batch_size} images at a time: fewer than {LEAST_BATCH} are poor")
    all_batches = Batches(
        dataset,
        batch_size=batch_size,
        seed=cell.stream("order"),
        epochs=range(first, recipe.epochs),
        shuffle=True,
        drop_last=True,
        workers=loaders,
    )
    with all_batches as batches, graphed(model, say) as beginning.graphs:
        for epoch in range(first, recipe.epochs):
            seed_everything(cell.stream("sampling") + epoch)
            model.on_epoch(epoch, recipe.epochs)
            model.train()
            sums: dict[str, float] = defaultdict(float)
            began, seen, taken, scale = time.monotonic(), 0, 0, scaler.get_scale()
            factor = 1.0
            for i, (images, targets) in enumerate(batches.epoch(epoch)):
                step = epoch * per_epoch + i
                factor = lr_factor(recipe, step, per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * factor
                images = [x.to(device) for x in images]
                targets = [{k: v.to(device) if isinstance(v, Tensor) else v for k, v in t.items()} for t in targets]
                with autocast():
                    losses = model(images, targets)
                    loss = sum(losses.values())
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                # All terms in one transfer, and once the backward pass was asked for: a GPU does not wait in between.
                terms = torch.stack([v.detach().reshape(()) for v in losses.values()]).tolist()
                values = dict(zip(losses, terms, strict=True))
                when = f"in epoch {epoch + 1}, iteration {i + 1} of {per_epoch}"
                if not all(math.isfinite(v) for v in values.values()):
                    bad = ", ".join(f"{k}={v}" for k, v in values.items() if not math.isfinite(v))
                    raise Diverged(f"loss not finite {when} ({bad}); {_REMEDY}")
                beginning.add(step, values)
                if recipe.clip_norm is not None:
                    scaler.unscale_(optimizer)
                if recipe.clip_norm is not None or not scaler.is_enabled():
                    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
                    # A scaler looks itself, leaves out the step and scales less.
                    if not scaler.is_enabled() and not math.isfinite(float(norm)):
                        raise Diverged(f"gradient not finite {when} ({_not_finite_gradient(model)}); {_REMEDY}")
                    if recipe.clip_norm is not None:
                        nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip_norm, norm)
                scaler.step(optimizer)
                scaler.update()
                before, scale = scale, scaler.get_scale()
                taken += scale >= before
                if scale < 1:
                    raise Diverged(f"gradient not finite in float16 at any scale {when}; {_REMEDY}")
                for k, v in values.items():
                    sums[k] += v
                seen += len(images)
                if progress is not None:
                    progress.iteration(epoch, recipe.epochs, values, seen / (time.monotonic() - began))
            rate = seen / (time.monotonic() - began)
            require_finite(model, f"after epoch {epoch + 1}")
            if not taken and epoch + 1 == recipe.epochs:  # before, the scale may still be on its way down
                raise Diverged(f"no step of the last epoch was taken: gradients not finite in float16; {_REMEDY}")
            mean = {k: v / per_epoch for k, v in sums.items()}
            last_lr = recipe.lr * factor
            scalars = model.curve_scalars()
            curve.append(
                EpochPoint(epoch=epoch, lr=last_lr, losses=mean, images_per_second=round(rate, 2), scalars=scalars)
            )
            if progress is not None:
                progress.epoch(epoch, recipe.epochs, mean, rate)
            if checkpoint is not None and epoch + 1 < recipe.epochs:
                _save(checkpoint, tag, epoch + 1, curve, model, optimizer, scaler, beginning)
                if progress is not None and progress.should_stop():
                    raise Stopped
    return tuple(curve)


_REMEDY = "lower the recipe's lr or clip gradients (clip_norm)"


def _not_finite_gradient(model: nn.Module) -> str:
    """The first parameter whose gradient is to blame."""
    bad = (n for n, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all()))
    return next(bad, "too large to add up")


def require_finite(model: nn.Module, when: str) -> None:
    """Diverged when a parameter is NaN or infinite, or a buffer NaN: infinity there can be meant."""
    bad = (n for n, p in model.named_parameters() if not bool(p.isfinite().all()))
    bad_buffers = (n for n, b in model.named_buffers() if bool(b.isnan().any()))
    if (name := next(bad, None) or next(bad_buffers, None)) is not None:
        raise Diverged(f"weights not finite {when} ({name}); {_REMEDY}")


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def autocast_of(recipe: Recipe, device: torch.device) -> Callable[[], torch.autocast]:
    """The context that a training step's forward pass runs in."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    enabled = recipe.precision != "fp32"
    return lambda: torch.autocast(device.type, dtype=dtype if enabled else None, enabled=enabled)


def computed_with() -> dict[str, str]:
    """What a training's numbers depend on beside its cell: it goes on with the same, or begins anew."""
    return {
        "torch": torch.__version__,
        "arithmetic": arithmetic_in_use() or "native",
        "threads": str(torch.get_num_threads()),
    }


@functools.cache
def _source() -> str:
    """Of the source files when this process first asked."""
    return source_digest()


def _save(
    path: Path,
    tag: str,
    epoch: int,
    curve: list[EpochPoint],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    beginning: Beginning,
) -> None:
    """Model, optimiser, curve and first losses in one safetensors file, written atomically."""
    tensors = {f"model/{k}": v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for k, v in state.items():
            if v is not None:
                tensors[f"optimizer/{index}/{k}"] = torch.as_tensor(v).detach().cpu().contiguous().clone()
    header = {
        "tag": tag,
        "epoch": str(epoch),
        "curve": json.dumps([p.model_dump() for p in curve]),
        "beginning": json.dumps(beginning.steps),
        "made_by": json.dumps({**computed_with(), "source": None if beginning.other_source else _source()}),
        "scaler": json.dumps(scaler.state_dict()),
    }
    write_atomic(path, save(tensors, metadata={**header, "seal": _seal(header, tensors)}))


def _seal(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over a header and tensors, with their names, types and shapes."""
    digest = hashlib.sha256(canonical(header))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _restore(
    path: Path,
    tag: str,
    epochs: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    beginning: Beginning,
    progress: CellProgress | None,
) -> tuple[int, list[EpochPoint]]:
    """Load what `_save` wrote, after how many of `epochs`; what does not fit is left out whole, said aloud."""
    try:
        with safe_open(str(path), framework="pt") as f:
            header = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
        if header.get("tag") != tag:
            raise ValueError("it belongs to another version of this cell")
        made_by = json.loads(header.get("made_by", "{}"))  # a file of an earlier version has none
        other_source = made_by.pop("source", None) != _source()
        if odd := [f"{k} {made_by[k]}, not {v}" for k, v in computed_with().items() if made_by.get(k, v) != v]:
            raise ValueError(f"it was computed with {odd[0]}, which makes other numbers")
        if header.pop("seal", None) != _seal(header, tensors):
            raise ValueError("it is not as it was written")
        curve = [EpochPoint(**p) for p in json.loads(header["curve"])]
        epoch = int(header["epoch"])
        if not 0 < epoch < epochs or [p.epoch for p in curve] != list(range(epoch)):
            raise ValueError(f"it says epoch {epoch} of {epochs} and has {len(curve)} points of the curve")
        scale = json.loads(header["scaler"])
        steps = json.loads(header.get("beginning", "null"))  # a file of an earlier version has none
        weights = {k[len("model/") :]: v for k, v in tensors.items() if k.startswith("model/")}
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/", 2)
                state[int(index)][name] = value
        _require_fitting(weights, state, model, optimizer)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as e:
        if progress is not None:
            progress.line(f"not resuming from {path.name}: {' '.join(str(e).split())}; training starts anew")
        return 0, []
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": dict(state), "param_groups": optimizer.state_dict()["param_groups"]})
    scaler.load_state_dict(scale)
    beginning.steps, beginning.other_source = steps, other_source
    if progress is not None:
        progress.line(f"resuming after epoch {epoch}")
        if other_source:
            progress.line("it began with other source files than these: its record will say so, and is not published")
    return epoch, curve


def _require_fitting(
    weights: dict[str, Tensor],
    state: dict[int, dict[str, Tensor]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """ValueError unless saved tensors can be loaded whole: loading itself stops half-way, with half of them taken."""

    def kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[object, ...]]:
        return {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}

    saved, wanted = kinds(weights), kinds(model.state_dict())
    if saved != wanted:
        name = next(n for n in sorted({*saved, *wanted}) if saved.get(n) != wanted.get(n))
        raise ValueError(f"tensor {name} of the model does not fit")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = {frozenset(one) for one in state.values()}
    for index, one in state.items():
        shapes = {tuple(v.shape) for v in one.values() if v.ndim}
        if index >= len(parameters) or len(names) > 1 or shapes - {tuple(parameters[index].shape)}:
            raise ValueError(f"state {index} of the optimiser does not fit")
