"""Multiply-accumulates of a model by watching the operators that it really runs.

Tracing (fvcore) takes other branches than running does (torchvision's NMS and padding among them), and misses
what happens outside the graph. A dispatch mode sees each operator with its real arguments, so that
data-dependent parts (proposals, detections) are counted at their real size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Formula = Callable[..., int]


def _convolution(out: Tensor, x: Tensor, w: Tensor, b: Any, stride: Any, pad: Any, dil: Any, transposed: bool,
                 *_: Any) -> int:  # fmt: skip
    # Weights are (out, in / groups, *kernel), transposed (in, out / groups, *kernel).
    return (x.numel() if transposed else out.numel()) * math.prod(w.shape[1:])


def _mm(out: Tensor, a: Tensor, *_: Any) -> int:
    return out.numel() * a.shape[-1]


def _addmm(out: Tensor, c: Tensor, a: Tensor, *_: Any) -> int:
    return out.numel() * a.shape[-1]


def _addmv(out: Tensor, c: Tensor, a: Tensor, *_: Any, **__: Any) -> int:
    return a.numel()


def _dot(out: Tensor, a: Tensor, *_: Any) -> int:
    return a.numel()


def _fused_convolution(out: Tensor, x: Tensor, w: Tensor, *_: Any) -> int:
    return out.numel() * math.prod(w.shape[1:])


def _fused_convolution_add(out: Tensor, x: Tensor, added: Tensor, w: Tensor, *_: Any) -> int:
    return out.numel() * math.prod(w.shape[1:])


def _attention(out: Any, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    # Scores q k^T, then their product with v.
    return math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _deform_conv2d(out: Tensor, x: Tensor, w: Tensor, *_: Any) -> int:
    return out.numel() * math.prod(w.shape[1:])


def _deform_sampling(out: Tensor, x: Tensor, w: Tensor, *_: Any) -> int:
    # Every kernel tap of every input channel at every output position is a bilinear sample.
    return out.shape[0] * math.prod(out.shape[2:]) * x.shape[1] * math.prod(w.shape[2:]) * 4


def _roi_align(out: Tensor, x: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling: int,
               *_: Any) -> int:  # fmt: skip
    if sampling > 0:
        samples = out.shape[0] * sampling**2
    else:  # adaptive: as many samples as the box has pixels per bin
        size = (rois[:, 3:] - rois[:, 1:3]).double().cpu() * scale
        bins = torch.tensor([width, height], dtype=torch.float64)
        samples = int((size / bins).ceil().clamp(min=1).prod(dim=1).sum())
    return samples * x.shape[1] * height * width * 4


def _bilinear(out: Tensor, *_: Any, **__: Any) -> int:
    return out.numel() * 4


def _bicubic(out: Tensor, *_: Any, **__: Any) -> int:
    return out.numel() * 16


def _grid_sampler(out: Tensor, x: Tensor, grid: Tensor, mode: int, *_: Any) -> int:
    return out.numel() * {0: 4, 1: 0, 2: 16}[mode]  # bilinear, nearest, bicubic


def _nms(out: Tensor, boxes: Tensor, *_: Any) -> int:
    # Greedy suppression compares at most every pair: one product for the overlap, one for the threshold.
    return len(boxes) * (len(boxes) - 1)


# Products with weights and between features: what torch's own counter, and published figures, mean.
PRODUCTS: dict[str, Formula] = {
    "aten.convolution": _convolution,
    "aten.mm": _mm,
    "aten.addmm": _addmm,
    "aten.bmm": _mm,
    "aten.baddbmm": _addmm,
    "aten.mv": _mm,
    "aten.dot": _dot,
    "aten.addmv": _addmv,
    # oneDNN's, with ReLU and addition in the same pass (canet.deploy).
    "mkldnn._convolution_pointwise": _fused_convolution,
    "mkldnn._convolution_pointwise.binary": _fused_convolution_add,
    "aten._scaled_dot_product_flash_attention": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    "aten._scaled_dot_product_cudnn_attention": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "torchvision.deform_conv2d": _deform_conv2d,
}

# Sampling, interpolation and suppression: estimated, and kept apart.
SAMPLING: dict[str, Formula] = {
    "torchvision.deform_conv2d": _deform_sampling,
    "torchvision.roi_align": _roi_align,
    "torchvision.nms": _nms,
    "aten.upsample_bilinear2d": _bilinear,
    "aten._upsample_bilinear2d_aa": _bilinear,
    "aten.upsample_bicubic2d": _bicubic,
    "aten._upsample_bicubic2d_aa": _bicubic,
    "aten.grid_sampler_2d": _grid_sampler,
}

# Views, copies, allocation and indexing: no arithmetic to count.
_MOVES = """
_local_scalar_dense _reshape_alias _reshape_copy _to_copy _unsafe_view alias arange as_strided broadcast_tensors cat
channel_shuffle clone constant_pad_nd contiguous copy_ detach detach_ diagonal empty empty_like empty_strided equal
expand eye fill_ flip full full_like gather index index_put index_put_ index_select is_pinned is_same_size item
lift_fresh linspace masked_fill masked_fill_ masked_select movedim new_empty new_empty_strided new_full new_ones
new_zeros nonzero ones ones_like permute pixel_shuffle repeat resize_ roll scalar_tensor scatter scatter_ select
select_scatter slice slice_scatter split split_with_sizes squeeze stack t tile transpose tril triu unbind unfold
unsqueeze upsample_nearest2d view where zero_ zeros zeros_like
"""
MOVES = frozenset(f"aten.{name}" for name in _MOVES.split())


class OperatorCounter(TorchDispatchMode):
    """Counts while it is entered. Use `counting`, which also sees through fused attention.

    Attributes:
        macs: operator -> multiply-accumulates, for `PRODUCTS`.
        sampling: the same for `SAMPLING`.
        activations: output elements of the operators in `PRODUCTS`, as fvcore counts them.
        calls: calls of counted operators.
        uncounted: calls of operators that compute something and have no formula.
        uncounted_elements: output elements of those, a lower bound of their operations.
        rois: boxes that were pooled by RoIAlign.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()
        self.sampling: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.activations = 0
        self.uncounted: Counter[str] = Counter()
        self.uncounted_elements: Counter[str] = Counter()
        self.rois = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func._overloadpacket)
        if str(func) in PRODUCTS:
            name = str(func)  # an overload whose arguments stand in another order
        if name not in PRODUCTS and name not in SAMPLING and name not in MOVES:
            # Composite operators reach this mode whole under inference_mode.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if name in PRODUCTS or name in SAMPLING:
            self.calls[name] += 1
            if (formula := PRODUCTS.get(name)) is not None:
                self.macs[name] += formula(out, *args, **kwargs)
                self.activations += (out if isinstance(out, Tensor) else out[0]).numel()
            if (formula := SAMPLING.get(name)) is not None:
                self.sampling[name] += formula(out, *args, **kwargs)
            if name == "torchvision.roi_align":
                self.rois += len(args[1])
        elif name not in MOVES:
            self.uncounted[name] += 1
            self.uncounted_elements[name] += sum(o.numel() for o in tree_leaves(out) if isinstance(o, Tensor))
        return out


@contextmanager
def counting() -> Iterator[OperatorCounter]:
    """An entered `OperatorCounter`, with the fused inference path of multi-head attention switched off.

    The fused path does the same arithmetic in one operator, whose parts could not be told apart.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with OperatorCounter() as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Watch(TorchDispatchMode):
    """Notes the memory of every tensor that an operator is given, views by the tensor that they look into."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.seen.add(value.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))


@contextmanager
def watching(model: torch.nn.Module) -> Iterator[Callable[[Tensor], bool]]:
    """Yield what says, of a parameter of `model`, whether an operator has been given it meanwhile.

    Compiled extensions (of mmcv) are not seen by torch's dispatcher: of their modules, all parameters count once the
    module has run.
    """
    outside: set[int] = set()

    def ran(module: torch.nn.Module, inputs: Any, out: Any) -> None:
        outside.update(id(p) for p in module.parameters(recurse=False))

    hooks = [m.register_forward_hook(ran) for m in model.modules() if type(m).__module__.startswith("mmcv.ops")]
    watch = _Watch()
    try:
        with watch:
            yield lambda p: id(p) in outside or p.untyped_storage().data_ptr() in watch.seen
    finally:
        for hook in hooks:
            hook.remove()
