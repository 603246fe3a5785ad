"""What is timed: the exact forms and, beside each, the literal form of the formula with the same parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from canet.attention import SpatialAttentionEncoder
from canet.config import CANetConfig
from canet.deploy import deploy, fold_norm
from canet.detector import CANet
from tests.canet.reference import literal, randomise

Run = Callable[[], object]

CLASSES = 6
SCORE_THRESHOLD = 0.05  # as torchvision ships it, in both; below 1/7, so that random weights detect too


def canet(origin: str, scale: str, image_size: int) -> CANet:
    """CANet with seeded random weights whose activations stay of order one, in evaluation mode."""
    torch.manual_seed(0)
    config = replace(CANetConfig.preset(origin, scale=scale), score_threshold=SCORE_THRESHOLD)
    model = CANet(config, num_classes=CLASSES, image_size=image_size)
    randomise(model.backbone)
    return model.eval()


def image(size: tuple[int, int], batch: int = 1) -> Tensor:
    """A seeded normalised image (B, 3, H, W)."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def mixed(run: Run, x: Tensor, precision: str) -> Run:
    """`run` under autocast where `precision` is bfloat16."""

    def wrapped() -> object:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return run()

    return wrapped


def sae_forms(model: CANet, x: Tensor, precision: str = "float32") -> dict[str, Run]:
    """SAE of every block on the maps that an image gives it, overwritten as in inference: they grow by the round."""
    inputs: list[tuple[SpatialAttentionEncoder, Tensor]] = []
    blocks = [m for m in model.backbone.modules() if isinstance(m, SpatialAttentionEncoder)]
    hooks = [m.register_forward_pre_hook(lambda m, args: inputs.append((m, args[0].clone()))) for m in blocks]
    with torch.inference_mode():
        model.backbone(x)
    for hook in hooks:
        hook.remove()
    twins = [literal(block) for block, _ in inputs]
    plain = [y.contiguous() for _, y in inputs]
    return {
        "literal": mixed(lambda: [twin(y) for twin, y in zip(twins, plain, strict=True)], x, precision),
        "exact": mixed(lambda: [block(y, inplace=True) for block, y in inputs], x, precision),
    }


def backbone_forms(model: CANet, x: Tensor, precision: str = "float32") -> dict[str, Run]:
    """Image to C2-C5."""
    twin, deployed = literal(model.backbone), deploy(model, precision)
    cast = x.to(deployed.dtype)
    return {
        "literal": mixed(lambda: twin(x), x, precision),
        "exact": mixed(lambda: model.backbone(x), x, precision),
        "deployed": lambda: deployed.backbone(cast),
    }


def neck_forms(model: CANet, x: Tensor, precision: str = "float32") -> dict[str, Run]:
    """C2-C5 to P2-P6."""
    twin, deployed = literal(model.neck), deploy(model, precision)
    with torch.inference_mode():
        features = model.backbone(x)
        plain = {name: value.contiguous() for name, value in features.items()}
        cast = {name: value.to(deployed.dtype) for name, value in features.items()}
    return {
        "literal": mixed(lambda: twin(plain), x, precision),
        "exact": mixed(lambda: model.neck(features), x, precision),
        "deployed": lambda: deployed.neck(cast),
    }


def step_forms(model: CANet, x: Tensor, precision: str = "float32") -> dict[str, Run]:
    """Forward and backward of backbone and neck."""

    def step(module: nn.Module) -> Run:
        module.train()

        def run() -> None:
            module.zero_grad(set_to_none=True)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                levels = module(x)
            sum(level.float().mean() for level in levels.values()).backward()

        return run

    ours = nn.Sequential(copy.deepcopy(model.backbone), copy.deepcopy(model.neck))
    return {"literal": step(literal(ours)), "exact": step(ours)}


def detector_forms(model: CANet, size: tuple[int, int], batch: int = 1, precision: str = "float32") -> dict[str, Run]:
    """Images to detections: CANet deployed, and torchvision's Faster R-CNN as it ships and folded."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    picture = [torch.rand(3, *size, generator=generator).to(device) for _ in range(batch)]
    deployed = deploy(model, precision)
    shipped = fasterrcnn(model, size).to(device)
    folded = fold(shipped)
    return {
        "Faster R-CNN as it ships": mixed(lambda: shipped(picture), picture[0], precision),
        "Faster R-CNN folded, NHWC": mixed(lambda: folded(picture), picture[0], precision),
        "CANet": mixed(lambda: model(picture), picture[0], precision),
        "CANet deployed": lambda: deployed(picture),
    }


def fasterrcnn(model: CANet, size: tuple[int, int]) -> FasterRCNN:
    """torchvision's Faster R-CNN R50-FPN with frozen batch norm, with the backbone weights of `model`."""
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    own = {n: v for n, v in model.backbone.state_dict().items() if ".sae." not in n and ".cbd." not in n}
    if len(own) == len(body.body.state_dict()):
        body.body.load_state_dict(own)
    torch.manual_seed(0)
    detector = FasterRCNN(body, CLASSES + 1, min_size=min(size), max_size=max(size), box_score_thresh=SCORE_THRESHOLD)
    return detector.eval()


def fold(detector: FasterRCNN) -> FasterRCNN:
    """The same detector with its norms folded and its convolutions in NHWC, so that nobody is fooled."""
    detector = copy.deepcopy(detector)
    body = detector.backbone.body
    body["conv1"], body["bn1"] = _folded(body["conv1"], body["bn1"]), nn.Identity()
    for name in ("layer1", "layer2", "layer3", "layer4"):
        for block in body[name]:
            for i in (1, 2, 3):
                conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
                setattr(block, f"conv{i}", _folded(conv, norm))
                setattr(block, f"bn{i}", nn.Identity())
            if block.downsample is not None:
                block.downsample = _folded(*block.downsample)
    return detector.to(memory_format=torch.channels_last)


def _folded(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    weight, bias = fold_norm(conv, norm)
    out = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, device=weight.device
    )
    out.weight.data, out.bias.data = weight.detach(), bias.detach()
    return out
