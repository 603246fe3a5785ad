"""Suites: which models meet which data sets, under which recipes. Validated YAML, turned into cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks import models
from benchmarks.cells import Cell, NativeRecipe, Recipe, Tile
from benchmarks.datasets import catalogue
from benchmarks.errors import DataError, RequestError, nearest


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SuiteModel(_Strict):
    """A model of a suite and those of its variants that take part."""

    model: str
    variants: tuple[str, ...] = ("default",)


class Tier(_Strict):
    """One size of a suite: the same question at another cost."""

    scale: str
    image_size: int | Literal["native"]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    recipe: dict[str, Any]
    by_dataset: dict[str, dict[str, Any]] = {}
    by_family: dict[str, dict[str, Any]] = {}
    tile: dict[str, Tile] = Field({}, description="data sets whose images are cut into tiles")

    def resolve(self, dataset: str, family: str, epochs: int | None = None) -> Recipe | NativeRecipe:
        """The recipe of one cell: the tier's, then the data set's, then the family's changes.

        Where `trainer: library` results, all but the fields of `NativeRecipe` is left out.
        """
        merged = {**self.recipe, **self.by_dataset.get(dataset, {}), **self.by_family.get(family, {})}
        if epochs is not None:
            merged["epochs"] = epochs
        if merged.get("trainer") == "library":
            return NativeRecipe(**{k: v for k, v in merged.items() if k in NativeRecipe.model_fields})
        return Recipe(**merged)


class Suite(_Strict):
    """A suite file."""

    name: str
    title: str
    datasets: tuple[str, ...] = Field(min_length=1)
    models: tuple[SuiteModel, ...] = Field(min_length=1)
    reference: str = Field(description="the model that latency ratios are taken to")
    results: str = Field("", pattern="^(_[a-z]+)?$", description="folder below results/ that --publish fills")
    tiers: dict[str, Tier] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self) -> Suite:
        for dataset in self.datasets:
            catalogue.get(dataset)
        for entry in self.models:
            for variant in entry.variants:
                models.check_variant(entry.model, variant)
        if self.reference not in {m.model for m in self.models}:
            raise ValueError(f"reference {self.reference!r} is not one of the suite's models")
        families = {models.get(m.model).family for m in self.models}
        for name, tier in self.tiers.items():
            for extra in set(tier.by_dataset) - set(self.datasets):
                raise ValueError(f"tiers.{name}.by_dataset: {extra!r} is not one of the suite's data sets")
            for extra in set(tier.tile) - set(self.datasets):
                raise ValueError(f"tiers.{name}.tile: {extra!r} is not one of the suite's data sets")
            for extra in set(tier.by_family) - families:
                raise ValueError(f"tiers.{name}.by_family: no model of the suite is of family {extra!r}")
            for dataset in self.datasets:
                for family in families:
                    tier.resolve(dataset, family)
        return self

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
    ) -> list[Cell]:
        """The cells of a tier, narrowed.

        Args:
            datasets: names, each in the catalogue.
            select: `model` (all its variants in the suite) or `model:variant`; empty for all.
            folds, seeds, epochs, tile: instead of the tier's.

        Raises:
            RequestError: an unknown tier, model, variant or fold.
        """
        if tier not in self.tiers:
            raise RequestError(f"suite {self.name!r} has no tier {tier!r}; {nearest(tier, self.tiers)}")
        t = self.tiers[tier]
        out = []
        for dataset in datasets:
            spec = catalogue.get(dataset)
            cut = tile or t.tile.get(dataset)
            native = min(spec.native_size, cut.size) if cut else spec.native_size
            for fold in folds if folds is not None else t.folds:
                if not 0 <= fold < spec.folds:
                    raise RequestError(f"{spec.split} has folds 0 to {spec.folds - 1}, not {fold}")
                for seed in seeds if seeds is not None else t.seeds:
                    for model, variant in self.selected(select):
                        entry = models.get(model)
                        recipe = t.resolve(dataset, entry.family, epochs)
                        if isinstance(recipe, NativeRecipe) and not entry.native:
                            raise RequestError(
                                f"model {model!r} has no trainer of its own; use another tier than {tier!r}"
                            )
                        if isinstance(recipe, NativeRecipe) and cut is not None:
                            raise RequestError(f"tier {tier!r}: a library's own trainer takes whole images, not tiles")
                        out.append(
                            Cell(
                                dataset=dataset,
                                split=spec.split,
                                fold=fold,
                                model=model,
                                variant=variant,
                                scale=entry.scale(t.scale),
                                seed=seed,
                                image_size=native if t.image_size == "native" else t.image_size,
                                recipe=recipe,
                                tile=cut,
                            )
                        )
        return out

    def selected(self, select: Collection[str]) -> list[tuple[str, str]]:
        """(model, variant) pairs of the suite that `select` names, in the suite's order.

        A registered model that the suite does not list may be asked for by name and then joins.
        """
        listed = [(m.model, v) for m in self.models for v in m.variants]
        if not select:
            return listed
        wanted: list[tuple[str, str]] = []
        for name in select:
            model, variant = models.split_name(name)
            if variant:
                models.check_variant(model, variant)
                wanted.append((model, variant))
            else:
                models.get(model)
                wanted += [pair for pair in listed if pair[0] == model] or [(model, "default")]
        unique = dict.fromkeys(wanted)
        return [p for p in listed if p in unique] + [p for p in unique if p not in listed]


def names() -> list[str]:
    """The suites that ship with the package."""
    folder = resources.files("benchmarks") / "suites"
    return sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load(name: str) -> Suite:
    """Read and validate suite `name`.

    Raises:
        RequestError: no such suite.
        DataError: the file is not a valid suite; the message names the field.
    """
    if name not in names():
        raise RequestError(f"unknown suite {name!r}; {nearest(name, names())}")
    text = (resources.files("benchmarks") / "suites" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse(text, f"suites/{name}.yaml")


def parse(text: str, where: str) -> Suite:
    """A suite from YAML text; `where` names it in error messages."""
    try:
        return Suite.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as e:
        raise DataError(f"{where} is not YAML: {' '.join(str(e).split())}") from None
    except RequestError as e:
        raise DataError(f"{where}: {e}") from None
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "suite"
        raise DataError(f"{where}, {field}: {first['msg']}") from None
