"""Necks: FPN (Lin et al. 2017) and CANet's LaplacianFPN, with MutualAttention of the mmdet variant.

Every neck maps {"c2".."c5"} to {"p2".."p6"}, all of `out_channels`; p6 is every second pixel of p5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet.config import CANetConfig


class Gate(nn.Module):
    """Channel gate of squeeze and excitation without reduction: sigmoid(B relu(A m)), (B, C) -> (B, C)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels, bias=bias)
        self.excite = nn.Linear(channels, channels, bias=bias)

    def forward(self, m: Tensor) -> Tensor:
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(m))))


class LaplacianFusion(nn.Module):
    """Fuses a level with the upsampled coarser one from the sum and difference of their convolutions.

    With L = conv_low(low), H = conv_high(up), the published alpha (1 + s) (L + H) + beta (1 + t) (L - H), s and
    t the gates of mean(L + H) and mean(L - H), equals (u + v) L + (u - v) H for u = alpha (1 + s) and
    v = beta (1 + t): two scaled maps, and the means are those of L and H.

    Shapes: low (B, C, H, W), high (B, C, ceil(H / 2), ceil(W / 2)) -> (B, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        *,
        gates: bool = True,
        gate_bias: bool = False,
        difference: bool = True,
        learned_mixing: bool = True,
    ) -> None:
        super().__init__()
        self.conv_low = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_high = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate_sum = Gate(channels, gate_bias) if gates else None
        self.gate_difference = Gate(channels, gate_bias) if gates and difference else None
        # Without the difference branch beta is 0 for good, and its gate has nothing to gate.
        mixing = {
            "alpha": (0.5, learned_mixing),
            "beta": (0.5, learned_mixing) if difference else (0.0, False),
        }
        self.alpha: Tensor
        self.beta: Tensor
        for name, (value, learned) in mixing.items():
            if learned:
                self.register_parameter(name, nn.Parameter(torch.tensor(value)))
            else:
                self.register_buffer(name, torch.tensor(value))

    def coefficients(self, mean_low: Tensor, mean_high: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of L and H from their means over the image, each (B, C, 1, 1)."""
        u, v = self.alpha.expand_as(mean_low), self.beta.expand_as(mean_low)
        if self.gate_sum is not None:
            u = u * (1 + self.gate_sum(mean_low + mean_high))
        if self.gate_difference is not None:
            v = v * (1 + self.gate_difference(mean_low - mean_high))
        return (u + v)[:, :, None, None], (u - v)[:, :, None, None]

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low = self.conv_low(low)
        high = self.conv_high(F.interpolate(high, size=low.shape[-2:], mode="nearest"))
        scale_low, scale_high = self.coefficients(low.mean((2, 3)), high.mean((2, 3)))
        return torch.addcmul(scale_low * low, scale_high, high)


class MutualAttention(nn.Module):
    """Context of one pyramid level: x + W4 (W3 g + b3) + b4 with g = W1 c + b1, c attention-pooled from x.

    Pooling x and then applying W1 equals pooling W1 x + b1, since the attention sums to one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Linear(channels, channels)
        self.mask = nn.Linear(channels, 1)
        self.reduce = nn.Linear(channels, channels // 2)
        self.expand = nn.Linear(channels // 2, channels)

    def context(self, x: Tensor) -> Tensor:
        """The vector that is added at every pixel, (B, C)."""
        pixels = x.flatten(2)
        attention = (self.mask.weight @ pixels + self.mask.bias).softmax(-1)
        pooled = (pixels @ attention.transpose(1, 2)).squeeze(2)
        return self.expand(self.reduce(self.value(pooled)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.context(x)[:, :, None, None]


class FPN(nn.Module):
    """Feature pyramid: 1x1 laterals, nearest upsampling and addition top-down, 3x3 output convs, p6 from p5."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, init: str = "kaiming") -> None:
        super().__init__()
        self.out_channels = out_channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.reset_parameters(init)

    def reset_parameters(self, init: str) -> None:
        """ "kaiming": laterals and outputs kaiming-uniform, fusion at its default; "xavier": every weight."""
        convs = [*self.lateral, *self.output]
        if init == "xavier":
            convs = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for conv in convs:
            if init == "xavier":
                nn.init.xavier_uniform_(conv.weight)
            else:
                nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def merge(self, index: int, low: Tensor, high: Tensor) -> Tensor:
        """Level `index` (0 is the finest) from its lateral and the coarser merged map."""
        return low + F.interpolate(high, size=low.shape[-2:], mode="nearest")

    def finish(self, index: int, x: Tensor) -> Tensor:
        """Merged map of level `index` to the output of that level."""
        return self.output[index](x)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral, features.values(), strict=True)]
        for index in range(len(merged) - 2, -1, -1):
            merged[index] = self.merge(index, merged[index], merged[index + 1])
        out = {f"p{index + 2}": self.finish(index, x) for index, x in enumerate(merged)}
        out[f"p{len(merged) + 2}"] = out[f"p{len(merged) + 1}"][:, :, ::2, ::2]
        return out


class LaplacianFPN(FPN):
    """FPN whose merge is LaplacianFusion; `mutual_attention` adds context to each merged level."""

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        init: str = "kaiming",
        gates: bool = True,
        gate_bias: bool = False,
        difference: bool = True,
        learned_mixing: bool = True,
        mutual_attention: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.out_channels = out_channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.fusion = nn.ModuleList(
            LaplacianFusion(
                out_channels,
                gates=gates,
                gate_bias=gate_bias,
                difference=difference,
                learned_mixing=learned_mixing,
            )
            for _ in in_channels[1:]
        )
        self.attention = nn.ModuleList(MutualAttention(out_channels) for _ in in_channels) if mutual_attention else None
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.reset_parameters(init)

    def merge(self, index: int, low: Tensor, high: Tensor) -> Tensor:
        return self.fusion[index](low, high)

    def finish(self, index: int, x: Tensor) -> Tensor:
        return self.output[index](x if self.attention is None else self.attention[index](x))


def build_neck(config: CANetConfig) -> FPN:
    """The neck that `config` asks for."""
    if config.neck == "fpn":
        return FPN(config.stage_channels, config.neck_channels, init=config.neck_init)
    return LaplacianFPN(
        config.stage_channels,
        config.neck_channels,
        init=config.neck_init,
        gates=config.gates,
        gate_bias=config.gate_bias,
        difference=config.difference,
        learned_mixing=config.learned_mixing,
        mutual_attention=config.mutual_attention,
    )
