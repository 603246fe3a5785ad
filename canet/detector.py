"""CANet as a two-stage detector, on torchvision's RPN and RoI parts, under the detector contract (`canet.contract`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import boxes as box_ops

from canet.attention import SpatialAttentionEncoder
from canet.backbone import Backbone, ResNet, load_imagenet
from canet.config import CANetConfig
from canet.contract import Batch, Detector, ResizeNormalizePad, Target
from canet.efficientnet import MEAN, STD, EfficientNetLite0, load_imagenet_lite0, weights_file
from canet.ignore import IgnoringRPN, any_ignored, without_ignored
from canet.initialisation import initialised_by_name
from canet.pyramid import LaplacianFPN, LaplacianFusion, build_neck
from canet.roi_align import multilevel_roi_align


class TwoStageDetector(Detector):
    """Backbone, neck, RPN and RoI heads of torchvision's interfaces."""

    ignores = True

    def __init__(
        self,
        transform: GeneralizedRCNNTransform,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
    ) -> None:
        super().__init__(transform)
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.roi_heads = roi_heads

    def features(self, images: ImageList) -> dict[str, Tensor]:
        """Levels of the pyramid, finest first."""
        return self.neck(self.backbone(images.tensors))

    def network(self, batch: Batch) -> dict[str, Any]:
        images, sizes = batch.images, batch.images.image_sizes
        features = self.features(images)
        proposals, rpn_losses = self.rpn(images, features, batch.targets)
        if self.training:
            if any_ignored(batch.targets):
                assert batch.targets is not None
                matched = self.roi_heads.proposal_matcher.low_threshold
                proposals = without_ignored(proposals, batch.targets, matched)
            if not any(map(len, proposals)) and not any(len(t["boxes"]) for t in batch.targets or ()):
                nothing = proposals[0].sum()  # of no proposal at all the losses would be NaN
                return {**rpn_losses, "loss_classifier": nothing, "loss_box_reg": nothing}
            _, losses = self.roi_heads(features, proposals, sizes, batch.targets)
            return {**rpn_losses, **losses}
        pooled = self.roi_heads.box_roi_pool(features, proposals, sizes)
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return {"logits": logits, "deltas": deltas, "proposals": proposals}

    def postprocess(self, raw: dict[str, Any], batch: Batch) -> list[Target]:
        boxes, scores, labels = self.roi_heads.postprocess_detections(
            raw["logits"], raw["deltas"], raw["proposals"], batch.images.image_sizes
        )
        found = [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(boxes, scores, labels, strict=True)]
        return self.to_original(found, batch)


class Anchors(AnchorGenerator):
    """torchvision's anchors, kept for the last image size; `exact` neither rounds them nor their strides."""

    def __init__(self, sizes: Sequence[Sequence[int]], ratios: Sequence[float], *, exact: bool) -> None:
        self.exact = exact
        self._cache: tuple[Any, Tensor] | None = None
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),
    ) -> Tensor:
        if not self.exact:
            return super().generate_anchors(scales, aspect_ratios, dtype, device)
        size = torch.as_tensor(scales, dtype=dtype, device=device)
        root = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        w, h = (size / root[:, None]).flatten(), (size * root[:, None]).flatten()
        return torch.stack([-w, -h, w, h], dim=1) / 2

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        # torchvision makes anchors in the type of the maps, and for good: in bfloat16, as under autocast, they would
        # lie up to two pixels off at 640 px, in training and no more in evaluation.
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        if self.exact:  # image // map is below the stride where a map's size was rounded up
            strides = [[2 ** torch.ceil(torch.log2(s.float())).long() for s in pair] for pair in strides]
        return super().grid_anchors(grid_sizes, strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        first = feature_maps[0]
        key = (
            tuple(image_list.tensors.shape[-2:]),
            tuple(tuple(f.shape[-2:]) for f in feature_maps),
            first.dtype,
            first.device,
        )
        if self._cache is None or self._cache[0] != key:
            one = ImageList(image_list.tensors[:1], image_list.image_sizes[:1])
            self._cache = (key, super().forward(one, feature_maps)[0])
        return [self._cache[1]] * len(image_list.image_sizes)


class BestAnchors(Matcher):
    """torchvision's matcher; a box that no anchor fits takes its best ones from an IoU of `least` on only.

    MMDetection's `min_pos_iou`.
    """

    def __init__(self, high: float, low: float, *, least: float) -> None:
        super().__init__(high, low, allow_low_quality_matches=True)
        self.least = least

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        reached = match_quality_matrix.amax(dim=1) >= self.least
        super().set_low_quality_matches_(matches, all_matches, match_quality_matrix[reached])


class ProposalNetwork(IgnoringRPN):
    """torchvision's RPN with the width of smooth-L1 as a choice, and its losses on the sampled anchors only.

    torchvision encodes a regression target for every anchor and then uses a few; the numbers are the same.
    """

    proposal_matcher: Matcher

    def __init__(self, *args: Any, best_iou: float, loss_beta: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if best_iou > 0:
            known = self.proposal_matcher
            self.proposal_matcher = BestAnchors(known.high_threshold, known.low_threshold, least=best_iou)
        self.loss_beta = loss_beta

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        maps = list(features.values())
        logits_per_level, deltas_per_level = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        per_level = [math.prod(x.shape[1:]) for x in logits_per_level]
        logits, deltas = concat_box_prediction_layers(logits_per_level, deltas_per_level)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits, deltas = logits.float(), deltas.float()
        with torch.no_grad():
            proposals = self.propose(logits, deltas, anchors, images.image_sizes, per_level)
        if not self.training:
            return proposals, {}
        assert targets is not None
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        return proposals, self.losses(logits.flatten(), deltas, anchors, labels, matched)

    def propose(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: list[Tensor],
        image_sizes: list[tuple[int, int]],
        per_level: list[int],
    ) -> list[Tensor]:
        """The best boxes of each image, decoding those alone that enter the NMS."""
        images = len(anchors)
        logits, deltas = logits.view(images, -1), deltas.view(images, -1, 4)
        top = self._get_top_n_idx(logits, per_level)
        level = torch.repeat_interleave(
            torch.arange(len(per_level), device=top.device), torch.tensor(per_level, device=top.device)
        )
        boxes = self.box_coder.decode_single(
            deltas.gather(1, top[:, :, None].expand(-1, -1, 4)).flatten(0, 1), anchors[0][top].flatten(0, 1)
        ).view(images, -1, 4)
        scores = logits.gather(1, top).sigmoid()
        kept = []
        for index, size in enumerate(image_sizes):
            clipped = box_ops.clip_boxes_to_image(boxes[index], size)
            sizeable = box_ops.remove_small_boxes(clipped, self.min_size)
            clipped, score, lvl = clipped[sizeable], scores[index][sizeable], level[top[index]][sizeable]
            keep = box_ops.batched_nms(clipped, score, lvl, self.nms_thresh)[: self.post_nms_top_n()]
            kept.append(clipped[keep])
        return kept

    def losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: list[Tensor],
        labels: list[Tensor],
        matched: list[Tensor],
    ) -> dict[str, Tensor]:
        """Objectness and box loss over the sampled anchors of all images."""
        chosen_positive, chosen_negative = (torch.cat(masks) for masks in self.fg_bg_sampler(labels))
        positive = torch.where(chosen_positive)[0]
        sampled = torch.where(chosen_positive | chosen_negative)[0]
        goal = self.box_coder.encode_single(torch.cat(matched)[positive], torch.cat(anchors)[positive])
        box = F.smooth_l1_loss(deltas[positive], goal, beta=self.loss_beta, reduction="sum")
        objectness = F.binary_cross_entropy_with_logits(logits[sampled], torch.cat(labels)[sampled])
        if not len(sampled):  # all of the batch is ignored: the mean of nothing is NaN
            objectness = logits.sum() * 0
        return {"loss_objectness": objectness, "loss_rpn_box_reg": box / max(1, sampled.numel())}


class RoIPool(nn.Module):
    """RoIAlign of each box on the level that its size belongs to: 224 px on P4 (Lin et al. 2017, eq. 1).

    Shapes: levels at strides 4, 8, ..; boxes (N_i, 4) per image -> (sum N_i, C, resolution, resolution).
    """

    def __init__(self, levels: int, *, sampling: int, aligned: bool, resolution: int = 7) -> None:
        super().__init__()
        self.levels, self.sampling, self.aligned, self.resolution = levels, sampling, aligned, resolution

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        maps = list(features.values())[: self.levels]
        sides = torch.cat([((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])).sqrt() for b in boxes])
        level = (torch.floor(torch.log2(sides / 224) + 1e-6) + 2).clamp(0, self.levels - 1)
        image = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        rois = torch.cat([image, torch.cat(boxes)], dim=1)
        return multilevel_roi_align(
            maps, rois, level, resolution=self.resolution, sampling=self.sampling, aligned=self.aligned
        )


class BoxPredictor(nn.Module):
    """Class scores (background first) and class-specific boxes; without `background` its four outputs are zero."""

    def __init__(self, in_channels: int, num_classes: int, *, background: bool) -> None:
        super().__init__()
        self.background = background
        self.cls_score = nn.Linear(in_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(in_channels, 4 * (num_classes + background))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        deltas = self.bbox_pred(x)
        return self.cls_score(x), deltas if self.background else F.pad(deltas, (4, 0))


class BoxHeads(RoIHeads):
    """torchvision's RoI heads with the width of smooth-L1 as a choice."""

    def __init__(self, *args: Any, loss_beta: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_beta = loss_beta

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        chosen, _, labels, goals = self.select_training_samples(list(proposals), targets)
        pooled = self.box_roi_pool(features, chosen, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        label = torch.cat(labels)
        positive = torch.where(label > 0)[0]
        found = deltas.view(len(label), -1, 4)[positive, label[positive]]
        box = F.smooth_l1_loss(found, torch.cat(goals)[positive], beta=self.loss_beta, reduction="sum")
        return [], {
            "loss_classifier": F.cross_entropy(logits, label),
            "loss_box_reg": box / max(1, label.numel()),
        }


def build_anchors(config: CANetConfig) -> Anchors:
    """Anchors of `config`, finest level first."""
    return Anchors(config.anchor_sizes, config.anchor_ratios, exact=config.anchor_grid == "mmdet")


def build_rpn(config: CANetConfig) -> ProposalNetwork:
    """The RPN of `config`."""
    anchors = build_anchors(config)
    pre, post = config.rpn_pre_nms, config.rpn_post_nms
    return ProposalNetwork(
        anchors,
        RPNHead(config.neck_channels, anchors.num_anchors_per_location()[0]),
        *config.rpn_iou,
        config.rpn_batch,
        config.rpn_positive,
        {"training": pre[0], "testing": pre[1]},
        {"training": post[0], "testing": post[1]},
        config.rpn_nms,
        best_iou=config.rpn_best_iou,
        loss_beta=config.box_loss_beta,
    )


def build_roi_heads(config: CANetConfig, num_classes: int) -> BoxHeads:
    """RoIAlign 7x7, two fully connected layers and the predictor of `config`, for `num_classes` foreground classes."""
    return BoxHeads(
        RoIPool(config.roi_levels, sampling=config.roi_sampling, aligned=config.roi_aligned),
        TwoMLPHead(config.neck_channels * 49, config.head_channels),
        BoxPredictor(config.head_channels, num_classes, background=config.regress_background),
        0.5,
        0.5,
        config.roi_batch,
        config.roi_positive,
        (10.0, 10.0, 5.0, 5.0),
        config.score_threshold,
        config.detection_nms,
        config.detections,
        loss_beta=config.box_loss_beta,
    )


def build_transform(config: CANetConfig, image_size: int) -> ResizeNormalizePad:
    """Resizing, the normalisation that the backbone of `config` is made for, and padding."""
    # Space to depth needs a coarsest map that divides by its stride.
    divisor = 32 * config.sae_kv_stride if config.sae_pixel_shuffle else 32
    if config.backbone == "efficientnet_lite0":
        return ResizeNormalizePad(image_size, divisor, mean=MEAN, std=STD)
    return ResizeNormalizePad(image_size, divisor)


def build_backbone(config: CANetConfig) -> Backbone:
    """The backbone of `config`, without weights from elsewhere."""
    return EfficientNetLite0(config) if config.backbone == "efficientnet_lite0" else ResNet(config)


def load_backbone(backbone: nn.Module, config: CANetConfig) -> str:
    """Load the ImageNet weights that belong to `config`; returns what was loaded. Raises RuntimeError without them."""
    if isinstance(backbone, EfficientNetLite0):
        return load_imagenet_lite0(backbone)
    assert isinstance(backbone, ResNet)
    return load_imagenet(backbone, config.origin)


class CANet(TwoStageDetector):
    """CANet exactly as `config` says, for `num_classes` foreground classes."""

    def __init__(self, config: CANetConfig, *, num_classes: int, image_size: int) -> None:
        super().__init__(
            build_transform(config, image_size),
            build_backbone(config),
            build_neck(config),
            build_rpn(config),
            build_roi_heads(config, num_classes),
        )
        self.config = config
        self.num_classes = num_classes
        self.backbone: Backbone
        self.provenance = {
            "weights": None,
            "frozen": [f"backbone.{name}" for name in self.backbone.frozen_modules()],
            "norm": config.norm,
        }

    def curve_scalars(self) -> dict[str, float]:
        """gamma of each spatial attention encoder, alpha and beta of each Laplacian fusion, by the module's name."""
        out = {}
        for name, module in self.named_modules():
            if isinstance(module, SpatialAttentionEncoder):
                out[f"{name}.gamma"] = float(module.gamma.detach())
            elif isinstance(module, LaplacianFusion):
                out[f"{name}.alpha"] = float(module.alpha.detach())
                out[f"{name}.beta"] = float(module.beta.detach())
        return out


@initialised_by_name
def build_canet(
    *,
    num_classes: int,
    image_size: int,
    scale: str,
    weights: str | None = None,
    config: CANetConfig | None = None,
) -> CANet:
    """CANet for `num_classes` foreground classes on images whose longer side becomes `image_size`.

    weights=None trains from scratch: batch norm live, nothing frozen. weights="imagenet" loads torchvision's
    ResNet-50 (scale "r50") or EfficientNet-Lite0 (scale "lite0") and keeps the norm and the frozen stages of `config`:
    the paper's at r50; at lite0 the stem and the first stage frozen, norms at fixed statistics.
    config: default the "pytorch" preset of `scale`; a config of another scale is a ValueError.
    Raises RuntimeError when the weights cannot be had.
    """
    config = config or CANetConfig.preset("pytorch", scale=scale)
    if config.scale != scale:
        raise ValueError(f"config is of scale {config.scale!r}, asked for {scale!r}")
    if weights is None:
        return CANet(config.from_scratch(), num_classes=num_classes, image_size=image_size)
    require_imagenet(weights, scale)
    model = CANet(config, num_classes=num_classes, image_size=image_size)
    model.provenance["weights"] = load_backbone(model.backbone, config)
    return model


def require_imagenet(weights: str, scale: str) -> None:
    """Raises for weights that exist for no backbone of `scale`, or are not installed."""
    if weights != "imagenet":
        raise ValueError(f"weights={weights!r}: expected None or 'imagenet'")
    if scale == "lite0":
        weights_file()
    elif scale != "r50":
        raise RuntimeError(
            f"there are no ImageNet weights for scale {scale!r}: use scale 'lite0', scale 'r50' or weights=None"
        )


def count_parameters(model: CANet, *, as_published: bool = False) -> dict[str, int]:
    """Parameters of `model`, "total" and "trainable".

    as_published: with the fusion block that the mmdet variant's own code holds and never uses, and ours leaves out.
    """
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    unused = 0
    if as_published and model.config.origin == "mmdet" and model.config.neck == "laplacian":
        assert isinstance(model.neck, LaplacianFPN)
        unused = sum(p.numel() for p in model.neck.fusion[0].parameters())
    return {
        "total": sum(size for size, _ in sizes) + unused,
        "trainable": sum(size for size, trainable in sizes if trainable) + unused,
    }
