"""A cell is one run: what is trained, on what, how. Its id is a hash of that request.

Torch-free. Three things are kept apart: the *cell* (the request), the *fingerprint* (the data and
the versions of the code that answer it) and the *record* (the answer, see `benchmarks.store`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

RECIPE_VERSION = 1
"""Raise it when the training loop computes other numbers from the same recipe."""

LEAST_PX = 32
"""Longer side of images inside a model, at least: the coarsest stride."""

Precision = Literal["fp32", "bf16", "fp16"]

Weights = Literal["imagenet"] | Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")] | None
"""What a training starts from: a pretrained backbone, the weights file with that digest, or random numbers."""

Augment = Literal["none", "mosaic", "copy_paste", "scale_jitter", "hflip", "flips", "flips_photo"]
"""Augmentations, in the order in which they are applied (`benchmarks.datasets.loading`)."""


def added(default: Any, **options: Any) -> Any:
    """A field that came after records had been published; options as in pydantic's `Field`.

    At its default it is left out of what is written and hashed, so that ids, fingerprints and records that are older
    than the field stay what they are, and nothing is trained again.
    """
    return Field(default, json_schema_extra={"added": True}, **options)


class Hashed(BaseModel):
    """Frozen, without unknown fields, and with those that were `added` absent at their default."""

    # "constants": a NaN stays one, and `canonical` refuses it, rather than becoming null in silence.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @model_serializer(mode="wrap")
    def _without_added_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        out: dict[str, Any] = handler(self)
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("added") and getattr(self, name) == field.default:
                out.pop(name, None)
        return out


class Recipe(Hashed):
    """How a model is trained; the same loop runs every recipe (`benchmarks.train`)."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimizer: Literal["sgd", "adamw"]
    lr: float = Field(gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only")
    weight_decay: float = Field(0.0, ge=0, description="not of what has one dimension or none: norms, biases, gates")
    backbone_lr_factor: float = Field(1.0, gt=0, description="times lr, for parameters under `backbone.`")
    schedule: Literal["one_cycle", "cosine", "step", "constant"]
    milestones: tuple[int, ...] = Field((), description="step only: epochs before which lr is multiplied by gamma")
    gamma: float = Field(0.1, gt=0, lt=1)
    warmup_iters: int = Field(0, ge=0, description="linear; at most one epoch; one_cycle has its own")
    warmup_factor: float = Field(1e-3, gt=0, le=1)
    clip_norm: float | None = Field(None, gt=0)
    augment: Augment | tuple[Augment, ...] = Field("flips", description="one, or several that add up")
    precision: Precision = "fp32"
    weights: Weights = None

    @field_validator("augment")
    @classmethod
    def _one_way_to_say_it(cls, value: Augment | tuple[Augment, ...]) -> Augment | tuple[Augment, ...]:
        """In the order of `Augment`, so that the same request has the same id."""
        if isinstance(value, str):
            return value
        if len(set(value)) < len(value) or not value:
            raise ValueError(f"{list(value)} is empty or names one twice; 'none' is for no augmentation")
        if len(value) > 1 and ("none" in value or sum("flip" in kind for kind in value) > 1):
            raise ValueError(
                f"{list(value)} do not go together: 'none' stands alone, and hflip, flips or flips_photo is one"
            )
        ordered = tuple(kind for kind in get_args(Augment) if kind in value)
        return ordered if len(ordered) > 1 else ordered[0]

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Recipe:
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("milestones belong to schedule 'step', and it needs them")
        if any(m >= self.epochs for m in self.milestones):
            raise ValueError(f"milestones {self.milestones} lie outside the {self.epochs} epochs")
        return self


class Tile(Hashed):
    """Large images are cut: random windows in training, an overlapping grid in evaluation."""

    size: int = Field(ge=64, description="side in pixels of the image")
    overlap: int = Field(ge=16, description="of neighbours in evaluation: at least the longer side of usual defects")

    @model_validator(mode="after")
    def _moves_on(self) -> Tile:
        if self.overlap > self.size // 2:
            raise ValueError(f"overlap {self.overlap} is more than half of the size {self.size}")
        return self


class NativeRecipe(Hashed):
    """Training by the trainer of the library that a model comes from, at that trainer's own defaults."""

    trainer: Literal["library"]
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    weights: Weights = None


class Cell(Hashed):
    """One run, as requested."""

    dataset: str
    split: str
    fold: int = Field(ge=0)
    model: str
    variant: str
    scale: str
    seed: int = Field(ge=0)
    image_size: int = Field(ge=LEAST_PX, description="longer side in pixels inside the model")
    recipe: Recipe | NativeRecipe
    tile: Tile | None = added(None, description="None: images go in whole")
    device_class: str | None = added(
        None, description="None: a CPU; else the accelerator's, of `benchmarks.devices.device_class`"
    )

    @property
    def id(self) -> str:
        """16 hex digits: SHA-256 of the canonical JSON of the request."""
        return digest_of(self.model_dump(mode="json"))[:16]

    @property
    def stem(self) -> str:
        """File name, without suffix, of everything that belongs to this cell, below its data set's folder."""
        model = re.sub(r"[:/]", "_", self.model)  # a configuration's path
        device = f"-{self.device_class}" if self.device_class else ""
        return f"{model}-{self.variant}-{self.scale}-f{self.fold}-s{self.seed}{device}-{self.id[:8]}"

    @property
    def name(self) -> str:
        """`model` or `model:variant`, as the command line takes it."""
        return self.model if self.variant == "default" else f"{self.model}:{self.variant}"

    def stream(self, purpose: str) -> int:
        """Seed of one random stream ("init", "order", "augment", "sampling").

        It depends on data set, fold and seed, and not on the model or the variant, so that
        comparisons between models are paired.
        """
        text = f"{self.dataset}/{self.fold}/{self.seed}/{purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def request_of(cell: Cell) -> dict[str, object]:
    """What a row's cells have in common, flat, by names as the suite files have them."""
    flat: dict[str, object] = {}
    for key, value in cell.model_dump(mode="json", exclude={"fold", "seed", "dataset", "split", "image_size"}).items():
        if key == "recipe":
            flat |= value
        elif key == "tile" and value is not None:
            flat["tile"] = f"{value['size']}, overlap {value['overlap']}"
        else:
            flat[key] = value
    return flat


def apart(own: Mapping[str, object], all_of_them: Sequence[Mapping[str, object]], but: str | None = None) -> str:
    """What by name is not the same in all of several requests, as one of them has it; `but` for one name."""
    names = [k for k in own if k != but and len({repr(one.get(k)) for one in all_of_them}) > 1]
    return ", ".join(f"{name} {own[name]}" for name in names)


class Fingerprint(Hashed):
    """With what a cell was run: when any of it changes, the cell is run again."""

    data: str = Field(description="digest of the data set's manifest")
    split: str = Field(description="digest of the split list")
    builder: int
    recipe: int
    transforms: int
    evaluator: int
    detection: int = added(1, description="of `benchmarks.trained.detect`, tiles cut and merged, limits of all models")


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """SHA-256, in hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()
