"""CANet as a detector: contract, losses against torchvision's, anchors, RoI pooling, scratch and frozen forms."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, roi_align

from canet.config import ORIGINS, CANetConfig
from canet.contract import Detector, ResizeNormalizePad
from canet.detector import Anchors, RoIPool, build_canet, build_roi_heads, build_rpn
from canet.roi_align import multilevel_roi_align


def _targets(*counts: int, size: int = 96, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    out = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * (size - 40)
        side = 8 + torch.rand(count, 2, generator=generator) * 30
        labels = torch.randint(1, 4, (count,), generator=generator)
        out.append({"boxes": torch.cat([corner, corner + side], 1), "labels": labels})
    return out


@pytest.fixture(scope="module")
def levels() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {f"p{i + 2}": torch.randn(2, 64, -(-24 // 2**i), -(-24 // 2**i)) for i in range(5)}


@pytest.mark.parametrize("origin", ORIGINS)
def test_contract(origin: str) -> None:
    torch.manual_seed(0)
    config = CANetConfig.preset(origin, scale="nano")
    model = build_canet(num_classes=3, image_size=96, scale="nano", config=config)
    assert model.provenance == {"weights": None, "frozen": [], "norm": "batch"}
    assert all(p.requires_grad for p in model.parameters())
    images = [torch.rand(3, 96, 96), torch.rand(3, 60, 80), torch.rand(3, 200, 150)]
    targets = _targets(2, 0, 3, size=60)
    before = [{k: v.clone() for k, v in t.items()} for t in targets]
    losses = model.train()(images, targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    assert all(torch.equal(a[k], b[k]) for a, b in zip(before, targets, strict=True) for k in a)
    model.eval()
    with torch.no_grad():
        batch = model.preprocess(images)
        whole = model(images)
        parts = model.postprocess(model.network(batch), batch)
    assert batch.images.tensors.shape[2:] == (96, 96)
    for found, same, image in zip(whole, parts, images, strict=True):
        assert all(torch.equal(found[k], same[k]) for k in ("boxes", "scores", "labels"))
        assert len(found["boxes"]) <= 100
        assert found["labels"].dtype == torch.int64
        assert set(found["labels"].tolist()) <= {1, 2, 3}
        assert (found["scores"] >= 0.001).all()
        height, width = image.shape[1:]
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_a_batch_without_any_box_trains() -> None:
    torch.manual_seed(0)
    model = build_canet(num_classes=3, image_size=64, scale="nano").train()
    losses = model([torch.rand(3, 64, 64)] * 2, _targets(0, 0))
    assert losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_malformed_input_is_refused() -> None:
    model = build_canet(num_classes=3, image_size=64, scale="nano").train()
    image = torch.rand(3, 64, 64)
    with pytest.raises(ValueError, match="needs targets"):
        model([image])
    with pytest.raises(ValueError, match="2 images and 1 targets"):
        model([image, image], _targets(1))
    inverted = {"boxes": torch.tensor([[9.0, 9.0, 4.0, 20.0]]), "labels": torch.tensor([1])}
    with pytest.raises(ValueError, match="no positive width"):
        model([image], [inverted])
    with pytest.raises(ValueError, match="at least one image"):
        model.eval()([])
    with pytest.raises(ValueError, match="scale"):
        build_canet(num_classes=3, image_size=64, scale="small", config=CANetConfig.preset(scale="nano"))
    with pytest.raises(RuntimeError, match="nano"):
        build_canet(num_classes=3, image_size=64, scale="nano", weights="imagenet")


def test_missing_imagenet_weights_say_which_file_goes_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match=r"resnet50-.*\.pth") as error:
        build_canet(num_classes=3, image_size=64, scale="r50", weights="imagenet")
    assert str(tmp_path) in str(error.value)


def test_frozen_form_freezes_stem_and_first_stage() -> None:
    config = CANetConfig.preset("mmdet", scale="nano")
    from canet.detector import CANet

    model = CANet(config, num_classes=3, image_size=64).train()
    assert model.provenance["frozen"] == ["backbone.conv1", "backbone.bn1", "backbone.layer1"]
    for name, parameter in model.named_parameters():
        frozen = name.startswith(tuple(f"{prefix}." for prefix in model.provenance["frozen"]))
        assert parameter.requires_grad is not frozen, name
    before = model.backbone.layer2[0].bn1.running_mean.clone()
    model([torch.rand(3, 64, 64)] * 2, _targets(1, 0, size=60))
    assert torch.equal(before, model.backbone.layer2[0].bn1.running_mean)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 600), (160, 96)), ((160, 160), (160, 160)), ((7, 2000), (1, 160)), ((99, 200), (79, 160))],
)
def test_longer_side_becomes_exactly_the_size_asked_for(size: tuple, expected: tuple) -> None:
    images, _ = ResizeNormalizePad(160)([torch.rand(3, *size)])
    assert tuple(images.image_sizes[0]) == expected
    assert all(side % 32 == 0 for side in images.tensors.shape[2:])


def test_anchors_are_torchvisions_and_exact_ones_keep_the_stride(levels: dict[str, Tensor]) -> None:
    config = CANetConfig.preset("pytorch", scale="nano")
    images = ImageList(torch.zeros(2, 3, 96, 96), [(96, 96)] * 2)
    ratios = (config.anchor_ratios,) * 5
    expected = AnchorGenerator(config.anchor_sizes, ratios)(images, list(levels.values()))
    ours = Anchors(config.anchor_sizes, config.anchor_ratios, exact=False)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(ours(images, list(levels.values())), expected, strict=True))
    exact = Anchors(((32,),) * 5, (0.5, 1.0, 2.0), exact=True)(images, list(levels.values()))[0]
    side = 32 / 2**0.5
    torch.testing.assert_close(exact[0], torch.tensor([-32 * 2**0.5, -side, 32 * 2**0.5, side]) / 2)
    coarsest = exact[-3 * 4 :].view(2, 2, 3, 4)
    torch.testing.assert_close(coarsest[0, 1] - coarsest[0, 0], torch.tensor([64.0, 0, 64, 0]).expand(3, 4))


def test_rpn_equals_torchvisions(levels: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    config = CANetConfig.preset("pytorch", scale="nano")
    ours = build_rpn(config).train()
    theirs = RegionProposalNetwork(
        ours.anchor_generator, ours.head, 0.7, 0.3, 256, 0.5, ours._pre_nms_top_n, ours._post_nms_top_n, 0.7
    )
    images = ImageList(torch.zeros(2, 3, 96, 96), [(96, 96), (90, 80)])
    targets = _targets(3, 0)
    torch.manual_seed(5)
    boxes, losses = ours(images, levels, targets)
    torch.manual_seed(5)
    expected_boxes, expected_losses = theirs(images, levels, targets)
    for a, b in zip(boxes, expected_boxes, strict=True):
        torch.testing.assert_close(a, b)
    for name, loss in expected_losses.items():
        torch.testing.assert_close(losses[name], loss)


def test_a_box_far_smaller_than_every_anchor_has_none_in_mmdetections_variant() -> None:
    """8 x 8 in 320 x 320: the best IoU is 0.06, below its min_pos_iou of 0.3; torchvision takes all that have it."""
    mmdet = CANetConfig.preset("mmdet", scale="r50")
    images = ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)])
    tiny, fitting = [100.0, 100, 108, 108], [160.0, 160, 200, 200]

    def positives(config: CANetConfig, *boxes: list[float]) -> int:
        rpn = build_rpn(config)
        anchors = rpn.anchor_generator(images, [torch.zeros(1, 256, 320 // s, 320 // s) for s in (4, 8, 16, 32, 64)])
        ((label,), _) = rpn.assign_targets_to_anchors(anchors, [{"boxes": torch.tensor(boxes)}])
        return int((label == 1).sum())

    assert positives(replace(mmdet, rpn_best_iou=0.0), tiny) > 20
    assert positives(mmdet, tiny) == 0
    assert positives(mmdet, tiny, fitting) == positives(mmdet, fitting) > 0


def test_roi_heads_equal_torchvisions(levels: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    ours = build_roi_heads(CANetConfig.preset("pytorch", scale="nano"), 3).train()
    pool = MultiScaleRoIAlign(list(levels), 7, 2)
    theirs = RoIHeads(pool, ours.box_head, ours.box_predictor, 0.5, 0.5, 64, 0.25, None, 0.001, 0.5, 100).train()
    targets = _targets(3, 0)
    proposals = [t["boxes"] for t in _targets(50, 60, seed=1)]
    torch.manual_seed(5)
    _, losses = ours(levels, proposals, [(96, 96)] * 2, targets)
    torch.manual_seed(5)
    _, expected = theirs(levels, proposals, [(96, 96)] * 2, targets)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)


def test_roi_pool_is_torchvisions_on_its_levels(levels: dict[str, Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 2 ** (2 + 8 * torch.rand(40, 2, generator=generator))], 1)
    sizes = [(96, 96), (96, 96)]
    ours = RoIPool(5, sampling=2, aligned=False)(levels, [boxes[:15], boxes[15:]], sizes)
    theirs = MultiScaleRoIAlign(list(levels), 7, 2)
    # Scales are given: torchvision would guess them from map sizes that were rounded up.
    theirs.scales = [0.25 / 2**i for i in range(5)]
    from torchvision.ops.poolers import initLevelMapper

    theirs.map_levels = initLevelMapper(2, 6)
    torch.testing.assert_close(ours, theirs(levels, [boxes[:15], boxes[15:]], sizes))
    empty = RoIPool(5, sampling=2, aligned=False)(levels, [boxes[:0], boxes[:0]], sizes)
    assert empty.shape == (0, 64, 7, 7)


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_gradient_by_products_equals_torchvisions(aligned: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    maps = [random(2, 3, 20 // 2**i, 17 // 2**i).requires_grad_() for i in range(3)]
    corner = random(80, 2) * 100 - 15  # some samples fall outside the image
    image = torch.randint(0, 2, (80, 1), generator=generator).double()
    rois = torch.cat([image, corner, corner + random(80, 2) * 70], 1)
    level = torch.randint(0, 3, (80,), generator=generator)
    out = multilevel_roi_align(maps, rois, level, resolution=7, sampling=2, aligned=aligned)
    weight = random(*out.shape)
    found = torch.autograd.grad((out * weight).sum(), maps)
    total = torch.zeros((), dtype=torch.float64)
    for index, x in enumerate(maps):
        chosen = level == index
        pooled = roi_align(x, rois[chosen], 7, 0.25 / 2**index, 2, aligned)
        torch.testing.assert_close(out[chosen], pooled)
        total = total + (pooled * weight[chosen]).sum()
    expected = torch.autograd.grad(total, maps)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_matcher_settings_follow_the_config() -> None:
    rpn = build_rpn(CANetConfig.preset("mmdet"))
    assert isinstance(rpn.proposal_matcher, Matcher)
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.7, 0.3)
    assert rpn.loss_beta == 0
    assert rpn.head.cls_logits.out_channels == 3


def test_what_the_loop_asks_of_a_model_is_declared() -> None:
    """No model is asked with hasattr: a schedule and scalars are there for all, a trainer of its own is refused."""
    model = build_canet(num_classes=3, image_size=64, scale="nano")
    assert Detector.on_epoch(model, 0, 2) is None
    assert Detector.curve_scalars(model) == {}
    with pytest.raises(NotImplementedError, match="CANet has no trainer of its own library"):
        model.fit_natively(Path(), Path(), epochs=1, batch_size=1, seed=0, epoch_ended=lambda *_: None)


def test_a_builder_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.errors import RequestError
    from benchmarks.models import build_model

    monkeypatch.setattr("canet.detector.build_canet", lambda **_: torch.nn.Linear(1, 1))
    with pytest.raises(RequestError, match=r"build_canet returns Linear, expected a canet.contract.Detector"):
        build_model("canet", num_classes=3, image_size=64, scale="nano")
