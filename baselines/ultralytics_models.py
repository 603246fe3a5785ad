"""YOLO and RT-DETR detectors of the ultralytics library under the detector contract.

https://github.com/ultralytics/ultralytics (AGPL-3.0) is an optional extra, imported when a model is built and
never before. Models are built from the YAML files that it ships, without network access, with random weights or
those of a file; its own losses train them and its own post-processing makes their detections. Nothing of its code is
copied here.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import box_convert

from canet.contract import Batch, Detector, ResizeNormalizePad, Target
from canet.ignore import any_ignored, ignored_boxes, inside

INSTALL = "python -m pip install 'canet-bench[yolo]'"

# Read once, when the library is imported: no DNS look-up, analytics, crash reports or package installation,
# errors only in its log.
_QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}


def import_ultralytics() -> ModuleType:
    """Import the library so that it stays silent, offline and inside a temporary settings folder.

    What it changes in the process as it is imported (environment, print options, warning filters, random
    streams, `torch.save`, `PIL.Image.open`) is put back. A library that somebody imported earlier is returned as it is.

    Raises:
        ImportError: it is not installed; the message is one line with the command that installs it. Or it is, and
            lacks something, which the message names.
    """
    if (loaded := sys.modules.get("ultralytics")) is not None:
        return loaded
    settings = tempfile.mkdtemp(prefix="canet-bench-yolo-")
    atexit.register(shutil.rmtree, settings, ignore_errors=True)
    environment = dict(os.environ)
    os.environ.update(_QUIET, YOLO_CONFIG_DIR=settings)
    save, image_open, print_options = torch.save, Image.open, np.get_printoptions()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            import ultralytics
            import ultralytics.nn.tasks
            import ultralytics.utils.nms
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "ultralytics":
            raise ImportError(f"YOLO models need the ultralytics library: {INSTALL} ({error})") from error
        raise ImportError(f"the ultralytics library is installed and cannot be imported: {error}") from error
    finally:
        kept = {*_QUIET, "YOLO_CONFIG_DIR"}  # processes started from here stay quiet too
        for name in set(os.environ) - set(environment) - kept:
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if name not in kept})
        torch.save, Image.open = save, image_open
        torch.set_printoptions(profile="default")
        np.set_printoptions(**print_options)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    loggers = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
    ultralytics.settings.update({name: False for name in ("sync", *loggers) if name in ultralytics.settings})
    return ultralytics


class UltralyticsDetector(Detector):
    """What YOLO and RT-DETR share: resizing, provenance, and the limits of the contract."""

    score_threshold = 0.001
    max_detections = 100

    class_head: re.Pattern[str]
    """Names of the tensors whose shapes may depend on the number of classes."""

    def __init__(self, detector: nn.Module, image_size: int, yaml: str, weights: str | None = None) -> None:
        transform = ResizeNormalizePad(image_size)
        # The library feeds pixels in [0, 1] without further normalisation.
        transform.image_mean, transform.image_std = [0.0] * 3, [1.0] * 3
        super().__init__(transform)
        self.detector = detector
        self.yaml = yaml
        frozen = [name.rsplit(".", 1)[0] for name, p in self.named_parameters() if not p.requires_grad]
        self.provenance = {"weights": None, "frozen": frozen, "norm": "batch"}
        self._weights: dict[str, Tensor] = {}
        if weights is not None:
            self._weights, self.provenance["weights"] = fitting_weights(detector, weights, self.class_head)
        self._prepare(detector)

    def fused(self) -> UltralyticsDetector:
        """A copy in evaluation mode in the form in which the library ships its models and states their sizes.

        Norms, and the branches that YOLOv9 and RT-DETR train side by side, are folded into convolutions.
        """
        model = deepcopy(self).eval()
        model.detector.fuse(verbose=False)  # type: ignore[operator]
        return model

    def fit_natively(
        self,
        data: Path,
        folder: Path,
        *,
        epochs: int,
        batch_size: int,
        seed: int,
        epoch_ended: Callable[[int, dict[str, float], float], None],
    ) -> None:
        """Train with the library's own trainer at its defaults, then carry the weights that it chose.

        It starts from random weights of its own, changed as ours were (`weights`, `near_start`), and chooses the
        epoch that is best on the validation part, with averaged weights (EMA). Its defaults stand but for size,
        length, seed and device, and: no plots, and no AMP, whose check downloads a model. On a CPU it never uses AMP.

        Args:
            data: data file of a set in the library's own format, with parts train and val.
            folder: where everything it writes goes, as `folder`/train.
            epoch_ended: called with the epoch (from 0), mean losses and learning rate.

        Raises ValueError for an input size that is no multiple of the largest stride: the library would train on a
        larger one, with objects of another size than they are tested at.
        """
        library = import_ultralytics()
        step = int(self.detector.stride.max())  # type: ignore[operator]
        if self.transform.max_size % step:
            raise ValueError(f"the library's own trainer takes multiples of {step} px, not {self.transform.max_size}")
        device = next(self.parameters()).device
        threads, environment = torch.get_num_threads(), dict(os.environ)

        def keep_threads(_: Any) -> None:
            torch.set_num_threads(threads)  # it sets its own on a CPU

        def note(trainer: Any) -> None:
            losses = {k.removesuffix("_loss"): float(v) for k, v in trainer.tloss.items()}
            epoch_ended(trainer.epoch, losses, float(trainer.optimizer.param_groups[0]["lr"]))

        prepare = self._prepare

        class Trainer(self._trainer()):  # type: ignore[misc]
            def get_model(self, *args: Any, **kwargs: Any) -> nn.Module:
                model = super().get_model(*args, **kwargs)
                prepare(model)
                return model

        try:
            trainer = Trainer(
                overrides={
                    "model": self.yaml,
                    "data": str(data.resolve()),
                    "epochs": epochs,
                    "batch": batch_size,
                    "imgsz": self.transform.max_size,
                    "seed": seed,
                    "device": "cpu" if device.type == "cpu" else device.index or 0,
                    "project": str(folder.resolve()),  # a relative one would be taken from its settings' folder
                    "name": "train",
                    "exist_ok": True,
                    "plots": False,
                    "amp": False,
                    "verbose": False,
                }
            )
            trainer.add_callback("on_train_start", keep_threads)
            trainer.add_callback("on_train_epoch_end", note)
            trainer.train()
            trained, _ = library.nn.tasks.load_checkpoint(trainer.best)
        finally:
            keep_threads(None)
            os.environ.clear()
            os.environ.update(environment)
        self.detector.load_state_dict(trained.float().state_dict())

    def _trainer(self) -> type:
        """The library's trainer for this kind of model."""
        raise NotImplementedError

    def _prepare(self, detector: nn.Module) -> None:
        """Change a model that the library has just built as ours is changed: load the weights, if there are any."""
        if self._weights:
            detector.load_state_dict(self._weights, strict=False)

    def _found(self, rows: list[Tensor], batch: Batch) -> list[Target]:
        """From rows (n, 6) of x1, y1, x2, y2, score, class in pixels of the resized images, best first."""
        found = [{"boxes": r[:, :4], "scores": r[:, 4], "labels": r[:, 5].long() + 1} for r in rows]
        return self.to_original(found, batch)


class YOLODetector(UltralyticsDetector):
    """A YOLO model of the library under the detector contract.

    Losses: `box`, `cls` and `dfl` (`l1` for YOLO26, which has no distribution) as the library's criterion
    returns them: gains applied, normalised by the sum of the target scores in the batch, then *multiplied by
    the batch size*. The library's trainer sums them and calls `backward`, so the gradient of our sum equals
    its gradient for the same batch. What its trainer does afterwards (accumulation up to a nominal batch of
    64, clipping the norm at 10, weight decay scaled by the batch) belongs to a recipe, not to the model.

    YOLOv10 and YOLO26 train a one-to-many and a one-to-one head, whose weights move from the one to the other
    over the epochs (`on_epoch`). Detections come from the one-to-many head and NMS, which is the library's
    default for all of its models; with `nms_free` they come from the one-to-one head alone. In evaluation only
    the head that they come from runs, as in a model that the library has fused.

    `near_start`: boxes start about a cell wide instead of 15 cells, see `start_near`.

    Detections: the library's `non_max_suppression` with the values of its validator (IoU 0.7, several labels
    per box) and the limits of the contract (score above 0.001, best 100). Its wall-clock limit is lifted,
    since detections must not depend on how busy the machine is.
    """

    iou_threshold = 0.7
    multi_label = True

    class_head = re.compile(r"\.(one2one_)?cv3\.")
    ignores = True

    def __init__(
        self,
        detector: nn.Module,
        image_size: int,
        yaml: str,
        weights: str | None = None,
        *,
        nms_free: bool = False,
        near_start: bool = False,
    ) -> None:
        self.near_start = near_start
        super().__init__(detector, image_size, yaml, weights)
        self._criterion: tuple[torch.device, Any] | None = None
        self._epoch = 0
        head = self._head
        if nms_free:
            if not hasattr(head, "one2one_cv2"):
                raise ValueError("only a model with a one-to-one head can do without NMS")
            head.end2end = True

    def _trainer(self) -> type:
        from ultralytics.models.yolo.detect import DetectionTrainer

        return DetectionTrainer

    def _prepare(self, detector: nn.Module) -> None:
        super()._prepare(detector)
        if self.near_start:
            start_near(detector)

    @property
    def _head(self) -> Any:
        return self.detector.model[-1]  # type: ignore[index]

    @torch.no_grad()
    def boxes_without_target(self, images: Sequence[Tensor], targets: Sequence[Target]) -> tuple[int, int]:
        """How many boxes the assigner gives no target with the weights as they are, and how many there are.

        A target's weight is alignment (score^0.5 x CIoU^6), scaled to the box's best CIoU. A box whose best weight
        is below `NO_TARGET` pulls at nothing. Counted in the head that detections come from, with the batch's
        statistics as in training; the model is left as it was.

        Args:
            images, targets: of one batch, as in training.
        """
        training, buffers = self.training, {name: value.clone() for name, value in self.named_buffers()}
        batch = self.preprocess(images, targets)
        criterion = self._criterion_on(batch.images.tensors.device)
        one = getattr(criterion, "one2one" if self._head.end2end else "one2many", criterion)
        seen: list[tuple[Any, Any]] = []
        hook = one.assigner.register_forward_hook(lambda _, given, got: seen.append((given, got)))
        try:
            self.train()
            self.network(batch)
        finally:
            hook.remove()
            self.train(training)
            for name, value in self.named_buffers():
                value.copy_(buffers[name])
        ((_, _, _, _, _, real), (_, _, scores, foreground, index)) = seen[0]
        best = scores.new_zeros(real.shape[:2])  # of every box: (images, most boxes of an image)
        if best.numel():
            best.scatter_reduce_(1, index.long(), scores.amax(dim=-1) * foreground, "amax")
        there = real[..., 0] > 0
        return int((best[there] < NO_TARGET).sum()), int(there.sum())

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Weigh the two heads of YOLOv10 and YOLO26 as the library's trainer does in epoch `epoch` (from 0)."""
        self._epoch = epoch
        self.detector.args.epochs = epochs  # type: ignore[union-attr]
        if self._criterion is not None:
            self._weigh_heads(self._criterion[1])

    def _weigh_heads(self, criterion: Any) -> None:
        if hasattr(criterion, "update"):
            criterion.updates = self._epoch - 1
            criterion.update()

    def network(self, batch: Batch) -> Any:
        """The losses in training; decoded boxes with scores, and the raw maps, in evaluation."""
        if not self.training:
            with self._one_head():
                return self.detector(batch.images.tensors)
        raw = self.detector(batch.images.tensors)
        criterion = self._criterion_on(batch.images.tensors.device)
        with self._ignoring(criterion, raw, batch):
            total, items = criterion(raw, library_targets(batch))
        names = [name.removesuffix("_loss") for name in items]
        return dict(zip(names, total.unbind(), strict=True))

    def postprocess(self, raw: Any, batch: Batch) -> list[Target]:
        """Non-maximum suppression, then boxes in pixels of the images as given, clipped, empty ones dropped."""
        from ultralytics.utils.nms import non_max_suppression

        rows = non_max_suppression(
            raw[0].float(),
            conf_thres=self.score_threshold,
            iou_thres=self.iou_threshold,
            multi_label=self.multi_label,
            max_det=self.max_detections,
            max_time_img=float("inf"),
            end2end=self._head.end2end,
        )
        return self._found(rows, batch)

    @contextmanager
    def _ignoring(self, criterion: Any, raw: dict[str, Any], batch: Batch) -> Iterator[None]:
        """Leave cells whose centre lies in an ignored box out of the classification loss, where no box has them."""
        if not any_ignored(batch.targets):
            yield
            return
        from ultralytics.utils.tal import make_anchors

        centres, strides = make_anchors(raw.get("one2many", raw)["feats"], self._head.stride, 0.5)
        out = torch.stack(
            [
                torch.zeros_like(centres[:, 0], dtype=torch.bool)
                if (ignore := ignored_boxes(target)) is None
                else inside(centres * strides, ignore)
                for target in batch.targets or []
            ]
        )
        heads = [getattr(criterion, name) for name in ("one2many", "one2one") if hasattr(criterion, name)]
        entropies = [(head, head.bce) for head in heads or [criterion]]
        for head, entropy in entropies:
            head.bce = lambda scores, goals, entropy=entropy: entropy(scores, goals).masked_fill(
                (out & (goals.amax(dim=-1) <= 0))[..., None], 0
            )
        try:
            yield
        finally:
            for head, entropy in entropies:
                head.bce = entropy

    @contextmanager
    def _one_head(self) -> Iterator[None]:
        # The library's head runs both branches, and leaves out one that is None.
        head = self._head
        unused = "cv2" if head.end2end else "one2one_cv2"
        branch = head._modules.get(unused) if hasattr(head, "one2one_cv2") else None
        if branch is not None:
            head._modules[unused] = None
        try:
            yield
        finally:
            if branch is not None:
                head._modules[unused] = branch

    def _criterion_on(self, device: torch.device) -> Any:
        # Built late and once per device: the criterion copies strides and anchors to where the model is.
        if self._criterion is None or self._criterion[0] != device:
            criterion = self.detector.init_criterion()  # type: ignore[operator]
            self._weigh_heads(criterion)
            self._criterion = device, criterion
        return self._criterion[1]


class RTDETRDetector(UltralyticsDetector):
    """The library's RT-DETR (Zhao et al. 2023) under the detector contract.

    Losses: `class`, `bbox` and `giou`, each the sum over the last decoder layer, the layers before it, the
    encoder and the denoising queries. Their sum is what the library's trainer calls `backward` on; it is not
    multiplied by the batch size.

    Detections: the decoder's best queries without NMS, limited as the contract says. The library stretches
    images to a square; here they keep their aspect and are padded, as for every model.
    """

    class_head = re.compile(r"\.(enc_score_head|dec_score_head|denoising_class_embed)\.")

    def _trainer(self) -> type:
        from ultralytics.models.rtdetr.train import RTDETRTrainer

        return RTDETRTrainer

    def network(self, batch: Batch) -> Any:
        """The losses in training; the best queries (B, n, 6), and the raw outputs, in evaluation."""
        images = batch.images.tensors
        if not self.training:
            return self.detector(images)
        head: Any = self.detector.model[-1]  # type: ignore[index]
        if torch.is_tensor(anchors := getattr(head, "anchors", None)) and anchors.is_inference():
            head.shapes = []  # it keeps anchors of the last size, and autograd refuses those of inference mode
        parts: dict[str, Tensor] = {}
        criterion = self.detector.init_criterion()  # type: ignore[operator]

        def noting(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            parts.update(criterion(*args, **kwargs))
            return parts

        self.detector.criterion = noting  # type: ignore[assignment]
        try:
            self.detector.loss({"img": images, **library_targets(batch)})  # type: ignore[operator]
        finally:
            self.detector.criterion = None  # type: ignore[assignment]
        kinds = ("class", "bbox", "giou")
        return {kind: sum(v for name, v in parts.items() if name.startswith(f"loss_{kind}")) for kind in kinds}

    def postprocess(self, raw: Any, batch: Batch) -> list[Target]:
        """The best queries above the threshold, in pixels of the images as given, clipped, empty ones dropped."""
        height, width = batch.images.tensors.shape[-2:]
        queries = raw[0].float()  # centre and size relative to the padded image, score, class; best first
        scale = queries.new_tensor([width, height, width, height])
        boxes = box_convert(queries[..., :4], "cxcywh", "xyxy") * scale
        rows = torch.cat([boxes, queries[..., 4:]], dim=-1)
        return self._found([r[r[:, 4] > self.score_threshold][: self.max_detections] for r in rows], batch)


def fitting_weights(detector: nn.Module, path: str, class_head: re.Pattern[str]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a weights file that `detector` takes, and a text for its provenance: file, digest, what was left.

    A `.pt` file of the library (a pickle) is read by its restricted loader, which builds the library's and torch's own
    classes and nothing else; averaged weights (EMA) are taken where there are any, as the library does. A
    `.safetensors` file holds our names (weights of a finished cell) or the library's. Tensors of the class head are
    left out where their shapes differ, as they do for another number of classes.

    Raises:
        RuntimeError: there is no such file, it is of neither kind, would execute something, holds NaN or infinite
            values, or does not fit.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RuntimeError(f"weights {path}: no such file")
    if file.suffix == ".safetensors":
        try:
            state = load_file(file)
        except SafetensorError as error:
            raise RuntimeError(f"weights {path} cannot be read: {error}") from None
    elif file.suffix == ".pt":
        state = _library_state(file)
    else:
        raise RuntimeError(f"weights {path}: expected a .pt file of ultralytics or a .safetensors file")
    state = {n.removeprefix("detector."): v for n, v in state.items()}
    own = {n: v for n, v in detector.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    other = {n for n in own.keys() & state.keys() if own[n].shape != state[n].shape}
    left = {n for n in other if class_head.search(n)}
    if wrong := sorted((own.keys() ^ state.keys()) | (other - left)):
        raise RuntimeError(f"weights {path} do not fit: {len(wrong)} tensors differ in name or shape, as {wrong[0]}")
    if bad := [n for n, v in state.items() if not (v.is_floating_point() and bool(v.isfinite().all()))]:
        raise RuntimeError(f"weights {path}: {bad[0]} holds values that are no finite numbers")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    text = f"{file.name} sha256:{digest}"
    if left:
        text += f", without {len(left)} tensors of the class head, which are for another number of classes"
    return {n: v.to(own[n].dtype) for n, v in state.items() if n not in left}, text


def _library_state(file: Path) -> dict[str, Tensor]:
    """State dict of a checkpoint of the library, read without executing what it names."""
    import_ultralytics()
    from ultralytics.nn import tasks

    if not tasks._SafeLoad.SUPPORTED:  # it would fall back to a plain unpickling
        raise RuntimeError(f"weights {file}: this torch cannot read a .pt file safely; convert it to .safetensors")
    known = torch.serialization.get_safe_globals()
    try:
        content, _ = tasks.torch_safe_load(file.resolve(), safe_only=True)
    except Exception as error:  # whatever a damaged or hostile file leads to
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RuntimeError(f"weights {file} cannot be read safely as a checkpoint of ultralytics: {reason}") from None
    finally:  # the loader leaves its classes allowed for every later torch.load
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)
    model = content.get("ema") or content.get("model") or content
    state = model.state_dict() if isinstance(model, nn.Module) else model
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RuntimeError(f"weights {file} hold no model of ultralytics")
    return state


NO_TARGET = 1e-3
"""A target whose weight is below this is none: its part of the loss is a thousandth of a box's that fits."""


def start_near(detector: nn.Module) -> None:
    """Let boxes start small: the bias of distance bin k becomes -k, in every level and head.

    From scratch, a head with distance bins starts with bins of equal weight: each side lies half of the bins'
    range, 7.5 cells, from its cell, and boxes are 15 cells wide, 120 px on the finest level. The weights of the
    assigner's targets go with the sixth power of the overlap, so that boxes of a few pixels get none, and what is
    never a target is never learned. With these biases a side starts 0.6 cells away. Nothing else changes.

    Raises:
        ValueError: the head predicts distances themselves, as YOLO26's does.
    """
    head: Any = detector.model[-1]  # type: ignore[index]
    if head.reg_max == 1:
        raise ValueError("near_start is for heads with distance bins; this one has none")
    for name in ("cv2", "one2one_cv2"):
        for level in getattr(head, name, None) or ():
            bias = level[-1].bias  # (4 * bins,): the four sides one after the other
            bias.data.copy_(-torch.arange(head.reg_max).to(bias).repeat(4))


def library_targets(batch: Batch) -> dict[str, Tensor]:
    """The batch's targets as the library's criteria read them.

    Returns:
        `batch_idx` (N,), `cls` (N, 1) in 0..K-1 and `bboxes` (N, 4) as centre, width and height relative to
        the padded image, all boxes of the batch one after the other.
    """
    targets = batch.targets or []
    height, width = batch.images.tensors.shape[-2:]
    scale = batch.images.tensors.new_tensor([width, height, width, height])
    labels = torch.cat([t["labels"] for t in targets])
    index = torch.cat([torch.full_like(t["labels"], i) for i, t in enumerate(targets)])
    return {
        "batch_idx": index.to(scale),
        "cls": (labels - 1).to(scale)[:, None],
        "bboxes": box_convert(torch.cat([t["boxes"] for t in targets]).to(scale), "xyxy", "cxcywh") / scale,
    }


def build_yolo(
    *,
    num_classes: int,
    image_size: int,
    scale: str,
    weights: str | None = None,
    yaml: str = "yolov8n.yaml",
    nms_free: bool = False,
    near_start: bool = False,
) -> YOLODetector:
    """Build a YOLO detector from one of the library's YAML files, with random weights or those of a file.

    Args:
        num_classes: foreground classes, K.
        image_size: longer side in pixels that images are resized to.
        scale: the scale in the YAML file's name, for example "n" in "yolov8n.yaml".
        weights: None, or a file on disk (`fitting_weights`), such as the library's COCO weights `yolov8n.pt`.
            "imagenet" is refused: the library publishes no backbone.
        yaml: name of a detection model file of the library.
        nms_free: take detections from the one-to-one head (YOLOv10, YOLO26).
        near_start: boxes start small (`start_near`), for small defects from random weights.

    Raises:
        ImportError: the library is not installed.
        ValueError: `scale` is not the one that `yaml` names, `nms_free` for a model with one head, or `near_start`
            for a head without distance bins or together with `weights`.
        RuntimeError: the weights cannot be had or do not fit.
    """
    _check(yaml, scale, weights)
    if near_start and weights is not None:
        raise ValueError("near_start is for random weights; those of a file have learned where boxes start")
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    detector = DetectionModel(yaml, ch=3, nc=num_classes, verbose=False)
    # Loss gains; the library's trainer sets the same attribute.
    detector.args = copy(DEFAULT_CFG)  # type: ignore[assignment]
    return YOLODetector(detector, image_size, yaml, weights, nms_free=nms_free, near_start=near_start)


def build_rtdetr(
    *, num_classes: int, image_size: int, scale: str, weights: str | None = None, yaml: str = "rtdetr-l.yaml"
) -> RTDETRDetector:
    """Build RT-DETR from one of the library's YAML files; arguments as `build_yolo`."""
    _check(yaml, scale, weights)
    import_ultralytics()
    from ultralytics.nn.tasks import RTDETRDetectionModel

    detector = RTDETRDetectionModel(yaml, ch=3, nc=num_classes, verbose=False)
    detector.nc = num_classes  # type: ignore[assignment]  # read by its criterion; the trainer sets it
    return RTDETRDetector(detector, image_size, yaml, weights)


def _check(yaml: str, scale: str, weights: str | None) -> None:
    stem = Path(yaml).stem
    if not stem.endswith(scale):
        raise ValueError(f"{yaml} is not of scale {scale!r}")
    if weights == "imagenet":
        raise RuntimeError(
            f"no ImageNet weights for {stem}: the library has no backbone for it, use weights=None or a file, "
            f"such as its COCO weights {stem}.pt"
        )
