"""CANetConfig: every switch of the network and its detector, as data. This module does not import torch.

The authors published two implementations that differ. `CANetConfig.preset("pytorch")` and
`CANetConfig.preset("mmdet")` give one each; an ablation is `dataclasses.replace(config, ...)`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

ORIGINS = ("pytorch", "mmdet")
SCALES = ("nano", "small", "lite0", "r50")


@dataclass(frozen=True)
class CANetConfig:
    """All choices of one CANet. Defaults are the authors' PyTorch variant on ResNet-50.

    `norm` and `frozen_stages` are those of fine-tuning a pretrained backbone; `from_scratch` gives the
    form for training from random weights.
    """

    origin: Literal["pytorch", "mmdet"] = "pytorch"
    """The published implementation whose choices these are; decides the names in official checkpoints."""
    scale: str = "r50"

    backbone: Literal["resnet", "efficientnet_lite0"] = "resnet"
    """"resnet": v1.5 bottlenecks, by the numbers below; "efficientnet_lite0": inverted residuals, by its own."""

    # ResNet: output channels of a stage = expansion * width.
    stem_channels: int = 64
    stage_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stage_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    expansion: int = 4
    norm: Literal["batch", "frozen_batch", "batch_eval"] = "frozen_batch"
    """"batch": live; "frozen_batch": constants; "batch_eval": fixed statistics, trainable affine."""
    frozen_stages: int = 1
    """-1: nothing is frozen; 0: the stem; n: the stem and stages 1..n."""

    # CABlock: SAE before conv3, CBD after it.
    context_stages: tuple[int, ...] = (2, 3, 4)
    sae: bool = True
    sae_heads: int = 8
    sae_reduction: int = 1
    sae_kv_stride: int = 2
    sae_query: Literal["shared", "mean", "input"] = "shared"
    """"shared": one learned query per head (published); "input": W_Q x at every pixel; "mean": its mean."""
    sae_pixel_shuffle: bool = False
    cbd: bool = True
    cbd_ratio: float = 1 / 16
    cbd_pooling: Literal["attention", "average"] = "attention"
    cbd_fusion: tuple[str, ...] = ("add",)
    cbd_zero_init: bool = False
    """Last layer of CBD starts at zero. The PyTorch variant's ResNet constructor overwrites that zero."""
    context_init: Literal["resnet", "plugin"] = "resnet"
    """"resnet": N(0, 2/fan_out) for every weight of SAE and CBD; "plugin": the blocks' own initialisation."""

    # Neck.
    neck: Literal["laplacian", "fpn", "fpn_convs", "pafpn", "bfp"] = "laplacian"
    """"fpn_convs": an FPN with the fusion's two 3x3 convolutions at each merge, and nothing else of it."""
    neck_channels: int = 256
    neck_init: Literal["kaiming", "xavier"] = "kaiming"
    gates: bool = True
    gate_bias: bool = False
    difference: bool = True
    learned_mixing: bool = True
    mutual_attention: bool = False

    # Anchors and RPN, finest level first.
    anchor_sizes: tuple[tuple[int, ...], ...] = tuple((8 * s, 4 * s, 2 * s) for s in (4, 8, 16, 32, 64))
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_grid: Literal["torchvision", "mmdet"] = "torchvision"
    """"torchvision": corners rounded to pixels, stride = image // map; "mmdet": neither."""
    rpn_iou: tuple[float, float] = (0.7, 0.3)
    rpn_best_iou: float = 0.0
    """Least IoU at which a box that no anchor fits by `rpn_iou` takes those that fit it best; 0: always."""
    rpn_batch: int = 256
    rpn_positive: float = 0.5
    rpn_pre_nms: tuple[int, int] = (2000, 1000)
    """Per level, in training and in evaluation."""
    rpn_post_nms: tuple[int, int] = (1000, 1000)
    rpn_nms: float = 0.7

    # RoI head.
    roi_levels: int = 5
    """How many levels RoIAlign reads, from the finest: 4 is P2-P5, 5 adds P6."""
    roi_sampling: int = 2
    """Samples per bin and axis; 0 adapts them to the size of the box."""
    roi_aligned: bool = False
    roi_batch: int = 512
    roi_positive: float = 0.25
    head_channels: int = 1024
    regress_background: bool = True
    """Whether the box layer has four unused outputs for background, as torchvision's has."""
    box_loss_beta: float = 1 / 9
    """Width of smooth-L1's quadratic part, for RPN and RoI head; 0 is L1."""

    # Detections kept. The authors keep scores from 0.05 on; the contract of the benchmark is 0.001.
    score_threshold: float = 0.001
    detection_nms: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        """Raises ValueError for values that no network can be built from."""
        one_of = {
            "origin": ORIGINS,
            "backbone": ("resnet", "efficientnet_lite0"),
            "norm": ("batch", "frozen_batch", "batch_eval"),
            "sae_query": ("shared", "mean", "input"),
            "cbd_pooling": ("attention", "average"),
            "context_init": ("resnet", "plugin"),
            "neck": ("laplacian", "fpn", "fpn_convs", "pafpn", "bfp"),
            "neck_init": ("kaiming", "xavier"),
            "anchor_grid": ("torchvision", "mmdet"),
        }
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if not set(self.context_stages) <= {1, 2, 3, 4}:
            raise ValueError(f"context_stages={self.context_stages!r}: stages are 1 to 4")
        if not self.cbd_fusion or not set(self.cbd_fusion) <= {"add", "mul"}:
            raise ValueError(f"cbd_fusion={self.cbd_fusion!r}: expected 'add', 'mul' or both")
        if not -1 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages={self.frozen_stages}: expected -1 to 4")
        if self.sae_pixel_shuffle and self.sae_query != "shared":
            raise ValueError("sae_pixel_shuffle is defined for sae_query='shared' only")
        if self.sae_kv_stride < 1 or self.sae_heads < 1:
            raise ValueError("sae_kv_stride and sae_heads must be positive")
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            raise ValueError("anchor_sizes: every level needs the same number of sizes, the RPN head is shared")
        if self.mutual_attention and self.neck != "laplacian":
            raise ValueError(f"mutual_attention is part of the laplacian neck, not of {self.neck!r}")
        if not 1 <= self.roi_levels <= len(self.anchor_sizes):
            raise ValueError(f"roi_levels={self.roi_levels}: there are {len(self.anchor_sizes)} levels")

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Output channels of the four stages."""
        if self.backbone == "efficientnet_lite0":
            return (24, 40, 112, 192)
        return tuple(self.expansion * width for width in self.stage_widths)

    @classmethod
    def preset(cls, name: str = "pytorch", scale: str = "r50", **changes: Any) -> CANetConfig:
        """The published variant `name` at `scale`, with `changes` applied.

        Raises ValueError for an unknown preset, scale or field.
        """
        if name not in ORIGINS:
            raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(ORIGINS)}")
        if scale not in SCALES:
            raise ValueError(f"unknown scale {scale!r}: expected one of {', '.join(SCALES)}")
        unknown = sorted(set(changes) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown CANetConfig fields: {', '.join(unknown)}")
        config = cls(origin=name, **_PRESETS[name])  # type: ignore[arg-type]
        config = replace(config, scale=scale, **_SCALES[scale])
        return replace(config, **changes)

    def from_scratch(self) -> CANetConfig:
        """This network for training from random weights: batch norm live, nothing frozen."""
        return replace(self, norm="batch", frozen_stages=-1)

    def plain(self) -> CANetConfig:
        """The plain Faster R-CNN of the same scale: no SAE, no CBD, an ordinary FPN."""
        return replace(self, sae=False, cbd=False, neck="fpn", mutual_attention=False)


_PRESETS: dict[str, dict[str, Any]] = {
    "pytorch": {},
    "mmdet": {
        "norm": "batch_eval",
        "context_stages": (1, 2, 3, 4),
        "cbd_zero_init": True,
        "context_init": "plugin",
        "neck_init": "xavier",
        "gate_bias": True,
        "mutual_attention": True,
        "anchor_sizes": tuple((8 * s,) for s in (4, 8, 16, 32, 64)),
        "anchor_grid": "mmdet",
        "rpn_best_iou": 0.3,
        "roi_levels": 4,
        "roi_sampling": 0,
        "roi_aligned": True,
        "regress_background": False,
        "box_loss_beta": 0.0,
    },
}

# nano, small and lite0 are ours, for small images and CPUs; they share one protocol of anchors and samples.
_SMALL_IMAGES: dict[str, Any] = {
    "anchor_sizes": ((16,), (32,), (64,), (128,), (256,)),
    "rpn_pre_nms": (256, 256),
    "rpn_post_nms": (128, 128),
    "roi_batch": 64,
}
_SCALES: dict[str, dict[str, Any]] = {
    "nano": {
        "stem_channels": 24,
        "stage_blocks": (1, 1, 1, 1),
        "stage_widths": (24, 48, 96, 192),
        "neck_channels": 64,
        "head_channels": 128,
        **_SMALL_IMAGES,
    },
    "small": {
        "stem_channels": 40,
        "stage_blocks": (1, 1, 2, 1),
        "stage_widths": (40, 80, 160, 320),
        "neck_channels": 96,
        "head_channels": 256,
        **_SMALL_IMAGES,
    },
    # SAE's hidden width and CBD's are a bottleneck's in proportion: as wide as the narrow map, and a quarter of it.
    "lite0": {
        "backbone": "efficientnet_lite0",
        "norm": "batch_eval",
        "sae_reduction": 6,
        "cbd_ratio": 1 / 4,
        "cbd_zero_init": True,
        "context_init": "plugin",
        "neck_channels": 64,
        "head_channels": 128,
        **_SMALL_IMAGES,
    },
    "r50": {},
}
