"""torchvision's detectors under the detector contract.

Faster R-CNN with FPN (Ren et al. 2015, Lin et al. 2017), RetinaNet (Lin et al. 2017), both also in torchvision's
second version (Li et al. 2021), FCOS (Tian et al. 2019), SSD300 (Liu et al. 2016) and SSDLite (Sandler et al. 2018).

At scale r50 the pyramid models are torchvision's as they ship, anchors apart. At nano, small and lite0 they stand on
CANet's plain backbone with torchvision's FPN and CANet's settings of RPN and RoI head, so that a difference to CANet is
its blocks and its neck, and a difference between them is their heads. SSD300, SSDLite and the Faster R-CNN on
MobileNetV3 have one scale, the backbone that they are named after.

`anchors="small"`, the default, is for small defects, "library" is torchvision's own for COCO:

    Faster R-CNN         CANet's of the same scale (r50: 8 to 512 px; others: 16 to 256 px); own: 32 to 512 px
    ... on MobileNetV3   five sizes on each of its three levels, 16 to 256 px; own: 32 to 512 px
    RetinaNet            from 12 px on P3 (r50: 16 px), three sizes per octave; own: from 32 px
    SSD300               0.08, 0.16, 0.3, 0.45, 0.6, 0.75 and 0.9 of the image; own: 0.07 to 1.05
    SSDLite              0.1, 0.2, 0.35, 0.5, 0.65, 0.8 and 0.95 of the image; own: 0.2 to 1
    FCOS                 has none; a level is responsible for the sides that torchvision gives it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, VGG16_Weights
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    RetinaNet,
    fasterrcnn_mobilenet_v3_large_fpn,
    ssd300_vgg16,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

from canet.backbone import Backbone, imagenet_state
from canet.config import CANetConfig
from canet.contract import DETECTIONS, SCORE_THRESHOLD, Batch, Detector, ResizeNormalizePad, Target
from canet.detector import (
    Anchors,
    TwoStageDetector,
    build_anchors,
    build_backbone,
    build_roi_heads,
    build_rpn,
    build_transform,
    load_backbone,
    require_imagenet,
)
from canet.ignore import IgnoringRPN, any_ignored, covered, ignored_boxes, inside
from canet.initialisation import initialised_by_name

_SMALL = (16, 32, 64, 128, 256)
_RETINANET_SMALL = (12, 24, 48, 96, 192)
"""At the scales below r50: as many boxes have an anchor of IoU 0.5 as of Faster R-CNN's (docs/recipes.md)."""
_LIBRARY = (32, 64, 128, 256, 512)
_SSD_SMALL = {300: (0.08, 0.16, 0.3, 0.45, 0.6, 0.75, 0.9), 320: (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)}
"""By the size that the network is made for: smaller first ones lie between the cells of the finest map."""
_RATIOS = (0.5, 1.0, 2.0)


@initialised_by_name
def build_fasterrcnn_fpn(
    *,
    num_classes: int,
    image_size: int,
    scale: str,
    weights: str | None = None,
    anchors: str = "small",
    version: int = 1,
    live: bool = False,
) -> TwoStageDetector:
    """Faster R-CNN with FPN for `num_classes` foreground classes, under the detector contract.

    weights: None trains from scratch with live batch norm; "imagenet" (scales r50 and lite0) loads and freezes the
    stem and the first stage, as torchvision does. Raises RuntimeError when the weights cannot be had.
    anchors: "small" or "library", see the module.
    version: torchvision's; 2 has batch norms in the FPN, two convolutions in the RPN and four in the RoI head.
    live: whether all of a pretrained backbone is trained, its stem and first stages too (torchvision's
    `trainable_backbone_layers` of 5); its norms stay at their statistics.
    """
    config = _plain(scale, weights, anchors, live=live)
    transform = build_transform(config, image_size)
    width = config.neck_channels
    if scale != "r50":
        norm = nn.BatchNorm2d if version == 2 else None
        levels = list(config.stage_channels)
        neck = FeaturePyramidNetwork(levels, width, extra_blocks=LastLevelMaxPool(), norm_layer=norm)
        rpn, heads = build_rpn(config), build_roi_heads(config, num_classes)
        if version == 2:
            rpn.head, heads.box_head = _second_version(config)
        body = build_backbone(config)
        model = TwoStageDetector(transform, body, neck, rpn, heads)
        model.provenance = _with_prefix(_facts_of(body, config, weights), "backbone.")
        return model
    backbone, provenance = _r50_fpn(
        weights, live=live, live_norm=version == 2, returned_layers=[1, 2, 3, 4], extra_blocks=LastLevelMaxPool()
    )
    parts: dict[str, Any] = {"rpn_anchor_generator": build_anchors(config)}
    if version == 2:
        parts["rpn_head"], parts["box_head"] = _second_version(config)
        levels = list(config.stage_channels)
        backbone.fpn = FeaturePyramidNetwork(levels, width, extra_blocks=LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)
    shipped = _faster_rcnn(backbone, num_classes, **parts)
    _fix_scales(shipped.roi_heads, [4, 8, 16, 32])
    rpn = IgnoringRPN.of(shipped.rpn)
    model = TwoStageDetector(transform, backbone.body, backbone.fpn, rpn, shipped.roi_heads)
    model.provenance = _with_prefix(provenance, "backbone.")
    return model


def build_fasterrcnn_mobilenet(
    *, num_classes: int, image_size: int, scale: str, weights: str | None = None, anchors: str = "small"
) -> TwoStageDetector:
    """Faster R-CNN with FPN on MobileNetV3 (Howard et al. 2019), the one of torchvision; scale mobilenet_v3_large.

    Its two finest levels have stride 32. Arguments and errors as `build_fasterrcnn_fpn`.
    """
    _check(scale, "mobilenet_v3_large", weights, anchors)
    entry = _entry(MobileNet_V3_Large_Weights.IMAGENET1K_V1, weights)
    shipped = fasterrcnn_mobilenet_v3_large_fpn(
        weights=None,
        weights_backbone=entry,
        num_classes=num_classes + 1,
        box_score_thresh=SCORE_THRESHOLD,
        box_detections_per_img=DETECTIONS,
    )
    sizes = _SMALL if anchors == "small" else _LIBRARY
    _fix_scales(shipped.roi_heads, [32, 32])
    shipped.rpn.anchor_generator = Anchors([sizes] * 3, _RATIOS, exact=False)
    model = TwoStageDetector(
        ResizeNormalizePad(image_size),
        shipped.backbone.body,
        shipped.backbone.fpn,
        IgnoringRPN.of(shipped.rpn),
        shipped.roi_heads,
    )
    model.provenance = _facts(model, entry, norm="batch" if entry is None else "frozen_batch")
    return model


@initialised_by_name
def build_retinanet(
    *,
    num_classes: int,
    image_size: int,
    scale: str,
    weights: str | None = None,
    anchors: str = "small",
    version: int = 1,
    live: bool = False,
) -> RetinaNetDetector:
    """RetinaNet for `num_classes` foreground classes; arguments and errors as `build_fasterrcnn_fpn`.

    version: torchvision's; 2 has group norm in the heads, GIoU as box loss, and P6 made from C5. At nano and small
    the first has the group norm too: without a norm, four layers initialised at 0.01 learn next to nothing from
    scratch.
    """
    config = _plain(scale, weights, anchors, live=live)
    if anchors == "small":
        smallest = _SMALL if scale == "r50" else _RETINANET_SMALL
        sizes = [[round(size * 2 ** (octave / 3)) for octave in range(3)] for size in smallest]
    else:
        sizes = [[int(size * 2 ** (octave / 3)) for octave in range(3)] for size in _LIBRARY]
    generator = Anchors(sizes, _RATIOS, exact=False)
    second = {"live_norm": version == 2, "p6_from_c5": version == 2}
    backbone, provenance = _dense_backbone(config, scale, weights, live=live, **second)
    transform = build_transform(config, image_size)
    group_norm = version == 2 or scale != "r50"
    model = RetinaNetDetector(backbone, num_classes, transform, generator, group_norm=group_norm, giou=version == 2)
    model.provenance = provenance
    return model


@initialised_by_name
def build_fcos(*, num_classes: int, image_size: int, scale: str, weights: str | None = None) -> FCOSDetector:
    """FCOS for `num_classes` foreground classes; arguments and errors as `build_fasterrcnn_fpn`."""
    config = _plain(scale, weights, "small")
    backbone, provenance = _dense_backbone(config, scale, weights)
    model = FCOSDetector(backbone, num_classes, build_transform(config, image_size))
    model.provenance = provenance
    return model


def build_ssd300(
    *, num_classes: int, image_size: int, scale: str, weights: str | None = None, anchors: str = "small"
) -> SSDDetector:
    """SSD300 on VGG-16 (scale vgg16) for `num_classes` foreground classes; arguments as `build_fasterrcnn_fpn`.

    The network is made for 300 px: the longer side becomes that, whatever `image_size` is. Without box in a batch,
    its loss is zero: negatives are mined in proportion to positives.
    """
    _check(scale, "vgg16", weights, anchors)
    entry = _entry(VGG16_Weights.IMAGENET1K_FEATURES, weights)
    shipped = ssd300_vgg16(weights=None, weights_backbone=entry, num_classes=num_classes + 1)
    model = SSDDetector(shipped, num_classes, anchors)
    model.provenance = _facts(model, entry, norm="none")
    return model


def build_ssdlite(
    *, num_classes: int, image_size: int, scale: str, weights: str | None = None, anchors: str = "small"
) -> SSDDetector:
    """SSDLite320 on MobileNetV3 (scale mobilenet_v3_large); as `build_ssd300`, at 320 px."""
    _check(scale, "mobilenet_v3_large", weights, anchors)
    entry = _entry(MobileNet_V3_Large_Weights.IMAGENET1K_V1, weights)
    shipped = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=entry, num_classes=num_classes + 1)
    model = SSDDetector(shipped, num_classes, anchors)
    model.provenance = _facts(model, entry, norm="batch")
    return model


def _fix_scales(heads: RoIHeads, strides: list[int]) -> None:
    """Tell torchvision's RoIAlign the strides of its levels.

    It infers them from the first batch that it sees, before padding, and keeps them: wrong ones for every image that
    follows where the first is so thin that padding adds half of its height.
    """
    pool = heads.box_roi_pool
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = initLevelMapper(
        round(math.log2(strides[0])),
        round(math.log2(strides[-1])),
        canonical_scale=pool.canonical_scale,
        canonical_level=pool.canonical_level,
    )


class DenseBackbone(nn.Module):
    """CANet's plain backbone and torchvision's FPN on C3-C5, with P6 (from P5 or C5) and P7."""

    def __init__(self, config: CANetConfig, *, p6_from_c5: bool = False) -> None:
        super().__init__()
        self.out_channels = config.neck_channels
        self.body = build_backbone(config)
        sixth_from = config.stage_channels[-1] if p6_from_c5 else config.neck_channels
        self.fpn = FeaturePyramidNetwork(
            list(config.stage_channels[1:]),
            config.neck_channels,
            extra_blocks=LastLevelP6P7(sixth_from, config.neck_channels),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        del features["c2"]
        return self.fpn(features)


class PyramidDetector(Detector):
    """What RetinaNet and FCOS share: torchvision's forward in the contract's three parts."""

    ignores = True
    # torchvision's, of the other base class.
    backbone: nn.Module
    head: nn.Module
    anchor_generator: nn.Module
    postprocess_detections: Callable[..., list[Target]]
    compute_loss: Callable[..., dict[str, Tensor]]

    def network(self, batch: Batch) -> dict[str, Any]:
        features = list(self.backbone(batch.images.tensors).values())
        outputs = self.head(features)
        anchors = self.anchor_generator(batch.images, features)
        cells = [x.shape[2] * x.shape[3] for x in features]
        per_location = outputs["cls_logits"].shape[1] // sum(cells)
        per_level = [n * per_location for n in cells]
        if self.training:
            return self.losses(batch.targets, outputs, anchors, per_level)
        outputs["cls_logits"][..., 0] = -math.inf  # nothing is ever labelled with the unused output
        return {"outputs": outputs, "anchors": anchors, "per_level": per_level}

    def losses(
        self,
        targets: list[Target] | None,
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        per_level: list[int],
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def postprocess(self, raw: dict[str, Any], batch: Batch) -> list[Target]:
        outputs = {name: x.split(raw["per_level"], dim=1) for name, x in raw["outputs"].items()}
        anchors = [a.split(raw["per_level"]) for a in raw["anchors"]]
        return self.to_original(self.postprocess_detections(outputs, anchors, batch.images.image_sizes), batch)


# Labels are 1..K, and RetinaNet and FCOS index their outputs by label: both get K + 1, of which 0 stays unused.


class IgnoringRetinaNetHead(RetinaNetHead):
    """torchvision's head; anchors that match nothing and are `covered` by an ignored box count as those between."""

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        for i, target in enumerate(targets):
            if (ignore := ignored_boxes(target)) is not None:
                out = (matched_idxs[i] == Matcher.BELOW_LOW_THRESHOLD) & covered(anchors[i], ignore)
                matched_idxs[i] = matched_idxs[i].masked_fill(out, Matcher.BETWEEN_THRESHOLDS)
        return super().compute_loss(targets, head_outputs, anchors, matched_idxs)


class IgnoringFCOSHead(FCOSHead):
    """torchvision's head; locations in an ignored box that are no box's are left out of the classification loss.

    matched: of the last batch, which box each location is for, below 0 for none.
    """

    matched: list[Tensor]

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        self.matched = matched_idxs
        if any_ignored(targets):
            out = torch.zeros_like(torch.stack(matched_idxs), dtype=torch.bool)
            for i, target in enumerate(targets):
                if (ignore := ignored_boxes(target)) is not None:
                    centres = (anchors[i][:, :2] + anchors[i][:, 2:]) / 2
                    out[i] = (matched_idxs[i] < 0) & inside(centres, ignore)
            # The focal loss of a negative is 0 at a probability of 0, and a constant has no gradient.
            logits = head_outputs["cls_logits"].masked_fill(out[..., None], -100.0)
            head_outputs = {**head_outputs, "cls_logits": logits}
        return super().compute_loss(targets, head_outputs, anchors, matched_idxs)


class RetinaNetDetector(PyramidDetector, RetinaNet):
    """torchvision's RetinaNet under the contract."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        transform: ResizeNormalizePad,
        anchors: AnchorGenerator,
        *,
        group_norm: bool,
        giou: bool,
    ) -> None:
        head = IgnoringRetinaNetHead(
            backbone.out_channels,
            anchors.num_anchors_per_location()[0],
            num_classes + 1,
            norm_layer=partial(nn.GroupNorm, 32) if group_norm else None,
        )
        if giou:
            head.regression_head._loss_type = "giou"
        RetinaNet.__init__(
            self,
            backbone,
            num_classes + 1,
            anchor_generator=anchors,
            head=head,
            score_thresh=SCORE_THRESHOLD,
            detections_per_img=DETECTIONS,
        )
        self.transform = transform

    def losses(
        self,
        targets: list[Target] | None,
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        per_level: list[int],
    ) -> dict[str, Tensor]:
        return self.compute_loss(targets, outputs, anchors)


class FCOSDetector(PyramidDetector, FCOS):
    """torchvision's FCOS under the contract."""

    head: IgnoringFCOSHead
    assigns_by_weights = False
    """Which location is for which box is geometry alone."""

    def __init__(self, backbone: nn.Module, num_classes: int, transform: ResizeNormalizePad) -> None:
        FCOS.__init__(
            self,
            backbone,
            num_classes + 1,
            anchor_generator=Anchors([(8,), (16,), (32,), (64,), (128,)], (1.0,), exact=False),  # torchvision's own
            head=IgnoringFCOSHead(backbone.out_channels, 1, num_classes + 1),
            score_thresh=SCORE_THRESHOLD,
            detections_per_img=DETECTIONS,
        )
        self.transform = transform

    def losses(
        self,
        targets: list[Target] | None,
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        per_level: list[int],
    ) -> dict[str, Tensor]:
        return self.compute_loss(targets, outputs, anchors, per_level)

    @torch.no_grad()
    def boxes_without_target(self, images: Sequence[Tensor], targets: Sequence[Target]) -> tuple[int, int]:
        """How many boxes no location is for, whatever the weights are, and how many there are.

        A box that holds no location's centre within one and a half strides of its own, or that a smaller box takes all
        of them from, is never learned.

        Args:
            images, targets: of one batch, as in training.
        """
        batch, training = self.preprocess(images, targets), self.training
        self.eval()  # batch norms would move
        try:
            features = list(self.backbone(batch.images.tensors).values())
        finally:
            self.train(training)
        outputs, anchors = self.head(features), self.anchor_generator(batch.images, features)
        self.losses(batch.targets, outputs, anchors, [x.shape[2] * x.shape[3] for x in features])
        found = [len(matched[matched >= 0].unique()) for matched in self.head.matched]
        there = [len(target["boxes"]) for target in targets]
        return sum(there) - sum(found), sum(there)


class DefaultBoxes(DefaultBoxGenerator):
    """torchvision's, in float32 where the maps are of fewer digits."""

    def _grid_default_boxes(
        self, grid_sizes: list[list[int]], image_size: list[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return super()._grid_default_boxes(grid_sizes, image_size, torch.promote_types(dtype, torch.float32))


class SSDDetector(Detector, SSD):
    """torchvision's SSD under the contract: images keep their aspect and are padded to the square that it is made for.

    torchvision itself stretches them to that square.
    """

    # torchvision's, of the other base class.
    backbone: nn.Module
    head: nn.Module
    anchor_generator: nn.Module
    proposal_matcher: Callable[[Tensor], Tensor]
    postprocess_detections: Callable[..., list[Target]]
    compute_loss: Callable[..., dict[str, Tensor]]

    def __init__(self, shipped: SSD, num_classes: int, anchors: str) -> None:
        generator, (size, _) = shipped.anchor_generator, shipped.transform.fixed_size
        generator = DefaultBoxes(
            generator.aspect_ratios,
            scales=list(_SSD_SMALL[size]) if anchors == "small" else generator.scales,
            steps=generator.steps,
            clip=generator.clip,
        )
        SSD.__init__(
            self,
            shipped.backbone,
            generator,
            (size, size),
            num_classes + 1,
            head=shipped.head,
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=shipped.nms_thresh,
            detections_per_img=DETECTIONS,
            topk_candidates=shipped.topk_candidates,
        )
        self.transform = ResizeNormalizePad(size, divisor=size)
        self.transform.image_mean = shipped.transform.image_mean
        self.transform.image_std = shipped.transform.image_std

    def network(self, batch: Batch) -> dict[str, Any]:
        features = list(self.backbone(batch.images.tensors).values())
        outputs = self.head(features)
        anchors = self.anchor_generator(batch.images, features)
        if not self.training:
            return {"outputs": outputs, "anchors": anchors}
        targets = batch.targets or []
        matched = [
            self.proposal_matcher(box_iou(target["boxes"], a))
            if len(target["boxes"])
            else a.new_full((len(a),), -1).long()
            for target, a in zip(targets, anchors, strict=True)
        ]
        return self.compute_loss(targets, outputs, anchors, matched)

    def postprocess(self, raw: dict[str, Any], batch: Batch) -> list[Target]:
        found = self.postprocess_detections(raw["outputs"], raw["anchors"], batch.images.image_sizes)
        return self.to_original(found, batch)


def _plain(scale: str, weights: str | None, anchors: str, *, live: bool = False) -> CANetConfig:
    """CANet's plain form at `scale`, with the anchors asked for; r50 reads the anchors and the widths alone."""
    _check_anchors(anchors)
    if weights is not None:
        require_imagenet(weights, scale)
    config = CANetConfig.preset("pytorch", scale=scale).plain()
    if weights is None:
        config = config.from_scratch()
    elif live:
        config = replace(config, frozen_stages=-1)
    return config if anchors == "small" else replace(config, anchor_sizes=tuple((size,) for size in _LIBRARY))


def _second_version(config: CANetConfig) -> tuple[RPNHead, FastRCNNConvFCHead]:
    """Heads of Faster R-CNN's second version."""
    width = config.neck_channels
    anchors = len(config.anchor_sizes[0]) * len(config.anchor_ratios)
    box_head = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [config.head_channels], norm_layer=nn.BatchNorm2d)
    return RPNHead(width, anchors, conv_depth=2), box_head


def _faster_rcnn(backbone: nn.Module, num_classes: int, **parts: Any) -> FasterRCNN:
    return FasterRCNN(
        backbone,
        num_classes + 1,
        box_score_thresh=SCORE_THRESHOLD,
        box_detections_per_img=DETECTIONS,
        **parts,
    )


def _dense_backbone(
    config: CANetConfig,
    scale: str,
    weights: str | None,
    *,
    live: bool = False,
    live_norm: bool = False,
    p6_from_c5: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """C3-C5 of ResNet with FPN, P6 and P7, and its provenance."""
    if scale != "r50":
        dense = DenseBackbone(config, p6_from_c5=p6_from_c5)
        return dense, _with_prefix(_facts_of(dense.body, config, weights), "backbone.body.")
    extra = LastLevelP6P7(2048 if p6_from_c5 else 256, 256)
    backbone, provenance = _r50_fpn(
        weights, live=live, live_norm=live_norm, returned_layers=[2, 3, 4], extra_blocks=extra
    )
    return backbone, _with_prefix(provenance, "backbone.body.")


def _facts_of(body: Backbone, config: CANetConfig, weights: str | None) -> dict[str, Any]:
    """Load `weights` into one of CANet's backbones; its provenance, frozen names within it."""
    return {
        "weights": None if weights is None else load_backbone(body, config),
        "frozen": list(body.frozen_modules()),
        "norm": config.norm,
    }


def _r50_fpn(
    weights: str | None, *, live: bool = False, live_norm: bool = False, **pyramid: Any
) -> tuple[BackboneWithFPN, dict[str, Any]]:
    """ResNet-50 with FPN as torchvision builds it, and its provenance (frozen names within the ResNet).

    live: nothing is frozen with pretrained weights too.
    live_norm: batch norm stays live with pretrained weights too, as in torchvision's second versions.
    """
    if weights is None:
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5, **pyramid
        )
        return backbone, {"weights": None, "frozen": [], "norm": "batch"}
    require_imagenet(weights, "r50")
    entry = ResNet50_Weights.IMAGENET1K_V2
    state = imagenet_state(entry)
    norm = nn.BatchNorm2d if live_norm else FrozenBatchNorm2d
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=5 if live else 3, **pyramid
    )
    backbone.body.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    frozen = [] if live else ["conv1", "bn1", "layer1"]
    return backbone, {"weights": str(entry), "frozen": frozen, "norm": "batch" if live_norm else "frozen_batch"}


def _with_prefix(provenance: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {**provenance, "frozen": [prefix + name for name in provenance["frozen"]]}


def _check_anchors(anchors: str) -> None:
    if anchors not in ("small", "library"):
        raise ValueError(f"anchors={anchors!r}: expected 'small' or 'library'")


def _check(scale: str, only: str, weights: str | None, anchors: str) -> None:
    _check_anchors(anchors)
    if scale != only:
        raise ValueError(f"scale={scale!r}: this model has one, {only!r}")
    if weights not in (None, "imagenet"):
        raise ValueError(f"weights={weights!r}: expected None or 'imagenet'")


def _entry(entry: Any, weights: str | None) -> Any:
    """`entry`, once its file is here; None from scratch. Raises RuntimeError when it cannot be had."""
    if weights is None:
        return None
    imagenet_state(entry)
    return entry


def _facts(model: nn.Module, entry: Any, norm: str) -> dict[str, Any]:
    frozen = [name.rsplit(".", 1)[0] for name, p in model.named_parameters() if not p.requires_grad]
    return {"weights": None if entry is None else str(entry), "frozen": list(dict.fromkeys(frozen)), "norm": norm}
