from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import models, suites
from benchmarks.cells import Recipe, Tile
from benchmarks.errors import DataError, RequestError

MINIMAL = """
name: x
title: x
datasets: [synthetic_small]
models: [{model: canet}]
reference: canet
tiers:
  quick:
    scale: nano
    image_size: native
    folds: [0]
    seeds: [0]
    recipe: {epochs: 1, batch_size: 2, optimizer: sgd, lr: 0.1, schedule: constant}
"""


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_resolves_to_cells_with_distinct_ids(name: str) -> None:
    suite = suites.load(name)
    assert suite.name == name
    for tier in suite.tiers:
        cells = suite.cells(tier, datasets=suite.datasets_of(tier))
        assert len({c.id for c in cells}) == len(cells) > 0
        assert len({(c.dataset, c.stem) for c in cells}) == len(cells)


def test_the_full_tier_is_the_protocol_of_the_paper() -> None:
    suite = suites.load("small_defects")
    cells = suite.cells("full", datasets=["neu_det"])
    assert {(c.fold, c.seed) for c in cells} == {(f, s) for f in range(5) for s in range(3)}
    canet = next(c for c in cells if c.name == "canet")
    assert (canet.scale, canet.image_size, canet.recipe.epochs, canet.recipe.batch_size) == ("r50", 600, 12, 2)
    assert canet.recipe.weights == "imagenet"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("canet}", "canett}"), "did you mean 'canet'"),
        (("[synthetic_small]", "[synthetic_smal]"), "synthetic_small"),
        (("lr: 0.1", "lr: -0.1"), "lr"),
        (("folds: [0]", "fold: [0]"), "fold"),
        (("epochs: 1", "epochs: none"), "epochs"),
        (("reference: canet", "reference: yolov8n"), "reference"),
        (("title: x", "title: [x"), "not YAML"),
        (("image_size: native", "image_size: 16"), "greater than or equal to 32"),
        (("folds: [0]", "folds: [0]\n    tile: {neu_det: {size: 100, overlap: 20}}"), "neu_det"),
        (("folds: [0]", "folds: [0]\n    tile: {synthetic_small: {size: 100, overlap: 90}}"), "overlap 90"),
        (("schedule: constant", "schedule: constant, augment: [flips, copy_past]"), "copy_paste"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_wrong_suite_names_the_field(change: tuple[str, str], field: str) -> None:
    suites.parse(MINIMAL, "x.yaml")
    with pytest.raises(DataError) as error:
        suites.parse(MINIMAL.replace(*change), "x.yaml")
    assert "x.yaml" in str(error.value)
    assert field in str(error.value)


def test_a_tier_of_folds_that_a_split_list_has_not_is_no_run_of_nothing() -> None:
    suite = suites.parse(MINIMAL.replace("folds: [0]", "folds: [7]"), "x.yaml")
    (tier,) = suite.tiers
    with pytest.raises(RequestError, match="has folds 7, and synthetic_small-4fold-v2 0 to 3; choose with --fold"):
        suite.cells(tier, datasets=["synthetic_small"])


def test_narrowing() -> None:
    suite = suites.load("small_defects")
    quick = {"datasets": ["synthetic_small"]}
    every = [c.name for c in suite.cells("quick", **quick)]
    assert every == ["canet", "canet:fpn_convs", "fasterrcnn_fpn", "retinanet", "yolov8n:near_start"]
    half = {c.id for c in suites.load("budget").cells("half", **quick)}
    ends = {c.id for c in suite.cells("quick", **quick) if c.name not in ("canet:fpn_convs", "yolov8n:near_start")}
    assert ends < half, "half the study's schedule, trained once"
    assert [c.name for c in suite.cells("quick", select=["canet"], **quick)] == every[:1]
    assert [c.name for c in suite.cells("quick", select=["canet:*"], **quick)] == every[:2]
    assert [c.name for c in suite.cells("quick", select=["yolov8n:near_start", "canet:no_sae"], **quick)] == [
        "yolov8n:near_start",
        "canet:no_sae",
    ]
    assert [c.name for c in suite.cells("quick", select=["canet:one_head"], **quick)] == ["canet:one_head"]
    (cell,) = suite.cells("quick", select=["retinanet"], folds=[3], seeds=[7], epochs=1, **quick)
    assert (cell.fold, cell.seed, cell.recipe.epochs) == (3, 7, 1)


@pytest.mark.parametrize(
    ("narrow", "hint"),
    [
        ({"select": ["canett"]}, "did you mean 'canet'"),
        ({"select": ["canet:nosae"]}, "no_sae"),
        ({"select": ["fcos:no_sae"]}, "no variants"),
        ({"select": ["retinanet:library"]}, "did you mean 'library_anchors'"),
        ({"select": ["fcos:*"]}, "has no model 'fcos'"),
        ({"folds": [4]}, "folds 0 to 3"),
        ({"split": {"synthetic_small": "synthetic_small-few11-v2"}}, "did you mean 'synthetic_small-few10-v2'"),
    ],
)
def test_wrong_names_are_wrong_requests(narrow: dict, hint: str) -> None:
    with pytest.raises(RequestError, match=hint):
        suites.load("small_defects").cells("quick", datasets=["synthetic_small"], **narrow)


def test_tiles_are_the_data_sets_or_asked_for() -> None:
    text = MINIMAL.replace("folds: [0]", "folds: [0]\n    tile: {synthetic_small: {size: 96, overlap: 32}}")
    (cell,) = suites.parse(text, "x.yaml").cells("quick", datasets=["synthetic_small"])
    assert (cell.tile, cell.image_size) == (Tile(size=96, overlap=32), 96), "native is then the tile's size"
    (cell,) = suites.parse(MINIMAL, "x.yaml").cells("quick", datasets=["synthetic_small"])
    assert (cell.tile, cell.image_size) == (None, 128)
    wanted = Tile(size=640, overlap=160)
    (cell,) = suites.parse(text, "x.yaml").cells("quick", datasets=["synthetic_small"], tile=wanted)
    assert (cell.tile, cell.image_size) == (wanted, 128)


def test_another_split_list_is_a_tiers_or_asked_for() -> None:
    few = MINIMAL.replace("folds: [0]", "folds: [0, 3]\n    split: {synthetic_small: synthetic_small-few10-v2}")
    suite = suites.parse(few, "x.yaml")
    cells = suite.cells("quick", datasets=["synthetic_small"])
    assert [(c.split, c.fold) for c in cells] == [("synthetic_small-few10-v2", 0), ("synthetic_small-few10-v2", 3)]
    asked = suite.cells(
        "quick", datasets=["synthetic_small"], split={"synthetic_small": "synthetic_small-few30-v2"}, folds=[1]
    )
    assert [(c.split, c.fold) for c in asked] == [("synthetic_small-few30-v2", 1)]
    assert len({c.id for c in (*cells, *asked)}) == 3


def test_an_official_split_has_one_fold() -> None:
    suite = suites.load("small_defects")
    official = {"split": {"deep_pcb": "deep_pcb-official-v1"}, "datasets": ["deep_pcb"], "select": ["canet"]}
    assert {c.fold for c in suite.cells("full", **official)} == {0}
    with pytest.raises(RequestError, match="deep_pcb-official-v1 has folds 0 to 0, not 1"):
        suite.cells("full", folds=[1], **official)


def test_a_tier_may_have_models_of_its_own_and_be_like_another(tmp_path: Path) -> None:
    own = (
        MINIMAL
        + """
  half: {like: small_defects.quick, length: 0.5, seeds: [1], models: [{model: canet, variants: [fpn]}, {model: fcos}]}
"""
    )
    path = tmp_path / "mine.yaml"
    path.write_text(own)
    suite = suites.load(str(path))
    assert [c.name for c in suite.cells("quick", datasets=["synthetic_small"])] == ["canet"]
    cells = suite.cells("half", datasets=["synthetic_small"])
    assert [c.name for c in cells] == ["canet:fpn", "fcos"]
    assert {(c.seed, c.recipe.epochs) for c in cells} == {(1, 18)}
    with pytest.raises(DataError, match=r"0.125 makes 4.5 of 36 epochs"):
        suites.parse(own.replace("0.5", "0.125"), "x.yaml")


def test_the_gpu_study_and_one_budget_are_cells_of_the_study() -> None:
    """So that their records join, and what was trained is not trained again."""
    study = {c.id for c in suites.load("small_defects").cells("study", datasets=["neu_det"])}
    assert {c.id for c in suites.load("gpu_study").cells("study", datasets=["neu_det"])} == study
    budget = suites.load("budget")
    of = {tier: budget.cells(tier, datasets=["neu_det"]) for tier in budget.tiers}
    assert {c.id for c in of["once"]} < study
    yolo = {c.id for cells in of.values() for c in cells if c.model == "yolov8n"}
    assert {tier: {c.recipe.epochs for c in cells if c.id not in yolo} for tier, cells in of.items()} == {
        "half": {12},
        "once": {24},
        "twice": {48},
        "fourfold": {96},
    }
    assert {c.recipe.epochs for c in of["once"] if c.id in yolo} == {96}, (
        "from random weights it takes four times as long"
    )
    assert not any({c.id for c in of[tier]} & study for tier in ("half", "twice", "fourfold"))


def test_what_else_was_tried_differs_from_the_study_in_one_thing_each() -> None:
    (study,) = suites.load("small_defects").cells(
        "study", datasets=["neu_det"], select=["fasterrcnn_fpn"], folds=[0], seeds=[0]
    )
    known = study.model_dump(mode="json")
    found = {}
    for tier in (suite := suites.load("what_else")).tiers:
        (cell,) = suite.cells(tier, datasets=suite.datasets)
        asked = cell.model_dump(mode="json")
        recipe = {k: v for k, v in asked["recipe"].items() if v != known["recipe"].get(k)}
        found[tier] = {k: v for k, v in asked.items() if v != known[k] and k != "recipe"} | recipe
    assert found == {
        "larger": {"image_size": 320},
        "live": {"variant": "live_backbone"},
        "jitter": {"augment": ["scale_jitter", "flips"]},
        "photo": {"augment": "flips_photo"},
    }


def test_what_is_trained_for_half_or_twice_the_schedule_is_the_budget_studys() -> None:
    of = {(s, t): suites.load(s).results_of(t) for s in suites.names() for t in suites.load(s).tiers}
    assert of["small_defects", "quick"] == of["budget", "half"] == of["budget", "twice"] == "_budget"
    assert of["small_defects", "study"] == of["budget", "once"] == of["gpu_study", "study"] == ""
    assert of["smoke", "quick"] == "_gate"
    once, study = (
        suites.load(s).cells(t, datasets=["neu_det"]) for s, t in (("budget", "once"), ("small_defects", "study"))
    )
    assert {c.id for c in once} <= {c.id for c in study}
    both = ["canet", "fasterrcnn_fpn", "retinanet"]
    quick, half = (
        suites.load(s).cells(t, datasets=["synthetic_small", "neu_det"], select=both)
        for s, t in (("small_defects", "quick"), ("budget", "half"))
    )
    assert len(quick) == 2 * len(both)
    assert {c.id for c in quick} <= {c.id for c in half}


def test_the_length_of_a_data_set_and_a_family_are_times_that_of_the_tier() -> None:
    tier = suites.load("small_defects").tier("quick")
    tier = tier.model_copy(update={"by_dataset": {"neu_det": {"length": 3}}, "by_family": {"yolo": {"length": 1.5}}})
    epochs = {(d, f): tier.resolve(d, f).epochs for d in ("neu_det", "synthetic_small") for f in ("yolo", "canet")}
    assert epochs == {
        ("neu_det", "yolo"): 54,
        ("neu_det", "canet"): 36,
        ("synthetic_small", "yolo"): 18,
        ("synthetic_small", "canet"): 12,
    }
    steps = tier.model_copy(update={"recipe": {**tier.recipe, "schedule": "step", "milestones": [8, 16]}})
    assert steps.resolve("neu_det", "yolo").milestones == (18, 36)
    with pytest.raises(ValueError, match="length"):  # the tier's own is a field beside the recipe
        tier.model_copy(update={"recipe": {**tier.recipe, "length": 2}}).resolve("neu_det", "yolo")
    for wrong in (0, "long"):
        with pytest.raises(ValueError, match=r"length is .* not a number above 0"):
            tier.model_copy(update={"by_family": {"yolo": {"length": wrong}}}).resolve("neu_det", "yolo")


def test_a_tier_like_another_has_a_folder_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL.replace("name: x", "name: x\nresults: _mine") + "  other: {like: small_defects.quick}\n")
    assert suites.load(str(path)).results_of("other") == "_mine"


def test_a_suite_of_the_users_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINIMAL)
    assert suites.load(str(tmp_path / "mine.yaml")) == suites.parse(MINIMAL, "x")
    with pytest.raises(RequestError, match=r"No such file.*small_defects"):
        suites.load(str(tmp_path / "other.yaml"))
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="not text"):
        suites.load(str(tmp_path / "mine.yaml"))
    with pytest.raises(DataError, match="no tier 'quik'"):
        suites.parse(MINIMAL + "\n  half: {like: small_defects.quik}\n", "x.yaml")


def test_augmentations_are_part_of_a_recipe() -> None:
    plain = "schedule: constant, augment: flips"
    several = "schedule: constant, augment: [flips, copy_paste, scale_jitter]"
    ids = {}
    for words in ("schedule: constant", plain, several):
        suite = suites.parse(MINIMAL.replace("schedule: constant", words), "x.yaml")
        (cell,) = suite.cells("quick", datasets=["synthetic_small"])
        ids[words] = cell.id
    assert cell.recipe.augment == ("copy_paste", "scale_jitter", "flips")
    assert ids["schedule: constant"] == ids[plain] != ids[several]


def test_an_unknown_suite_or_tier() -> None:
    with pytest.raises(RequestError, match="did you mean 'small_defects'"):
        suites.load("smal_defects")
    with pytest.raises(RequestError, match="quick"):
        suites.load("small_defects").cells("quikc", datasets=["synthetic_small"])


def test_a_data_set_then_a_family_change_the_recipe() -> None:
    tier = (
        suites.load("small_defects")
        .tiers["study"]
        .model_copy(update={"by_dataset": {"neu_det": {"lr": 0.5, "epochs": 3}}, "by_family": {"yolo": {"lr": 0.25}}})
    )
    assert tier.resolve("neu_det", "canet").lr == 0.5
    resolved = tier.resolve("neu_det", "yolo")
    assert (resolved.lr, resolved.epochs) == (0.25, 3)
    assert isinstance(resolved, Recipe)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_names_its_builder_and_scales(name: str) -> None:
    spec = models.get(name)
    assert spec.name == name
    assert ":" in spec.builder
    assert {"nano", "lite0", "r50"} <= set(spec.scales)


def test_a_set_of_ones_own_is_found_under_the_root_that_is_named(tmp_path, monkeypatch):
    """And nothing of the way there goes through the environment."""
    from benchmarks import runner
    from benchmarks.datasets import own
    from tests.datasets.conftest import write_folder
    from tests.datasets.test_own import coco_files

    monkeypatch.setenv("CANET_BENCH_DATA", str(tmp_path / "elsewhere"))
    root = tmp_path / "data"
    data = own.prepare("mine", root, write_folder(tmp_path / "s", coco_files(10)))
    cell = suites.load("smoke", root).cells("quick", datasets=["mine"], root=root)[0]
    assert runner.fingerprint(cell, data).data == data.manifest_digest
    assert runner.training_iterations(cell, data) > 0
    text = (Path(suites.__file__).parent / "suites/smoke.yaml").read_text().replace("synthetic_smoke", "mine")
    (tmp_path / "my.yaml").write_text(text)
    assert suites.load(str(tmp_path / "my.yaml"), root).datasets == ("mine",)


def test_epochs_that_a_schedule_does_not_hold_are_a_wrong_request() -> None:
    with pytest.raises(RequestError, match=r"--epochs 2: .* milestones \(10,\) lie outside the 2 epochs"):
        suites.load("small_defects").cells("full", datasets=["neu_det"], epochs=2)


def test_a_set_of_images_below_what_models_take_is_enlarged(monkeypatch) -> None:
    from dataclasses import replace

    from benchmarks.datasets import catalogue

    get = catalogue.get
    monkeypatch.setattr(catalogue, "get", lambda *a: replace(get(*a), native_size=24))
    cells = suites.load("small_defects").cells("quick", datasets=["neu_det"], select=["canet"])
    assert {cell.image_size for cell in cells} == {32}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("    by_family: {canet: {trainer: library, epoch: 100}}\n", "'epoch' is no field of a recipe of trainer"),
        ("    by_family: {canet: {trainer: library, epochs: 9, imgsz: 640}}\n", "'imgsz' is no field"),
        ("    by_family: {canet: {optimzer: sgd}}\n", "'optimzer' is no field of a recipe; did you mean 'optimizer'"),
        ("  half: {like: small_defects.quick, by_family: {retinanett: {lr: 0.1}}}\n", "family 'retinanett'"),
        ("  half: {like: small_defects.quick, by_dataset: {synthetic_smal: {epochs: 9}}}\n", "'synthetic_smal' is not"),
        ("    recipe: {epochs: 2}\n", "'recipe' is said twice"),
    ],
)
def test_a_slip_in_a_suite_is_refused(more: str, message: str) -> None:
    """It would be another training than was asked for, with exit 0."""
    with pytest.raises(DataError, match=message):
        suites.parse(MINIMAL + more, "x.yaml")


def test_what_a_tier_is_like_may_name_what_its_own_models_are_not() -> None:
    text = "  half: {like: small_defects.study, models: [{model: canet}], by_family: {yolo: {lr: 0.1}}}\n"
    assert suites.parse(MINIMAL + text, "x.yaml").tiers["half"].by_family == {"yolo": {"lr": 0.1}}


def test_a_librarys_own_trainer_has_a_size_that_it_takes() -> None:
    """NEU-DET's 200 px become 224 there, in training and test alike; in our loop they are padded to it."""
    suite = suites.load("baselines")
    sizes = {c.image_size for c in suite.cells("native", datasets=["neu_det"], select=["yolov8n"])}
    assert sizes == {224}
    assert {c.image_size for c in suite.cells("native", datasets=["neu_det"], select=["retinanet"])} == {200}
    assert {c.image_size for c in suite.cells("shared", datasets=["neu_det"], select=["yolov8n"])} == {200}


def test_a_closed_tier_takes_no_other_model() -> None:
    suite = suites.load("baselines")
    for name in ("dfine", "retinanet_v2", "retinanet:library_anchors"):
        with pytest.raises(RequestError, match=f"no recipe for {name}; it is for fasterrcnn_fpn, "):
            suite.cells("native", datasets=["neu_det"], select=[name])
        assert suite.cells("shared", datasets=["neu_det"], select=[name])
