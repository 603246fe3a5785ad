"""Official state dicts in and out, strictness, files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from canet.checkpoints import (
    CheckpointError,
    from_official,
    load_checkpoint,
    load_official,
    official_entries,
    read_checkpoint,
    save_checkpoint,
    to_official,
)
from canet.config import ORIGINS, CANetConfig
from canet.detector import CANet
from tests.canet.reference import randomise


def _model(origin: str, seed: int = 0, **changes: object) -> CANet:
    config = CANetConfig.preset(origin, scale="nano", **changes)
    return randomise(CANet(config, num_classes=3, image_size=64), seed)


@pytest.mark.parametrize("origin", ORIGINS)
def test_round_trip(origin: str) -> None:
    source, target = _model(origin), _model(origin, seed=1)
    official = to_official(source, origin)
    entries = load_official(target, official, origin)
    ours = {n for n in source.state_dict() if not n.endswith("num_batches_tracked")}
    assert {entry.ours for entry in entries} == ours
    for name in ours:
        assert torch.equal(source.state_dict()[name], target.state_dict()[name]), name


def test_pytorch_names() -> None:
    names = set(to_official(_model("pytorch"), "pytorch"))
    assert {
        "backbone.layer2.0.plugin2.0.appr_bias",
        "backbone.layer4.0.plugin3.0.channel_add_conv.3.weight",
        "backbone.layer2.0.downsample.1.running_var",
        "neck.fusion_modules.2.se_sub.se_module.2.weight",
        "rpn.head.cls_logits.weight",
        "roi_heads.box_predictor.bbox_pred.bias",
    } <= names
    assert not any(".sae." in name or ".cbd." in name for name in names)


def test_mmdet_names_and_background_last() -> None:
    model = _model("mmdet")
    official = to_official(model, "mmdet")
    assert {
        "backbone.layer1.0.context_block.conv_mask.weight",
        "neck.cross_convs.3.SE_edge.2.bias",
        "neck.attention_aggregation.conv_list4.0.conv.weight",
        "rpn_head.rpn_reg.weight",
        "roi_head.bbox_head.shared_fcs.1.bias",
    } <= set(official)
    assert official["roi_head.bbox_head.fc_reg.weight"].shape[0] == 4 * 3
    predictor = model.roi_heads.box_predictor
    assert torch.equal(official["roi_head.bbox_head.fc_cls.weight"][-1], predictor.cls_score.weight[0])
    assert torch.equal(official["roi_head.bbox_head.fc_cls.bias"][0], predictor.cls_score.bias[1])
    # Their code registers a fusion block that it never calls: written as zeros, ignored on reading.
    unused = [name for name in official if "cross_convs.0." in name]
    assert len(unused) == 14
    assert not any(official[name].any() for name in unused)


def test_mmdet_plugins_load_under_any_name() -> None:
    source, target = _model("mmdet"), _model("mmdet", seed=1)
    official = {
        name.replace("gen_attention_block", "sae_block_plugin2").replace("context_block", "gc_plugin3"): value
        for name, value in to_official(source, "mmdet").items()
    }
    load_official(target, official, "mmdet")
    assert torch.equal(source.backbone.layer3[0].sae.query, target.backbone.layer3[0].sae.query)


def test_optional_parts_are_optional() -> None:
    model = _model("mmdet", mutual_attention=False)
    official = {n: v for n, v in to_official(model, "mmdet").items() if "cross_convs.0." not in n}
    official["backbone.bn1.num_batches_tracked"] = torch.tensor(3)
    load_official(_model("mmdet", seed=1, mutual_attention=False), official, "mmdet")


def test_what_does_not_fit_is_named() -> None:
    model = _model("pytorch")
    official = to_official(model, "pytorch")
    del official["neck.fusion_modules.0.alpha"]
    official["neck.fusion_modules.9.alpha"] = torch.tensor(1.0)
    with pytest.raises(CheckpointError, match=r"missing neck\.fusion_modules\.0.*left over neck\.fusion_modules\.9"):
        from_official(model, official, "pytorch")
    official = to_official(model, "pytorch")
    official["backbone.conv1.weight"] = torch.zeros(2, 3, 7, 7)
    with pytest.raises(CheckpointError, match=r"backbone\.conv1\.weight: shape \(2, 3, 7, 7\)"):
        from_official(model, official, "pytorch")
    with pytest.raises(CheckpointError, match="left over"):
        from_official(_model("pytorch", sae=False), to_official(model, "pytorch"), "pytorch")


def test_the_wrong_variant_is_refused() -> None:
    with pytest.raises(CheckpointError, match="missing"):
        from_official(_model("mmdet"), to_official(_model("pytorch"), "pytorch"), "mmdet")


def test_ablation_necks_have_no_official_names() -> None:
    with pytest.raises(CheckpointError, match=r"no official name for neck\."):
        official_entries(_model("pytorch", neck="pafpn"), "pytorch")


def test_safetensors_round_trip(tmp_path: Path) -> None:
    source, target = _model("pytorch"), _model("pytorch", seed=1)
    save_checkpoint(source, tmp_path / "x.safetensors", {"origin": "pytorch"})
    load_checkpoint(target, tmp_path / "x.safetensors")
    assert all(torch.equal(v, target.state_dict()[n]) for n, v in source.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(_model("mmdet"), tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "wrapper", [lambda s: s, lambda s: {"state_dict": s, "meta": {"epoch": 3}}, lambda s: {"model": s}]
)
def test_pytorch_files_and_their_wrappers(tmp_path: Path, wrapper: object) -> None:
    state = {f"module.{n}": v for n, v in nn.Linear(2, 3).state_dict().items()}
    torch.save(wrapper(state), tmp_path / "x.pth")
    assert set(read_checkpoint(tmp_path / "x.pth")) == {"weight", "bias"}


class _Payload:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_would_execute_or_are_no_checkpoint_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "payload": _Payload()}, "bad.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Payload()))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    torch.save([1, 2], "list.pth")
    torch.save({"a": "b"}, "strings.pth")
    for name in ("bad.pth", "raw.pth", "text.pth", "text.safetensors", "list.pth", "strings.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "absent.pth")


def _state(value: float) -> dict[str, torch.Tensor]:
    return {"module.weight": torch.full((3, 2), value), "module.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("beside", "entry"),
    [
        ({"model_ema": _state(2.0)}, "model_ema"),  # torchvision's references, with their counter of averages
        ({"ema_state_dict": _state(2.0)}, "ema_state_dict"),
        ({"ema": {"module": _state(2.0), "updates": 7}}, "ema"),
    ],
)
def test_weights_beside_those_that_are_taken_are_said_and_can_be_had(tmp_path: Path, beside: dict, entry: str) -> None:
    path = tmp_path / "x.pth"
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"state_dict": _state(1.0), "optimizer": optimizer, "epoch": 3, **beside}, path)
    with pytest.warns(UserWarning, match=rf"'state_dict' are taken.*entry='{entry}'"):
        assert read_checkpoint(path)["weight"].unique().tolist() == [1.0]
    assert read_checkpoint(path, entry)["weight"].unique().tolist() == [2.0]
    with pytest.raises(CheckpointError, match=rf"no state dict 'averaged' .*: state_dict, {entry}"):
        read_checkpoint(path, "averaged")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "weight holds NaN"),
        (torch.tensor([1.0, float("inf")]), "weight holds NaN or infinite"),
        (torch.tensor([1, 2]), "weight is of int64"),
        (torch.tensor([1, 2], dtype=torch.int8), "weight is of int8"),
        (torch.tensor([True, False]), "weight is of bool"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_no_finite_floats_are_refused(
    tmp_path: Path, weight: torch.Tensor, message: str, suffix: str
) -> None:
    state = {"weight": weight, "bn.num_batches_tracked": torch.tensor(3)}
    path = tmp_path / f"x{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_an_official_state_dict_with_nan_is_refused() -> None:
    model = _model("pytorch")
    official = to_official(model, "pytorch")
    official["backbone.conv1.weight"] = torch.full_like(official["backbone.conv1.weight"], float("nan"))
    with pytest.raises(CheckpointError, match=r"backbone\.conv1\.weight holds NaN"):
        load_official(model, official, "pytorch")
