"""A model under the contract whose cost is known."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn


class Planted(nn.Module):
    """A model under the contract that spends given milliseconds in given places."""

    def __init__(self, pre: float = 0.0, net: float = 0.0, post: float = 0.0, around: float = 0.0, first: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.spends = {"pre": pre, "net": net, "post": post, "around": around}
        self.first = first

    def _spend(self, where: str) -> None:
        if self.spends[where]:  # a sleep of nothing gives the core away
            time.sleep(self.spends[where] / 1e3)

    def preprocess(self, images: list[Tensor]) -> Tensor:
        self._spend("pre")
        if self.first:
            time.sleep(self.first / 1e3)
            self.first = 0.0
        return torch.stack(images)

    def network(self, batch: Tensor) -> Tensor:
        self._spend("net")
        return batch

    def postprocess(self, raw: Tensor, batch: Tensor) -> list[dict[str, Tensor]]:
        self._spend("post")
        return [{"boxes": torch.zeros(0, 4)} for _ in raw]

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self._spend("around")
        batch = self.preprocess(images)
        return self.postprocess(self.network(batch), batch)
