"""Context Block Decoder (CBD) of CANet: the global context block of GCNet (Cao et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ContextTransform(nn.Module):
    """Bottleneck perceptron of a context vector, (B, C) -> (B, C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.last = nn.Linear(hidden, channels)

    def forward(self, c: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(c))))


class ContextBlockDecoder(nn.Module):
    """z -> z * sigmoid(mul(c)) + add(c), with c one pooled vector of z per image.

    pooling: "attention" weighs pixels by the softmax of a learned linear mask; "average" equally.
    fusion: "add" (published), "mul", or both.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 1 / 16,
        pooling: str = "attention",
        fusion: Sequence[str] = ("add",),
    ) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        if hidden < 1:
            raise ValueError(f"ratio {ratio} leaves no hidden channel of {channels}")
        self.mask = nn.Linear(channels, 1) if pooling == "attention" else None
        self.add = ContextTransform(channels, hidden) if "add" in fusion else None
        self.mul = ContextTransform(channels, hidden) if "mul" in fusion else None
        self.reset_parameters()

    def reset_parameters(self, init: str = "plugin", zero_init: bool = True) -> None:
        """Initialise anew. "plugin": the block's own; "resnet": N(0, 2/fan_out) for every weight.

        zero_init: the last layer of each transform starts at zero, so that the block starts as the identity.
        """
        if self.mask is not None:
            if init == "resnet":
                nn.init.kaiming_normal_(self.mask.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(self.mask.bias)
        for transform in (self.add, self.mul):
            if transform is None:
                continue
            transform.first.reset_parameters()
            transform.norm.reset_parameters()
            transform.last.reset_parameters()
            if init == "resnet":
                for layer in (transform.first, transform.last):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(transform.last.bias)
            if zero_init:
                nn.init.zeros_(transform.last.weight)

    def pool(self, z: Tensor) -> Tensor:
        """The context vector, (B, C)."""
        if self.mask is None:
            return z.mean((2, 3))
        pixels = z.flatten(2)
        # The mask's bias cancels in the softmax; it stays in the graph so that every parameter has a gradient.
        attention = (self.mask.weight @ pixels + self.mask.bias).softmax(-1)
        return (pixels @ attention.transpose(1, 2)).squeeze(2)

    def forward(self, z: Tensor) -> Tensor:
        c = self.pool(z)
        if self.mul is not None:
            z = z * torch.sigmoid(self.mul(c))[:, :, None, None]
        if self.add is not None:
            z = z + self.add(c)[:, :, None, None]
        return z
