"""Ignored boxes: what matches nothing under them teaches nothing, and who cannot leave them out refuses them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.cells import NativeRecipe
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.datasets.splits import Split, load_split
from benchmarks.errors import DataError
from benchmarks.models import MODELS, build_model, get, missing_extra
from benchmarks.starting import trainable
from canet.ignore import covered, inside
from tests.baselines.test_contract import SLOW, small_scene
from tests.benchmarks.conftest import make_cell

SIZE = 160
ABLE = ("canet", "fasterrcnn_fpn", "fasterrcnn_mobilenet", "retinanet", "fcos", "yolov8n", "yolov10n", "yolo26n")


def _param(name: str):
    marks = [pytest.mark.skipif(missing_extra(name) is not None, reason=missing_extra(name) or "")]
    marks += [getattr(pytest.mark, extra)] if (extra := get(name).extra) else []
    marks += [pytest.mark.slow] if name in SLOW else []
    return pytest.param(name, marks=marks)


def _build(name: str):
    torch.manual_seed(0)
    return build_model(name, num_classes=3, image_size=SIZE, scale=next(iter(get(name).scales.values())))


def _losses(model, image: Tensor, target: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1)  # of the samplers
    losses = model.train()([image, image.flip(-1)], [target, _empty()])
    model.load_state_dict(state)
    return losses


def _empty(**more: Tensor) -> dict[str, Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), **more}


@pytest.mark.parametrize("name", [_param(name) for name in ABLE])
def test_ignored_boxes_are_left_out_of_the_loss(name: str) -> None:
    model = _build(name)
    image, target = small_scene(0)
    plain = _losses(model, image, target)
    without = _losses(model, image, {**target, "ignore": torch.zeros(0, 4)})
    assert all(torch.equal(value, without[k]) for k, value in plain.items()), "no flag, another number"
    # Over the whole image and beyond: only what matches a box is left to learn from.
    everything = torch.tensor([[-500.0, -500, 700, 700]])
    some = _losses(model, image, {**target, "ignore": everything})
    assert any(not torch.equal(value, some[k]) for k, value in plain.items())
    all_of_it = model.train()([image, image], [_empty(ignore=everything)] * 2)
    assert {k: v.item() for k, v in all_of_it.items()} == dict.fromkeys(all_of_it, 0.0)
    sum(all_of_it.values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    "name", [_param(name) for name in ABLE if name in ("canet", "fasterrcnn_fpn", "fasterrcnn_mobilenet")]
)
def test_a_batch_without_boxes_and_without_proposals_has_losses(name: str) -> None:
    """As after good parts alone: boxes that nothing holds in place leave the images, and no proposal is left."""
    model = _build(name).train()
    outside = torch.zeros(4)
    outside[0] = 1e4
    with torch.no_grad():
        bias = model.rpn.head.bbox_pred.bias
        bias.copy_(outside.repeat(len(bias) // 4))
    image, _ = small_scene(0)
    losses = model([image, image], [_empty()] * 2)
    assert losses["loss_classifier"] == losses["loss_box_reg"] == 0
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("name", [_param(name) for name in ("ssdlite", "rtdetr_l", "dfine")])
def test_models_that_cannot_leave_them_out_refuse(name: str) -> None:
    model = _build(name)
    assert not model.ignores
    image, target = small_scene(0)
    with pytest.raises(ValueError, match="cannot leave ignored boxes"):
        model.preprocess([image], [{**target, "ignore": torch.tensor([[1.0, 1, 9, 9]])}])
    model.preprocess([image], [{**target, "ignore": torch.zeros(0, 4)}])


def _split() -> Split:
    cell = make_cell()
    return load_split(cell.dataset, cell.split, cell.fold)


@pytest.fixture
def flagged(synthetic: PreparedDataset) -> tuple[PreparedDataset, str]:
    """The set with one box of one training image of fold 0 flagged as a crowd, and the name of that image."""
    name = next(name for name in _split().train if synthetic.boxes(name))
    flagged = replace(synthetic)  # which reads its own annotations
    flagged.boxes(name)[0]["iscrowd"] = 1
    return flagged, name


def test_the_run_leaves_such_images_out_and_says_which(flagged: tuple[PreparedDataset, str]) -> None:
    data, name = flagged
    split = _split()
    able, unable = make_cell(model="fcos"), make_cell(model="ssdlite", scale="mobilenet_v3_large")
    assert trainable(_build("fcos"), able, data, split) == (split, None)
    kept, line = trainable(_build("ssdlite"), unable, data, split)
    assert kept == replace(split, train=tuple(n for n in split.train if n != name))
    assert line is not None
    assert line.startswith(f"1 of {len(split.train)} training images hold ignored boxes")
    assert line.endswith(f"which ssdlite cannot leave out of its loss, and are left out: {name}")
    native = make_cell(model="yolov8n", scale="n", recipe=NativeRecipe(trainer="library", epochs=1, batch_size=2))
    assert name not in trainable(_build("fcos"), native, data, split)[0].train
    with pytest.raises(DataError, match="no image remains"):
        trainable(_build("ssdlite"), unable, data, replace(split, train=(name,)))


def test_ignored_boxes_are_resized_with_the_image() -> None:
    model = build_model("fcos", num_classes=3, image_size=80, scale="nano")
    image, target = small_scene(0)
    (resized,) = model.preprocess([image], [{**target, "ignore": torch.tensor([[20.0, 40, 60, 80]])}]).targets
    assert resized["ignore"].tolist() == [[10, 20, 30, 40]]
    with pytest.raises(ValueError, match=r"target 0: ignored boxes \(4,\)"):
        model.preprocess([image], [{**target, "ignore": torch.zeros(4)}])


def test_covered_and_inside_by_hand() -> None:
    ignore = torch.tensor([[10.0, 10, 20, 20], [100, 100, 110, 110]])
    boxes = torch.tensor([[10.0, 10, 20, 20], [15, 10, 25, 20], [16, 10, 26, 20], [0, 0, 200, 200], [5, 5, 5, 9]])
    assert covered(boxes, ignore).tolist() == [True, True, False, False, False]  # half of it is enough
    points = torch.tensor([[10.0, 10], [20, 20], [105, 101], [0, 0]])
    assert inside(points, ignore).tolist() == [True, False, True, False]


def test_every_other_family_says_that_it_can_or_cannot() -> None:
    able = {get(name).family for name in ABLE}
    assert able == {"canet", "fasterrcnn", "retinanet", "fcos", "yolo"}
    assert able < {spec.family for spec in MODELS.values()}
