"""Suites: which models meet which data sets, under which recipes. Validated YAML, turned into cells."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from benchmarks import models
from benchmarks.cells import LEAST_PX, Cell, NativeRecipe, Recipe, Tile
from benchmarks.datasets import catalogue
from benchmarks.datasets.splits import count_folds
from benchmarks.errors import DataError, RequestError, nearest
from benchmarks.results import Metrics


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SuiteModel(_Strict):
    """A model of a suite and those of its variants that take part."""

    model: str
    variants: tuple[str, ...] = ("default",)


_LIBRARY_STEP = 32
"""A library's own trainer enlarges images to a multiple, and tests on them: so does then every part of a cell."""

_RESULTS = "^(_[a-z]+)?$"


class Tier(_Strict):
    """One size of a suite: the same question at another cost.

    In the file, `like: SUITE.TIER` stands for all fields of that tier but `results` and those that are given.
    """

    like: str | None = Field(None, pattern=r"^\w+\.\w+$")
    models: tuple[SuiteModel, ...] = Field((), description="instead of the suite's")
    datasets: tuple[str, ...] = Field((), description="instead of the suite's")
    split: dict[str, str] = Field({}, description="split lists of data sets, instead of their default ones")
    scale: str
    image_size: Annotated[int, Field(ge=LEAST_PX)] | Literal["native"]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    recipe: dict[str, Any]
    by_dataset: dict[str, dict[str, Any]] = Field({}, description="changes of the recipe; or its `length`, times more")
    by_family: dict[str, dict[str, Any]] = Field({}, description="likewise, after those of the data set")
    tile: dict[str, Tile] = Field({}, description="data sets whose images are cut into tiles")
    length: float = Field(1.0, gt=0, description="times the epochs and milestones of the recipes")
    results: str | None = Field(None, pattern=_RESULTS, description="instead of the suite's")
    closed: bool = Field(False, description="no other model may be asked for by name: the recipes are not for it")

    def resolve(self, dataset: str, family: str, epochs: int | None = None) -> Recipe | NativeRecipe:
        """The recipe of one cell: the tier's, then the data set's, then the family's changes.

        Where `trainer: library` results, all but the fields of `NativeRecipe` is left out of what was said before it;
        what is said with it must be such a field.
        """
        changes = [self.by_dataset.get(dataset, {}), self.by_family.get(family, {})]
        for one in (self.recipe, *changes):
            native = one.get("trainer") == "library"
            fields = NativeRecipe.model_fields if native else {**Recipe.model_fields, **NativeRecipe.model_fields}
            if strays := sorted(set(one) - set(fields) - ({"length"} if one is not self.recipe else set())):
                of = "a recipe of trainer: library" if native else "a recipe"
                raise ValueError(f"{strays[0]!r} is no field of {of}; {nearest(strays[0], fields)}")
        merged = {**self.recipe, **{k: v for one in changes for k, v in one.items() if k != "length"}}
        length = math.prod([self.length, *map(_length, changes)])
        merged["epochs"] = _longer(merged.get("epochs"), length)
        if "milestones" in merged:
            merged["milestones"] = [_longer(m, length) for m in merged["milestones"]]
        if epochs is not None:
            merged["epochs"] = epochs
        if merged.get("trainer") == "library":
            return NativeRecipe(**{k: v for k, v in merged.items() if k in NativeRecipe.model_fields})
        return Recipe(**merged)


def _name(model: str, variant: str) -> str:
    return model if variant == "default" else f"{model}:{variant}"


def _known_set(name: str, root: Path | None) -> bool:
    try:
        catalogue.get(name, root)
    except RequestError:
        return False
    return True


def _length(changes: Mapping[str, Any]) -> float:
    length = changes.get("length", 1)
    if isinstance(length, bool) or not isinstance(length, int | float) or not 0 < length < math.inf:
        raise ValueError(f"length is {length!r}, not a number above 0")
    return length


def _longer(epochs: Any, length: float) -> Any:
    if length == 1.0 or not isinstance(epochs, int):
        return epochs
    if (longer := epochs * length) != int(longer):
        raise ValueError(f"length {length:g} makes {longer:g} of {epochs} epochs: not a whole number")
    return int(longer)


class LatencyPhase(_Strict):
    """What is measured of a suite's models before anything is trained, with random weights, on the first data set."""

    scale: str
    image_size: int = Field(ge=32)
    forms: tuple[str, ...] = Field(min_length=1, description="as `benchmarks.profile --form` takes them")
    batch_sizes: tuple[int, ...] = Field(min_length=1)
    rounds: int = Field(60, ge=6, description="of each timing, so few that the limit can hold one of them")
    warmup: int = Field(10, ge=0, description="rounds before them")
    limit: str = Field(pattern=r"^\d+[ms]$", description="the time that it gets, in each run until it is complete")


class GateLimits(_Strict):
    """What `benchmarks.compare` lets a head lose to its base, by metric.

    docs/gate.md says where the numbers come from. Accuracy in [0, 1], all others relative.
    """

    accuracy: dict[str, float] = Field(
        default={"AP50": 0.02, "AP": 0.02, "AP75": 0.02, "AP_small": 0.02},
        description="drop of the mean over trainings that is let pass, by the name of the metric in `Metrics`",
    )
    certain: float = Field(default=0.15, ge=0, le=1, description="drop that fails whoever can tell it")
    level: float = Field(default=0.02, gt=0, lt=1, description="how often chance may alarm, in all accuracy checks")
    first_losses: float = Field(default=1e-4, gt=0, description="of the sum of the losses, in the first iteration")
    macs: float = Field(default=0.005, ge=0)
    file_size: float = Field(default=0.01, ge=0)
    memory: float = Field(default=0.1, ge=0)
    latency: float = Field(default=0.1, ge=0, description="in one session or job, beyond the interval")
    batch: float = Field(default=0.1, ge=0, description="time of a batch (throughput), in turns, beyond the interval")
    training_step: float = Field(default=0.1, ge=0, description="in turns, beyond the interval")
    latency_ratio: float = Field(default=0.25, ge=0, description="of the ratio to the reference, between sessions")
    training_time: float = Field(default=0.5, ge=0, description="of one training, or its ratio to the reference's")

    @field_validator("accuracy")
    @classmethod
    def _metrics_exist(cls, value: dict[str, float]) -> dict[str, float]:
        for name, drop in value.items():
            if not Metrics.may_hold(name) or not 0 <= drop <= 1:
                raise ValueError(f"{name}: {drop}: not a metric of `benchmarks.results.Metrics`, or no drop in [0, 1]")
        return value


class Suite(_Strict):
    """A suite file."""

    name: str
    title: str
    datasets: tuple[str, ...] = Field(min_length=1)
    models: tuple[SuiteModel, ...] = Field(min_length=1)
    reference: str = Field(description="the model that latency ratios are taken to")
    results: str = Field("", pattern=_RESULTS, description="folder below results/ that --publish fills")
    latency: LatencyPhase | None = None
    limits: GateLimits = Field(default=GateLimits(), description="of the regression gate")
    tiers: dict[str, Tier] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self, info: ValidationInfo) -> Suite:
        root = (info.context or {}).get("root")
        tiers = self.tiers.items()
        for where, datasets in [("", self.datasets), *((f"tiers.{name}.", tier.datasets) for name, tier in tiers)]:
            for dataset in datasets:
                try:
                    catalogue.get(dataset, root)
                except RequestError as e:
                    raise ValueError(f"{where}datasets: {e}") from None
        for entry in [m for _, tier in tiers for m in (*self.models, *tier.models)]:
            for variant in entry.variants:
                models.check_variant(entry.model, variant)
        if self.reference not in {m.model for m in self.models}:
            raise ValueError(f"reference {self.reference!r} is not one of the suite's models")
        for name, tier in tiers:
            families = {models.get(m.model).family for m in tier.models or self.models}
            datasets = tier.datasets or self.datasets
            for field, named in (("by_dataset", tier.by_dataset), ("tile", tier.tile), ("split", tier.split)):
                for extra in sorted(set(named) - set(datasets)):
                    if not (tier.like and _known_set(extra, root)):
                        raise ValueError(f"tiers.{name}.{field}: {extra!r} is not one of its data sets")
            # What a tier is like may have other models and data sets; a name that nothing has is a slip.
            possible = {spec.family for spec in models.MODELS.values()} if tier.like else families
            for extra in sorted(set(tier.by_family) - possible):
                raise ValueError(f"tiers.{name}.by_family: none of its models is of family {extra!r}")
            for dataset in datasets:
                for family in families:
                    tier.resolve(dataset, family)
        return self

    def tier(self, name: str) -> Tier:
        """RequestError for an unknown one."""
        if name not in self.tiers:
            raise RequestError(f"suite {self.name!r} has no tier {name!r}; {nearest(name, self.tiers)}")
        return self.tiers[name]

    def results_of(self, tier: str) -> str:
        """The folder below results/ that a tier's records are published to. RequestError for an unknown tier."""
        own = self.tier(tier).results
        return self.results if own is None else own

    def datasets_of(self, tier: str) -> tuple[str, ...]:
        """The data sets of a tier. RequestError for an unknown one."""
        return self.tier(tier).datasets or self.datasets

    def extras(self, tier: str | None = None) -> tuple[str, ...]:
        """The extras that a tier's models need (by default the first tier's), and the pretrained backbone's."""
        needed = {models.get(model).extra for model, _ in self.selected((), tier or next(iter(self.tiers)))}
        return tuple(sorted({"pretrained", *(extra for extra in needed if extra)}))

    def cells(
        self,
        tier: str,
        *,
        datasets: Sequence[str],
        select: Collection[str] = (),
        folds: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        epochs: int | None = None,
        tile: Tile | None = None,
        split: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> list[Cell]:
        """The cells of a tier, narrowed.

        Args:
            datasets: names, each in the catalogue.
            select: `model`, `model:variant`, or `model:*` for all its variants in the suite; empty for all.
            folds, seeds, epochs, tile: instead of the tier's.
            split: split lists of data sets, instead of the tier's or their default ones. Of the tier's folds those are
                taken that the list has; an official split has but one.
            root: where prepared sets lie, with lists of their own.

        Raises:
            RequestError: an unknown tier, model, variant, list or fold.
        """
        t = self.tier(tier)
        out = []
        for dataset in datasets:
            spec = catalogue.get(dataset, root)
            cut = tile or t.tile.get(dataset)
            # Smaller images are enlarged: no network takes less.
            native = max(min(spec.native_size, cut.size) if cut else spec.native_size, LEAST_PX)
            title = (split or {}).get(dataset) or t.split.get(dataset) or spec.split
            count = spec.folds if title == spec.split else count_folds(dataset, title, root)
            if folds is None and all(f >= count for f in t.folds):
                asked = ", ".join(map(str, t.folds))
                raise RequestError(f"tier {tier!r} has folds {asked}, and {title} 0 to {count - 1}; choose with --fold")
            for fold in folds if folds is not None else [f for f in t.folds if f < count]:
                if not 0 <= fold < count:
                    raise RequestError(f"{title} has folds 0 to {count - 1}, not {fold}")
                for seed in seeds if seeds is not None else t.seeds:
                    for model, variant in self.selected(select, tier):
                        entry = models.get(model)
                        try:
                            recipe = t.resolve(dataset, entry.family, epochs)
                        except ValidationError as e:  # the file is sound: it is the epochs that were asked for
                            reason = e.errors()[0]["msg"].removeprefix("Value error, ")
                            asked = "" if epochs is None else f"--epochs {epochs}: "
                            raise RequestError(f"{asked}tier {tier!r} has no recipe for {model}: {reason}") from None
                        if isinstance(recipe, NativeRecipe) and not entry.native:
                            raise RequestError(
                                f"model {model!r} has no trainer of its own; use another tier than {tier!r}"
                            )
                        size = native if t.image_size == "native" else t.image_size
                        if isinstance(recipe, NativeRecipe):
                            if cut is not None:
                                raise RequestError(
                                    f"tier {tier!r}: a library's own trainer takes whole images, not tiles"
                                )
                            size = -(-size // _LIBRARY_STEP) * _LIBRARY_STEP
                        out.append(
                            Cell(
                                dataset=dataset,
                                split=title,
                                fold=fold,
                                model=model,
                                variant=variant,
                                scale=entry.scale(t.scale),
                                seed=seed,
                                image_size=size,
                                recipe=recipe,
                                tile=cut,
                            )
                        )
        return list(dict.fromkeys(out))  # what is named twice is trained once

    def selected(self, select: Collection[str], tier: str) -> list[tuple[str, str]]:
        """(model, variant) pairs of a tier that `select` names, in the suite's order.

        A registered model that the suite does not list may be asked for by name and then joins, unless the tier is
        `closed`.
        """
        listed = [(m.model, v) for m in self.tier(tier).models or self.models for v in m.variants]
        if not select:
            return listed
        wanted: list[tuple[str, str]] = []
        for name in select:
            model, variant = models.split_name(name)
            if variant == "*":
                models.get(model)
                if not (found := [pair for pair in listed if pair[0] == model]):
                    raise RequestError(f"tier {tier!r} of suite {self.name!r} has no model {model!r}")
                wanted += found
            elif variant:
                models.check_variant(model, variant)
                wanted.append((model, variant))
            else:
                models.check_variant(model, "default")
                wanted.append((model, "default"))
        unique = dict.fromkeys(wanted)
        if self.tier(tier).closed and (others := [_name(*p) for p in unique if p not in listed]):
            able = ", ".join(_name(*p) for p in listed)
            raise RequestError(f"tier {tier!r} has no recipe for {', '.join(others)}; it is for {able}")
        return [p for p in listed if p in unique] + [p for p in unique if p not in listed]


def names() -> list[str]:
    """The suites that ship with the package."""
    folder = resources.files("benchmarks") / "suites"
    return sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load(name: str, root: Path | None = None) -> Suite:
    """Read and validate a suite: one that ships with the package, by name, or a file of the user's, `NAME.yaml`.

    Args:
        root: where prepared sets lie, for a suite that names sets of the user's own.

    Raises:
        RequestError: no such suite.
        DataError: the file is not a valid suite; the message names the field.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            return parse(Path(name).read_text(encoding="utf-8"), name, root)
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "it is not text"
            raise RequestError(f"--suite {name}: {reason}; suites that ship: {', '.join(names())}") from None
    return parse(_text(name), f"suites/{name}.yaml", root)


def _text(name: str) -> str:
    if name not in names():
        raise RequestError(f"unknown suite {name!r}; {nearest(name, names())} A file of yours ends in .yaml")
    return (resources.files("benchmarks") / "suites" / f"{name}.yaml").read_text(encoding="utf-8")


def parse(text: str, where: str, root: Path | None = None) -> Suite:
    """A suite from YAML text; `where` names it in error messages."""
    try:
        return Suite.model_validate(_written_out(yaml.load(text, _Once)), context={"root": root})
    except yaml.YAMLError as e:
        raise DataError(f"{where} is not YAML: {' '.join(str(e).split())}") from None
    except RequestError as e:
        raise DataError(f"{where}: {e}") from None
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "suite"
        raise DataError(f"{where}, {field}: {first['msg']}") from None


class _Once(yaml.SafeLoader):
    """YAML in which a key that is said twice is an error: the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        said = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := [key for key in dict.fromkeys(said) if said.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is said twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _written_out(content: Any) -> Any:
    """`content` with the tiers that are `like` one of a suite that ships written out."""
    tiers = content.get("tiers") if isinstance(content, dict) else None
    if not isinstance(tiers, dict):
        return content
    written = dict(tiers)
    for name, tier in tiers.items():
        if isinstance(tier, dict) and "like" in tier:
            suite, _, of = str(tier["like"]).partition(".")
            others = yaml.safe_load(_text(suite))["tiers"]
            if of not in others:
                raise RequestError(f"tiers.{name}.like: suite {suite!r} has no tier {of!r}; {nearest(of, others)}")
            written[name] = {k: v for k, v in others[of].items() if k != "results"} | tier
    return {**content, "tiers": written}
