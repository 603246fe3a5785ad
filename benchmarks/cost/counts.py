"""Parameters, multiply-accumulates and the shapes of feature maps."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


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

    from benchmarks.cost.operators import counting

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
                batch = model.preprocess([image.to(device)])  # type: ignore[operator]
                with counting() as counter:
                    model.postprocess(model.network(batch), batch)  # type: ignore[operator]
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


def parameters_in_evaluation(model: nn.Module, images: Sequence[Tensor]) -> int:
    """Elements of the parameters that inference on `images` touches, in the form in which the model's library ships it.

    Heads and embeddings that only training uses are left out, and so is what a library folds into other parameters
    before inference (`fused`, of the models that have it). It is a matter of the architecture, not of the weights: a
    freshly built model gives the number of a trained one. A copy runs, and no random stream moves.

    Args:
        images: float32 (3, H, W) in [0, 1], on the model's device.
    """
    import torch

    from benchmarks.cost.operators import watching

    fused = getattr(model, "fused", None)
    model = (fused() if callable(fused) else copy.deepcopy(model)).eval()
    with torch.random.fork_rng(), torch.inference_mode(), watching(model) as touched:
        model(list(images))
    return sum(p.numel() for p in model.parameters() if touched(p))


# What fvcore calls the operators that `count_macs` counts in `macs`.
FVCORE_PRODUCTS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum", "scaled_dot_product_attention")


def count_with_fvcore(model: nn.Module, image: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """Multiply-accumulates of one image, from `preprocess` to `network`, as fvcore counts them in a trace.

    Returns:
        Operator -> multiply-accumulates (fvcore calls them flops; norms and interpolation are among them), and
        operator -> calls of those that it does not count.

    Raises:
        RequestError: fvcore is not installed.
    """
    import logging

    import torch
    from torch import nn
    from torch.utils._pytree import tree_leaves

    from benchmarks.errors import RequestError

    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        raise RequestError("--counter fvcore needs: python -m pip install -c constraints.txt fvcore") from None

    class Whole(nn.Module):
        """From an image to what the network makes of it, summed: a trace must return what depends on its input."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor) -> Tensor:
            raw = model.network(model.preprocess([image]))  # type: ignore[operator]
            return sum((x.sum() for x in tree_leaves(raw) if isinstance(x, torch.Tensor)), image.new_zeros(()))

    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            analysis = FlopCountAnalysis(Whole().eval(), image)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            counted = {name: int(n) for name, n in analysis.by_operator().items()}
            return counted, dict(analysis.unsupported_ops())
    finally:
        logger.setLevel(level)


def output_shapes(model: nn.Module, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Shapes of the maps that the model's top-level modules return for one image.

    Boxes and what is pooled for them are left out: how many there are depends on the weights.
    """
    import torch

    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if value.ndim >= 3:
                shapes[name] = tuple(value.shape)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                note(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                note(f"{name}.{i}", item)

    hooks = [
        child.register_forward_hook(lambda _m, _i, out, name=name: note(name, out))
        for name, child in model.named_children()
    ]
    try:
        with torch.inference_mode():
            model.network(model.preprocess([image]))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return dict(sorted(shapes.items()))
