"""MMDetection's models beyond the contract, which `test_contract.py` holds them to at scale nano."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.errors import RequestError
from benchmarks.models import MODELS, build_model, get, missing_extra, missing_extras, split_name

SIXTEEN = [name for name, spec in MODELS.items() if spec.extra == "mmdet"]

installed = pytest.mark.skipif(missing_extra("atss") is not None, reason=missing_extra("atss") or "")


def needs_mmdet(function):
    return pytest.mark.mmdet(installed(function))


# ---------------------------------------------------------------- with or without the extra


def test_sixteen_are_registered() -> None:
    assert len(SIXTEEN) == 16


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = missing_extra("cascade_rcnn")
    assert message == ("model 'cascade_rcnn' needs mmdet: python -m pip install -c constraints.txt -e '.[mmdet]'")
    assert missing_extras(["htc", "atss", "canet"]) == [
        "models htc, atss need mmdet: python -m pip install -c constraints.txt -e '.[mmdet]'"
    ]
    with pytest.raises(RequestError, match="needs mmdet"):
        build_model("cascade_rcnn", num_classes=2, image_size=64, scale="nano")


def test_operators_that_were_not_built_are_told_from_those_that_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What pip leaves when it builds mmcv in isolation: everything but the compiled extension.
    for module in ("mmdet", "mmcv"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("")
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    message = missing_extra("cascade_rcnn")
    assert message is not None
    assert "--no-build-isolation" in message
    assert "\n" not in message
    (tmp_path / "mmcv" / "_ext.cpython-311-x86_64-linux-gnu.so").write_text("")
    assert missing_extra("cascade_rcnn") is None


def test_a_configuration_by_path_is_a_model() -> None:
    name = "mmdet:fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"
    spec = get(name)
    assert spec.options == {"config": name.removeprefix("mmdet:")}
    assert (spec.scale("nano"), spec.stage, spec.extra) == ("published", "other", "mmdet")
    assert split_name(name) == (name, "")
    assert split_name("canet:no_sae") == ("canet", "no_sae")


# ---------------------------------------------------------------- with it


def step(model: nn.Module, size: int) -> list[dict[str, Tensor]]:
    """A training step on two images, the second without a box, and their detections."""
    images = [torch.rand(3, size, size), torch.rand(3, size * 3 // 4, size)]
    boxes = torch.tensor([[10.0, 20.0, 80.0, 90.0], [100.0, 50.0, 180.0, 160.0]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([1, 6])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = model.train()(images, targets)
    total = sum(losses.values())
    assert torch.isfinite(total), losses
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    total.backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with torch.inference_mode():
        found = model.eval()(images)
    for d, image in zip(found, images, strict=True):
        height, width = image.shape[-2:]
        assert (d["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert ((d["labels"] >= 1) & (d["labels"] <= 6)).all()
    return found


@needs_mmdet
@pytest.mark.parametrize("name", SIXTEEN)
def test_takes_a_step_and_predicts_as_published(name: str) -> None:
    torch.manual_seed(0)
    size = 512 if name == "ssd512" else 224
    model = build_model(name, num_classes=6, image_size=size, scale="published")
    assert model.provenance["frozen"] == []
    step(model, size)


@needs_mmdet
def test_another_configuration_takes_a_step() -> None:
    torch.manual_seed(0)
    name = "mmdet:tood/tood_r50_fpn_1x_coco.py"  # its assignment depends on the epoch
    model = build_model(name, num_classes=6, image_size=224, scale="published")
    model.on_epoch(5, 12)
    step(model, 224)
    assert model.detector.bbox_head.epoch == 5


@needs_mmdet
def test_an_unknown_configuration_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match=r"did you mean .*atss/atss_r50_fpn_1x_coco\.py"):
        get("mmdet:atss/atss_r50_fpn_1x_cocoo.py")
    with pytest.raises(RequestError, match="ships no configuration"):
        get("mmdet:../../__init__.py")


@needs_mmdet
def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match="torchvision://resnet50 could not be loaded"):
        build_model("atss", num_classes=2, image_size=64, scale="published", weights="imagenet")
    with pytest.raises(RuntimeError, match="no weights"):
        build_model("atss", num_classes=2, image_size=64, scale="nano", weights="imagenet")


def settled(name: str, num_classes: int, size: int) -> nn.Module:
    """A model whose batch norms have seen images: with fresh ones, all images look alike."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=num_classes, image_size=size, scale="nano").train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5
    target = {"boxes": torch.tensor([[20.0, 30.0, 90.0, 100.0]]), "labels": torch.tensor([1])}
    with torch.no_grad():
        for _ in range(4):
            model([torch.rand(3, size, size) for _ in range(2)], [target] * 2)
    return model.eval()


@needs_mmdet
@pytest.mark.parametrize("name", ["fasterrcnn_mmdet", "cascade_rcnn", "autoassign", "atss", "deformable_detr"])
@pytest.mark.parametrize("doubled", [False, True], ids=["as is", "doubled"])
def test_same_detections_as_the_librarys_own_inference(name: str, doubled: bool) -> None:
    """mmdet's inference_detector with its own test pipeline: loading, resizing, normalising, padding, rescaling."""
    from mmdet.apis import inference_detector
    from mmengine.config import Config

    from baselines.mmdet_models import config_folder

    size = 224
    model = settled(name, 3, size)
    config = Config.fromfile(config_folder() / get(name).options["config"])
    pipeline = config.test_dataloader.dataset.pipeline
    (resize,) = (s for s in pipeline if "Resize" in s.type)
    resize.scale = (size, size)
    config.test_dataloader.dataset.pipeline = [s for s in pipeline if s.type != "LoadAnnotations"]
    model.detector.cfg = config

    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    if doubled:  # halving it gives the same pixels in any interpolation
        pixels = pixels.repeat(2, axis=0).repeat(2, axis=1)
    theirs = inference_detector(model.detector, np.ascontiguousarray(pixels[:, :, ::-1])).pred_instances
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        (ours,) = model([image])
    assert len(ours["boxes"]) > 20
    kept = theirs.scores >= 0.001
    torch.testing.assert_close(ours["scores"], theirs.scores[kept].sort(descending=True).values, atol=1e-5, rtol=1e-4)
    # Equal scores may change places: each of ours is one of theirs.
    far = (ours["boxes"][:, None] - theirs.bboxes[None]).abs().amax(-1)
    far[ours["labels"][:, None] != theirs.labels[None] + 1] = torch.inf
    far[(ours["scores"][:, None] - theirs.scores[None]).abs() > 1e-4] = torch.inf
    assert far.min(1).values.max() < 0.01


# One model for each kind of head.
OVERFIT = [
    *("yolox", "ssd512", "atss", "autoassign", "retinanet_mmdet", "yolov3", "deformable_detr"),
    *("fasterrcnn_mmdet", "cascade_rcnn", "htc"),
]
OVERFIT_IN_CI = ("yolox", "fasterrcnn_mmdet")
OVERFIT_STEPS = {"deformable_detr": 640}  # a DETR first has to learn where to look


def neu_images(count: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The first images of NEU-DET, of different classes, from the archive."""
    archive = Path(os.environ["CANET_BENCH_ARCHIVES"]) / "NEU-DET.zip"
    images, targets = [], []
    kinds = ["inclusion", "patches", "scratches", "pitted_surface"][:count]
    with zipfile.ZipFile(archive) as z:
        for kind in kinds:
            named = {Path(n).name: n for n in z.namelist()}
            root = ElementTree.fromstring(z.read(named[f"{kind}_1.xml"]))
            with z.open(named[f"{kind}_1.jpg"]) as f:
                pixels = np.asarray(Image.open(f).convert("RGB"))
            boxes = [[float(b.findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax")] for b in root.iter("bndbox")]
            images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255)
            targets.append({"boxes": torch.tensor(boxes), "labels": torch.full((len(boxes),), kinds.index(kind) + 1)})
    return images, targets


@needs_mmdet
@pytest.mark.slow
@pytest.mark.skipif("CANET_BENCH_ARCHIVES" not in os.environ, reason="CANET_BENCH_ARCHIVES is unset: no NEU-DET")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OVERFIT_IN_CI else pytest.mark.nightly) for name in OVERFIT]
)
def test_overfits_four_images_of_neu_det(name: str) -> None:
    from tests.baselines.test_contract import ap50

    images, targets = neu_images(4)
    torch.manual_seed(0)
    model = build_model(name, num_classes=4, image_size=200, scale="nano").train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.1  # YOLOX's 0.03 needs hundreds of steps to catch up
    steps = OVERFIT_STEPS.get(name, 320)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    best = 0.0
    for step_ in range(1, steps + 1):
        loss = sum(model.train()(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step_ % 40 == 0:
            with torch.inference_mode():
                best = ap50(targets, model.eval()(images), classes=4)
            if best >= 0.85:
                break
    # Without the smallest of the eleven boxes, 9 x 12 px, it is 0.876.
    assert best >= 0.85


# ---------------------------------------------------------------- CANet for users of MMDetection


@needs_mmdet
def test_canet_is_the_same_network_in_both_registries() -> None:
    """Backbone and neck in mmdet's registry compute what our detector's do, and count as published."""
    from baselines.mmdet_models import published_counts
    from canet.config import CANetConfig
    from canet.detector import CANet, count_parameters

    own = CANet(CANetConfig.preset("mmdet"), num_classes=6, image_size=224).eval()
    theirs = build_model("canet_mmdet", num_classes=6, image_size=224, scale="published").eval().detector
    theirs.backbone.load_state_dict(own.backbone.state_dict())
    theirs.neck.pyramid.load_state_dict(own.neck.state_dict())
    image = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        expected = list(own.neck(own.backbone(image)).values())
        for a, b in zip(theirs.extract_feat(image), expected, strict=True):
            torch.testing.assert_close(a, b)
    assert published_counts("canet_r50_fpn_1x_coco.py", num_classes=6) == count_parameters(own, as_published=True)


@needs_mmdet
@pytest.mark.slow
def test_mmdets_own_train_script_trains_canet(tmp_path: Path) -> None:
    """tools/train.py with our configuration and four images of its own; then inference from its checkpoint."""
    from mmdet.apis import inference_detector, init_detector
    from mmengine.config import Config

    from baselines.mmdet_models import OWN_CONFIGS, config_folder, import_mmdet
    from tests.baselines.test_contract import CLASSES, coco, scene

    pairs = [scene(i) for i in range(4)]
    names = [f"{i}.png" for i in range(4)]
    for name, (image, _) in zip(names, pairs, strict=True):
        Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / name)
    import json

    (tmp_path / "train.json").write_text(json.dumps(coco([target for _, target in pairs])))
    config = Config.fromfile(OWN_CONFIGS / "canet_r50_fpn_1x_coco.py")
    config.model.roi_head.bbox_head.num_classes = len(CLASSES)
    config.model.backbone.init_cfg = None  # nothing can be downloaded here
    data = config.train_dataloader.dataset
    data.update(data_root=str(tmp_path), ann_file="train.json", data_prefix=dict(img=""))
    data.metainfo = dict(classes=CLASSES)
    for part in data.pipeline:
        if part.type == "Resize":
            part.scale = (128, 128)
    config.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    config.train_cfg.max_epochs = 1
    for unused in ("val_dataloader", "val_cfg", "val_evaluator", "test_dataloader", "test_cfg", "test_evaluator"):
        config[unused] = None
    config.default_hooks.logger.interval = 1
    config.dump(tmp_path / "config.py")
    script = config_folder().parent / "tools" / "train.py"
    command = [sys.executable, str(script), str(tmp_path / "config.py"), "--work-dir", str(tmp_path / "work")]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "[2/2]" in done.stdout + done.stderr
    import_mmdet()
    shipped = Config.fromfile(OWN_CONFIGS / "canet_r50_fpn_1x_coco.py")
    shipped.model.roi_head.bbox_head.num_classes = len(CLASSES)
    model = init_detector(shipped, str(tmp_path / "work" / "epoch_1.pth"), device="cpu")
    found = inference_detector(model, str(tmp_path / names[0])).pred_instances
    assert found.bboxes.shape[1] == 4
