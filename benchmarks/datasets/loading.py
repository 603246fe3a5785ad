"""From a prepared set to training batches: cached pixels, transforms v2, random streams of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.datasets.images import decode
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.errors import DataError, RequestError, nearest

TRANSFORMS_VERSION = 1
"""Raise it when the same seed gives other augmented images; part of every fingerprint."""

CACHE_BYTES = 2 * 2**30
"""What a data set keeps of decoded pixels at most; images beyond it are decoded every time."""

_TRANSFORMS: dict[str, tuple[v2.Transform, ...]] = {
    "none": (),
    "hflip": (v2.RandomHorizontalFlip(0.5),),
    "flips": (v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)),
    "flips_photo": (
        v2.RandomHorizontalFlip(0.5),
        v2.RandomVerticalFlip(0.5),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
    ),
}
TRANSFORMS = tuple(_TRANSFORMS)

Item = tuple[Tensor, dict[str, Any]]
Batch = tuple[list[Tensor], list[dict[str, Any]]]


def train_transform(kind: str) -> v2.Transform | None:
    """The augmentation called `kind`, for tv_tensors; None for "none". RequestError for an unknown one."""
    if kind not in _TRANSFORMS:
        raise RequestError(f"no augmentation is called {kind!r}; {nearest(kind, _TRANSFORMS)}")
    return v2.Compose(list(_TRANSFORMS[kind])) if _TRANSFORMS[kind] else None


def _stream(*parts: int | str) -> int:
    """A seed for torch from whatever names a random stream."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


class DetectionDataset(Dataset[Item]):
    """Images and boxes under the detector contract.

    Item i is `(image, target)`: float32 RGB (3, H, W) in [0, 1]; `boxes` float32 (N, 4) as x1, y1, x2, y2 in pixels,
    `labels` int64 (N,) in 1..K, `image_id` int. N may be 0.

    What is random about item i in epoch e depends on (seed, e, i) and on nothing that was drawn before, so that every
    model sees the same augmented images; the global generator is left as it was.

    Args:
        cache: keep decoded pixels (uint8, one channel where the image is grey) once they were read, up to CACHE_BYTES.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        file_names: Sequence[str],
        transform: v2.Transform | None = None,
        cache: bool = True,
        seed: int = 0,
    ) -> None:
        self.prepared = prepared
        self.file_names = tuple(file_names)
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self._cache: dict[int, Tensor] = {}
        self._room = CACHE_BYTES if cache else 0
        self._targets = [self._target(name) for name in self.file_names]

    def __len__(self) -> int:
        return len(self.file_names)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _target(self, name: str) -> tuple[Tensor, Tensor, int]:
        annotations = self.prepared.boxes(name)
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
        return boxes, labels, self.prepared.image(name)["id"]

    def _pixels(self, index: int) -> Tensor:
        """(3, H, W) uint8; a grey image's channels share memory."""
        pixels = self._cache.get(index)
        if pixels is None:
            path = self.prepared.path(self.file_names[index])
            try:
                encoded = path.read_bytes()
            except OSError as e:
                raise DataError(f"cannot read {path}: {e.strerror}; prepare the data set again") from None
            rgb = decode(encoded, str(path))
            grey = bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all())
            kept = rgb[..., :1] if grey else rgb
            pixels = torch.from_numpy(kept.copy()).permute(2, 0, 1).contiguous()
            if pixels.numel() <= self._room:
                self._room -= pixels.numel()
                self._cache[index] = pixels
        return pixels.expand(3, -1, -1)

    def fill(self) -> None:
        """Read what the cache will hold, so that worker processes share it instead of reading it each."""
        for index in range(len(self)):
            if index not in self._cache and self._room > 0:
                self._pixels(index)

    def __getitem__(self, index: int) -> Item:
        image = self._pixels(index)
        boxes, labels, image_id = self._targets[index]
        boxes, labels = boxes.clone(), labels.clone()
        if self.transform is not None:
            with torch.random.fork_rng(devices=[]):
                # Not torch.manual_seed: that would set the CUDA generators too, and they are not put back.
                torch.default_generator.manual_seed(_stream(self.seed, self.epoch, index))
                size = (image.shape[1], image.shape[2])
                wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
                image, target = self.transform(tv_tensors.Image(image), {"boxes": wrapped, "labels": labels})
                boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"]
            image = image.as_subclass(Tensor)
        pixels = image.to(torch.float32).div_(255)
        return pixels, {"boxes": boxes, "labels": labels, "image_id": image_id}


def _collate(items: Sequence[Item]) -> Batch:
    return [image for image, _ in items], [target for _, target in items]


def batches(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    drop_last: bool,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield `(images, targets)` lists; the order comes from (seed, epoch) and does not depend on `workers`."""
    dataset.set_epoch(epoch)
    order = list(range(len(dataset)))
    generator = torch.Generator().manual_seed(_stream("order", seed, epoch))
    if shuffle:
        order = torch.randperm(len(dataset), generator=generator).tolist()
    chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if drop_last and chunks and len(chunks[-1]) < batch_size:
        chunks.pop()
    if workers == 0:
        for chunk in chunks:
            yield _collate([dataset[i] for i in chunk])
        return
    dataset.fill()
    yield from DataLoader(dataset, batch_sampler=chunks, num_workers=workers, collate_fn=_collate, generator=generator)
