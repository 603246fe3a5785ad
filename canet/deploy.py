"""The exact inference form of a detector: the same function of the image, at a fraction of the cost.

What is done, with derivations in docs/exact-forms.md: batch norms folded into convolutions; a CABlock's SAE and CBD
collapsed into one bias of conv3 per image; gated fusion as two convolutions whose weights carry the gates, the means
that the gates need taken from their inputs; a convolution over an upsampled map as phase kernels; a 1x1 lateral
folded into the 3x3 convolution behind it where that is cheaper; NHWC throughout; and on CPU oneDNN's convolutions
with addition and ReLU fused.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from canet.attention import SpatialAttentionEncoder, subsample
from canet.backbone import CABlock, ResNet
from canet.context import ContextBlockDecoder
from canet.detector import CANet, TwoStageDetector
from canet.pyramid import FPN, LaplacianFPN, LaplacianFusion, MutualAttention, phase_weights


class Deployed(nn.Module):
    """Base of the inference forms: constants only, and no training mode."""

    def train(self, mode: bool = True) -> Deployed:
        """Raises RuntimeError for training mode."""
        if mode:
            raise RuntimeError("a deployed model is for inference: keep the original for training")
        return super().train(False)

    def constant(self, name: str, value: Tensor | None) -> None:
        """Register a copy of `value` as a buffer, NHWC where it has four dimensions."""
        if value is not None:
            value = value.detach().clone()
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
        self.register_buffer(name, value)


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of `conv` followed by a batch norm of fixed statistics."""
    if not isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
        raise TypeError(f"cannot fold {type(norm).__name__}")
    mean, var = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(var, Tensor)
    scale = norm.weight / (var + norm.eps).sqrt()
    bias = norm.bias - mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    return conv.weight * scale[:, None, None, None], bias


class Conv(Deployed):
    """Convolution with an optional per-call bias, addition of a map, and ReLU, fused where oneDNN can."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, relu: bool = False
    ) -> None:
        super().__init__()
        self.constant("weight", weight)
        self.constant("bias", bias)
        self.stride, self.padding, self.relu = stride, padding, relu

    def forward(self, x: Tensor, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """`bias` (D,) replaces the stored one; `add` has the output's shape."""
        return conv2d(
            x,
            self.weight,
            self.bias if bias is None else bias,
            stride=self.stride,
            padding=self.padding,
            add=add,
            relu=self.relu,
        )


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    add: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """relu(conv(x) + add), both optional, in one pass of oneDNN for float32, and for bfloat16 where the CPU has it."""
    if (add is not None or relu) and _fusable(x):
        geometry = [padding, padding], [stride, stride], [1, 1], 1
        if add is not None:
            unary = "relu" if relu else None
            return torch.ops.mkldnn._convolution_pointwise.binary(
                x, add, weight, bias, *geometry, "add", 1.0, unary, [], ""
            )
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, "relu", [], "")
    if bias is not None and torch.compiler.is_compiling():
        # Inductor (2.12) cannot lower a convolution whose bias is a view of something computed.
        out = F.conv2d(x, weight, None, stride=stride, padding=padding) + bias[:, None, None]
    else:
        out = F.conv2d(x, weight, bias, stride=stride, padding=padding)
    if add is not None:
        out = out + add
    return torch.relu(out) if relu else out


def _fusable(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()))
        and torch.backends.mkldnn.is_available()
        and not x.requires_grad
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.onnx.is_in_onnx_export()
    )


class DeployedCABlock(Deployed):
    """CABlock in which SAE and CBD have become a bias of conv3 for each image.

    SAE's vector y passes conv3 as W3 (gamma y); the map z that CBD pools is W3 x plus a constant, so its mask reads
    conv2's output x through W3^T w_m, and its context is W3 applied to the pooled x. Nothing is written but the
    block's output. A SAE that is no constant over the image (query per pixel, pixel shuffle) runs as it is.
    """

    mask: Tensor | None

    def __init__(self, block: CABlock) -> None:
        super().__init__()
        self.conv1 = Conv(*fold_norm(block.conv1, block.bn1), relu=True)
        stride = block.conv2.stride[0]
        self.conv2 = Conv(*fold_norm(block.conv2, block.bn2), stride=stride, padding=1, relu=True)
        self.conv3 = Conv(*fold_norm(block.conv3, block.bn3), relu=True)
        self.downsample = None
        if block.downsample is not None:
            conv, norm = block.downsample
            assert isinstance(conv, nn.Conv2d)
            self.downsample = Conv(*fold_norm(conv, norm), stride=stride)
        self.sae = None
        if isinstance(block.sae, SpatialAttentionEncoder) and block.sae.gamma.item() != 0:
            self.sae = copy.deepcopy(block.sae)
        self.sae_is_constant = self.sae is not None and self.sae.query_mode != "input" and not self.sae.pixel_shuffle
        self.cbd = None
        if isinstance(block.cbd, ContextBlockDecoder) and not _is_identity(block.cbd):
            self.cbd = copy.deepcopy(block.cbd)
        mask = None
        if self.cbd is not None and self.cbd.mask is not None:
            mask = self.cbd.mask.weight @ self.conv3.weight.flatten(1)
        self.constant("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv2(self.conv1(x))
        if self.sae is not None and not self.sae_is_constant:
            x = self.sae(x)
        scale, offset = self.context(x)
        if offset is None:
            return self.conv3(x, add=shortcut)
        if scale is None and len(x) == 1:
            return self.conv3(x, bias=offset[0], add=shortcut)
        out = conv2d(x, self.conv3.weight, None)
        if scale is not None:
            out = out * scale[:, :, None, None]
        return torch.relu(out + (shortcut + offset[:, :, None, None]))

    def context(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(B, D) factor of W3 x and vector that is added to it; None for a factor of 1, for the stored bias."""
        weight, bias = self.conv3.weight.flatten(1), self.conv3.bias
        assert bias is not None
        offset = None
        if self.sae is not None and self.sae_is_constant:
            offset = F.linear(self.sae.gamma * self.sae.context(x), weight, bias)
        if self.cbd is None:
            return None, offset
        if self.mask is None:
            pooled = x.mean((2, 3))
        else:
            pixels = x.flatten(2)
            attention = (self.mask @ pixels).softmax(-1)
            pooled = (pixels @ attention.transpose(1, 2)).squeeze(2)
        offset = bias.expand(len(x), -1) if offset is None else offset
        c = F.linear(pooled, weight) + offset
        scale = None
        if self.cbd.mul is not None:
            scale = torch.sigmoid(self.cbd.mul(c))
            offset = offset * scale
        return scale, offset if self.cbd.add is None else offset + self.cbd.add(c)


def _is_identity(cbd: ContextBlockDecoder) -> bool:
    """Whether the block adds exactly nothing, as in the stage that the mmdet variant freezes at its start."""
    if cbd.mul is not None or cbd.add is None:
        return False
    return not bool(cbd.add.last.weight.any()) and not bool(cbd.add.last.bias.any())


class DeployedResNet(Deployed):
    """Image (B, 3, H, W) -> {"c2" .. "c5"}, NHWC."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.stem = Conv(*fold_norm(backbone.conv1, backbone.bn1), stride=2, padding=3, relu=True)
        self.maxpool = backbone.maxpool
        for stage in range(1, 5):
            blocks = getattr(backbone, f"layer{stage}")
            self.add_module(f"layer{stage}", nn.Sequential(*(DeployedCABlock(b) for b in blocks)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.stem(x.contiguous(memory_format=torch.channels_last)))
        out: dict[str, Tensor] = {}
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            out[f"c{stage + 1}"] = x
        return out


class ShiftedConv(Deployed):
    """3x3 convolution, padding 1, of x plus a vector that is the same at every pixel of the image.

    The vector contributes its sum over the taps, less the taps that fall outside at the border.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.constant("weight", weight)
        self.constant("bias", bias)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), shift (B, C) -> (B, D, H, W)."""
        if shift is None:
            return conv2d(x, self.weight, self.bias, padding=1)
        taps = torch.einsum("dcij,bc->bdij", self.weight, shift)
        out = conv2d(x, self.weight, self.bias + taps[0].sum((1, 2)) if len(x) == 1 else self.bias, padding=1)
        if len(x) > 1:
            out += taps.sum((2, 3))[:, :, None, None]
        return trim_taps(out, taps)


def trim_taps(out: Tensor, taps: Tensor) -> Tensor:
    """Take from `out` (B, D, H, W), in place, the taps (B, D, 3, 3) of a constant that lie outside the image."""
    rows, columns = taps.sum(3)[..., None], taps.sum(2)[..., None]
    out[:, :, 0] -= rows[:, :, 0]
    out[:, :, -1] -= rows[:, :, 2]
    out[..., 0] -= columns[:, :, 0]
    out[..., -1] -= columns[:, :, 2]
    for i in (0, -1):  # corners were taken twice
        for j in (0, -1):
            out[:, :, i, j] += taps[:, :, i, j]
    return out


def tap_sums(x: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Sum of the pixels under each tap of a 3x3 convolution with padding 1, (B, C, 3, 3).

    size: that of a nearest-neighbour upsampling of `x` by 2, cut by one where odd, which is summed instead of `x`.
    """
    first_row, last_row = x[:, :, 0].sum(-1), x[:, :, -1].sum(-1)
    first_column, last_column = x[..., 0].sum(-1), x[..., -1].sum(-1)
    corners = [[x[:, :, i, j] for j in (0, -1)] for i in (0, -1)]
    total = x.sum((2, 3))
    if size is not None:  # every row and column counts twice, but a cut one once
        odd_rows, odd_columns = size[0] % 2, size[1] % 2
        total = 4 * total - 2 * (odd_rows * last_row + odd_columns * last_column)
        total = total + odd_rows * odd_columns * corners[1][1]
        first_row = 2 * first_row - odd_columns * corners[0][1]
        last_row = 2 * last_row - odd_columns * corners[1][1]
        first_column = 2 * first_column - odd_rows * corners[1][0]
        last_column = 2 * last_column - odd_rows * corners[1][1]
    zero = torch.zeros_like(total)
    # The tap above does not see the last row, the tap below not the first; likewise columns.
    rows, columns = (last_row, zero, first_row), (last_column, zero, first_column)
    sums = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            both = zero if 1 in (i, j) else corners[1 - i // 2][1 - j // 2]
            sums.append(total - row - column + both)
    return torch.stack(sums, 2).unflatten(2, (3, 3))


def add_phases(out: Tensor, x: Tensor, phases: Tensor, weight: Tensor) -> Tensor:
    """Add to `out`, in place, the 3x3 convolution of `x` upsampled to its size; see `canet.pyramid.phase_conv`."""
    maps = F.conv2d(x, phases, padding=1).unflatten(1, (2, 2, -1))
    height, width = out.shape[2:]
    h, w = height // 2, width // 2
    for i in range(2):
        for j in range(2):
            out[:, :, i : 2 * h : 2, j : 2 * w : 2] += maps[:, i, j, :, i : i + h, j : j + w]
    if height % 2:
        kernel = weight[:, :, :2] if height > 1 else weight[:, :, 1:2]
        rows = x[:, :, -2:].repeat_interleave(2, 3)[..., :width]
        out[:, :, -1:] += F.conv2d(rows, kernel, padding=(0, 1))
    if width % 2:
        kernel = weight[..., :2] if width > 1 else weight[..., 1:2]
        columns = x[..., -2:].repeat_interleave(2, 2)[:, :, :height]
        out[:, :, : 2 * h, -1:] += F.conv2d(columns, kernel, padding=(1, 0))[:, :, : 2 * h]
    return out


class DeployedFusion(Deployed):
    """A lateral and its LaplacianFusion: (C_i, N_{i+1}) -> N_i.

    For one image the gates scale the weights of both convolutions, whose means they need follow from sums of the
    inputs: the only map written is the result. For more images the two maps are scaled.
    """

    low_weight: Tensor
    low_bias: Tensor
    taps: Tensor | None
    high_weight: Tensor
    high_bias: Tensor
    phases: Tensor

    def __init__(self, lateral: nn.Conv2d, fusion: LaplacianFusion) -> None:
        super().__init__()
        self.gates = copy.deepcopy(fusion)
        del self.gates.conv_low, self.gates.conv_high
        self.has_gates = fusion.gate_sum is not None or fusion.gate_difference is not None
        weight, bias = fusion.conv_low.weight, fusion.conv_low.bias
        assert bias is not None
        assert lateral.bias is not None
        self.lateral = None
        taps = None
        if 8 * lateral.in_channels < 9 * lateral.out_channels:  # one 3x3 is then less than a 1x1 and a 3x3
            taps = torch.einsum("dcij,c->dij", weight, lateral.bias)
            weight = torch.einsum("dcij,ce->deij", weight, lateral.weight.flatten(1))
        else:
            self.lateral = Conv(lateral.weight, lateral.bias)
        self.constant("low_weight", weight)
        self.constant("low_bias", bias)
        self.constant("taps", taps)
        self.constant("high_weight", fusion.conv_high.weight)
        self.constant("high_bias", fusion.conv_high.bias)
        self.constant("phases", phase_weights(fusion.conv_high.weight))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        if self.lateral is not None:
            low = self.lateral(low)
        mean_low, mean_high = self.means(low, high)
        factor_low, factor_high = self.gates.coefficients(mean_low, mean_high)
        constant = self.low_bias if self.taps is None else self.low_bias + self.taps.sum((1, 2))
        p, q = factor_low.flatten(1), factor_high.flatten(1)
        bias = p * constant + q * self.high_bias
        if len(low) == 1:
            out = conv2d(low, self.low_weight * p[0, :, None, None, None], bias[0], padding=1)
            q_rows = q[0, :, None, None, None]
            add_phases(out, high, self.phases * q_rows.repeat(4, 1, 1, 1), self.high_weight * q_rows)
        else:
            out = F.conv2d(low, self.low_weight, padding=1) * factor_low
            up = add_phases(torch.zeros_like(out), high, self.phases, self.high_weight)
            out += factor_high * up + bias[:, :, None, None]
        if self.taps is not None:
            trim_taps(out, self.taps * p[:, :, None, None])
        return out

    def means(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Means over the image of both convolutions, each (B, D), from sums of their inputs."""
        if not self.has_gates:
            zero = self.low_bias.expand(len(low), -1)
            return zero, zero
        height, width = low.shape[2:]
        pixels = height * width
        mean_low = torch.einsum("dcij,bcij->bd", self.low_weight, tap_sums(low) / pixels) + self.low_bias
        if self.taps is not None:
            ones = tap_sums(torch.ones_like(low[:1, :1])) / pixels
            mean_low = mean_low + (self.taps * ones[0]).sum((1, 2))
        sums = tap_sums(high, (height, width)) / pixels
        return mean_low, torch.einsum("dcij,bcij->bd", self.high_weight, sums) + self.high_bias


class DeployedPyramid(Deployed):
    """FPN or LaplacianFPN: {"c2" .. "c5"} -> {"p2" .. "p6"}."""

    def __init__(self, neck: FPN) -> None:
        super().__init__()
        self.out_channels = neck.out_channels
        *laterals, coarsest = neck.lateral
        assert isinstance(coarsest, nn.Conv2d)
        self.coarsest = Conv(coarsest.weight, coarsest.bias)
        merges: list[nn.Module] = []
        for index, lateral in enumerate(laterals):
            assert isinstance(lateral, nn.Conv2d)
            if isinstance(neck, LaplacianFPN):
                fusion = neck.fusion[index]
                assert isinstance(fusion, LaplacianFusion)
                merges.append(DeployedFusion(lateral, fusion))
            else:
                merges.append(Conv(lateral.weight, lateral.bias))
        self.merge = nn.ModuleList(merges)
        self.laplacian = isinstance(neck, LaplacianFPN)
        attention = neck.attention if isinstance(neck, LaplacianFPN) else None
        self.attention = copy.deepcopy(attention)
        self.output = nn.ModuleList(ShiftedConv(*_parameters(conv)) for conv in neck.output)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        *finer, last = features.values()
        merged = [self.coarsest(last)]
        for merge, x in zip(reversed(self.merge), reversed(finer), strict=True):
            if self.laplacian:
                merged.insert(0, merge(x, merged[0]))
            else:
                merged.insert(0, merge(x, add=F.interpolate(merged[0], size=x.shape[-2:], mode="nearest")))
        out = {}
        for index, (conv, x) in enumerate(zip(self.output, merged, strict=True)):
            shift = None
            if self.attention is not None:
                attention = self.attention[index]
                assert isinstance(attention, MutualAttention)
                shift = attention.context(x)
            out[f"p{index + 2}"] = conv(x, shift)
        out[f"p{len(out) + 2}"] = subsample(out[f"p{len(out) + 1}"], 2)
        return out


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    return layer.weight, layer.bias


class DeployedRPNHead(Deployed):
    """torchvision's RPNHead with its ReLU fused and its two 1x1 convolutions as one."""

    def __init__(self, head: RPNHead) -> None:
        super().__init__()
        convs = [m for m in head.conv.modules() if isinstance(m, nn.Conv2d)]
        self.convs = nn.ModuleList(Conv(*_parameters(conv), padding=1, relu=True) for conv in convs)
        scores, boxes = _parameters(head.cls_logits), _parameters(head.bbox_pred)
        self.both = Conv(*(torch.cat(pair) for pair in zip(scores, boxes, strict=True)))
        self.anchors = len(scores[0])

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        out = []
        for x in levels:
            for conv in self.convs:
                x = conv(x)
            out.append(self.both(x))
        return [x[:, : self.anchors] for x in out], [x[:, self.anchors :] for x in out]


class DeployedDetector(TwoStageDetector):
    """What `deploy` returns: the detector contract in evaluation, and nothing else."""

    def __init__(self, model: CANet, dtype: torch.dtype) -> None:
        assert isinstance(model.backbone, ResNet)
        heads = copy.deepcopy(model.roi_heads)
        rpn = copy.deepcopy(model.rpn)
        rpn.head = DeployedRPNHead(model.rpn.head).to(dtype)
        super().__init__(
            copy.deepcopy(model.transform),
            DeployedResNet(model.backbone).to(dtype),
            deploy_neck(model.neck).to(dtype),
            rpn,
            heads,
        )
        self.dtype = dtype
        self.config = model.config
        self.num_classes = model.num_classes
        self.provenance = {**model.provenance, "deployed": str(dtype).removeprefix("torch.")}
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> DeployedDetector:
        """Raises RuntimeError for training mode."""
        if mode:
            raise RuntimeError("a deployed model is for inference: keep the original for training")
        return super().train(False)

    def features(self, images: ImageList) -> dict[str, Tensor]:
        return self.neck(self.backbone(images.tensors.to(self.dtype)))


def deploy_neck(neck: nn.Module) -> nn.Module:
    """The inference form of a neck; the ablation necks other than FPN and LaplacianFPN stay as they are."""
    if isinstance(neck, FPN) and type(neck) in (FPN, LaplacianFPN):
        return DeployedPyramid(neck)
    return copy.deepcopy(neck).requires_grad_(False)


def deploy(model: CANet, precision: str = "float32") -> DeployedDetector:
    """The exact inference form of `model`, which is left as it is.

    precision: "float32" (or the model's own type) differs from `model` by rounding only; "bfloat16" runs backbone,
    neck and RPN head in bfloat16, whose error docs/exact-forms.md states.
    Raises RuntimeError for a model in training mode, ValueError for another precision or another backbone than ResNet.
    """
    if not isinstance(model.backbone, ResNet):
        raise ValueError(f"deploy has no inference form of {type(model.backbone).__name__} (scale 'lite0')")
    if model.training:
        raise RuntimeError("deploy needs a model in evaluation mode: call model.eval() first")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: expected 'float32' or 'bfloat16'")
    own = next(model.parameters()).dtype
    with torch.no_grad():
        return DeployedDetector(model, torch.bfloat16 if precision == "bfloat16" else own)


class DensePart(nn.Module):
    """Image (1, 3, H, W), normalised, to the pyramid's levels and the RPN's maps: all that is convolution."""

    def __init__(self, model: DeployedDetector) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = model.backbone, model.neck, model.rpn.head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        levels = list(self.neck(self.backbone(image)).values())
        objectness, deltas = self.head(levels)
        return (*levels, *objectness, *deltas)


def export_onnx(model: DeployedDetector, path: str | Path) -> None:
    """Write backbone, neck and RPN head as ONNX: "image" (1, 3, H, W), normalised as `preprocess` does it, to
    "p2".."p6", "objectness2".. and "deltas2"...

    H and W are free: multiples of 32 from 96 on. Raises RuntimeError when the exporter's packages are missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f"ONNX export needs {' and '.join(missing)}: pip install 'canet-bench[onnx]'")
    levels = range(2, 7)
    image = torch.zeros(1, 3, 128, 160, dtype=model.dtype)
    height, width = (torch.export.Dim(name, min=3, max=256) for name in ("height", "width"))
    torch.onnx.export(
        DensePart(model).eval(),
        (image,),
        str(path),
        dynamo=True,
        verbose=False,
        external_data=False,
        dynamic_shapes=({2: 32 * height, 3: 32 * width},),
        input_names=["image"],
        output_names=[f"{name}{i}" for name in ("p", "objectness", "deltas") for i in levels],
    )
