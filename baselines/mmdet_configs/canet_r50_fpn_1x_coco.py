# CANet (Hou et al., Pattern Recognition 2023) for MMDetection's own tools/train.py: the authors' MMDetection variant,
# which is Faster R-CNN with another backbone and neck. For your classes set model.roi_head.bbox_head.num_classes
# and the data set, as for any configuration. canet-bench must be installed.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"

custom_imports = dict(imports=["baselines.mmdet_canet"])

model = dict(
    backbone=dict(
        _delete_=True,
        type="CANetBackbone",
        norm="batch_eval",
        frozen_stages=1,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
    neck=dict(_delete_=True, type="CANetNeck"),
)
