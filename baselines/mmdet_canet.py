"""CANet's backbone and neck in MMDetection's registry, for training it there: `mmdet_configs/canet_r50_fpn_1x_coco.py`.

Importing this module registers both; a configuration does so by `custom_imports`. Everything behind them, RPN, RoI
head, losses, schedule, is MMDetection's own, as in the authors' MMDetection variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from canet.backbone import ResNet
from canet.config import CANetConfig
from canet.pyramid import build_neck


@MODELS.register_module()
class CANetBackbone(ResNet, BaseModule):
    """ResNet with CABlocks: image -> the levels `out_indices` of C2..C5, finest first.

    preset, scale and changes are those of `CANetConfig.preset`. Parameters are named as torchvision names them, so
    that `init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50")` fits.
    """

    def __init__(
        self,
        preset: str = "mmdet",
        scale: str = "r50",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        init_cfg: Any = None,
        **changes: Any,
    ) -> None:
        super().__init__(CANetConfig.preset(preset, scale, **changes))
        self.out_indices = tuple(out_indices)
        self.init_cfg = init_cfg

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # as the library wants it
        levels = tuple(super().forward(x).values())
        return tuple(levels[i] for i in self.out_indices)


@MODELS.register_module()
class CANetNeck(BaseModule):
    """The neck of a CANetConfig, LaplacianFPN in the presets: C2..C5 -> P2..P6; arguments as `CANetBackbone`."""

    def __init__(self, preset: str = "mmdet", scale: str = "r50", **changes: Any) -> None:
        super().__init__()
        self.pyramid: nn.Module = build_neck(CANetConfig.preset(preset, scale, **changes))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        named = {f"c{i + 2}": x for i, x in enumerate(features)}
        return tuple(self.pyramid(named).values())
