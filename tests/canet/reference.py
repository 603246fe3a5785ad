"""The network's blocks written literally from the formulas of the published implementations.

Each class is one of ours with another `forward`, so that parameters and their gradients compare by name.
`literal(module)` copies a module and swaps every block in it.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet.attention import SpatialAttentionEncoder
from canet.backbone import ResNet
from canet.context import ContextBlockDecoder
from canet.pyramid import LaplacianFusion, MutualAttention

M = TypeVar("M", bound=nn.Module)


class LiteralSAE(SpatialAttentionEncoder):
    """E = Q^T K at all L x L pairs, softmax over keys, values, projection, bilinear resize, gamma."""

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        b, h, w = x.shape[0], *x.shape[2:]
        m, d, r = self.heads, self.head_channels, self.kv_stride
        if self.pixel_shuffle:
            s = F.conv2d(F.pixel_unshuffle(x, r), self.unshuffle.weight[:, :, None, None], self.unshuffle.bias)
        else:
            s = F.avg_pool2d(x, kernel_size=1, stride=r)
        positions = s.shape[2] * s.shape[3]
        key = F.conv2d(s, self.key.weight[:, :, None, None]).view(b, m, d, positions)
        value = F.conv2d(s, self.value.weight[:, :, None, None]).view(b, m, d, positions)
        if self.query_mode == "shared":
            query = self.query.view(1, m, d, 1).expand(b, m, d, positions)
        else:
            query = F.conv2d(x, self.query.weight[:, :, None, None]).view(b, m, d, h * w)
            if self.query_mode == "mean":
                query = query.mean(3, keepdim=True).expand(b, m, d, positions)
        attention = (query.transpose(2, 3) @ key).softmax(-1)
        out = (value @ attention.transpose(2, 3)).reshape(b, m * d, -1)
        height, width = (h, w) if self.query_mode == "input" else s.shape[2:]
        out = F.conv2d(out.view(b, m * d, height, width), self.project.weight[:, :, None, None], self.project.bias)
        if self.pixel_shuffle:
            out = F.pixel_shuffle(out, r)
        elif (height, width) != (h, w):
            out = F.interpolate(out, size=(h, w), mode="bilinear", align_corners=False)
        return x + self.gamma * out


class LiteralCBD(ContextBlockDecoder):
    """Softmax mask with its bias, weighted sum, channel transforms on a 1 x 1 map."""

    def forward(self, z: Tensor) -> Tensor:
        b, c, h, w = z.shape
        if self.mask is None:
            context = F.adaptive_avg_pool2d(z, 1)
        else:
            logits = F.conv2d(z, self.mask.weight[:, :, None, None], self.mask.bias).view(b, 1, h * w, 1)
            context = (z.view(b, 1, c, h * w) @ logits.softmax(2)).view(b, c, 1, 1)

        def transform(layers: nn.Module) -> Tensor:
            x = F.conv2d(context, layers.first.weight[:, :, None, None], layers.first.bias)
            shape = (x.shape[1], 1, 1)
            x = F.layer_norm(x, shape, layers.norm.weight.view(shape), layers.norm.bias.view(shape))
            return F.conv2d(F.relu(x), layers.last.weight[:, :, None, None], layers.last.bias)

        if self.mul is not None:
            z = z * torch.sigmoid(transform(self.mul))
        if self.add is not None:
            z = z + transform(self.add)
        return z


class LiteralFusion(LaplacianFusion):
    """alpha (Sum + s Sum) + beta (Diff + t Diff) on full maps, gates as 1x1 convolutions of pooled maps."""

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        high = F.interpolate(high, size=low.shape[-2:], mode="nearest")
        low = F.conv2d(low, self.conv_low.weight, self.conv_low.bias, padding=1)
        high = F.conv2d(high, self.conv_high.weight, self.conv_high.bias, padding=1)
        total, difference = low + high, low - high

        def gated(x: Tensor, gate: nn.Module | None) -> Tensor:
            if gate is None:
                return x
            m = F.adaptive_avg_pool2d(x, 1)
            m = F.relu(F.conv2d(m, gate.squeeze.weight[:, :, None, None], gate.squeeze.bias))
            return x + torch.sigmoid(F.conv2d(m, gate.excite.weight[:, :, None, None], gate.excite.bias)) * x

        return self.alpha * gated(total, self.gate_sum) + self.beta * gated(difference, self.gate_difference)


class LiteralMutualAttention(MutualAttention):
    """Softmax of W2 x + b2 over positions weighs the map W1 x + b1; its sum goes through W3 and W4."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        value = F.conv2d(x, self.value.weight[:, :, None, None], self.value.bias).view(b, c, h * w)
        mask = F.conv2d(x, self.mask.weight[:, :, None, None], self.mask.bias).view(b, h * w, 1).softmax(1)
        context = (value @ mask).view(b, c, 1, 1)
        context = F.conv2d(context, self.reduce.weight[:, :, None, None], self.reduce.bias)
        return x + F.conv2d(context, self.expand.weight[:, :, None, None], self.expand.bias)


class LiteralResNet(ResNet):
    """The stages in the layout of the input."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        out = {}
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            out[f"c{stage + 1}"] = x
        return out


LITERAL = {
    ResNet: LiteralResNet,
    SpatialAttentionEncoder: LiteralSAE,
    ContextBlockDecoder: LiteralCBD,
    LaplacianFusion: LiteralFusion,
    MutualAttention: LiteralMutualAttention,
}


def literal(module: M) -> M:
    """A copy of `module`, with the same parameters, whose blocks compute the literal formulas."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        if type(part) in LITERAL:
            part.__class__ = LITERAL[type(part)]
    return twin


def randomise(module: M, seed: int = 0) -> M:
    """Random values in every parameter and statistic, zero-initialised ones included; returns `module`."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in module.state_dict().items():
        if not x.is_floating_point():
            continue
        last = name.rsplit(".", 1)[-1]
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        uniform = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        if last == "running_var":
            value = 0.6 + 0.8 * uniform
        elif last in ("gamma", "alpha", "beta"):
            value = 0.3 + 0.5 * uniform
        elif last == "query":
            value = 0.6 * noise
        elif last == "weight" and x.ndim > 1:
            value = noise / x[0].numel() ** 0.5
        elif last == "weight":
            value = 0.4 + 0.6 * uniform
        else:
            value = 0.1 * noise
        x.copy_(value)
    return module
