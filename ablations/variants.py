"""Variants of CANet: named changes of CANetConfig, each isolating one thing. This module does not import torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ablations.registry import by_name
from canet.config import CANetConfig


@dataclass(frozen=True)
class Variant:
    """One ablation: the fields of CANetConfig that change, what that isolates, and a label for figures.

    between: parts of CANet are gone or plain, and none is new, so that it lies between CANet and Faster R-CNN FPN.
    """

    name: str
    isolates: str
    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    between: bool = False


VARIANTS: dict[str, Variant] = by_name(
    (
        Variant("default", "nothing: the network as published", "CANet"),
        Variant("no_sae", "the pooled context before conv3", "w/o SAE", {"sae": False}, between=True),
        Variant("no_cbd", "the context block after conv3", "w/o CBD", {"cbd": False}, between=True),
        # The ladder from CANet down to Faster R-CNN FPN, which is its plain end (no block, plain FPN).
        Variant(
            "no_context",
            "both blocks: plain backbone under the Laplacian neck",
            "w/o SAE and CBD",
            {"sae": False, "cbd": False},
            between=True,
        ),
        Variant(
            "no_context_convs",
            "the capacity of the neck alone: plain backbone, FPN and two convolutions a merge",
            "w/o SAE and CBD, FPN + 2 convs",
            {"sae": False, "cbd": False, "neck": "fpn_convs"},
            between=True,
        ),
        Variant(
            "fpn", "Laplacian fusion against plain addition, blocks kept", "FPN neck", {"neck": "fpn"}, between=True
        ),
        Variant(
            "fpn_convs",
            "the idea of the fusion against its capacity: its two convolutions a merge, added; blocks kept",
            "FPN + 2 convs",
            {"neck": "fpn_convs"},
            between=True,
        ),
        Variant("pafpn", "Laplacian fusion against an extra bottom-up path", "PAFPN", {"neck": "pafpn"}),
        Variant("bfp", "Laplacian fusion against a balanced pyramid", "BFP", {"neck": "bfp"}),
        Variant(
            "no_difference", "the difference branch of the fusion", "beta = 0", {"difference": False}, between=True
        ),
        Variant(
            "no_gates",
            "channel gates of the fusion (the coarser map then cancels at the start)",
            "w/o gates",
            {"gates": False},
            between=True,
        ),
        Variant(
            "fixed_mixing", "learning alpha and beta", "fixed alpha, beta", {"learned_mixing": False}, between=True
        ),
        Variant(
            "cbd_zero_init",
            "the zero start of CBD that the PyTorch variant loses",
            "CBD zero-init",
            {"cbd_zero_init": True},
        ),
        Variant(
            "mutual_attention",
            "context on each pyramid level",
            "+ MutualAttention",
            {"mutual_attention": True},
        ),
        Variant(
            "all_stages",
            "placement: SAE and CBD in stages 1-4",
            "stages 1-4",
            {"context_stages": (1, 2, 3, 4)},
        ),
        Variant(
            "last_stage", "placement: SAE and CBD in stage 4 alone", "stage 4", {"context_stages": (4,)}, between=True
        ),
        Variant("kv_stride_1", "sampling of SAE's pooling: every pixel", "kv stride 1", {"sae_kv_stride": 1}),
        Variant("kv_stride_4", "sampling of SAE's pooling: every fourth", "kv stride 4", {"sae_kv_stride": 4}),
        Variant("one_head", "number of vectors that SAE pools: one", "1 head", {"sae_heads": 1}),
        Variant(
            "sixteen_heads",
            "number of vectors that SAE pools: sixteen (at lite0, whose widths they do not divide, narrower too)",
            "16 heads",
            {"sae_heads": 16},
        ),
        Variant(
            "query_dependent",
            "spatial attention as claimed: a query per pixel",
            "query per pixel",
            {"sae_query": "input"},
        ),
        Variant(
            "query_mean",
            "the control of query_dependent: its mean query, equal parameters",
            "mean query",
            {"sae_query": "mean"},
        ),
        Variant(
            "pixel_shuffle",
            # On lite0 34.2 M parameters instead of 6.5, and inputs padded to multiples of 64 instead of 32.
            "a 2x2-periodic output of SAE, with keys and values of all pixels by one more convolution: far more "
            "parameters, and more padding",
            "pixel shuffle",
            {"sae_pixel_shuffle": True},
        ),
    )
)


def apply(name: str, config: CANetConfig) -> CANetConfig:
    """`config` with the changes of variant `name`.

    Raises KeyError, with the nearest right names, when there is no such variant.
    """
    if name not in VARIANTS:
        close = difflib.get_close_matches(name, VARIANTS, n=3) or sorted(VARIANTS)
        raise KeyError(f"unknown variant {name!r}; nearest: {', '.join(close)}")
    return replace(config, **VARIANTS[name].changes)
