"""Initialisation by name: what two models share starts equal, whatever else they have.

A seed alone does not give that: one more layer shifts every draw after it. Here each parameter is drawn from a
generator of its own, seeded by the build's seed and the parameter's name. Each keeps the distribution that its
module's initialiser gives it: what the initialiser did to the parameter is recorded and done again.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)

# Names of the same part in CANet and in torchvision's pyramids.
_ALIASES = (
    (r"^backbone\.body\.", "backbone."),
    (r"^neck\.inner_blocks\.(\d+)\.0\.", r"neck.lateral.\1."),
    (r"^neck\.layer_blocks\.(\d+)\.0\.", r"neck.output.\1."),
    (r"^neck\.fusion\.(\d+)\.(conv_low|conv_high)\.", r"neck.\2.\1."),
)

_RANDOM = ("uniform_", "normal_")
_CONSTANT = ("zero_", "fill_", "copy_")


def shared_name(name: str) -> str:
    """The name by which parameter `name` is seeded: one for the same part of CANet and of torchvision's detectors."""
    for pattern, replacement in _ALIASES:
        name = re.sub(pattern, replacement, name)
    return name


class _Recorder(TorchDispatchMode):
    """Writes down, for each tensor, the random fill it got last and what was done to it in place since."""

    def __init__(self) -> None:
        super().__init__()
        # Tensors are kept, so that no address is used twice.
        self.done: dict[int, tuple[Tensor, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name.endswith("_") and args and isinstance(args[0], Tensor):
            tensor, key = args[0], args[0].untyped_storage()._cdata
            if name in _RANDOM:
                self.done[key] = (tensor, [(func, args[1:], kwargs or {})])
            elif name in _CONSTANT:
                self.done.pop(key, None)
            elif key in self.done:
                self.done[key][1].append((func, args[1:], kwargs or {}))
        return out

    @torch.no_grad()
    def draw_again(self, model: nn.Module, seed: int) -> None:
        """Repeat on every parameter that is random what made it so, from a generator of its own."""
        for name, parameter in model.named_parameters():
            tensor, steps = self.done.get(parameter.untyped_storage()._cdata, (None, []))
            if tensor is None or tensor.shape != parameter.shape:
                continue
            digest = hashlib.sha256(f"{seed}/{shared_name(name)}".encode()).digest()
            generator = torch.Generator(parameter.device).manual_seed(int.from_bytes(digest[:7], "big"))
            for func, args, kwargs in steps:
                own = {"generator": generator} if func._schema.name.removeprefix("aten::") in _RANDOM else {}
                func(parameter, *args, **{**kwargs, **own})


def initialised_by_name(build: Callable[P, M]) -> Callable[P, M]:
    """A builder whose random parameters depend on torch's seed and on their names alone.

    It takes one number from torch's generator, however many parameters there are, so that models built after one
    another differ. What is loaded or set to a constant stays.
    """

    @functools.wraps(build)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> M:
        seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        with torch.random.fork_rng(devices=[]), _Recorder() as recorder:
            model = build(*args, **kwargs)
        recorder.draw_again(model, seed)
        return model

    return wrapper
