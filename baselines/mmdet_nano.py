"""The heads of the published figure at a size that two CPU cores can train, as changes to their configurations.

Where the backbone is not what a model is about, it is CANet's plain nano backbone, as for the other baselines, with
64 channels behind it and anchors from 16 px on. Where it is (EfficientNet, Swin, Res2Net, ResNeXt, YOLOX), it is the
smallest or narrowest of its kind.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

CHANNELS = 64
_STAGES = [96, 192, 384, 768]  # of the nano backbone


def _backbone(out_indices: tuple[int, ...] = (0, 1, 2, 3), **blocks: Any) -> dict[str, Any]:
    plain = blocks or {"sae": False, "cbd": False}
    return {
        "_delete_": True,
        "type": "CANetBackbone",
        "preset": "pytorch",
        "scale": "nano",
        "norm": "batch",
        "frozen_stages": -1,
        "out_indices": out_indices,
        **plain,
    }


_FPN = {"in_channels": _STAGES, "out_channels": CHANNELS}
_BOX_HEAD = {"in_channels": CHANNELS, "fc_out_channels": 128}
_EXTRACTOR = {"out_channels": CHANNELS}
_SAMPLES = {"sampler": {"num": 64}}
_RPN_HEAD = {"in_channels": CHANNELS, "feat_channels": CHANNELS, "anchor_generator": {"scales": [4]}}
_PROPOSALS = {"nms_pre": 256, "max_per_img": 128}

# Faster R-CNN and what is built like it.
_TWO_STAGE = {
    "backbone": _backbone(),
    "neck": _FPN,
    "rpn_head": _RPN_HEAD,
    "roi_head": {"bbox_roi_extractor": _EXTRACTOR, "bbox_head": _BOX_HEAD},
    "train_cfg": {"rpn_proposal": _PROPOSALS, "rcnn": _SAMPLES},
    "test_cfg": {"rpn": _PROPOSALS},
}
_CASCADE = {
    **_TWO_STAGE,
    "roi_head": {"bbox_roi_extractor": _EXTRACTOR, "bbox_head": {str(i): _BOX_HEAD for i in range(3)}},
    "train_cfg": {"rpn_proposal": _PROPOSALS, "rcnn": {str(i): _SAMPLES for i in range(3)}},
}
# RetinaNet and what is built like it: levels from P3 on.
_ONE_STAGE = {
    "backbone": _backbone((1, 2, 3)),
    "neck": {"in_channels": _STAGES[1:], "out_channels": CHANNELS, "start_level": 0},
    "bbox_head": {"in_channels": CHANNELS, "feat_channels": CHANNELS},
}
_NORM = {"type": "GN", "num_groups": 32}  # heads of four layers at 0.01 learn next to nothing from scratch without one
_NARROW = [64, 128, 256, 512]


def _retina(backbone: dict[str, Any], channels: list[int]) -> dict[str, Any]:
    head = {**_ONE_STAGE["bbox_head"], "anchor_generator": {"octave_base_scale": 2}}
    return {"backbone": backbone, "neck": {**_ONE_STAGE["neck"], "in_channels": channels}, "bbox_head": head}


def _attention(**more: Any) -> dict[str, Any]:
    return {"embed_dims": CHANNELS, "num_heads": 4, **more}


_DETR_FFN = {"embed_dims": CHANNELS, "feedforward_channels": 256, "ffn_drop": 0.0}

CHANGES: dict[str, dict[str, Any]] = {
    "yolox/yolox_s_8xb8-300e_coco.py": {
        "backbone": {"widen_factor": 0.25},
        "neck": {"in_channels": [64, 128, 256], "out_channels": 64},
        "bbox_head": {"in_channels": 64, "feat_channels": 64},
    },
    "efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py": _retina(
        {"arch": "b0", "drop_path_rate": 0.0}, [40, 112, 320]
    ),
    "ssd/ssd512_coco.py": {
        "backbone": _backbone((1, 2, 3)),
        "neck": {
            "in_channels": tuple(_STAGES[1:]),
            "out_channels": (*_STAGES[1:], 128, 128),
            "level_strides": (2, 2),
            "level_paddings": (1, 1),
            "last_kernel_size": 3,
        },
        "bbox_head": {
            "in_channels": (*_STAGES[1:], 128, 128),
            "anchor_generator": {
                "_delete_": True,
                "type": "SSDAnchorGenerator",
                "scale_major": False,
                "strides": [8, 16, 32, 64, 128],
                "ratios": [[2, 3]] * 5,
                "min_sizes": [12, 24, 48, 80, 128],
                "max_sizes": [24, 48, 80, 128, 200],
            },
        },
    },
    "atss/atss_r50_fpn_1x_coco.py": {
        **_ONE_STAGE,
        "bbox_head": {**_ONE_STAGE["bbox_head"], "anchor_generator": {"octave_base_scale": 4}},
    },
    "autoassign/autoassign_r50-caffe_fpn_1x_coco.py": _ONE_STAGE,
    "retinanet/retinanet_r50_fpn_1x_coco.py": {
        **(plain := _retina(_backbone((1, 2, 3)), _STAGES[1:])),
        "bbox_head": {**plain["bbox_head"], "norm_cfg": _NORM},
    },
    "yolo/yolov3_d53_8xb8-ms-608-273e_coco.py": {
        "backbone": _backbone((1, 2, 3)),
        "neck": {"in_channels": _STAGES[:0:-1], "out_channels": [128, 96, 64]},
        "bbox_head": {
            "in_channels": [128, 96, 64],
            "out_channels": [256, 192, 128],
            "anchor_generator": {
                "base_sizes": [
                    [(60, 60), (140, 60), (140, 140)],
                    [(20, 40), (40, 20), (40, 90)],
                    [(8, 8), (14, 24), (24, 14)],
                ]
            },
        },
    },
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py": {
        "num_queries": 50,
        "num_feature_levels": 3,
        "backbone": _backbone((1, 2, 3)),
        "neck": {"in_channels": _STAGES[1:], "out_channels": CHANNELS, "num_outs": 3},
        "encoder": {
            "num_layers": 2,
            "layer_cfg": {"self_attn_cfg": _attention(num_levels=3), "ffn_cfg": _DETR_FFN},
        },
        "decoder": {
            "num_layers": 2,
            "layer_cfg": {
                "self_attn_cfg": _attention(dropout=0.0),
                "cross_attn_cfg": _attention(num_levels=3),
                "ffn_cfg": _DETR_FFN,
            },
        },
        "positional_encoding": {"num_feats": CHANNELS // 2},
        "bbox_head": {"embed_dims": CHANNELS},
    },
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": _TWO_STAGE,
    "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py": {
        **_TWO_STAGE,
        "neck": {"0": _FPN, "1": {"in_channels": CHANNELS}},
    },
    "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py": {
        **_TWO_STAGE,
        "backbone": {"embed_dims": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "drop_path_rate": 0.0},
        "neck": {**_FPN, "in_channels": [32, 64, 128, 256]},
    },
    "canet_r50_fpn_1x_coco.py": {
        **_TWO_STAGE,
        "backbone": _backbone(sae=True, cbd=True),
        "neck": {"scale": "nano"},
    },
    "res2net/faster-rcnn_res2net-101_fpn_2x_coco.py": {
        **_TWO_STAGE,
        "backbone": {"depth": 50, "base_channels": 16, "stem_channels": 16, "base_width": 7},
        "neck": {**_FPN, "in_channels": _NARROW},
    },
    "faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py": {
        **_TWO_STAGE,
        "backbone": {"depth": 50, "groups": 8, "base_width": 4, "base_channels": 16, "stem_channels": 16},
        "neck": {**_FPN, "in_channels": _NARROW},
    },
    "htc/htc-without-semantic_r50_fpn_1x_coco.py": _CASCADE,
    "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py": _CASCADE,
}


def shrink(path: str, model: Any) -> Any:
    """The `model` part of configuration `path` at scale nano. ValueError where it has none."""
    from mmengine.config import Config

    import baselines.mmdet_canet  # noqa: F401  (registers the backbone)

    if path not in CHANGES:
        raise ValueError(f"{path} has no scale 'nano', only 'published'")
    config = Config({"model": model})
    config.merge_from_dict({"model": deepcopy(CHANGES[path])}, allow_list_keys=True)
    return config.model
