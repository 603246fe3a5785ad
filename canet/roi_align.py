"""RoIAlign over pyramid levels, with a backward pass made of matrix products where that is faster.

RoIAlign averages bilinear samples on a regular grid, so it is separable: out = Y F X^T for one map F, with Y and X
the (resolution x H) and (resolution x W) weights of a box's rows and columns. torchvision's CPU backward adds
sample by sample on one thread; on small maps two matrix products give the same gradient many times faster. Its CUDA
backward adds in no fixed order; where deterministic algorithms are asked for, the products take its place too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

# Above this many pixels the products cost more than they save (measured on CPU).
LARGEST_MAP = 8192


def multilevel_roi_align(
    maps: list[Tensor], rois: Tensor, level: Tensor, *, resolution: int, sampling: int, aligned: bool
) -> Tensor:
    """RoIAlign of each box on its level.

    Shapes: maps (B, C, H, W) at strides 4, 8, ..; rois (K, 5) of image index and x1, y1, x2, y2 in image pixels;
    level (K,) of indices into maps -> (K, C, resolution, resolution). Boxes get no gradient.
    """
    if maps[0].dtype in (torch.bfloat16, torch.float16):  # boxes need more digits, and CPU kernels are lacking
        maps = [x.float() for x in maps]
    on_cpu = maps[0].device.type == "cpu"
    pays = on_cpu and all(x.shape[2] * x.shape[3] <= LARGEST_MAP for x in maps)
    ordered = not on_cpu and torch.are_deterministic_algorithms_enabled()
    products = torch.is_grad_enabled() and sampling > 0 and (pays or ordered)
    if products:
        return _ProductBackward.apply(rois, level, resolution, sampling, aligned, *maps)
    return _align(maps, rois, level, resolution, sampling, aligned)


def _align(maps: list[Tensor], rois: Tensor, level: Tensor, resolution: int, sampling: int, aligned: bool) -> Tensor:
    if torch.jit.is_tracing():  # every level, whether or not it has boxes now; how many it has stays free
        of_level = [torch.where(level == index)[0] for index in range(len(maps))]
        pooled = [
            roi_align(x, rois[own], resolution, 0.25 / 2**index, sampling, aligned)
            for index, (x, own) in enumerate(zip(maps, of_level, strict=True))
        ]
        return torch.cat(pooled)[torch.argsort(torch.cat(of_level))]
    out = maps[0].new_empty((len(rois), maps[0].shape[1], resolution, resolution))
    for index, x in enumerate(maps):
        chosen = torch.where(level == index)[0]
        if len(chosen):
            boxes, scale = rois[chosen].to(x.dtype), 0.25 / 2**index
            # Not torchvision's function: it compiles a slow form of its own where deterministic algorithms are asked
            # for, and the forward pass is deterministic as it is.
            pooled = torch.ops.torchvision.roi_align(x, boxes, scale, resolution, resolution, sampling, aligned)
            out[chosen] = pooled.to(out.dtype)
    return out


class _ProductBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rois: Tensor, level: Tensor, resolution: int, sampling: int, aligned: bool, *maps: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rois, level)
        ctx.settings = (resolution, sampling, aligned)
        ctx.shapes = [x.shape for x in maps]
        return _align(list(maps), rois, level, resolution, sampling, aligned)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        rois, level = ctx.saved_tensors
        resolution, sampling, aligned = ctx.settings
        out: list[Tensor | None] = [None] * 5
        for index, (batch, channels, height, width) in enumerate(ctx.shapes):
            result = grad.new_zeros((batch, channels, height, width))
            for image in range(batch):
                chosen = torch.where((level == index) & (rois[:, 0] == image))[0]
                if not len(chosen):
                    continue
                boxes = rois[chosen, 1:].to(grad.dtype) * (0.25 / 2**index)
                y = axis_weights(boxes[:, 1], boxes[:, 3], height, resolution, sampling, aligned)
                x = axis_weights(boxes[:, 0], boxes[:, 2], width, resolution, sampling, aligned)
                # sum over boxes k and bins i, j of y[k, i, h] grad[k, c, i, j] x[k, j, w]
                columns = grad[chosen].flatten(1, 2) @ x  # (k, c * i, w)
                columns = columns.view(len(chosen), channels, resolution, width).permute(0, 2, 1, 3)
                result[image] = (
                    (y.flatten(0, 1).T @ columns.reshape(len(chosen) * resolution, channels * width))
                    .view(height, channels, width)
                    .transpose(0, 1)
                )
            out.append(result)
        return tuple(out)


def axis_weights(start: Tensor, end: Tensor, size: int, resolution: int, sampling: int, aligned: bool) -> Tensor:
    """Weight of each of `size` pixels in each bin of a box's extent along one axis, (K, resolution, size).

    start, end: extents (K,) in pixels of the map. As in RoIAlign, samples up to one pixel outside count as at the
    edge, those beyond as zero; without `aligned` an extent is at least one pixel.
    """
    if aligned:
        start, end = start - 0.5, end - 0.5
    extent = end - start if aligned else (end - start).clamp(min=1.0)
    samples = resolution * sampling
    step = (torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5) / samples
    position = start[:, None] + extent[:, None] * step
    inside = (position >= -1.0) & (position <= size)
    position = position.clamp(0.0, size - 1.0)
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    weight = (1 - (position[:, :, None] - pixel).abs()).clamp(min=0.0) * inside[:, :, None]
    return weight.unflatten(1, (resolution, sampling)).mean(2)
