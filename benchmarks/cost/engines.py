"""Forms in which a model runs: engine and precision. Each keeps the detector contract, so that all are timed alike.

| engine | what it is |
| --- | --- |
| torch | the model as it was trained, eager: norms not folded |
| deploy | the exact inference form that a model has: `canet.deploy`, ultralytics' fused one |
| compile | torch.compile (inductor) of backbone, neck and dense heads; proposals, RoI head and NMS stay eager |
| graphs | CUDA graphs of the same parts |
| onnx | ONNX Runtime on CPU, the whole model from image to detections |

Precisions: fp32 (TF32 off), tf32, and bf16 and fp16 by autocast, with post-processing in float32.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import extras
from benchmarks.errors import RequestError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ENGINES = ("torch", "deploy", "compile", "graphs", "onnx")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

# Modules that are convolutions alone: fixed shapes for an image size, no choice that depends on the data.
DENSE = ("backbone", "neck", "rpn.head", "head", "detector")

# Compilations of one piece of code in a process; beyond them a form fails instead of running eagerly.
COMPILED_AT_MOST = 1024

# What share of an exported model's detections must be the model's.
AGREEMENT = 0.95


class CannotRun(Exception):
    """This model has no such form; the message says why."""


@dataclass(frozen=True)
class Form:
    """An engine and a precision, written `engine` or `engine:precision`."""

    engine: str = "torch"
    precision: str = "fp32"

    @classmethod
    def parse(cls, text: str, device_type: str) -> Form:
        """RequestError for a form that does not exist, or not on this device."""
        engine, _, precision = text.partition(":")
        form = cls(engine, precision or "fp32")
        if engine not in ENGINES:
            raise RequestError(f"unknown engine {engine!r} in --form {text}; {nearest(engine, ENGINES)}")
        if form.precision not in PRECISIONS:
            raise RequestError(f"unknown precision {precision!r} in --form {text}; {nearest(precision, PRECISIONS)}")
        cuda_only = engine == "graphs" or form.precision in ("tf32", "fp16")
        if cuda_only and device_type != "cuda":
            raise RequestError(f"--form {text} needs a GPU: --device cuda")
        if engine == "onnx":
            if device_type != "cpu" or form.precision != "fp32":
                raise RequestError(f"--form {text}: ONNX Runtime is measured in fp32 on the CPU alone; use --form onnx")
            if (message := extras.missing("onnx")) is not None:
                raise RequestError(f"--form onnx needs {message}")
        return form

    def __str__(self) -> str:
        """What follows a model's name; nothing for the plain form."""
        return " ".join(part for part in (self.engine, self.precision) if part not in ("torch", "fp32"))

    def of(self, model: nn.Module, images: Sequence[Tensor]) -> nn.Module:
        """`model`, which stays as it is, in this form, in evaluation mode, on the model's device.

        Args:
            images: of the sizes that it will see; an exported model must find in them what `model` finds.

        Raises:
            CannotRun: this model has no such form.
        """
        if self.engine == "onnx":
            return _onnx(model, images)
        if self.engine == "deploy":
            model = _deployed(model)
        if self.engine in ("compile", "graphs"):
            model = _with_dense_parts(model, self.engine)
        return _running(model, self.precision)


@contextlib.contextmanager
def arithmetic(precision: str, device_type: str) -> Iterator[None]:
    """Convolutions and matrix products in `precision`."""
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    try:
        # No cache of cast weights: it would outlive a capture, and is not used in inference mode.
        with torch.autocast(device_type, dtype, enabled=dtype is not None, cache_enabled=False):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def settings() -> dict[str, Any]:
    """What in this process, beside engine and precision, decides how fast models run."""
    import torch

    return {
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "interop_threads": torch.get_num_interop_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _running(model: nn.Module, precision: str) -> nn.Module:
    import torch
    from torch import nn
    from torch.utils._pytree import tree_map

    low = precision in ("bf16", "fp16")

    def widen(x: Any) -> Any:
        return x.float() if isinstance(x, torch.Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x

    class Running(nn.Module):
        """`model` under `arithmetic(precision)`, phase by phase and whole."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def _arithmetic(self, precision: str) -> Any:
            return arithmetic(precision, next(model.parameters(), torch.empty(0)).device.type)

        def preprocess(self, images: Sequence[Tensor]) -> Any:
            with self._arithmetic("fp32"):
                return model.preprocess(images)  # type: ignore[operator]

        def network(self, batch: Any) -> Any:
            with self._arithmetic(precision):
                raw = model.network(batch)  # type: ignore[operator]
            return tree_map(widen, raw) if low else raw

        def postprocess(self, raw: Any, batch: Any) -> Any:
            with self._arithmetic("fp32"):
                return model.postprocess(raw, batch)  # type: ignore[operator]

        def forward(self, images: Sequence[Tensor]) -> Any:
            if not low:
                with self._arithmetic(precision):
                    return model(images)
            batch = self.preprocess(images)
            return self.postprocess(self.network(batch), batch)

    return Running().eval()


def _deployed(model: nn.Module) -> nn.Module:
    from canet.deploy import deploy
    from canet.detector import CANet

    if isinstance(model, CANet):
        try:
            return deploy(model)
        except ValueError as e:  # of another backbone
            raise CannotRun(str(e)) from None
    if callable(fused := getattr(model, "fused", None)):
        return fused()
    raise CannotRun("it has no exact inference form (CANet has: canet.deploy; and ultralytics' models: fused)")


def _with_dense_parts(model: nn.Module, engine: str) -> nn.Module:
    """A copy of `model` whose dense parts are compiled, or captured at their first call for each input size."""
    model = copy.deepcopy(model)
    parts = []
    for name in DENSE:
        with contextlib.suppress(AttributeError):
            parts.append(model.get_submodule(name))
    if not parts:
        raise CannotRun(f"none of its modules is one of {', '.join(DENSE)}")
    if engine == "compile":
        import torch._dynamo.config as dynamo

        # Entries of all models, precisions and sizes count together, by the code that they share. Beyond its limits
        # (8 and 256) torch runs the part eagerly with no more than a line in its log. Names as in torch 2.6, which
        # later versions know as well.
        dynamo.cache_size_limit = dynamo.accumulated_cache_size_limit = COMPILED_AT_MOST
        dynamo.fail_on_cache_limit_hit = True
    for part in parts:
        if engine == "compile":
            part.compile(dynamic=False)
        else:
            part.forward = Captured(part)
    return model


class Captured:
    """A module of CUDA tensors, replayed as one CUDA graph per set of input shapes.

    What it returns lies in the graph's own memory and is overwritten by the next call. Each graph has a copy of the
    module: some keep tensors of the last size (anchors), which a graph of another size still reads.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module)
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any, nn.Module]] = {}

    def __call__(self, *args: Any) -> Any:
        from torch.utils._pytree import tree_flatten

        given, structure = tree_flatten(args)
        key = tuple((x.shape, x.dtype) for x in given)
        if key not in self.graphs:
            self.graphs[key] = self._capture(given, structure)
        graph, inputs, outputs, _ = self.graphs[key]
        for mine, theirs in zip(inputs, given, strict=True):
            mine.copy_(theirs)
        graph.replay()
        return outputs

    def _capture(
        self, given: list[Tensor], structure: Any
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any, nn.Module]:
        import torch
        from torch.utils._pytree import tree_unflatten

        module = copy.deepcopy(self.module)
        inputs = [x.clone() for x in given]
        args = tree_unflatten(inputs, structure)
        # Libraries choose algorithms and allocate workspaces at first; that must not be captured.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                module(*args)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = module(*args)
        return graph, inputs, outputs, module


def _onnx(model: nn.Module, images: Sequence[Tensor]) -> nn.Module:
    import onnxruntime
    import torch
    from torch import nn

    class Exported(nn.Module):
        """The model in ONNX Runtime: one session per list of image sizes, and everything inside its network."""

        def __init__(self) -> None:
            super().__init__()
            self.sessions: dict[tuple[Any, ...], onnxruntime.InferenceSession] = {}

        def preprocess(self, images: Sequence[Tensor]) -> list[Tensor]:
            return list(images)

        def network(self, batch: list[Tensor]) -> list[Any]:
            key = tuple(tuple(x.shape) for x in batch)
            if key not in self.sessions:
                self.sessions[key] = _session(export(model, batch))
            session = self.sessions[key]
            names = [x.name for x in session.get_inputs()]
            return session.run(None, {name: x.numpy() for name, x in zip(names, batch, strict=True)})

        def postprocess(self, raw: list[Any], batch: list[Tensor]) -> list[dict[str, Tensor]]:
            values = [torch.from_numpy(x) for x in raw]
            return [
                dict(zip(("boxes", "scores", "labels"), values[i : i + 3], strict=True))
                for i in range(0, len(values), 3)
            ]

        def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
            return self.postprocess(self.network(list(images)), list(images))

    exported = Exported().eval()
    with torch.inference_mode():
        for image in images:
            (ours,), (theirs,) = model([image]), exported([image])
            if (share := agreement(ours, theirs)) < AGREEMENT:
                raise CannotRun(f"exported to ONNX, it finds {share:.0%} of its detections; it must be {AGREEMENT:.0%}")
    return exported


def export(model: nn.Module, images: Sequence[Tensor]) -> bytes:
    """The whole of `model`, for images of these sizes, as ONNX: each image's boxes, scores, labels in turn.

    It is traced (the TorchScript-based exporter): torch.export has no form for proposals, whose number depends on
    the data. Raises CannotRun where tracing fails.
    """
    import torch
    from torch import nn

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *images: Tensor) -> list[Tensor]:
            return [found[key] for found in self.model(list(images)) for key in ("boxes", "scores", "labels")]

    buffer = io.BytesIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            inputs = tuple(x.clone() for x in images)
            names = [f"image{i}" for i in range(len(images))]
            # The exporter that traces writes to a file object as well.
            whole: Any = buffer
            torch.onnx.export(Whole().eval(), inputs, whole, dynamo=False, input_names=names, opset_version=17)
    except Exception as e:  # whatever a library's own code raises when it is traced
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
        raise CannotRun(f"it cannot be traced to ONNX from image to detections ({why} ...)") from e
    finally:
        logger.setLevel(level)
    return buffer.getvalue()


def _session(content: bytes) -> Any:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def agreement(ours: dict[str, Tensor], theirs: dict[str, Tensor], pixels: float = 0.5) -> float:
    """Share of detections that have a twin in the other set: same label, box within `pixels`, score within 1%.

    Of detections with the same score (all, in some untrained models) it is chance which survive suppression and the
    limit on their number: those of the same score and label count as each other's twins, wherever they lie.
    """
    if not len(ours["labels"]) or not len(theirs["labels"]):
        return float(len(ours["labels"]) == len(theirs["labels"]))
    near = (ours["boxes"][:, None] - theirs["boxes"][None]).abs().amax(2) <= pixels
    near |= _tied(ours["scores"])[:, None] & _tied(theirs["scores"])[None]
    near &= ours["labels"][:, None] == theirs["labels"][None]
    near &= (ours["scores"][:, None] - theirs["scores"][None]).abs() <= 0.01
    return min(float(near.any(1).float().mean()), float(near.any(0).float().mean()))


def _tied(scores: Tensor) -> Tensor:
    return ((scores[:, None] - scores[None]).abs() <= 1e-6).sum(1) > 1
