"""ResNet v1.5 (He et al. 2016; stride in the 3x3 conv) whose bottlenecks may carry SAE and CBD (CABlock)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.ops import FrozenBatchNorm2d

from canet.attention import SpatialAttentionEncoder
from canet.config import CANetConfig
from canet.context import ContextBlockDecoder

if TYPE_CHECKING:
    from typing_extensions import Self

Norm = Callable[[int], nn.Module]


class FixedStatisticsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its running statistics, with trainable scale and shift."""

    def train(self, mode: bool = True) -> FixedStatisticsBatchNorm2d:
        return super().train(False)


NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm2d,
    "frozen_batch": FrozenBatchNorm2d,
    "batch_eval": FixedStatisticsBatchNorm2d,
}


class CABlock(nn.Module):
    """Bottleneck: 1x1, 3x3 (stride), SAE, 1x1, CBD, shortcut. `sae` and `cbd` may be None.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        stride: int,
        norm: Norm,
        sae: nn.Module | None = None,
        cbd: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.sae = sae
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.cbd = cbd
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        if self.sae is not None:
            x = self.sae(x, inplace=not torch.is_grad_enabled())
        x = self.bn3(self.conv3(x))
        if self.cbd is not None:
            x = self.cbd(x)
        return self.relu(x + shortcut)


class Backbone(nn.Module):
    """What backbones share: a stem and the stages layer1 to layer4, the first of which may be frozen."""

    STEM: tuple[str, ...]
    """Names of the stem's modules that have parameters."""

    def __init__(self, frozen_stages: int) -> None:
        super().__init__()
        self.frozen_stages = frozen_stages

    def frozen_modules(self) -> dict[str, nn.Module]:
        """The frozen parts by name."""
        if self.frozen_stages < 0:
            return {}
        names = [*self.STEM, *(f"layer{i}" for i in range(1, self.frozen_stages + 1))]
        return {name: getattr(self, name) for name in names}

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Parameters of the frozen parts."""
        return [p for module in self.frozen_modules().values() for p in module.parameters()]

    def freeze(self) -> None:
        """Take the frozen parts' parameters out of training."""
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as usual, but keep the norms of frozen parts in evaluation mode."""
        super().train(mode)
        for module in self.frozen_modules().values():
            module.eval()
        return self

    def stem(self, x: Tensor) -> Tensor:
        """Image to the input of layer1."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        # NHWC inside: a fifth of a CPU training step at nano. Weights keep their layout, for checkpoints.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        out: dict[str, Tensor] = {}
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            out[f"c{stage + 1}"] = x
        return out


class ResNet(Backbone):
    """Image (B, 3, H, W) -> {"c2", "c3", "c4", "c5"} at strides 4, 8, 16 and 32.

    Sizes need not divide by 32: each level has ceil(half) of the one before.
    """

    STEM = ("conv1", "bn1")

    def __init__(self, config: CANetConfig) -> None:
        super().__init__(config.frozen_stages)
        norm = NORMS[config.norm]
        self.conv1 = nn.Conv2d(3, config.stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(config.stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = config.stem_channels
        for stage, (blocks, width) in enumerate(zip(config.stage_blocks, config.stage_widths, strict=True), 1):
            out_channels = config.expansion * width
            layer = nn.Sequential()
            for index in range(blocks):
                with_context = stage in config.context_stages
                layer.append(
                    CABlock(
                        channels,
                        width,
                        out_channels,
                        stride=2 if stage > 1 and index == 0 else 1,
                        norm=norm,
                        sae=build_sae(config, width) if with_context and config.sae else None,
                        cbd=build_cbd(config, out_channels) if with_context and config.cbd else None,
                    )
                )
                channels = out_channels
            self.add_module(f"layer{stage}", layer)
        self.reset_parameters(config)
        self.freeze()

    def reset_parameters(self, config: CANetConfig) -> None:
        """Initialise every weight anew as `config` says. Norm layers keep their identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, SpatialAttentionEncoder):
                module.reset_parameters(config.context_init)
            elif isinstance(module, ContextBlockDecoder):
                module.reset_parameters(config.context_init, config.cbd_zero_init)

    def stem(self, x: Tensor) -> Tensor:
        """Image to stride 4."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))


def build_sae(config: CANetConfig, width: int) -> SpatialAttentionEncoder:
    """The SAE of `config` for maps of `width` channels."""
    return SpatialAttentionEncoder(
        width,
        heads=config.sae_heads,
        kv_stride=config.sae_kv_stride,
        reduction=config.sae_reduction,
        query=config.sae_query,
        pixel_shuffle=config.sae_pixel_shuffle,
    )


def build_cbd(config: CANetConfig, channels: int) -> ContextBlockDecoder:
    """The CBD of `config` for maps of `channels` channels."""
    return ContextBlockDecoder(channels, ratio=config.cbd_ratio, pooling=config.cbd_pooling, fusion=config.cbd_fusion)


def imagenet_state(weights: Any) -> dict[str, Tensor]:
    """State dict of a torchvision weights entry, from its download cache or the network.

    Raises RuntimeError when neither has it, naming the file to place where.
    """
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except Exception as error:
        name = weights.url.rsplit("/", 1)[1]
        raise RuntimeError(
            f"{weights} is not here and could not be downloaded ({error}). "
            f"Place {name} from {weights.url} into {torch.hub.get_dir()}/checkpoints, "
            "or train from scratch (weights=None)."
        ) from error


def load_imagenet(backbone: ResNet, origin: str) -> str:
    """Load torchvision's ImageNet weights of ResNet-50, V2 for "pytorch" and V1 for "mmdet"; returns their name.

    Raises RuntimeError when they cannot be had or do not fit.
    """
    weights = ResNet50_Weights.IMAGENET1K_V1 if origin == "mmdet" else ResNet50_Weights.IMAGENET1K_V2
    state = {name: value for name, value in imagenet_state(weights).items() if not name.startswith("fc.")}
    result = backbone.load_state_dict(state, strict=False)
    missing = [n for n in result.missing_keys if ".sae." not in n and ".cbd." not in n]
    unexpected = [n for n in result.unexpected_keys if not n.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"{weights} does not fit: not in the backbone {unexpected}, not in the file {missing}")
    return str(weights)
