"""From a prepared set to training batches: cached pixels, augmentation, random streams of their own."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from benchmarks.children import die_with_parent, kill_at_exit
from benchmarks.datasets.augment import (
    IGNORED,
    Augmentation,
    CopyPaste,
    Mix,
    Mosaic,
    Sample,
    ScaleJitter,
    crop,
    safe_window,
)
from benchmarks.datasets.images import decode
from benchmarks.datasets.pixels import PixelFile, cached_on_disk, disk_budget
from benchmarks.datasets.prepared import PreparedDataset
from benchmarks.errors import DataError, RequestError, nearest

TRANSFORMS_VERSION = 1
"""Raise it when the same seed gives other augmented images; part of every fingerprint."""

CACHE_BYTES = 2 * 2**30
"""What a data set keeps of decoded pixels in memory at most; a set that needs more is kept on disk."""

_TRANSFORMS: dict[str, tuple[Mix | v2.Transform, ...]] = {
    "none": (),
    "mosaic": (Mosaic(),),
    "copy_paste": (CopyPaste(),),
    "scale_jitter": (ScaleJitter(),),
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
TrainingBatch = tuple[list[Tensor], list[dict[str, Any]]]


def train_transform(kinds: str | Sequence[str]) -> Augmentation | None:
    """The augmentation of these names, in their order; None for "none". RequestError for an unknown one."""
    steps: list[Mix | v2.Transform] = []
    for kind in (kinds,) if isinstance(kinds, str) else kinds:
        if kind not in _TRANSFORMS:
            raise RequestError(f"no augmentation is called {kind!r}; {nearest(kind, _TRANSFORMS)}")
        steps += _TRANSFORMS[kind]
    mixes = [step for step in steps if not isinstance(step, v2.Transform)]
    transforms = [step for step in steps if isinstance(step, v2.Transform)]
    return Augmentation(mixes, v2.Compose(transforms) if transforms else None) if steps else None


def _stream(*parts: int | str) -> int:
    """A seed for torch from whatever names a random stream."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


class DetectionDataset(Dataset[Item]):
    """Images and boxes under the detector contract.

    Item i is `(image, target)`: float32 RGB (3, H, W) in [0, 1]; `boxes` float32 (N, 4) as x1, y1, x2, y2 in pixels,
    `labels` int64 (N,) in 1..K, `image_id` int. N may be 0. Where the image has boxes that are neither asked for nor
    false (crowds, difficult objects), `ignore` float32 (M, 4) too. Augmentation treats those as it treats the others.

    What is random about item i in epoch e depends on (seed, e, i) and on nothing that was drawn before, so that every
    model sees the same augmented images; the global generator is left as it was.

    Args:
        cache: keep decoded pixels (uint8, one channel where the image is grey): in memory once they were read when
            CACHE_BYTES suffice for all, else in a file under the data root that all processes share
            (`benchmarks.datasets.pixels`). What neither holds is decoded every time.
        tile: items are random box-safe windows of at most this side (`benchmarks.datasets.augment`), one per image
            and epoch.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        file_names: Sequence[str],
        transform: Augmentation | None = None,
        cache: bool = True,
        seed: int = 0,
        tile: int | None = None,
    ) -> None:
        self.prepared = prepared
        self.file_names = tuple(file_names)
        self.transform = transform
        self.seed = seed
        self.tile = tile
        self.epoch = 0
        self._cache: dict[int, Tensor] = {}
        self._room = CACHE_BYTES if cache else 0
        self._targets = [self._target(name) for name in self.file_names]
        self._file: PixelFile | None = None
        if cache and self._bytes() > CACHE_BYTES and (budget := disk_budget()):
            self._file = cached_on_disk(prepared, self._decode, budget)

    def __len__(self) -> int:
        return len(self.file_names)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _target(self, name: str) -> tuple[Tensor, Tensor, int]:
        annotations, ignored = self.prepared.boxes(name), self.prepared.ignored(name)
        boxes = torch.tensor([a["bbox"] for a in (*annotations, *ignored)], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [a["category_id"] for a in annotations] + [IGNORED] * len(ignored)
        return boxes, torch.tensor(labels, dtype=torch.int64), self.prepared.image(name)["id"]

    def _size(self, index: int) -> tuple[int, int]:
        image = self.prepared.image(self.file_names[index])
        return image["height"], image["width"]

    def _bytes(self) -> int:
        """What all images take, decoded; whether they are grey is asked of the first."""
        area = sum(height * width for height, width in map(self._size, range(len(self))))
        return area if area <= CACHE_BYTES // 3 else area * self._decode(self.file_names[0]).shape[0]

    def _decode(self, name: str) -> Tensor:
        """(1 or 3, H, W) uint8; one channel where the image is grey."""
        path = self.prepared.path(name)
        try:
            encoded = path.read_bytes()
        except OSError as e:
            raise DataError(f"cannot read {path}: {e.strerror}; prepare the data set again") from None
        rgb = decode(encoded, str(path))
        grey = bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all())
        kept = rgb[..., :1] if grey else rgb
        return torch.from_numpy(kept.copy()).permute(2, 0, 1).contiguous()

    def _pixels(self, index: int) -> Tensor:
        """(3, H, W) uint8; a grey image's channels share memory."""
        pixels = self._cache.get(index)
        if pixels is None and self._file is not None:
            pixels = self._file.get(self.file_names[index])
        if pixels is None:
            pixels = self._decode(self.file_names[index])
            if pixels.numel() <= self._room:
                self._room -= pixels.numel()
                self._cache[index] = pixels
        return pixels.expand(3, -1, -1)

    def fill(self) -> None:
        """Read what the cache will hold, so that worker processes share it instead of reading it each.

        Forked ones share this process's memory; started otherwise, they map one file on disk, where there is room.
        """
        if self._file is not None:
            return
        if multiprocessing.get_start_method() != "fork":
            if (self._room or self._cache) and (budget := disk_budget()):
                with contextlib.suppress(DataError, RequestError):  # else each keeps its own
                    self._file = cached_on_disk(self.prepared, self._decode, budget)
            return
        for index in range(len(self)):
            if index not in self._cache and self._room > 0:
                self._pixels(index)

    def __getstate__(self) -> dict[str, Any]:
        """What a process gets that is not forked: no tensors, of which each would cost a handle."""
        room = self._room + sum(pixels.numel() for pixels in self._cache.values())
        return {**self.__dict__, "_cache": {}, "_room": room, "_targets": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._targets = [self._target(name) for name in self.file_names]

    def sample(self, index: int) -> Sample:
        """Image `index` before augmentation; with `tile`, a window of it that is drawn from torch's generator."""
        boxes, labels, _ = self._targets[index]
        sample = Sample(self._pixels(index), boxes.clone(), labels.clone())
        if self.tile is not None:
            window = safe_window(boxes, self._size(index), self.tile, self.tile)
            sample = crop(sample, window)
        return sample

    def augmented(self, index: int) -> Sample:
        """Item `index` as bytes; its pixels may be those of the cache."""
        if self.transform is None and self.tile is None:
            return self.sample(index)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would set the CUDA generators too, and they are not put back.
            torch.default_generator.manual_seed(_stream(self.seed, self.epoch, index))
            sample = self.sample(index)
            return self.transform(sample, self) if self.transform is not None else sample

    def __getitem__(self, index: int) -> Item:
        image, boxes, labels = self.augmented(index)
        pixels = image.to(torch.float32).div_(255)
        return pixels, _as_target(boxes, labels, self._targets[index][2])


def _as_target(boxes: Tensor, labels: Tensor, image_id: int) -> dict[str, Any]:
    """An item as models take it: `ignore` apart from the boxes, and absent where there is none."""
    ignored = labels == IGNORED
    if not ignored.any():
        return {"boxes": boxes, "labels": labels, "image_id": image_id}
    return {"boxes": boxes[~ignored], "labels": labels[~ignored], "image_id": image_id, "ignore": boxes[ignored]}


Bytes = tuple[list[NDArray[np.uint8]], list[tuple[NDArray[np.float32], NDArray[np.int64], int]]]


class _Bytes(Dataset[tuple[Sample, int] | DataError]):
    """What workers read, by epoch and index: items before they become float, which would be twelve times as much.

    An error is passed on too: raised in a worker, its one line would come wrapped in a traceback.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[Sample, int] | DataError:
        epoch, index = key
        self.dataset.set_epoch(epoch)
        try:
            return self.dataset.augmented(index), self.dataset._targets[index][2]
        except DataError as e:
            return e


def _pack(items: Sequence[tuple[Sample, int] | DataError]) -> Bytes | DataError:
    """Items as arrays, which go through a pipe at once; tensors would cost a handle in shared memory each."""
    images, targets = [], []
    for item in items:
        if isinstance(item, DataError):
            return item
        (image, boxes, labels), image_id = item
        grey = torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
        images.append((image[:1] if grey else image).numpy())
        targets.append((boxes.numpy(), labels.numpy(), image_id))
    return images, targets


def _unpack(packed: Bytes | DataError) -> TrainingBatch:
    if isinstance(packed, DataError):
        raise packed
    images = [torch.from_numpy(pixels).to(torch.float32).div_(255).expand(3, -1, -1) for pixels in packed[0]]
    targets = [
        _as_target(torch.from_numpy(boxes), torch.from_numpy(labels), image_id) for boxes, labels, image_id in packed[1]
    ]
    return [image.contiguous() for image in images], targets


def _collate(items: Sequence[Item]) -> TrainingBatch:
    return [image for image, _ in items], [target for _, target in items]


class Batches:
    """The batches of consecutive epochs; the order comes from (seed, epoch) and does not depend on `workers`.

    Worker processes, if any, start with the first batch and live until the block is left:

        with Batches(dataset, epochs=range(12), ...) as training:
            for epoch in range(12):
                for images, targets in training.epoch(epoch):
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        batch_size: int,
        seed: int,
        epochs: range,
        shuffle: bool,
        drop_last: bool,
        workers: int = 0,
    ) -> None:
        self._dataset, self._epochs, self._workers = dataset, epochs, workers
        self._batch_size, self._seed, self._shuffle, self._drop_last = batch_size, seed, shuffle, drop_last
        self._loaded: Iterator[Bytes | DataError] | None = None
        self._children: list[BaseProcess] = []

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        loaded, self._loaded = self._loaded, None
        try:
            if loaded is not None:
                # Not left to its destructor: that runs when the last frame of a traceback is gone, and swallows Ctrl-C.
                loaded._shutdown_workers()  # type: ignore[attr-defined]
        finally:
            for child in self._children:
                child.kill()
            self._children.clear()

    def epoch(self, epoch: int) -> Iterator[TrainingBatch]:
        """The `(images, targets)` lists of an epoch; with workers, of `epochs` in their order, each to its end."""
        self._dataset.set_epoch(epoch)
        chunks = self._chunks(epoch)
        if self._workers == 0:
            for chunk in chunks:
                yield _collate([self._dataset[i] for i in chunk])
            return
        if self._loaded is None:
            self._start()
        for _ in chunks:
            assert self._loaded is not None
            yield _unpack(next(self._loaded))

    def _chunks(self, epoch: int) -> list[list[int]]:
        """Indices of each batch of an epoch."""
        order = list(range(len(self._dataset)))
        if self._shuffle:
            generator = torch.Generator().manual_seed(_stream("order", self._seed, epoch))
            order = torch.randperm(len(self._dataset), generator=generator).tolist()
        chunks = [order[i : i + self._batch_size] for i in range(0, len(order), self._batch_size)]
        if self._drop_last and chunks and len(chunks[-1]) < self._batch_size:
            chunks.pop()
        return chunks

    def _start(self) -> None:
        """Start the workers on all epochs that are to come; they read ahead over an epoch's end."""
        self._dataset.fill()
        kill_at_exit()
        others = multiprocessing.active_children()
        keys = ([(epoch, i) for i in chunk] for epoch in self._epochs for chunk in self._chunks(epoch))
        loader = DataLoader(
            _Bytes(self._dataset),
            batch_sampler=_Keys(keys),
            num_workers=self._workers,
            collate_fn=_pack,
            generator=torch.Generator().manual_seed(0),  # else the base seed is drawn from the global one
            worker_init_fn=_begin,
        )
        try:
            self._loaded = iter(loader)
        finally:
            self._children = [child for child in multiprocessing.active_children() if child not in others]


class _Keys(Sampler[list[tuple[int, int]]]):
    """Hands over what it was given, once."""

    def __init__(self, keys: Iterator[list[tuple[int, int]]]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._keys


def _begin(worker: int) -> None:
    die_with_parent()


def batches(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    drop_last: bool,
    workers: int = 0,
) -> Iterator[TrainingBatch]:
    """Yield `(images, targets)` lists of one epoch; see `Batches`."""
    wanted: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle, "drop_last": drop_last}
    with Batches(dataset, epochs=range(epoch, epoch + 1), workers=workers, **wanted) as all_of_it:
        yield from all_of_it.epoch(epoch)
