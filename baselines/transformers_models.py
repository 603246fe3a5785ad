"""D-FINE (Peng et al., ICLR 2025) of the transformers library under the detector contract.

https://github.com/huggingface/transformers (Apache-2.0, as is D-FINE's own code) is an optional extra, imported when a
model is built and never before. Models are built from configurations given here in numbers, without weights and
without network access; the library's own loss trains them and its own post-processing makes their detections.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn
from torchvision.ops import box_convert

from canet.contract import DETECTIONS, SCORE_THRESHOLD, Batch, Detector, ResizeNormalizePad, Target

QUERIES = 300  # as published

# HGNetV2-B0, which both sizes have.
_BACKBONE: dict[str, Any] = {
    "hidden_sizes": [128, 256, 512, 1024],
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, True, True],
    "stage_kernel_size": [3, 3, 5, 5],
    "stage_numb_of_layers": [3, 3, 3, 3],
    "use_learnable_affine_block": True,
}
# What the published D-FINE-N and D-FINE-S change of the library's defaults.
_SIZES: dict[str, dict[str, Any]] = {
    "n": {
        "num_feature_levels": 2,
        "feat_strides": [16, 32],
        "encoder_in_channels": [512, 1024],
        "encode_proj_layers": [1],
        "encoder_hidden_dim": 128,
        "encoder_ffn_dim": 512,
        "hidden_expansion": 0.34,
        "depth_mult": 0.5,
        "d_model": 128,
        "decoder_in_channels": [128, 128],
        "decoder_ffn_dim": 512,
        "decoder_n_points": [6, 6],
        "decoder_layers": 3,
    },
    "s": {
        "encoder_in_channels": [256, 512, 1024],
        "hidden_expansion": 0.5,
        "depth_mult": 0.34,
        "decoder_n_points": [3, 6, 3],
        "decoder_layers": 3,
    },
}


class DFineDetector(Detector):
    """A D-FINE model of the library under the detector contract.

    Losses: `vfl`, `bbox`, `giou`, `fgl` and `ddf`, gains applied, each the sum over the decoder's layers, the encoder
    and the denoising queries. Their sum is the library's `loss`, which its trainer calls `backward` on.

    Detections: the best of queries times classes, without NMS, limited as the contract says. The library stretches
    images to a square; here they keep their aspect and are padded, as for every model. Images with fewer positions than
    the published 300 queries have a query for each: 125 at 160 px in D-FINE-N, whose finest stride is 16.
    """

    def __init__(self, detector: nn.Module, processor: Any, image_size: int) -> None:
        transform = ResizeNormalizePad(image_size)
        # As published: pixels in [0, 1] without further normalisation.
        transform.image_mean, transform.image_std = [0.0] * 3, [1.0] * 3
        super().__init__(transform)
        self.detector = detector
        self._processor = processor
        constants = [name for name, p in self.named_parameters() if not p.requires_grad]
        self.provenance = {"weights": None, "frozen": constants, "norm": "batch"}

    def network(self, batch: Batch) -> Any:
        """The losses in training; logits (B, Q, K) and relative boxes (B, Q, 4) in evaluation."""
        images = batch.images.tensors
        height, width = images.shape[-2:]
        config: Any = self.detector.config
        positions = sum((height // stride) * (width // stride) for stride in config.feat_strides)
        config.num_queries = min(QUERIES, positions)  # small images have fewer positions to choose from
        if not self.training:
            found = self.detector(images)
            return {"logits": found.logits, "boxes": found.pred_boxes}
        found = self.detector(images, labels=self._labels(batch))
        losses: dict[str, Tensor] = {}
        for name, value in found.loss_dict.items():
            kind = name.removeprefix("loss_").split("_")[0]
            losses[kind] = losses.get(kind, images.new_zeros(())) + value
        if not any(len(t["labels"]) for t in batch.targets or []):  # no denoising queries: their embedding has no part
            losses["vfl"] = losses["vfl"] + 0 * self.detector.model.denoising_class_embed.weight.sum()  # type: ignore[union-attr, operator]
        return losses

    @staticmethod
    def _labels(batch: Batch) -> list[dict[str, Tensor]]:
        height, width = batch.images.tensors.shape[-2:]
        scale = batch.images.tensors.new_tensor([width, height, width, height])
        return [
            {"class_labels": t["labels"] - 1, "boxes": box_convert(t["boxes"], "xyxy", "cxcywh") / scale}
            for t in batch.targets or []
        ]

    def postprocess(self, raw: Any, batch: Batch) -> list[Target]:
        """The library's choice of the best, in pixels of the images as given, clipped, empty ones dropped."""
        from transformers.models.d_fine.modeling_d_fine import DFineObjectDetectionOutput

        height, width = batch.images.tensors.shape[-2:]
        output = DFineObjectDetectionOutput(logits=raw["logits"].float(), pred_boxes=raw["boxes"].float())
        rows = self._processor.post_process_object_detection(
            output, threshold=SCORE_THRESHOLD, target_sizes=[(height, width)] * len(raw["logits"])
        )
        found = [
            {"boxes": row["boxes"], "scores": row["scores"], "labels": row["labels"].long() + 1}
            for row in ({name: value[:DETECTIONS] for name, value in row.items()} for row in rows)
        ]
        return self.to_original(found, batch)


def _without_caches(module: Any) -> None:
    """Have the library compute anchors and position embeddings anew each time.

    It keeps those of sizes that any model of the process has met: tensors of inference mode, which autograd refuses,
    and work that the first image alone would be charged with.
    """
    for kind in vars(module).values():
        for name, value in list(vars(kind).items()) if isinstance(kind, type) else ():
            function: Any = getattr(value, "__func__", None)
            if isinstance(value, staticmethod) and name.startswith("_cached_") and hasattr(function, "__wrapped__"):
                setattr(kind, name, staticmethod(function.__wrapped__))


def build_dfine(*, num_classes: int, image_size: int, scale: str, weights: str | None = None) -> DFineDetector:
    """Build D-FINE with random weights.

    Args:
        num_classes: foreground classes, K.
        image_size: longer side in pixels that images are resized to.
        scale: "n" or "s", the published D-FINE-N and D-FINE-S.
        weights: None; the library has the backbone's weights on its hub alone.

    Raises:
        ImportError: the library is not installed.
        ValueError: unknown scale.
        RuntimeError: `weights` other than None.
    """
    if scale not in _SIZES:
        raise ValueError(f"D-FINE has no scale {scale!r}; there are {', '.join(_SIZES)}")
    if weights is not None:
        raise RuntimeError(f"no {weights!r} weights for D-FINE: they are on the library's hub alone, use weights=None")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config, RTDetrImageProcessor
    from transformers.models.d_fine import modeling_d_fine

    _without_caches(modeling_d_fine)
    backbone = {**_BACKBONE, "out_indices": [3, 4] if scale == "n" else [2, 3, 4]}
    sizes = {**_SIZES[scale], "num_labels": num_classes}
    config = DFineConfig(
        backbone_config=HGNetV2Config(**backbone),
        freeze_backbone_batch_norms=False,  # from scratch
        initializer_bias_prior_prob=0.01,  # of every class, as usual; the library's default depends on their number
        **sizes,
    )
    return DFineDetector(DFineForObjectDetection(config), RTDetrImageProcessor(), image_size)
