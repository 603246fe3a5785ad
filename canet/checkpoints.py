"""Checkpoints: the authors' state dicts in and out, and safetensors as our own format.

Names are matched by structure: any of our modules, from a single block to the whole detector, gives the list
of its official names, so that a part's state dict loads as well as a whole one's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from canet.attention import SpatialAttentionEncoder
from canet.backbone import CABlock
from canet.context import ContextBlockDecoder
from canet.detector import TwoStageDetector
from canet.pyramid import FPN, LaplacianFPN, LaplacianFusion, MutualAttention


class CheckpointError(ValueError):
    """A file that is no checkpoint, or a state dict that does not fit the model; says which names."""


@dataclass(frozen=True)
class KeyMapping:
    """One tensor under both names. `layout`: how the official tensor differs from ours."""

    ours: str
    official: str
    layout: str = "same"

    def to_official(self, x: Tensor) -> Tensor:
        """Our tensor in the official layout."""
        if self.layout == "conv1x1":
            return x[:, :, None, None]
        if self.layout == "norm":
            return x[:, None, None]
        if self.layout == "background_last":
            return torch.cat([x[1:], x[:1]])
        return x

    def from_official(self, x: Tensor) -> Tensor:
        """The official tensor in our layout."""
        if self.layout in ("conv1x1", "norm"):
            return x.flatten(1) if self.layout == "conv1x1" else x.flatten()
        if self.layout == "background_last":
            return torch.cat([x[-1:], x[:-1]])
        return x


# Plugin names: "plugin2"/"plugin3" are those of the PyTorch variant. MMDetection names a plugin after its
# class, which a configuration may change: on loading, the name is taken from the file.
PLUGINS = {"pytorch": ("plugin2.0", "plugin3.0"), "mmdet": ("gen_attention_block", "context_block")}


def official_entries(module: nn.Module, origin: str, keys: Iterable[str] = ()) -> list[KeyMapping]:
    """Every parameter and buffer of `module` with its name in official state dicts of variant `origin`.

    keys: the names of a state dict at hand, from which plugin names are learned where they vary.
    """
    known = sorted(keys)
    entries = list(_walk(module, origin, "", "", known))
    tensors = {n for n in module.state_dict() if not n.endswith("num_batches_tracked")}
    missing = tensors - {e.ours for e in entries}
    if missing:
        raise CheckpointError(f"no official name for {', '.join(sorted(missing))}")
    return entries


def from_official(
    module: nn.Module, state: Mapping[str, Tensor], origin: str
) -> tuple[dict[str, Tensor], list[KeyMapping]]:
    """Our state dict of `module` from an official one, and the list of what was mapped.

    Strict: raises CheckpointError naming tensors that are missing, left over, of another shape or no finite floats.
    Left over and accepted are counters of batch norms and the fusion block of the mmdet variant that is never used.
    """
    _check_values(state, "official checkpoint")
    entries = official_entries(module, origin, state)
    own = module.state_dict()
    missing = [e.official for e in entries if e.official not in state]
    left = [n for n in state if not _expendable(n, origin)]
    extra = sorted(set(left) - {e.official for e in entries})
    if missing or extra:
        raise CheckpointError(f"official checkpoint does not fit: missing {_some(missing)}; left over {_some(extra)}")
    converted = {}
    for entry in entries:
        value = entry.from_official(state[entry.official])
        if value.shape != own[entry.ours].shape:
            raise CheckpointError(
                f"{entry.official}: shape {tuple(state[entry.official].shape)} does not fit {entry.ours} "
                f"{tuple(own[entry.ours].shape)}"
            )
        converted[entry.ours] = value
    return converted, entries


def load_official(
    module: nn.Module, state: Mapping[str, Tensor] | str | Path, origin: str, *, entry: str | None = None
) -> list[KeyMapping]:
    """Load an official state dict or file into `module`; returns the list of what was mapped. `entry`: of the file."""
    if isinstance(state, str | Path):
        state = read_checkpoint(state, entry)
    converted, entries = from_official(module, state, origin)
    module.load_state_dict(converted, strict=False)
    return entries


def to_official(module: nn.Module, origin: str) -> dict[str, Tensor]:
    """The state dict of `module` under the official names and layouts.

    The unused fusion block that the mmdet variant's own code expects is written as zeros.
    """
    own = module.state_dict()
    out = {e.official: e.to_official(own[e.ours]).clone() for e in official_entries(module, origin)}
    if origin == "mmdet":
        for name in [n for n in out if "cross_convs.1." in n]:
            out.setdefault(name.replace("cross_convs.1.", "cross_convs.0."), torch.zeros_like(out[name]))
    return out


def read_checkpoint(path: str | Path, entry: str | None = None) -> dict[str, Tensor]:
    """State dict of a safetensors file or a PyTorch file, the latter without executing anything in it.

    Unwraps the "state_dict" and "model" entries of training checkpoints and the "module." prefix of data-parallel
    ones. A training checkpoint may hold averaged weights (EMA) beside those that were trained, or the other way
    round, under names that each library chooses: a UserWarning names them, and `entry` takes one.

    Raises:
        CheckpointError: the file is neither, has no such entry, or holds weights that are NaN, infinite or integers.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = dict(load_file(path))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is not a readable checkpoint of tensors: {reason}") from error
    found = dict(_state_dicts(content))
    taken = entry if entry is not None else next((n for n in ("state_dict", "model", "") if n in found), None)
    if taken not in found:
        has = ", ".join(name or "the file itself" for name in found) or "nothing"
        wanted = "state dict" if entry is None else f"state dict {entry!r}"
        raise CheckpointError(f"{path} holds no {wanted} of named tensors; weights lie in: {has}")
    others = [name for name in found if name != taken]
    if others and entry is None:
        names = ", ".join(map(repr, others))
        warnings.warn(
            f"{path}: the weights in {taken!r} are taken; there are others, perhaps averaged ones, in {names}: "
            f"entry={others[0]!r} takes those",
            stacklevel=2,
        )
    state = {n.removeprefix("module."): v for n, v in found[taken].items()}
    _check_values(state, str(path))
    return state


def _state_dicts(content: Any, name: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The state dicts in a checkpoint, by the keys that lead to them; of an optimiser's there is none."""
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(n, str) and isinstance(v, Tensor) for n, v in content.items()):
        yield name, dict(content)
        return
    for key, value in content.items():
        if isinstance(key, str) and key not in ("optimizer", "optimizer_state_dict", "meta"):
            yield from _state_dicts(value, name if key in ("state_dict", "module") and name else _joined(name, key))


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _check_values(state: Mapping[str, Tensor], where: str) -> None:
    """CheckpointError where a weight is no finite floating-point number; counters are whole numbers and may be."""
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(f"{where}: {name} is of {kind}; weights are floats (quantised ones are not read)")
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{where}: {name} holds NaN or infinite values; the training that wrote it diverged")


def save_checkpoint(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state dict of `module` as safetensors."""
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, path, metadata=dict(metadata or {}))


def load_checkpoint(module: nn.Module, path: str | Path) -> None:
    """Load what `save_checkpoint` wrote, strictly. Raises CheckpointError when it does not fit."""
    try:
        module.load_state_dict(read_checkpoint(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error


def _walk(module: nn.Module, origin: str, ours: str, official: str, keys: list[str]) -> Iterator[KeyMapping]:
    """Entries of `module`; `ours` and `official` are its prefixes, with their dots."""
    local = _local_entries(module, origin)
    if local is not None:
        for entry in local:
            yield KeyMapping(ours + entry.ours, official + entry.official, entry.layout)
        return
    if isinstance(module, TwoStageDetector) and origin == "mmdet":
        for name in ("backbone", "neck"):
            yield from _walk(getattr(module, name), origin, f"{ours}{name}.", f"{official}{name}.", keys)
        for name, (theirs, layout) in MMDET_HEADS.items():
            yield from _layer(ours + name, official + theirs, layout)
        return
    names = _child_names(module, origin, official, keys)
    for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if name != "num_batches_tracked":
            yield KeyMapping(ours + name, official + name)
    for name, child in module.named_children():
        yield from _walk(child, origin, f"{ours}{name}.", official + names.get(name, name) + ".", keys)


def _local_entries(module: nn.Module, origin: str) -> list[KeyMapping] | None:
    """Entries of the modules whose inner names differ, None for those that are containers."""
    if isinstance(module, SpatialAttentionEncoder):
        return _sae(module)
    if isinstance(module, ContextBlockDecoder):
        return _cbd(module)
    if isinstance(module, LaplacianFusion):
        return _fusion(module, origin)
    if isinstance(module, FPN):
        return _pyramid(module, origin)
    if isinstance(module, nn.ModuleList) and len(module) and isinstance(module[0], MutualAttention):
        return [e for i in range(len(module)) for e in _mutual_attention(str(i), i)]
    return None


def _child_names(module: nn.Module, origin: str, prefix: str, keys: list[str]) -> dict[str, str]:
    if not isinstance(module, CABlock):
        return {}
    names = dict(zip(("sae", "cbd"), PLUGINS[origin], strict=True))
    for name, mark in (("sae", "appr_bias|query_conv.weight"), ("cbd", "channel_(?:add|mul)_conv.0.weight")):
        found = [m for k in keys if (m := re.fullmatch(rf"{re.escape(prefix)}(.+)\.(?:{mark})", k))]
        if found:
            names[name] = found[0].group(1)
    return names


def _layer(ours: str, official: str, layout: str = "conv1x1", bias: bool = True) -> list[KeyMapping]:
    weight = KeyMapping(f"{ours}.weight", f"{official}.weight", layout)
    plain = "norm" if layout == "norm" else layout if layout == "background_last" else "same"
    return [weight, KeyMapping(f"{ours}.bias", f"{official}.bias", plain)] if bias else [weight]


def _sae(module: SpatialAttentionEncoder) -> list[KeyMapping]:
    shuffled = module.pixel_shuffle
    query = (
        [KeyMapping("query", "appr_bias")]
        if isinstance(module.query, nn.Parameter)
        else _layer("query", "query_conv", bias=False)
    )
    return [
        *query,
        KeyMapping("gamma", "gamma"),
        *_layer("key", "key_conv", bias=False),
        *_layer("value", "value_conv", bias=False),
        *_layer("project", "proj_conv.0" if shuffled else "proj_conv"),
        *(_layer("unshuffle", "kv_downsample.1") if shuffled else []),
    ]


def _cbd(module: ContextBlockDecoder) -> list[KeyMapping]:
    entries = _layer("mask", "conv_mask") if module.mask is not None else []
    for name in ("add", "mul"):
        if getattr(module, name) is not None:
            official = f"channel_{name}_conv"
            entries += _layer(f"{name}.first", f"{official}.0")
            entries += _layer(f"{name}.norm", f"{official}.1", "norm")
            entries += _layer(f"{name}.last", f"{official}.3")
    return entries


def _fusion(module: LaplacianFusion, origin: str) -> list[KeyMapping]:
    if origin == "mmdet":  # the names are crossed: SE_edge gates the sum, SE_context the difference
        convs, gates = ("pre_low_conv.conv", "pre_high_conv.conv"), ("SE_edge", "SE_context")
    else:
        convs, gates = ("conv_low", "conv_high"), ("se_sum.se_module", "se_sub.se_module")
    entries = [KeyMapping("alpha", "alpha"), KeyMapping("beta", "beta")]
    for ours, official in zip(("conv_low", "conv_high"), convs, strict=True):
        entries += _layer(ours, official, "same")
    for ours, official in zip(("gate_sum", "gate_difference"), gates, strict=True):
        gate = getattr(module, ours)
        if gate is not None:
            bias = gate.squeeze.bias is not None
            entries += _layer(f"{ours}.squeeze", f"{official}.0", bias=bias)
            entries += _layer(f"{ours}.excite", f"{official}.2", bias=bias)
    return entries


def _pyramid(module: FPN, origin: str) -> list[KeyMapping]:
    mm = origin == "mmdet"
    entries = []
    for i in range(len(module.lateral)):
        lateral, output = f"inner_blocks.{i}.0", f"layer_blocks.{i}.0"
        if mm:
            lateral, output = f"lateral_convs.{i}.conv", f"fpn_convs.{i}.conv"
        entries += _layer(f"lateral.{i}", lateral, "same") + _layer(f"output.{i}", output, "same")
    if not isinstance(module, LaplacianFPN):
        return entries
    for i, fusion in enumerate(module.fusion):
        assert isinstance(fusion, LaplacianFusion)
        official = f"cross_convs.{i + 1}" if mm else f"fusion_modules.{i}"
        entries += [
            KeyMapping(f"fusion.{i}.{e.ours}", f"{official}.{e.official}", e.layout) for e in _fusion(fusion, origin)
        ]
    if module.attention is not None:
        for i in range(len(module.attention)):
            entries += [
                KeyMapping(f"attention.{e.ours}", f"attention_aggregation.{e.official}", e.layout)
                for e in _mutual_attention(str(i), i)
            ]
    return entries


def _mutual_attention(ours: str, index: int) -> list[KeyMapping]:
    lists = {"value": 1, "mask": 2, "reduce": 3, "expand": 4}
    return [
        entry for name, number in lists.items() for entry in _layer(f"{ours}.{name}", f"conv_list{number}.{index}.conv")
    ]


MMDET_HEADS = {
    "rpn.head.conv.0.0": ("rpn_head.rpn_conv", "same"),
    "rpn.head.cls_logits": ("rpn_head.rpn_cls", "same"),
    "rpn.head.bbox_pred": ("rpn_head.rpn_reg", "same"),
    "roi_heads.box_head.fc6": ("roi_head.bbox_head.shared_fcs.0", "same"),
    "roi_heads.box_head.fc7": ("roi_head.bbox_head.shared_fcs.1", "same"),
    "roi_heads.box_predictor.cls_score": ("roi_head.bbox_head.fc_cls", "background_last"),
    "roi_heads.box_predictor.bbox_pred": ("roi_head.bbox_head.fc_reg", "same"),
}


def _expendable(name: str, origin: str) -> bool:
    if name.endswith("num_batches_tracked"):
        return True
    return origin == "mmdet" and re.search(r"(?:^|\.)cross_convs\.0\.", name) is not None


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"
