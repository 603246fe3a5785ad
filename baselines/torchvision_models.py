"""Faster R-CNN with FPN (Ren et al. 2015, Lin et al. 2017) and RetinaNet (Lin et al. 2017) from torchvision.

At scale r50 they are torchvision's models as they ship. At nano and small they stand on CANet's plain backbone
with torchvision's FPN and CANet's settings of anchors, RPN and RoI head, so that a difference to CANet is its
blocks and its neck, and nothing else.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from canet.backbone import ResNet, imagenet_state
from canet.config import CANetConfig
from canet.detector import (
    Anchors,
    Batch,
    Detector,
    ResizeNormalizePad,
    Target,
    TwoStageDetector,
    build_roi_heads,
    build_rpn,
    require_imagenet,
)

SCORE_THRESHOLD = 0.001
DETECTIONS = 100


def build_fasterrcnn_fpn(
    *, num_classes: int, image_size: int, scale: str, weights: str | None = None
) -> TwoStageDetector:
    """Faster R-CNN with FPN for `num_classes` foreground classes, under the detector contract.

    weights: None trains from scratch with live batch norm; "imagenet" (scale r50) loads and freezes the stem and
    the first stage, as torchvision does. Raises RuntimeError when the weights cannot be had.
    """
    transform = ResizeNormalizePad(image_size)
    if scale != "r50":
        config = _plain(scale, weights)
        neck = FeaturePyramidNetwork(list(config.stage_channels), config.neck_channels, extra_blocks=LastLevelMaxPool())
        rpn, heads = build_rpn(config), build_roi_heads(config, num_classes)
        return TwoStageDetector(transform, ResNet(config), neck, rpn, heads)
    backbone, provenance = _r50_fpn(weights, returned_layers=[1, 2, 3, 4], extra_blocks=LastLevelMaxPool())
    shipped = FasterRCNN(backbone, num_classes + 1, box_score_thresh=SCORE_THRESHOLD, box_detections_per_img=DETECTIONS)
    model = TwoStageDetector(transform, backbone.body, backbone.fpn, shipped.rpn, shipped.roi_heads)
    model.provenance = _with_prefix(provenance, "backbone.")
    return model


def build_retinanet(*, num_classes: int, image_size: int, scale: str, weights: str | None = None) -> RetinaNetDetector:
    """RetinaNet for `num_classes` foreground classes; arguments and errors as `build_fasterrcnn_fpn`.

    At nano and small its anchors start at 16 px on P3, as those of the two-stage models do on P2, with its own
    three sizes per octave, and its heads have the group norm of torchvision's second version: without a norm, four
    layers initialised at 0.01 learn next to nothing from scratch.
    """
    if scale != "r50":
        config = _plain(scale, weights)
        base = [sizes[0] for sizes in config.anchor_sizes]
        sizes = [[round(size * 2 ** (octave / 3)) for octave in range(3)] for size in base]
        anchors = Anchors(sizes, config.anchor_ratios, exact=False)
        return RetinaNetDetector(RetinaBackbone(config), num_classes, image_size, anchors)
    backbone, provenance = _r50_fpn(weights, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    model = RetinaNetDetector(backbone, num_classes, image_size)
    model.provenance = _with_prefix(provenance, "backbone.body.")
    return model


class RetinaBackbone(nn.Module):
    """CANet's plain backbone and torchvision's FPN on C3-C5, with P6 and P7."""

    def __init__(self, config: CANetConfig) -> None:
        super().__init__()
        self.out_channels = config.neck_channels
        self.body = ResNet(config)
        self.fpn = FeaturePyramidNetwork(
            list(config.stage_channels[1:]),
            config.neck_channels,
            extra_blocks=LastLevelP6P7(config.neck_channels, config.neck_channels),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        del features["c2"]
        return self.fpn(features)


class RetinaNetDetector(Detector, RetinaNet):
    """torchvision's RetinaNet with its forward in the contract's three parts."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        image_size: int,
        anchors: AnchorGenerator | None = None,
    ) -> None:
        head = None
        if anchors is not None:
            head = RetinaNetHead(
                backbone.out_channels,
                anchors.num_anchors_per_location()[0],
                num_classes + 1,
                norm_layer=partial(nn.GroupNorm, 32),
            )
        RetinaNet.__init__(
            self,
            backbone,
            num_classes + 1,  # labels are 1..K and torchvision indexes by label: output 0 stays unused
            anchor_generator=anchors,
            head=head,
            score_thresh=SCORE_THRESHOLD,
            detections_per_img=DETECTIONS,
        )
        self.transform = ResizeNormalizePad(image_size)
        self.provenance = {"weights": None, "frozen": [], "norm": "batch"}

    def network(self, batch: Batch) -> dict[str, Any]:
        features = list(self.backbone(batch.images.tensors).values())
        outputs = self.head(features)
        anchors = self.anchor_generator(batch.images, features)
        if self.training:
            return self.compute_loss(batch.targets, outputs, anchors)
        outputs["cls_logits"][..., 0] = -math.inf  # nothing is ever labelled with the unused output
        per_level = [x.shape[2] * x.shape[3] for x in features]
        per_location = outputs["cls_logits"].shape[1] // sum(per_level)
        return {"outputs": outputs, "anchors": anchors, "per_level": [n * per_location for n in per_level]}

    def postprocess(self, raw: dict[str, Any], batch: Batch) -> list[Target]:
        outputs = {name: x.split(raw["per_level"], dim=1) for name, x in raw["outputs"].items()}
        anchors = [a.split(raw["per_level"]) for a in raw["anchors"]]
        return self.to_original(self.postprocess_detections(outputs, anchors, batch.images.image_sizes), batch)


def _plain(scale: str, weights: str | None) -> CANetConfig:
    if weights is not None:
        require_imagenet(weights, scale)
    return CANetConfig.preset("pytorch", scale=scale).plain().from_scratch()


def _r50_fpn(weights: str | None, **pyramid: Any) -> tuple[BackboneWithFPN, dict[str, Any]]:
    """ResNet-50 with FPN as torchvision builds it, and its provenance (frozen names within the ResNet)."""
    if weights is None:
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5, **pyramid
        )
        return backbone, {"weights": None, "frozen": [], "norm": "batch"}
    require_imagenet(weights, "r50")
    entry = ResNet50_Weights.IMAGENET1K_V2
    state = imagenet_state(entry)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3, **pyramid
    )
    backbone.body.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    return backbone, {"weights": str(entry), "frozen": ["conv1", "bn1", "layer1"], "norm": "frozen_batch"}


def _with_prefix(provenance: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {**provenance, "frozen": [prefix + name for name in provenance["frozen"]]}
