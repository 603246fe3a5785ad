"""Detections: the file that is evaluated, ours or of other people's tools. Torch-free.

Ours is a compressed, quantised `.npz`; theirs COCO results (one JSON), or YOLO txt files with scores.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.errors import DataError, RequestError

if TYPE_CHECKING:
    from benchmarks.datasets.prepared import PreparedDataset

_SCORE_STEPS = 65535


@dataclass(frozen=True)
class Detections:
    """Detections of a list of images, ragged: image i owns rows offsets[i] to offsets[i + 1].

    boxes: (N, 4), x1 y1 x2 y2 in pixels; scores: (N,) in [0, 1]; labels: int64 (N,), 1..K. Ours are float32.
    """

    file_names: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.floating[Any]]
    scores: npt.NDArray[np.floating[Any]]
    labels: npt.NDArray[np.int64]

    @classmethod
    def from_images(
        cls,
        file_names: Sequence[str],
        per_image: Iterable[tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
    ) -> Detections:
        """From one (boxes, scores, labels) per image."""
        boxes, scores, labels, offsets = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0)], [0]
        for b, s, c in per_image:
            boxes.append(np.asarray(b, dtype=np.float64).reshape(-1, 4))
            scores.append(np.asarray(s, dtype=np.float64).reshape(-1))
            labels.append(np.asarray(c).reshape(-1))
            offsets.append(offsets[-1] + len(scores[-1]))
        return cls(
            tuple(file_names),
            np.asarray(offsets, dtype=np.int64),
            np.concatenate(boxes).astype(np.float32),
            np.concatenate(scores).astype(np.float32),
            np.concatenate(labels).astype(np.int64),
        )

    def image_index(self) -> npt.NDArray[np.int64]:
        """Index of the image that each row belongs to, (N,)."""
        return np.repeat(np.arange(len(self.file_names)), np.diff(self.offsets))

    def dumps(self) -> bytes:
        """Compressed npz. Boxes keep 1/32 px (coarser above 2,047 px), scores 1/65,535."""
        largest = float(self.boxes.max(initial=1.0))
        kind = np.uint16 if largest <= 65535 else np.uint32
        steps = 32
        while steps > 1 and largest * steps > 65535:
            steps //= 2
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            file_names=np.asarray(self.file_names, dtype=np.str_),
            offsets=self.offsets.astype(np.int32),
            box_steps=np.int32(steps),
            boxes=np.clip(np.rint(self.boxes.astype(np.float64) * steps), 0, np.iinfo(kind).max).astype(kind),
            scores=np.rint(np.clip(self.scores.astype(np.float64), 0, 1) * _SCORE_STEPS).astype(np.uint16),
            labels=self.labels.astype(np.uint16),
        )
        return buffer.getvalue()

    @classmethod
    def loads(cls, content: bytes, where: str) -> Detections:
        """The inverse of `dumps`, up to the quantisation. DataError if `content` is damaged."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as z:
                return cls(
                    tuple(str(n) for n in z["file_names"]),
                    z["offsets"].astype(np.int64),
                    (z["boxes"].astype(np.float64) / int(z["box_steps"])).astype(np.float32),
                    (z["scores"].astype(np.float64) / _SCORE_STEPS).astype(np.float32),
                    z["labels"].astype(np.int64),
                )
        except Exception as e:
            raise DataError(
                f"{where} is damaged ({type(e).__name__}); move it and its record away and run again"
            ) from e


LEAST_ROWS = 10
"""Fewer boxes do not tell what their numbers are."""
OUTSIDE_PX = 1.0
"""How far a box may reach over the border of its image, in pixels: rounding does that, other coordinates do more."""

_Row = tuple[str, tuple[float, float, float, float], float, int]
"""Image, box as x1 y1 x2 y2 in pixels, score, label from 1."""


@dataclass(frozen=True)
class Read:
    """Detections of the images asked for, and what the file has too much or too little."""

    detections: Detections
    elsewhere: int
    """Rows of the set's other images."""
    repeated: int = 0
    """Rows of these images that stand in the file before, to the last digit."""
    counted: tuple[str, ...] = ()
    """Classes by the numbers that the file has, from 0; () where it has ids."""

    def notes(self, per_image: int) -> list[str]:
        """What a reader of the numbers must know, a line each."""
        out = []
        if len(self.counted) > 1:
            out.append(f"classes by their numbers: {', '.join(f'{k} {name}' for k, name in enumerate(self.counted))}")
        if self.elsewhere:
            out.append(f"left out: {self.elsewhere} detections of images that are not in this part of the split")
        counts = np.diff(self.detections.offsets)
        if empty := int((counts == 0).sum()):
            name = self.detections.file_names[int((counts == 0).argmax())]
            out.append(
                f"without any row: {empty} of {len(counts)} images, for example {name}; nothing was found there?"
            )
        if self.repeated:
            out.append(
                f"repeated to the last digit: {self.repeated} rows, which count as false detections; a padded "
                "distributed sampler makes such"
            )
        x, y, right, below = self.detections.boxes.astype(float).T
        inside = (x > 0) & (y > 0)
        if not self.counted and inside.sum() >= LEAST_ROWS and ((right > 2 * x) & (below > 2 * y))[inside].all():
            out.append(
                "of every box the third number is above the first, and the fourth above the second: are they x1 y1 x2 "
                "y2? COCO's are x y width height"
            )
        over = int((counts - per_image).clip(min=0).sum())
        if over:
            out.append(f"left out: {over} detections beyond the best {per_image} of their image")
        return out


def read(path: Path, data: PreparedDataset, file_names: Sequence[str], ids: Path | None = None) -> Read:
    """Detections of some images of a data set, not rounded; images that the file does not name have none.

    A `.json` file is a list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}` in pixels of the
    images as given. Ids are those of the COCO file that the set was prepared from, else those of our COCO export
    (categories from 1); `image_id` may be a file name, with or without its suffix. `file_name` and `category_name` go
    before ids, which must not say otherwise. A folder holds `<image>.txt` with lines `class cx cy width height score`,
    as fractions of the image; classes count from 0.

    Args:
        ids: a COCO file whose ids the results are in, where it is not the set's own.

    Raises:
        RequestError: no such file, or neither kind.
        DataError: an unknown image or class, a box outside its image, or no detection of any of `file_names`.
    """
    if not path.exists():
        raise RequestError(f"there is no {path}")
    if path.is_dir() and ids is not None:
        raise RequestError(f"--ids is for COCO results; {path} is a folder of YOLO files, which name images and count")
    if path.is_dir():
        rows = list(_yolo(path, data))
    elif path.suffix.lower() == ".json":
        rows = list(_coco(path, data, file_names, ids))
    else:
        raise RequestError(f"{path} is neither a .json file (COCO results) nor a folder (YOLO txt files)")
    found: dict[str, list[_Row]] = {name: [] for name in file_names}
    elsewhere = 0
    for row in rows:
        if row[0] in found:
            found[row[0]].append(row)
        else:
            elsewhere += 1
    if not any(found.values()):
        what = f"only of {elsewhere} others" if elsewhere else "of none at all"
        raise DataError(
            f"{path} has no detection of the {len(found)} images to evaluate, {what}; "
            "are --split and --fold the right ones?"
        )
    kept = [row for name in file_names for row in found[name]]
    repeated = len(kept) - len(set(kept))
    counts = [len(found[name]) for name in file_names]
    detections = Detections(
        tuple(file_names),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([row[1] for row in kept], dtype=np.float64).reshape(-1, 4),
        np.array([row[2] for row in kept], dtype=np.float64),
        np.array([row[3] for row in kept], dtype=np.int64),
    )
    return Read(detections, elsewhere, repeated, tuple(data.classes) if path.is_dir() else ())


def _stems(data: PreparedDataset) -> dict[str, str]:
    """File name by stem, for stems that stand for one image."""
    out: dict[str, str] = {}
    twice = set()
    for image in data.images:
        stem = Path(image["file_name"]).with_suffix("").as_posix()
        if stem in out:
            twice.add(stem)
        out[stem] = image["file_name"]
    return {stem: name for stem, name in out.items() if stem not in twice}


_Id = int | str


def _plain(value: Any) -> _Id | None:
    """An id: a whole number or a text; 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


class _Images:
    """Which image a row is of."""

    def __init__(self, data: PreparedDataset, part: Sequence[str], ids: dict[_Id, str] | None) -> None:
        from benchmarks.datasets.readers.base import IMAGE_SUFFIXES  # metrics need no data sets

        self._data, self._part, self._suffixes = data, set(part), IMAGE_SUFFIXES
        self._stems = _stems(data)
        self._names = {image["file_name"] for image in data.images}
        self._bare = Counter(Path(name).stem for name in self._names)
        self._bases: dict[str, list[str]] = {}
        for name in self._names:
            self._bases.setdefault(name.rpartition("/")[2], []).append(name)
        self._by_id: dict[_Id, list[str]] = {}
        self._exported: dict[_Id, list[str]] = {}
        """The ids of our export, where the source has some that it does not use."""
        self._sourced = True
        if ids is not None:
            for number, called in ids.items():
                found = self._called(called)
                self._by_id[number] = [] if found is None else [found]
            return
        # Ids of several source files may be the same: those of the file that this part is all of, if it is.
        wanted = set(part)
        files = {i.get("source_file", "") for i in data.images if i["file_name"] in wanted}
        of_one = [i for i in data.images if {i.get("source_file", "")} == files]
        candidates = of_one if {i["file_name"] for i in of_one} == wanted else data.images
        self._sourced = any(isinstance(image.get("source_id"), int) for image in candidates)
        for image in candidates:
            if image.get("source_id") is not None:
                self._by_id.setdefault(image["source_id"], []).append(image["file_name"])
            if not self._sourced:
                self._by_id.setdefault(image["id"], []).append(image["file_name"])
        exported = data.external_image_ids()
        if self._sourced and all(number == external for number, external in exported.items()):
            self._exported = {exported[image["id"]]: [image["file_name"]] for image in data.images}

    def _called(self, text: str) -> str | None:
        """The image of a path or name; a folder that it states must be the image's."""
        text = text.replace("\\", "/")
        if text in self._names:
            return text
        same = [
            n
            for n in self._bases.get(text.rpartition("/")[2], [])
            if text.endswith("/" + n) or ("/" + n).endswith("/" + text)
        ]
        if same:
            return same[0] if len(same) == 1 else None
        # A picture that was encoded anew has another suffix than in its source.
        anew = str(Path(text).with_suffix(".png")) if Path(text).suffix.lower() in self._suffixes else ""
        if anew in self._names:
            return anew
        # A stem without a folder may be that of images in several.
        return None if self._bare.get(text, 0) > 1 else self._stems.get(text)

    def choose(self, numbers: Collection[int], path: Path) -> None:
        """Decide what the numbers of a file are: ids of the source or of our export, or file names that are numbers and
        were read as such.

        DataError where they could be both.
        """
        if numbers and all(n in self._exported for n in numbers):
            if not all(n in self._by_id for n in numbers):
                self._by_id = self._exported
            elif any(self._by_id[n] != self._exported[n] for n in numbers):
                raise DataError(
                    f"{path}: image_id may be that of the COCO file that {self._data.name} was prepared from, or that "
                    "of an export of it, which has others; write file_name beside it, or say with --ids FILE which "
                    "COCO file has these ids"
                )
        for n in numbers:
            as_text = self._by_id.get(str(n))
            if as_text is not None and self._by_id.get(n, as_text) != as_text:
                raise DataError(
                    f"{path}: image_id {n} may be the id {str(n)!r} of the source or the number {n} of "
                    f"{self._data.root / 'annotations.json'}; write file_name beside it, or say with --ids FILE which "
                    "COCO file has these ids"
                )
        stems: dict[_Id, list[str]] = {}
        for stem, name in self._stems.items():
            if stem.rpartition("/")[2].isdigit():
                stems.setdefault(int(stem.rpartition("/")[2]), []).append(name)
        if not numbers or not all(n in stems for n in numbers):
            return
        complete = all(n in self._by_id for n in numbers)
        if complete and all(self._by_id[n] == stems[n] for n in numbers):
            return

        def covered(of: dict[_Id, list[str]]) -> int:
            return len({name for n in numbers for name in of.get(n, ())} & self._part)

        if complete and (not self._sourced or covered(stems) > covered(self._by_id)):
            raise DataError(
                f"{path}: image_id may be an id or the number that a file of {self._data.name} is called by; "
                "write file_name beside it, or say with --ids FILE which COCO file has these ids"
            )
        if not complete and covered(stems) >= covered(self._by_id):
            self._by_id = stems

    def check_bare(self, called: Collection[str], path: Path) -> None:
        """DataError where a file calls images by names without their folders, and several images have one of these."""
        texts = [text.replace("\\", "/") for text in called]
        if any("/" in text for text in texts):
            return
        for text in texts:
            if len(same := sorted(self._bases.get(text, []))) > 1:
                raise DataError(
                    f"{path} may mean {same[0]} or {same[1]} by {text!r}, since it names no folder; write the folder "
                    f"before each name ('./{text}' for none)"
                )

    def of(self, entry: dict[str, Any], where: str) -> str:
        """File name of the image of a row. DataError where nothing or no one thing says it."""
        name = entry.get("file_name")
        number = _plain(entry.get("image_id"))
        by_id = [] if number is None else self._by_id.get(number, [])
        if not by_id and isinstance(number, str) and (called := self._called(number)) is not None:
            by_id = [called]
        if not by_id and isinstance(number, str) and number.isdecimal():
            by_id = self._by_id.get(int(number), [])
        if isinstance(name, str):
            called = self._called(name)
            if called is None:
                raise DataError(f"{where}: {self._data.name} has no image called {name!r}, or more than one")
            stem = called.rpartition("/")[2].rpartition(".")[0]
            if by_id and called not in by_id and not (stem.isdigit() and int(stem) == number):
                raise DataError(
                    f"{where}: image_id {number!r} is {by_id[0]}, file_name says {called}; leave out the wrong one"
                )
            return called
        if len(by_id) == 1:
            return by_id[0]
        if by_id:
            raise DataError(
                f"{where}: image_id {number!r} is {by_id[0]} and {by_id[1]} of several COCO files; "
                "write file_name beside it, or say with --ids FILE which COCO file has these ids"
            )
        raise DataError(
            f"{where}: {self._data.name} has no image {entry.get('image_id')!r}; image_id is an id of the COCO file "
            f"that it was made from (else of {self._data.root / 'annotations.json'}), or a file name; see --ids"
        )


class _Classes:
    """Which class a row is of, counted from 1."""

    def __init__(self, data: PreparedDataset, ids: dict[_Id, str] | None) -> None:
        self._labels = {label: k for k, label in enumerate(data.classes, start=1)}
        stated = [c.get("source_id") for c in data.categories]
        if ids is not None:
            self._by_id: dict[_Id, int] = {i: self._labels[name] for i, name in ids.items() if name in self._labels}
        elif any("source_id" in c for c in data.categories):
            self._by_id = {i: k for k, i in enumerate(stated, start=1) if i is not None}
            if all(isinstance(i, str) for i in stated):  # our export then has numbers
                self._by_id |= {k: k for k in self._labels.values()}
        else:
            self._by_id = {k: k for k in self._labels.values()}
        self._unclear = ids is None and None in stated and any("source_id" in c for c in data.categories)
        named = {k: label for label, k in self._labels.items()}
        listed = list(self._by_id.items())
        self._shown = ", ".join(f"{i} {named[k]}" for i, k in listed)
        if listed == [(k, k) for k in named]:
            self._shown = f"1 to {len(named)} ({', '.join(named.values())})"

    def of(self, entry: dict[str, Any], where: str) -> int:
        name = entry.get("category_name")
        number = _plain(entry.get("category_id"))
        by_id = None if number is None else self._by_id.get(number)
        if by_id is None and isinstance(number, str) and number.isdecimal():
            by_id = self._by_id.get(int(number))
        if isinstance(name, str):
            label = self._labels.get(name)
            if label is None:
                raise DataError(f"{where}: category_name {name!r} is not of {', '.join(self._labels)}")
            if by_id is not None and by_id != label:
                raise DataError(
                    f"{where}: category_id {number!r} is {list(self._labels)[by_id - 1]!r}, "
                    f"category_name says {name!r}; leave out the wrong one"
                )
            return label
        labels = list(self._labels)
        as_text = self._by_id.get(str(number)) if isinstance(number, int) else None
        if as_text is not None and by_id not in (None, as_text):
            assert by_id is not None
            raise DataError(
                f"{where}: category_id {number} may be the id {str(number)!r} of the source, "
                f"{labels[as_text - 1]!r}, or ours, {labels[by_id - 1]!r}; write category_name, or --ids FILE"
            )
        # With ids that files do not agree on, an export counts from 1.
        if self._unclear and isinstance(number, int) and by_id not in (None, number) and 1 <= number <= len(labels):
            raise DataError(
                f"{where}: category_id {number!r} is {labels[by_id - 1]!r} in the source, some of whose files do not "
                f"agree on ids, and {labels[number - 1]!r} in an export; write category_name, or --ids FILE"
            )
        if by_id is None:
            more = "; its files do not agree on ids: write category_name, or --ids FILE" if self._unclear else ""
            raise DataError(f"{where}: category_id {entry.get('category_id')!r} is not of {self._shown}{more}")
        return by_id


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise DataError(f"{path} is not readable as JSON: {' '.join(str(e).split())}") from None


def _ids_of(path: Path) -> tuple[dict[_Id, str], dict[_Id, str]]:
    """File names and classes by their ids in a COCO file."""
    content = _load(path)
    try:
        images = {_plain(i["id"]): str(i["file_name"]) for i in content["images"]}
        categories = {_plain(c["id"]): str(c["name"]) for c in content["categories"]}
    except (TypeError, KeyError, AttributeError):
        raise DataError(f"--ids {path}: no COCO file with images (id, file_name) and categories (id, name)") from None
    return {k: v for k, v in images.items() if k is not None}, {k: v for k, v in categories.items() if k is not None}


def _coco(path: Path, data: PreparedDataset, part: Sequence[str], ids: Path | None) -> Iterator[_Row]:
    content = _load(path)
    if not isinstance(content, list):
        raise DataError(
            f"{path} is not a list of detections; COCO results are [{{image_id, category_id, bbox, score}}]"
        )
    image_ids, category_ids = _ids_of(ids) if ids is not None else (None, None)
    images, classes = _Images(data, part, image_ids), _Classes(data, category_ids)
    rows = [(f"{path}, entry {i}", entry) for i, entry in enumerate(content)]
    for where, entry in rows:
        if not (
            isinstance(entry, dict)
            and {"bbox", "score"} <= set(entry)
            and {"image_id", "file_name"} & set(entry)
            and {"category_id", "category_name"} & set(entry)
        ):
            raise DataError(f"{where}: not an object with image_id, category_id, bbox and score")
    if ids is None:
        bare = [_plain(entry.get("image_id")) for _, entry in rows if not isinstance(entry.get("file_name"), str)]
        images.choose({n for n in bare if isinstance(n, int)}, path)
        called = (entry.get("file_name", entry.get("image_id")) for _, entry in rows)
        images.check_bare({one for one in called if isinstance(one, str)}, path)
    known: dict[_Id, str] = {}
    _check_boxes(path, [entry["bbox"] for _, entry in rows])
    for where, entry in rows:
        name = images.of(entry, where)
        number = _plain(entry.get("image_id"))
        if number is not None and known.setdefault(number, name) != name:
            raise DataError(f"{where}: image_id {number!r} is {name} here and {known[number]} before; correct the file")
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
            raise DataError(f"{where}: bbox is not four finite numbers, x y width height")
        x, y, w, h = (float(v) for v in box)
        yield _checked(data, where, name, (x, y, x + w, y + h), entry["score"], classes.of(entry, where))


def _check_boxes(path: Path, boxes: Sequence[Any]) -> None:
    """DataError where all boxes of a file are fractions: they lie inside of every image."""
    found = [b for b in boxes if isinstance(b, list) and len(b) == 4 and all(map(_is_number, b))]
    if found and all(0 <= v <= 1 for b in found for v in b) and any(0 < v < 1 for b in found for v in b):
        raise DataError(
            f"{path}: every bbox lies in 0 to 1: fractions of the image; multiply x and width by its width, y and "
            "height by its height"
        )


def _yolo(folder: Path, data: PreparedDataset) -> Iterator[_Row]:
    from benchmarks.datasets.exporting import yolo_names  # metrics need no data sets

    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".txt" and file.is_file())
    if not files:
        raise DataError(f"{folder} holds no .txt file; YOLO's predictions lie in the folder labels/ of a run")
    stems = _stems(data) | {str(Path(called).with_suffix("")): name for name, called in yolo_names(data).items()}
    bases: dict[str, list[str]] = {}
    for stem in stems:
        bases.setdefault(stem.rpartition("/")[2], []).append(stem)
    shared: dict[str, list[str]] = {}
    for image in data.images:
        shared.setdefault(Path(image["file_name"]).with_suffix("").as_posix(), []).append(image["file_name"])
    flat = all(file.parent == folder for file in files)
    k = len(data.classes)
    for file in files:
        stem = file.relative_to(folder).with_suffix("").as_posix()
        several = shared.get(stem, [])
        if len(several) < 2 and flat:
            several = [stems[one] for one in bases.get(stem, [])]
        if len(several) > 1:
            raise DataError(
                f"{file} may hold the detections of {several[0]} and of {several[1]}, since tools name both so; "
                "predict on an export (benchmarks.datasets export), where each has its own, or use COCO results"
            )
        if stem not in stems and len(bases.get(stem, [])) == 1:
            (stem,) = bases[stem]  # tools write all labels into one folder
        if stem not in stems:
            raise DataError(f"{file}: {data.name} has no image {stem!r}")
        image = data.image(stems[stem])
        width, height = image["width"], image["height"]
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{file} is not text") from None
        for number, line in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 6:
                raise DataError(
                    f"{where}: {len(fields)} fields, not class cx cy width height score; "
                    "with ultralytics, save_conf=True writes the score"
                )
            try:
                label, values = int(fields[0]), [float(f) for f in fields[1:]]
            except ValueError:
                raise DataError(f"{where}: not a class and five numbers: {line[:60]!r}") from None
            if not 0 <= label < k:
                raise DataError(f"{where}: class {label} is not of 0 to {k - 1} ({', '.join(data.classes)})")
            if not all(math.isfinite(v) for v in values):
                raise DataError(f"{where}: a number is not finite")
            cx, cy, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            yield _checked(data, where, image["file_name"], box, values[4], label + 1)


def _checked(
    data: PreparedDataset, where: str, name: str, box: tuple[float, float, float, float], score: Any, label: int
) -> _Row:
    """The row, when its box lies in its image and its score in [0, 1]."""
    if not _is_number(score) or not 0 <= score <= 1:
        raise DataError(f"{where}: score {score!r} is not in [0, 1]")
    image = data.image(name)
    width, height = image["width"], image["height"]
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        raise DataError(f"{where}: the box has a negative width or height")
    if x1 < -OUTSIDE_PX or y1 < -OUTSIDE_PX or x2 > width + OUTSIDE_PX or y2 > height + OUTSIDE_PX:
        raise DataError(
            f"{where}: the box {x1:g} {y1:g} to {x2:g} {y2:g} lies outside of {name}, {width} x {height}; boxes are in "
            "pixels of the images as given (YOLO: fractions), clipped to them"
        )
    return name, box, float(score), label


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
