"""The YOLO adapter: silent import, the library's own losses and detections, and what happens without it."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from baselines.ultralytics_models import INSTALL, build_rtdetr, build_yolo, import_ultralytics
from benchmarks.errors import RequestError
from benchmarks.models import build_model, check_variant, get, label
from benchmarks.runner import build_cell_model
from benchmarks.starting import cannot_start
from tests.baselines.test_contract import SMALL_SIZE, small_scenes
from tests.benchmarks.conftest import make_cell

needs_ultralytics = pytest.mark.skipif(
    not any((Path(p) / "ultralytics").is_dir() for p in sys.path if p), reason="ultralytics is not installed"
)
pytestmark = pytest.mark.yolo


def _image(seed: int, height: int, width: int) -> Tensor:
    """A bright and a dark rectangle on noise, away from the edges."""
    image = 0.45 + 0.1 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    image[:, height // 8 : height // 2, width // 8 : width // 2] = 0.95
    image[:, height // 2 : height - 20, width // 2 : width - 12] = 0.05
    return image


def _target(height: int, width: int) -> dict[str, Tensor]:
    boxes = [
        [width // 8, height // 8, width // 2, height // 2],
        [width // 2, height // 2, width - 12, height - 20],
    ]
    return {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor([1, 2])}


@pytest.fixture(scope="module")
def trained():
    """A model that finds the rectangles: trained for a few seconds."""
    torch.manual_seed(0)
    model = build_yolo(num_classes=2, image_size=128, scale="n").train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=100)
    for i in range(100):
        images = [_image(4 * i + j, 128, 128) for j in range(2)]
        loss = sum(model(images, [_target(128, 128)] * 2).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@needs_ultralytics
def test_import_is_silent_offline_and_leaves_nothing(tmp_path: Path):
    program = """
        import os, random, socket, sys
        import numpy as np
        import torch

        print("begin", file=sys.stderr)  # what the interpreter's own start prints is not ours

        def refuse(*args, **kwargs):
            raise AssertionError(f"network access: {args}")

        socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
        save, environment = torch.save, dict(os.environ)
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        from baselines.ultralytics_models import import_ultralytics, build_yolo

        assert "ultralytics" not in sys.modules
        ultralytics = import_ultralytics()
        assert torch.save is save
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
        changed = {k for k in {*os.environ, *environment} if os.environ.get(k) != environment.get(k)}
        assert all(k.startswith("YOLO_") for k in changed), changed
        assert ultralytics.settings["sync"] is False
        from ultralytics.utils import ONLINE, USER_CONFIG_DIR
        assert not ONLINE and str(USER_CONFIG_DIR).startswith(os.environ["TMPDIR"])

        model = build_yolo(num_classes=2, image_size=64, scale="n")
        target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}
        sum(model([torch.rand(3, 64, 64)], [target]).values()).backward()
        model.eval()([torch.rand(3, 64, 64)])
    """
    folders = {name: tmp_path / name for name in ("home", "tmp", "work")}
    for folder in folders.values():
        folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "XDG_", "PYTEST_"))}
    environment |= {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"])}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=folders["work"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr.partition("begin\n")[2]) == (0, "", ""), done.stderr
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()]
    assert left == []


def test_without_the_library_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ImportError, match="ultralytics") as raised:
        build_yolo(num_classes=2, image_size=64, scale="n")
    assert INSTALL in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_scale_that_the_yaml_does_not_name_is_refused():
    with pytest.raises(ValueError, match=r"yolov8n\.yaml"):
        build_yolo(num_classes=2, image_size=64, scale="s")


def test_pretrained_weights_are_refused_clearly():
    with pytest.raises(RuntimeError, match="weights=None"):
        build_yolo(num_classes=2, image_size=64, scale="n", weights="imagenet")


@pytest.fixture(scope="module")
def coco_like(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A file as the library publishes and writes them: a pickled half-precision model of 80 classes, and its state."""
    torch.manual_seed(7)
    detector = build_yolo(num_classes=80, image_size=64, scale="n").detector
    state = {k: v.clone() for k, v in detector.half().state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "yolov8n.pt"
    arguments = {"model": "yolov8n.yaml", "imgsz": 640, "task": "detect"}
    detector.args, detector.names = arguments, {k: str(k) for k in range(80)}
    torch.save({"model": detector, "ema": None, "epoch": -1, "train_args": arguments, "version": "8.4"}, path)
    return path, state


@needs_ultralytics
def test_coco_weights_from_disk_without_the_class_head(coco_like):
    path, state = coco_like
    allowed = set(torch.serialization.get_safe_globals())
    torch.manual_seed(0)
    model = build_yolo(num_classes=3, image_size=64, scale="n", weights=str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    head = [name for name in state if ".cv3." in name and not name.endswith("num_batches_tracked")]
    assert model.provenance["weights"].startswith(f"yolov8n.pt sha256:{digest}, without ")
    own = model.detector.state_dict()
    same = {n for n in own if n in state and own[n].shape == state[n].shape and torch.equal(own[n], state[n].float())}
    counters = {n for n in own if n.endswith("num_batches_tracked")}
    left = own.keys() - same - counters
    assert left <= set(head)
    assert f"without {len([n for n in head if own[n].shape != state[n].shape])} tensors" in model.provenance["weights"]
    assert set(torch.serialization.get_safe_globals()) == allowed  # what the loader needed is not left allowed
    prepared = build_yolo(num_classes=3, image_size=64, scale="n").detector
    model._prepare(prepared)  # what the library's own trainer starts from
    assert torch.equal(prepared.state_dict()["model.0.conv.weight"], state["model.0.conv.weight"].float())
    with pytest.raises(ValueError, match="near_start"):
        build_yolo(num_classes=3, image_size=64, scale="n", weights=str(path), near_start=True)


@needs_ultralytics
def test_our_own_weights_from_disk(tmp_path: Path):
    torch.manual_seed(1)
    source = build_yolo(num_classes=2, image_size=64, scale="n").state_dict()
    save_file(source, tmp_path / "mine.safetensors")
    model = build_yolo(num_classes=2, image_size=64, scale="n", weights=str(tmp_path / "mine.safetensors"))
    assert all(torch.equal(v, source[n]) for n, v in model.state_dict().items())
    assert re.fullmatch(r"mine\.safetensors sha256:[0-9a-f]{64}", model.provenance["weights"])


class _Payload:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


@needs_ultralytics
def test_weights_that_do_not_fit_or_would_execute_are_refused(coco_like, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, state = coco_like
    torch.save({"model": _Payload(), "ema": None}, "hostile.pt")
    Path("text.pt").write_text("no checkpoint")
    Path("weights.onnx").write_text("no checkpoint")
    torch.save({"model": "yolov8n"}, "strings.pt")
    whole = {f"detector.{n}": v.float() for n, v in state.items()}
    save_file({n: v for n, v in whole.items() if "model.0." not in n}, "part.safetensors")
    save_file(whole | {"detector.model.0.conv.weight": torch.full((16, 3, 3, 3), math.nan)}, "nan.safetensors")
    cases = {
        "absent.pt": "no such file",
        "hostile.pt": "cannot be read safely",
        "text.pt": "cannot be read",
        "weights.onnx": r"expected a \.pt file",
        "strings.pt": "hold no model",
        "part.safetensors": r"do not fit: 5 tensors differ in name or shape, as model\.0\.",
        "nan.safetensors": r"model\.0\.conv\.weight holds values that are no finite",
    }
    for name, message in cases.items():
        with pytest.raises(RuntimeError, match=message) as raised:
            build_yolo(num_classes=3, image_size=64, scale="n", weights=name)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not Path("executed").exists()
    with pytest.raises(RuntimeError, match="do not fit"):
        build_yolo(num_classes=3, image_size=64, scale="n", yaml="yolo11n.yaml", weights=str(path))


@needs_ultralytics
def test_classification_biases_start_from_the_strides():
    # Detect.bias_init: about five objects in a 640 px image, spread over the cells of each stride.
    head = build_yolo(num_classes=6, image_size=64, scale="n").detector.model[-1]
    assert head.stride.tolist() == [8, 16, 32]
    for stride, branch in zip(head.stride.tolist(), head.cv3, strict=True):
        expected = torch.full((6,), math.log(5 / 6 / (640 / stride) ** 2))
        torch.testing.assert_close(branch[-1].bias.detach(), expected)


@needs_ultralytics
def test_gradient_is_that_of_the_librarys_own_loss():
    torch.manual_seed(0)
    model = build_yolo(num_classes=2, image_size=128, scale="n").train()
    images = [_image(0, 128, 128), _image(1, 128, 128), _image(2, 128, 128)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = [_target(128, 128), empty, _target(128, 128)]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    losses = model(images, targets)
    sum(losses.values()).backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.load_state_dict(state)
    model.zero_grad()
    # The library's collated batch, written by hand: centre, size, relative to the image; classes from 0.
    boxes = [[40 / 128, 40 / 128, 48 / 128, 48 / 128], [90 / 128, 86 / 128, 52 / 128, 44 / 128]]
    batch = {
        "img": torch.stack(images),
        "batch_idx": torch.tensor([0.0, 0.0, 2.0, 2.0]),
        "cls": torch.tensor([[0.0], [1.0], [0.0], [1.0]]),
        "bboxes": torch.tensor(boxes * 2),
    }
    total, items = model.detector.loss(batch)
    total.sum().backward()
    assert losses.keys() == {"box", "cls", "dfl"}
    for name, value in losses.items():  # the library reports per image, and multiplies by the batch for backward
        torch.testing.assert_close(value.detach(), items[f"{name}_loss"] * len(images))
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, msg=name)


def _predictor(model, **overrides):
    import_ultralytics()
    from ultralytics.models.yolo.detect import DetectionPredictor

    made = DetectionPredictor(
        overrides={"conf": 0.001, "max_det": 100, "imgsz": 128, "device": "cpu", "verbose": False, "save": False}
        | overrides
    )
    made.setup_model(model.detector, verbose=False)
    return made


@pytest.mark.slow
@needs_ultralytics
@torch.inference_mode()
def test_same_detections_as_the_librarys_predictor_from_one_tensor(trained, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    image = _image(99, 128, 128)
    (theirs,) = _predictor(trained)(image[None])
    monkeypatch.setattr(trained, "multi_label", False)  # as the predictor; the validator takes several per box
    (ours,) = trained([image])
    assert (ours["scores"] > 0.5).sum() >= 2
    # The predictor works on a copy with batch norms folded into convolutions, hence 1e-4.
    expected = theirs.boxes.data[: len(ours["scores"])]
    torch.testing.assert_close(ours["scores"], expected[:, 4], atol=1e-4, rtol=0)
    confident = ours["scores"] > 0.01
    torch.testing.assert_close(ours["boxes"][confident], expected[confident, :4], atol=1e-2, rtol=1e-4)
    assert torch.equal(ours["labels"][confident], expected[confident, 5].long() + 1)


@pytest.mark.slow
@needs_ultralytics
@torch.inference_mode()
def test_same_detections_as_the_librarys_validator_from_one_tensor(trained, tmp_path: Path):
    from ultralytics.models.yolo.detect import DetectionValidator

    validator = DetectionValidator(save_dir=tmp_path, args={"max_det": 100})
    assert validator.args.conf == trained.score_threshold
    assert validator.args.iou == trained.iou_threshold
    validator.end2end = False
    image = _image(98, 128, 128)
    (theirs,) = validator.postprocess(trained.detector(image[None]))
    (ours,) = trained([image])
    inside = theirs["bboxes"].clamp(0, 128)
    kept = (inside[:, 2:] > inside[:, :2]).all(dim=1)
    torch.testing.assert_close(ours["boxes"], inside[kept], atol=1e-4, rtol=0)
    assert torch.equal(ours["scores"], theirs["conf"][kept])
    assert torch.equal(ours["labels"], theirs["cls"][kept].long() + 1)


@pytest.mark.slow
@needs_ultralytics
@torch.inference_mode()
def test_matches_the_librarys_predictor_from_the_image_file(trained, monkeypatch, tmp_path: Path):
    # The library resizes eight-bit pixels with OpenCV, we resize floats with torch.
    from PIL import Image
    from torchvision.ops import box_iou

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trained, "multi_label", False)
    matched = total = 0
    predictor = _predictor(trained)
    for seed in range(100, 106):
        pixels = (_image(seed, 200, 200) * 255).round().byte().permute(1, 2, 0).numpy()
        path = tmp_path / f"{seed}.png"
        Image.fromarray(pixels).save(path)
        (theirs,) = predictor(str(path))
        (ours,) = trained([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])
        wanted = theirs.boxes.data[theirs.boxes.conf > 0.1]
        iou = box_iou(wanted[:, :4], ours["boxes"]) * (wanted[:, 5:].long() + 1 == ours["labels"])
        matched += int((iou.amax(dim=1) >= 0.9).sum())
        total += len(wanted)
    assert total >= 12
    assert matched >= 0.99 * total


def _detects(model, images: list[Tensor]) -> None:
    with torch.inference_mode():
        for image, found in zip(images, model.eval()(images), strict=True):
            height, width = image.shape[-2:]
            assert 0 < len(found["boxes"]) <= 100
            assert (found["boxes"] >= 0).all()
            assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()
            assert ((found["labels"] >= 1) & (found["labels"] <= 2)).all()
            assert ((found["scores"] > 0.001) & (found["scores"] <= 1)).all()


@needs_ultralytics
@pytest.mark.parametrize("yaml", ["yolov10n.yaml", "yolo26n.yaml"])
def test_two_headed_versions(yaml: str):
    torch.manual_seed(0)
    model = build_yolo(num_classes=2, image_size=64, scale="n", yaml=yaml, nms_free=True).train()
    images, targets = [_image(0, 64, 64)], [_target(64, 64)]
    model.on_epoch(0, epochs=11)
    assert model(images, targets).keys() == {"box", "cls", "l1" if "26" in yaml else "dfl"}
    (_, criterion) = model._criterion
    # The library's schedule: from 0.8 for the one-to-many head down to 0.1 in the last epoch.
    assert (criterion.o2m, criterion.o2o) == pytest.approx((0.8, 0.2))
    model.on_epoch(5, epochs=11)
    assert criterion.o2m == pytest.approx(0.45)
    model.on_epoch(10, epochs=11)
    assert (criterion.o2m, criterion.o2o) == pytest.approx((0.1, 0.9))
    # A training that goes on from a checkpoint has the weights of its epoch.
    again = build_yolo(num_classes=2, image_size=64, scale="n", yaml=yaml).train()
    again.on_epoch(5, epochs=11)
    again(images, targets)
    assert again._criterion[1].o2m == pytest.approx(0.45)
    _detects(model, images)
    assert model._head.end2end
    assert not again._head.end2end


@needs_ultralytics
@pytest.mark.parametrize("yaml", ["yolov10n.yaml", "yolo26n.yaml"])
@pytest.mark.parametrize("nms_free", [False, True])
@torch.inference_mode()
def test_only_the_head_that_detects_runs(yaml: str, nms_free: bool):
    """Same numbers as the library's own forward, which runs both; the other head is there again afterwards."""
    torch.manual_seed(0)
    model = build_yolo(num_classes=2, image_size=64, scale="n", yaml=yaml, nms_free=nms_free).eval()
    calls = {"cv2": 0, "one2one_cv2": 0}
    for name in calls:
        for branch in getattr(model._head, name):
            branch.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    names = list(model.state_dict())
    batch = model.preprocess([_image(0, 64, 64)])
    one, _ = model.network(batch)
    assert calls == ({"cv2": 0, "one2one_cv2": 3} if nms_free else {"cv2": 3, "one2one_cv2": 0})
    both, _ = model.detector(batch.images.tensors)
    assert torch.equal(one, both)
    assert list(model.state_dict()) == names


@needs_ultralytics
def test_only_two_headed_versions_can_do_without_nms():
    with pytest.raises(ValueError, match="one-to-one"):
        build_yolo(num_classes=2, image_size=64, scale="n", nms_free=True)


@needs_ultralytics
def test_rtdetr_gradient_is_that_of_the_librarys_own_loss_and_it_detects():
    torch.manual_seed(0)
    model = build_rtdetr(num_classes=2, image_size=64, scale="l")
    image, target = _image(0, 64, 64), _target(64, 64)
    _detects(model, [image, _image(1, 48, 64)])
    model.train()  # after inference mode, whose anchors autograd would refuse
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1)  # of the denoising queries
    losses = model([image], [target])
    assert losses.keys() == {"class", "bbox", "giou"}
    sum(losses.values()).backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.load_state_dict(state)
    model.zero_grad()
    boxes = target["boxes"] / 64
    batch = {
        "img": image[None],
        "batch_idx": torch.zeros(2),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1),
    }
    torch.manual_seed(1)
    total, _ = model.detector.loss(batch)
    total.backward()
    torch.testing.assert_close(sum(losses.values()).detach(), total.detach())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


@needs_ultralytics
@torch.inference_mode()
def test_rtdetr_detections_are_those_of_the_librarys_predictor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import_ultralytics()
    from ultralytics.models.rtdetr import RTDETRPredictor

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = build_rtdetr(num_classes=2, image_size=64, scale="l").eval()
    image = _image(0, 64, 64)
    options = {"conf": 0.001, "max_det": 100, "imgsz": 64, "device": "cpu", "verbose": False, "save": False}
    predictor = RTDETRPredictor(overrides=options)
    predictor.setup_model(model.detector, verbose=False)
    (theirs,) = predictor(image[None])
    (ours,) = model([image])
    expected = theirs.boxes.data
    inside = expected[:, :4].clamp(0, 64)
    expected = expected[(inside[:, 2:] > inside[:, :2]).all(dim=1)]
    assert len(ours["scores"]) == len(expected) > 0
    torch.testing.assert_close(ours["scores"], expected[:, 4], atol=1e-4, rtol=0)


@needs_ultralytics
@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_rtdetr_loss_halves_in_fifty_steps():
    torch.manual_seed(0)
    model = build_rtdetr(num_classes=2, image_size=128, scale="l").train()
    images, targets = [_image(i, 128, 128) for i in range(4)], [_target(128, 128)] * 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(50):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 <= losses[0] / 2


@needs_ultralytics
@pytest.mark.parametrize("model", ["yolov3_tiny", "yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n"])
def test_as_shipped_no_small_box_gets_a_target_and_near_start_gives_them(model: str):
    """From random weights, 32 boxes of 9 to 15 px; alignment is the overlap to the sixth."""
    images, targets = small_scenes()
    scale = get(model).scale("nano")
    build = partial(build_model, model, num_classes=3, image_size=SMALL_SIZE, scale=scale)
    torch.manual_seed(0)
    assert build().boxes_without_target(images, targets) == (32, 32)
    torch.manual_seed(0)
    near = build(variant="near_start")
    before = {name: value.clone() for name, value in near.state_dict().items()}
    without, boxes = near.boxes_without_target(images, targets)
    assert boxes == 32
    # YOLOv3-tiny's finest cells are 16 px: a box of 9 px can lie between their centres.
    assert without <= (2 if model == "yolov3_tiny" else 0)
    assert all(torch.equal(value, before[name]) for name, value in near.state_dict().items())


@needs_ultralytics
def test_near_start_changes_the_biases_of_the_distance_bins_alone():
    torch.manual_seed(0)
    shipped = build_yolo(num_classes=2, image_size=64, scale="n", yaml="yolov10n.yaml").state_dict()
    torch.manual_seed(0)
    near = build_yolo(num_classes=2, image_size=64, scale="n", yaml="yolov10n.yaml", near_start=True).state_dict()
    changed = {name for name, value in near.items() if not torch.equal(value, shipped[name])}
    heads = ("cv2", "one2one_cv2")
    assert changed == {f"detector.model.23.{head}.{level}.2.bias" for head in heads for level in range(3)}
    for name in changed:
        assert near[name].view(4, 16).tolist() == [[-k for k in range(16)]] * 4


@needs_ultralytics
def test_a_head_without_bins_has_no_near_start():
    assert "near_start" not in get("yolo26n").variants
    with pytest.raises(ValueError, match="distance bins"):
        build_yolo(num_classes=2, image_size=64, scale="n", yaml="yolo26n.yaml", near_start=True)
    with pytest.raises(RequestError, match="near_start"):
        check_variant("yolo26n", "near_start")
    assert label("yolov8n", "near_start") == "YOLOv8n near start"


@needs_ultralytics
def test_the_run_says_which_boxes_cannot_start_and_what_helps(synthetic):
    cell = make_cell(model="yolov8n", scale="n")
    names = [i["file_name"] for i in synthetic.images][:8]
    boxes = sum(len(synthetic.boxes(name)) for name in names)
    (line,) = {cannot_start(build_cell_model(cell, 6), cell, synthetic, names, torch.device("cpu"))}
    assert re.fullmatch(rf"\d+ of {boxes} boxes in 8 training images get no target .* yolov8n:near_start", line)
    near = make_cell(model="yolov8n", scale="n", variant="near_start")
    assert cannot_start(build_cell_model(near, 6), near, synthetic, names, torch.device("cpu")) is None
    other = make_cell(model="retinanet")  # without such an assigner
    assert cannot_start(build_cell_model(other, 6), other, synthetic, names, torch.device("cpu")) is None
    places = make_cell(model="fcos")  # by geometry alone, whatever its weights are
    line = cannot_start(build_cell_model(places, 6), places, synthetic, names, torch.device("cpu"))
    assert line is not None
    assert line.endswith("what helps: a larger image size or tiles")
