"""Outputs of the authors' own modules, reproduced from their parameters through the checkpoint converter."""

from __future__ import annotations

import ast
import binascii
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from canet.attention import SpatialAttentionEncoder
from canet.backbone import ResNet
from canet.checkpoints import load_official
from canet.config import CANetConfig
from canet.context import ContextBlockDecoder
from canet.deploy import DeployedResNet, deploy_neck
from canet.pyramid import FPN, LaplacianFPN, LaplacianFusion, MutualAttention, build_neck

HERE = Path(__file__).parent.parent / "golden"
FOLDER = Path(os.environ.get("CANET_BENCH_GOLDEN") or HERE)
ROW = re.compile(r"^\| (?P<file>\S+\.npz) \| (?P<constructor>[^|]+) \| (?P<rest>.*)\|$")


def _cases() -> dict[str, tuple[str, float]]:
    cases = {}
    for line in (FOLDER / "README.md").read_text().splitlines():
        if match := ROW.match(line):
            numbers = [float(x) for x in re.findall(r"(?<= )\d+e-\d+|(?<= )\d\.\d+e-\d+", " " + match["rest"])]
            cases[match["file"]] = (match["constructor"].strip(), max(numbers))
    return cases


CASES = _cases()


def _call(constructor: str) -> tuple[str, list, dict]:
    """Class name, positional and keyword arguments of a constructor as the table writes it."""
    text = constructor.split(";")[0].removeprefix("MMDet ").strip()
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)

    def value(node: ast.expr) -> object:
        return eval(compile(ast.Expression(node), "<table>", "eval"), {"__builtins__": {}})

    kwargs: dict = {}
    for keyword in call.keywords:
        kwargs.update({keyword.arg: value(keyword.value)} if keyword.arg else value(keyword.value))
    return call.func.id, [value(arg) for arg in call.args], kwargs


def _build(constructor: str) -> tuple[nn.Module, str]:
    origin = "mmdet" if constructor.startswith("MMDet ") else "pytorch"
    mm = origin == "mmdet"
    name, args, kwargs = _call(constructor)
    if name == "SpatialAttentionModule":
        return SpatialAttentionEncoder(
            kwargs["in_channels"],
            heads=kwargs.get("num_heads", 8),
            kv_stride=kwargs.get("kv_stride", 2),
            reduction=kwargs.get("reduce_fct", 1),
            pixel_shuffle=kwargs.get("pixel_shuffle", False),
        ), origin
    if name == "ContextBlock":
        pooling = {"att": "attention", "avg": "average"}[kwargs.get("pooling_type", "att")]
        fusion = [f.removeprefix("channel_") for f in kwargs.get("fusion_types", ("channel_add",))]
        return ContextBlockDecoder(kwargs["in_channels"], ratio=kwargs["ratio"], pooling=pooling, fusion=fusion), origin
    if name == "LaplacianFusion":
        return LaplacianFusion(kwargs.get("in_channels") or kwargs["channel"], gate_bias=mm), origin
    if name == "MutualAttention":
        return nn.ModuleList(MutualAttention(c) for c in kwargs["in_channels"]), origin
    in_channels, out_channels = args or (kwargs["in_channels"], kwargs["out_channels"])
    if name == "FeaturePyramidNetwork":
        return FPN(in_channels, out_channels), origin
    attention = kwargs.get("attention", False)
    return LaplacianFPN(in_channels, out_channels, gate_bias=mm, mutual_attention=attention), origin


def _run(module: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if isinstance(module, nn.ModuleList):
        return {str(i): part(x) for i, (part, x) in enumerate(zip(module, inputs.values(), strict=True))}
    if isinstance(module, FPN):
        return module(inputs)
    if isinstance(module, LaplacianFusion):
        # The file holds the coarse map already upsampled; at equal size our upsampling is the identity.
        return {"": module(inputs["low"], inputs["high"])}
    return {"": module(inputs["x"])}


def _group(data: np.lib.npyio.NpzFile, prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix).removeprefix("/"): data[name]
        for name in data.files
        if name == prefix or name.startswith(prefix + "/")
    }


def _compare(found: dict[str, torch.Tensor], expected: dict[str, np.ndarray], tolerance: float) -> None:
    assert len(found) == len(expected)
    for (name, ours), theirs in zip(found.items(), expected.values(), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.detach().numpy() - theirs).max() <= tolerance, name


@pytest.mark.parametrize("file", [name for name in CASES if "recipe" not in name])
def test_golden(file: str) -> None:
    constructor, atol = CASES[file]
    data = np.load(FOLDER / file)
    module, origin = _build(constructor)
    state = {name: torch.from_numpy(x.astype(np.float32)) for name, x in _group(data, "sd").items()}
    load_official(module, state, origin)
    module.eval()
    inputs = {name: torch.from_numpy(x) for name, x in _group(data, "in").items()}
    _compare(_run(module, inputs), _group(data, "out"), atol)
    reference = _group(data, "ref64")
    if reference:
        module.double()
        found = _run(module, {name: x.double() for name, x in inputs.items()})
        largest = max(np.abs(x).max() for x in reference.values())
        _compare(found, reference, 1e-10 * largest)


def _recipe(name: str, shape: list[int]) -> torch.Tensor:
    """The seeded tensor that the whole-network file prescribes for a state dict entry."""
    r = np.random.RandomState((binascii.crc32(name.encode()) ^ 20230523) & 0xFFFFFFFF)
    parts = name.split(".")
    last, parent = parts[-1], parts[-2]
    if last == "running_mean":
        x = 0.1 * r.standard_normal(shape)
    elif last == "running_var":
        x = r.uniform(0.6, 1.4, shape)
    elif last == "gamma":
        x = r.uniform(0.5, 1, shape)
    elif last in ("alpha", "beta"):
        x = r.uniform(0.3, 0.8, shape)
    elif last == "appr_bias":
        x = 0.6 * r.standard_normal(shape)
    elif last == "weight" and len(shape) == 4:
        gain = 2 if parent in ("conv1", "conv2", "key_conv") else 1
        x = r.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    elif last == "weight":
        x = r.uniform(0.2, 0.5, shape) if parent == "bn3" else r.uniform(0.6, 1.2, shape)
    else:
        assert last == "bias"
        x = 0.1 * r.standard_normal(shape)
    return torch.from_numpy(np.asarray(x).astype(np.float32))


@pytest.mark.skipif(
    not (FOLDER / "backbone_neck_r50_recipe.npz").exists(),
    reason="CANET_BENCH_GOLDEN does not name a folder with the whole-network file",
)
@pytest.mark.parametrize("deployed", [False, True])
@torch.no_grad()
def test_whole_r50_backbone_and_neck(deployed: bool) -> None:
    names = json.loads((FOLDER / "r50_state_dict_names.json").read_text())
    config = CANetConfig.preset("pytorch")
    module = nn.ModuleDict({"backbone": ResNet(config), "neck": build_neck(config)})
    load_official(module, {name: _recipe(name, shape) for name, shape in names}, "pytorch")
    module.eval()
    backbone, neck = module["backbone"], module["neck"]
    if deployed:
        backbone, neck = DeployedResNet(backbone), deploy_neck(neck)
    data = np.load(FOLDER / "backbone_neck_r50_recipe.npz")
    features = backbone(torch.from_numpy(data["in/x"]))
    _compare({**features, **neck(features)}, _group(data, "out"), CASES["backbone_neck_r50_recipe.npz"][1])
