"""Necks: FPN (Lin et al. 2017) and CANet's LaplacianFPN, with MutualAttention of the mmdet variant.

Every neck maps {"c2".."c5"} to {"p2".."p6"}, all of `out_channels`; p6 is every second pixel of p5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet.attention import subsample
from canet.config import CANetConfig


def upsampled_conv(conv: nn.Conv2d, x: Tensor, size: torch.Size) -> Tensor:
    """`conv` (3x3, padding 1) of `x` upsampled to `size` by nearest neighbours, which is a step of exactly 2.

    An output pixel sees at most two rows and columns of `x`, so that sums of the 3x3 weights make one 2x2
    convolution to four phases: 4/9 of the multiplications. `size` is twice that of `x`, or one less, where the
    last row or column ends at the border and is computed anew. Any other size takes the direct way.

    Shapes: (B, C, h, w) -> (B, D, H, W) with H in {2h, 2h - 1} and W in {2w, 2w - 1}.
    """
    height, width = x.shape[-2:]
    if size[0] not in (2 * height, 2 * height - 1) or size[1] not in (2 * width, 2 * width - 1):
        return conv(F.interpolate(x, size=size, mode="nearest"))
    out = phase_conv(x, phase_weights(conv.weight), conv.bias)
    return trim_phases(out, x, size, conv.weight, conv.bias)


def phase_weights(weight: Tensor) -> Tensor:
    """3x3 weights (D, C, 3, 3) to the 2x2 weights of the four phases, (4 D, C, 2, 2), row phase first."""
    first, middle, last = weight.unbind(2)
    rows = (torch.stack([first, middle + last], 2), torch.stack([first + middle, last], 2))
    phases = []
    for row in rows:
        first, middle, last = row.unbind(3)
        phases += [torch.stack([first, middle + last], 3), torch.stack([first + middle, last], 3)]
    return torch.cat(phases)


def phase_conv(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """The 3x3 convolution of `x` upsampled by 2, from `phase_weights`: (B, C, h, w) -> (B, D, 2 h, 2 w)."""
    height, width = x.shape[-2:]
    maps = F.conv2d(x, weights, None if bias is None else bias.repeat(4), padding=1)
    maps = maps.unflatten(1, (2, 2, -1))  # (B, row phase, column phase, D, h + 1, w + 1)
    rows = [
        torch.stack([maps[:, i, j, :, i : i + height, j : j + width] for j in range(2)], 4).flatten(3) for i in range(2)
    ]
    return torch.stack(rows, 3).flatten(2, 3)


def trim_phases(out: Tensor, x: Tensor, size: torch.Size, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`phase_conv`'s map cut to `size`; where that is odd, the last row or column has zeros behind it."""
    height, width = size
    out = out[:, :, :height, :width]
    if height % 2:  # its last row sees the last row of x and, above, the one before
        kernel = weight[:, :, :2] if height > 1 else weight[:, :, 1:2]
        rows = x[:, :, -2:].repeat_interleave(2, 3)[..., :width]
        out = torch.cat([out[:, :, :-1], F.conv2d(rows, kernel, bias, padding=(0, 1))], 2)
    if width % 2:
        kernel = weight[..., :2] if width > 1 else weight[..., 1:2]
        columns = x[..., -2:].repeat_interleave(2, 2)[:, :, :height]
        out = torch.cat([out[..., :-1], F.conv2d(columns, kernel, bias, padding=(1, 0))], 3)
    return out


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
        high = upsampled_conv(self.conv_high, high, low.shape[-2:])
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
        """Laterals and outputs kaiming-uniform and the rest at its default ("kaiming"), or all Xavier-uniform."""
        layers: list[nn.Module] = [*self.lateral, *self.output]
        if init == "xavier":
            layers = [*self.modules()]
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                _init(layer, init)

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
        out[f"p{len(merged) + 2}"] = subsample(out[f"p{len(merged) + 1}"], 2)
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
        super().__init__(in_channels, out_channels, init=init)
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
        self.reset_parameters(init)

    def merge(self, index: int, low: Tensor, high: Tensor) -> Tensor:
        return self.fusion[index](low, high)

    def finish(self, index: int, x: Tensor) -> Tensor:
        return self.output[index](x if self.attention is None else self.attention[index](x))


class ConvFPN(FPN):
    """FPN that adds conv_low(lateral) and conv_high(upsampled): the fusion's capacity without its idea."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, init: str = "kaiming") -> None:
        super().__init__(in_channels, out_channels, init=init)
        merges = range(len(in_channels) - 1)
        self.conv_low = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in merges)
        self.conv_high = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in merges)
        self.reset_parameters(init)

    def merge(self, index: int, low: Tensor, high: Tensor) -> Tensor:
        conv_high = self.conv_high[index]
        assert isinstance(conv_high, nn.Conv2d)
        return self.conv_low[index](low) + upsampled_conv(conv_high, high, low.shape[-2:])


class PAFPN(FPN):
    """Path aggregation (Liu et al. 2018): a bottom-up path of stride-2 convolutions over the FPN's outputs."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, init: str = "kaiming") -> None:
        super().__init__(in_channels, out_channels, init=init)
        paths = range(len(in_channels) - 1)
        self.down = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) for _ in paths)
        self.path_output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in paths)
        for conv in [*self.down, *self.path_output]:
            _init(conv, init)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        *levels, _ = super().forward(features).values()
        below = levels[0]
        out = [below]
        for down, output, x in zip(self.down, self.path_output, levels[1:], strict=True):
            below = x + down(below)
            out.append(output(below))
        return _named([*out, subsample(out[-1], 2)])


class BFP(FPN):
    """Balanced pyramid (Libra R-CNN, Pang et al. 2019): all levels averaged at P4, refined, and added back.

    The refinement is an embedded-Gaussian non-local block whose last layer starts at zero.
    """

    REFINED = 2  # index of P4

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, init: str = "kaiming") -> None:
        super().__init__(in_channels, out_channels, init=init)
        self.query = nn.Linear(out_channels, out_channels)
        self.key = nn.Linear(out_channels, out_channels)
        self.value = nn.Linear(out_channels, out_channels)
        self.project = nn.Linear(out_channels, out_channels)
        for linear in (self.query, self.key, self.value):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        levels = list(super().forward(features).values())
        size = levels[self.REFINED].shape[-2:]
        balanced = torch.stack([_resize(x, size) for x in levels]).mean(0)
        pixels = balanced.flatten(2).transpose(1, 2)
        context = F.scaled_dot_product_attention(self.query(pixels), self.key(pixels), self.value(pixels), scale=1.0)
        refined = balanced + self.project(context).transpose(1, 2).reshape(balanced.shape)
        return _named([x + _resize(refined, x.shape[-2:]) for x in levels])


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    """To a smaller map by adaptive max pooling, to a larger one by nearest neighbours."""
    if x.shape[-1] >= size[-1]:
        return F.adaptive_max_pool2d(x, (size[0], size[1]))
    return F.interpolate(x, size=size, mode="nearest")


def _named(levels: list[Tensor]) -> dict[str, Tensor]:
    return {f"p{index + 2}": x for index, x in enumerate(levels)}


def _init(layer: nn.Conv2d | nn.Linear, scheme: str) -> None:
    if scheme == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


NECKS: dict[str, type[FPN]] = {"fpn": FPN, "fpn_convs": ConvFPN, "pafpn": PAFPN, "bfp": BFP}


def build_neck(config: CANetConfig) -> FPN:
    """The neck that `config` asks for."""
    if config.neck != "laplacian":
        return NECKS[config.neck](config.stage_channels, config.neck_channels, init=config.neck_init)
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
