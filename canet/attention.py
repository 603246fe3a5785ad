"""Spatial Attention Encoder (SAE) of CANet, in its exact O(HW) form.

The published block repeats one learned query at every position, so that every row of its L x L attention is
the same row, and resizing the constant result back changes nothing. It therefore adds one vector per image,
the same at every pixel; computing that vector directly is the same function (docs/exact-forms.md).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def subsample(x: Tensor, stride: int) -> Tensor:
    """Every `stride`-th row and column, dense and in the layout of `x`, as a slice would not be."""
    if stride == 1:
        return x
    if torch.compiler.is_compiling():  # pooling and slices would tie an exported program to the parity of a size
        rows = torch.arange(0, x.shape[2], stride, device=x.device)
        columns = torch.arange(0, x.shape[3], stride, device=x.device)
        return x.index_select(2, rows).index_select(3, columns)
    return F.avg_pool2d(x, kernel_size=1, stride=stride)


class SpatialAttentionEncoder(nn.Module):
    """x -> x + gamma * y, with y one multi-head attention-pooled vector of x per image.

    Keys and values come from every `kv_stride`-th pixel. There is no 1/sqrt(d) scaling, no norm and no
    position term, as published. Heads have floor(channels / reduction / heads) channels each.

    query: "shared" (published): a learned query per head; "input": queries W_Q x at every pixel, real spatial
        attention; "mean": the mean of W_Q x over the image as the one query, with as many parameters.
    pixel_shuffle: keys and values from a 1x1 conv of the space-to-depth map, output shuffled back: y is then
        periodic in kv_stride. Height and width must divide by kv_stride.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        kv_stride: int = 2,
        reduction: int = 1,
        query: str = "shared",
        pixel_shuffle: bool = False,
    ) -> None:
        super().__init__()
        self.head_channels = channels // reduction // heads
        if self.head_channels < 1:
            raise ValueError(f"{heads} heads need at least {heads * reduction} channels, got {channels}")
        if pixel_shuffle and query != "shared":
            raise ValueError("pixel_shuffle is defined for the shared query only")
        self.channels, self.heads, self.kv_stride = channels, heads, kv_stride
        self.query_mode, self.pixel_shuffle = query, pixel_shuffle
        hidden, cell = self.head_channels * heads, kv_stride**2 if pixel_shuffle else 1
        self.key = nn.Linear(channels, hidden, bias=False)
        self.value = nn.Linear(channels, hidden, bias=False)
        self.project = nn.Linear(hidden, cell * channels)
        self.query: nn.Parameter | nn.Linear
        if query == "shared":
            self.query = nn.Parameter(torch.empty(hidden))
        elif query in ("input", "mean"):
            self.query = nn.Linear(channels, hidden, bias=False)
        else:
            raise ValueError(f"query={query!r}: expected 'shared', 'input' or 'mean'")
        if pixel_shuffle:
            self.unshuffle = nn.Linear(cell * channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.reset_parameters()

    def reset_parameters(self, init: str = "plugin") -> None:
        """Initialise anew. "plugin": the block's own initialisation; "resnet": N(0, 2/fan_out) throughout."""
        for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
            linear.reset_parameters()
            if init == "resnet":
                nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
            else:
                bound = math.sqrt(3 / linear.in_features)
                nn.init.uniform_(linear.weight, -bound, bound)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
        if isinstance(self.query, nn.Parameter):
            bound = 1 / math.sqrt(2 * self.head_channels)
            nn.init.uniform_(self.query, -bound, bound)
        nn.init.zeros_(self.gamma)

    def sample(self, x: Tensor) -> Tensor:
        """The pixels that keys and values are made from, (B, C, L)."""
        if not self.pixel_shuffle:
            return subsample(x, self.kv_stride).flatten(2)
        if x.shape[2] % self.kv_stride or x.shape[3] % self.kv_stride:
            raise ValueError(f"pixel shuffle: {tuple(x.shape[2:])} does not divide by {self.kv_stride}")
        cells = F.pixel_unshuffle(x, self.kv_stride).flatten(2)
        return self.unshuffle.weight @ cells + self.unshuffle.bias[:, None]

    def context(self, x: Tensor) -> Tensor:
        """The vector y that is added at every pixel, (B, C), or (B, r * r * C) with pixel shuffle."""
        per_head = (self.heads, self.head_channels)
        key = self.key.weight.view(*per_head, self.channels)
        if isinstance(self.query, nn.Parameter):
            folded = (self.query.view(self.heads, 1, -1) @ key)[:, 0]
        else:
            folded = torch.einsum("mdc,bmd->bmc", key, self.query(x.mean((2, 3))).unflatten(1, per_head))
        pixels = self.sample(x)
        attention = (folded @ pixels).softmax(-1)
        pooled = attention @ pixels.transpose(1, 2)
        value = self.value.weight.view(*per_head, self.channels)
        return self.project(torch.einsum("mdc,bmc->bmd", value, pooled).flatten(1))

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """`inplace`: a published block may overwrite `x`, as an owner may allow where no gradient is recorded."""
        if self.query_mode == "input":
            return self._query_dependent(x)
        y = self.gamma * self.context(x)
        if not self.pixel_shuffle:
            return x.add_(y[:, :, None, None]) if inplace else x + y[:, :, None, None]
        r, (b, c, h, w) = self.kv_stride, x.shape
        tiles = x.view(b, c, h // r, r, w // r, r) + y.view(b, c, 1, r, 1, r)
        return tiles.view(b, c, h, w)

    def _query_dependent(self, x: Tensor) -> Tensor:
        pixels = self.sample(x).transpose(1, 2)

        def split(tokens: Tensor) -> Tensor:  # (B, L, heads * d) -> (B, heads, L, d)
            return tokens.unflatten(2, (self.heads, self.head_channels)).transpose(1, 2)

        assert isinstance(self.query, nn.Linear)
        queries = split(self.query(x.flatten(2).transpose(1, 2)))
        out = F.scaled_dot_product_attention(queries, split(self.key(pixels)), split(self.value(pixels)), scale=1.0)
        y = self.project(out.transpose(1, 2).flatten(2)).transpose(1, 2)
        return x + self.gamma * y.reshape(x.shape)
