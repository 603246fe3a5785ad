"""D-FINE of the transformers library: the same numbers as the library's own, offline."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from benchmarks.models import build_model, missing_extra
from canet.detector import count_parameters
from tests.baselines.test_contract import scene

missing = missing_extra("dfine")
pytestmark = [pytest.mark.transformers, pytest.mark.skipif(missing is not None, reason=missing or "")]


def _dfine(scale: str = "n", classes: int = 3, size: int = 128):
    torch.manual_seed(0)
    return build_model("dfine", num_classes=classes, image_size=size, scale=scale)


@pytest.mark.parametrize(("scale", "millions"), [("n", 4), ("s", 10)])
def test_sizes_are_the_published_ones(scale: str, millions: int) -> None:
    """D-FINE-N has 4 M parameters and D-FINE-S 10 M, with COCO's 80 classes (the authors' table of models)."""
    assert round(count_parameters(_dfine(scale, classes=80))["total"] / 1e6) == millions


@torch.inference_mode()
def test_detections_are_those_of_the_librarys_own_processor() -> None:
    """Its processor reads a wide image, and chooses the best in pixels."""
    model = _dfine(size=160).eval()
    image, _ = scene(1, 96, 160)
    (ours,) = model([image])
    processor = model._processor
    inputs = processor(images=image, do_rescale=False, do_resize=False, return_tensors="pt")
    output = model.detector(pixel_values=inputs["pixel_values"])
    (theirs,) = processor.post_process_object_detection(output, threshold=0.001, target_sizes=[(96, 160)])
    limits = torch.tensor([160.0, 96.0, 160.0, 96.0])
    boxes = theirs["boxes"][:100].clamp(min=0).minimum(limits)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    assert len(ours["scores"]) == kept.sum() > 0
    torch.testing.assert_close(ours["boxes"], boxes[kept], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours["scores"], theirs["scores"][:100][kept], atol=1e-4, rtol=0)
    assert torch.equal(ours["labels"], theirs["labels"][:100][kept] + 1)


def test_gradient_is_that_of_the_librarys_own_loss() -> None:
    model = _dfine(size=160).train()
    image, target = scene(1, 96, 160)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1)  # of the denoising queries
    losses = model([image], [target])
    assert losses.keys() == {"vfl", "bbox", "giou", "fgl", "ddf"}
    sum(losses.values()).backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.load_state_dict(state)
    model.zero_grad()
    boxes = target["boxes"] / torch.tensor([160, 96, 160, 96])
    boxes = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    torch.manual_seed(1)
    total = model.detector(image[None], labels=[{"class_labels": target["labels"] - 1, "boxes": boxes}]).loss
    total.backward()
    torch.testing.assert_close(sum(losses.values()).detach(), total.detach())
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        # Each is a sum over thousands of pixels in float32, in another order in each pass on some CPUs: what a small
        # element is off by goes with the large ones (up to 67 here).
        atol = 1e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(ours[name], gradient, atol=atol, rtol=1e-3, msg=name)


@pytest.mark.parametrize("classes", [3, 80])
def test_every_class_starts_unlikely(classes: int) -> None:
    biases = [p for n, p in _dfine(classes=classes).named_parameters() if "class_embed" in n and n.endswith("bias")]
    assert biases
    assert all(torch.allclose(b.sigmoid(), torch.tensor(0.01), atol=1e-4) for b in biases)


@pytest.mark.slow
@pytest.mark.nightly
def test_loss_halves_in_a_hundred_steps() -> None:
    """Fifty were enough from the library's default prior, 1 / (K + 1), from which the loss starts twice as high."""
    model = _dfine().train()
    pairs = [scene(i) for i in range(4)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(100):
        loss = sum(model([i for i, _ in pairs], [t for _, t in pairs]).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 <= losses[0] / 2


def test_built_and_trained_without_a_network(tmp_path) -> None:
    program = """
        import socket

        def refuse(*args, **kwargs):
            raise AssertionError(f"network access: {args}")

        socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
        from tests.baselines.test_contract import scene
        from benchmarks.models import build_model

        model = build_model("dfine", num_classes=3, image_size=64, scale="n").train()
        image, target = scene(0)
        sum(model([image], [target]).values()).backward()
        model.eval()([image])
    """
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "matplotlib" not in str(p)]


def test_bad_arguments() -> None:
    from baselines.transformers_models import build_dfine

    with pytest.raises(ValueError, match="'x'"):
        build_dfine(num_classes=2, image_size=64, scale="x")
    with pytest.raises(RuntimeError, match="weights=None"):
        build_dfine(num_classes=2, image_size=64, scale="n", weights="imagenet")
