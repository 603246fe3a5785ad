"""Every metric on examples that can be worked out on paper. Boxes are x y w h in images of 100 x 100 pixels."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detections import Detections
from benchmarks.metrics import evaluator as metrics
from benchmarks.metrics import inspection, tide
from benchmarks.metrics.resampling import draw
from benchmarks.metrics.scene import Scene, overlaps
from benchmarks.metrics.spread import span
from benchmarks.results import Metrics

A, B = 1, 2
CLASSES = ("a", "b")
FAR = (80, 80, 10, 10)
"""A place where no box is."""

Image = tuple[list[tuple], list[tuple]]
"""Boxes (class, x, y, w, h), and detections (class, score, x, y, w, h)."""


def build(images: list[Image], crowd: tuple[int, ...] = ()) -> tuple[dict, Detections]:
    annotations = [(i + 1, k, box) for i, (boxes, _) in enumerate(images) for k, *box in boxes]
    truth = {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "width": 100, "height": 100} for i in range(len(images))],
        "categories": [{"id": A, "name": "a"}, {"id": B, "name": "b"}],
        "annotations": [
            {
                "id": n + 1,
                "image_id": image,
                "category_id": k,
                "bbox": [float(v) for v in box],
                "area": float(box[2] * box[3]),
                "iscrowd": int(n in crowd),
            }
            for n, (image, k, box) in enumerate(annotations)
        ],
    }
    found = [
        ([(x, y, x + w, y + h) for _, _, x, y, w, h in dets], [d[1] for d in dets], [d[0] for d in dets])
        for _, dets in images
    ]
    return truth, Detections.from_images([i["file_name"] for i in truth["images"]], found)


def measure(images: list[Image], validation: list[Image] | None = None, crowd: tuple[int, ...] = ()) -> Metrics:
    val = None if validation is None else build(validation)
    return metrics.evaluate(*build(images, crowd), CLASSES, validation=val, resamples=20)


def scene(images: list[Image]) -> Scene:
    return Scene.of(*build(images), CLASSES, per_image=None)


BOX, OTHER = (10, 10, 20, 20), (50, 50, 20, 20)
HIT_FALSE_HIT: list[Image] = [([(A, *BOX), (A, *OTHER)], [(A, 0.9, *BOX), (A, 0.8, *FAR), (A, 0.7, *OTHER)])]
"""Precision 1 up to recall 1/2, then 2/3."""


def test_iou_of_two_boxes() -> None:
    a, b = np.array([[0.0, 0, 9, 9]]), np.array([[3.0, 0, 9, 9]])
    assert overlaps(a, b) == pytest.approx(54 / 108)
    assert overlaps(a, b, plus=1.0) == pytest.approx(70 / 130)  # 7 of 10 columns are shared
    assert overlaps(a, b, np.array([True])) == pytest.approx(54 / 81)


def test_three_ways_to_average_precision() -> None:
    got = measure(HIT_FALSE_HIT)
    assert pytest.approx((51 + 50 * 2 / 3) / 101) == got.AP50
    assert pytest.approx((6 + 5 * 2 / 3) / 11) == got.VOC07_AP50
    assert pytest.approx(1 / 2 + 1 / 2 * 2 / 3) == got.VOC12_AP50
    assert got.per_class["a"].precision[50] == 1
    assert got.per_class["a"].precision[51] == pytest.approx(2 / 3, abs=1e-4)
    assert got.per_class["b"].precision is None


def test_ap75_and_ap_count_the_thresholds_that_an_overlap_passes() -> None:
    got = measure([([(A, 0, 0, 10, 10)], [(A, 0.9, 0, 0, 8, 10)])])  # IoU 0.8: passes 0.5 to 0.8, seven of ten
    assert (got.AP50, got.AP75) == (1, 1)
    assert pytest.approx(0.7) == got.AP
    assert pytest.approx(0.7) == got.AR_100


def test_recall_with_one_detection_an_image() -> None:
    got = measure([([(A, *BOX), (A, *OTHER)], [(A, 0.9, *BOX), (A, 0.8, *OTHER)])])
    assert (got.AR_1, got.AR_10, got.AR_100) == (0.5, 1, 1)


def test_the_authors_box_widths_find_what_plain_ones_miss() -> None:
    shifted: list[Image] = [([(A, 0, 0, 9, 9)], [(A, 0.9, 3.2, 0, 9, 9)])]  # IoU 52.2/109.8; with +1, 68/132
    got = measure(shifted)
    assert (got.AP50, got.VOC07_AP50, got.VOC12_AP50) == (0, 0, 0)
    assert got.VOC07_AP50_plus1 == pytest.approx(1)


def test_vocs_matching_is_not_cocos() -> None:
    """The second detection overlaps most with a box that is taken. VOC calls it false, COCO gives it the free box."""
    boxes = [(A, 0, 0, 10, 20), (A, 0, 4, 10, 20)]
    got = measure([(boxes, [(A, 0.9, 0, 0, 10, 20), (A, 0.8, 0, 1, 10, 20)])])
    assert got.AP50 == 1
    assert pytest.approx(0.5) == got.VOC12_AP50


def test_a_difficult_box_of_voc_is_neither_hit_nor_miss() -> None:
    boxes, found = [(A, *BOX), (A, *OTHER)], [(A, 0.9, *OTHER), (A, 0.8, *BOX)]
    assert measure([(boxes, found)], crowd=(1,)).VOC12_AP50 == 1


@pytest.mark.parametrize(("width", "ap"), [(33, 0), (34, 1)])
def test_deep_pcb_asks_for_more_than_a_third(width: int, ap: float) -> None:
    got = measure([([(A, 0, 0, 100, 1)], [(A, 0.9, 0, 0, width, 1)])])  # IoU is width / 100
    assert got.DeepPCB_AP == ap
    assert got.DeepPCB_F == ap
    assert got.AP50 == 0


def test_the_best_f_score() -> None:
    got = measure(HIT_FALSE_HIT)  # F = 2 hits / (reported + boxes): 2/3, 2/4, 4/5
    assert got.DeepPCB_F == pytest.approx(0.8)
    best = got.inspection.best_F1
    assert (best.F1, best.threshold) == pytest.approx((0.8, 0.7))
    assert best.chosen_on == "test"
    assert got.inspection.operating_point is None


def test_size_bins() -> None:
    """A box of 15 x 15 (2.25% of its image), one of 16 x 16 (2.56%), one of 3 x 3 (0.09%), one of 40 x 40 (16%)."""
    boxes = [(A, 0, 0, 15, 15), (A, 20, 0, 16, 16), (A, 40, 0, 3, 3), (A, 50, 50, 40, 40)]
    found = [(A, 0.9, 0, 0, 15, 15), (A, 0.8, 50, 50, 40, 40)]
    got = measure([(boxes, found)])
    assert {name: size.boxes for name, size in got.sizes.items()} == {
        "below 16 x 16 px": 2,
        "below 0.1% of the image": 1,
        "0.1% to 1%": 0,
        "1% to 10%": 2,
        "above 10%": 1,
    }
    assert pytest.approx(51 / 101) == got.sizes["below 16 x 16 px"].AP50
    assert got.sizes["below 0.1% of the image"].AP50 == 0
    assert got.sizes["0.1% to 1%"].AP50 is None
    assert pytest.approx(51 / 101) == got.sizes["1% to 10%"].AP50
    assert got.sizes["above 10%"].AP50 == 1
    assert (got.boxes_small, got.boxes_medium, got.boxes_large) == (3, 1, 0)


FOUR_IMAGES: list[Image] = [
    ([(A, *BOX)], [(A, 0.9, *BOX), (A, 0.6, *FAR)]),
    ([(A, *BOX), (B, *OTHER)], [(A, 0.5, *BOX), (A, 0.4, *OTHER)]),  # the second has the wrong class
    ([], [(B, 0.8, *FAR), (A, 0.3, *FAR)]),
    ([], [(A, 0.1, *FAR)]),
]
"""Hits at 0.9 and 0.5 of three boxes; false alarms at 0.8, 0.6, 0.4, 0.3, 0.1, three of them on the clean images."""


def test_froc() -> None:
    got = measure(FOUR_IMAGES).inspection
    # At 0.9: 1 hit, none false. At 0.5: 2 hits, 2 false, that is 0.5 an image.
    third = 1 / 3
    assert (
        pytest.approx({"0.125": third, "0.25": third, "0.5": 2 / 3, "1": 2 / 3, "2": 2 / 3, "4": 2 / 3, "8": 2 / 3})
        == got.FROC
    )
    assert got.defect_free_images == 2
    # At 0.5 one of the two false alarms is on a clean image: 0.5 for each of two.
    assert got.FROC_defect_free["0.25"] == pytest.approx(third)
    assert got.FROC_defect_free["0.5"] == pytest.approx(2 / 3)


def test_an_image_with_nothing_but_ignored_boxes_is_neither_good_nor_defective() -> None:
    """What is found elsewhere in it is false, but no overkill; where nothing is, nothing escapes."""
    blank: list[Image] = [([(A, *BOX)], [(A, 0.95, *FAR)]), ([(A, *BOX)], [])]
    got, before = (
        measure(images, validation=FOUR_IMAGES, crowd=crowd)
        for images, crowd in (
            (FOUR_IMAGES + blank, (3, 4)),
            (FOUR_IMAGES, ()),
        )
    )
    seen, known = got.inspection, before.inspection
    assert (got.images, got.defective_images, seen.defect_free_images) == (6, 2, 2)
    assert seen.image_level == known.image_level
    assert (seen.operating_point.escape, seen.operating_point.overkill) == (
        known.operating_point.escape,
        known.operating_point.overkill,
    )
    assert seen.FROC_defect_free == known.FROC_defect_free
    assert seen.operating_point.precision < known.operating_point.precision


def test_in_voc_a_crowd_around_a_box_does_not_take_its_detection() -> None:
    """VOC's difficult boxes are matched by IoU: 0.04 with what encloses, and 0.9 with the box."""
    around, near = (5, 5, 90, 90), (11, 10, 20, 20)
    got = measure([([(A, *BOX), (A, *around)], [(A, 0.9, *near)])], crowd=(1,))
    assert (got.AP50, got.VOC07_AP50, got.VOC12_AP50, got.VOC07_AP50_plus1) == (1, 1, 1, 1)
    inside = measure([([(A, *BOX), (A, *around)], [(A, 0.9, *around), (A, 0.8, *near)])], crowd=(1,))
    assert (inside.VOC12_AP50, inside.VOC07_AP50_plus1) == (1, 1), "what finds the crowd itself is ignored"


def test_bins_of_relative_size_are_of_boxes_and_not_of_masks() -> None:
    truth, found = build([([(A, 10, 10, 40, 40)], [(A, 0.9, 10, 10, 40, 40)])])
    truth["annotations"][0]["area"] = 9.0  # a scratch across it
    got = metrics.evaluate(truth, found, CLASSES, resamples=20)
    assert (got.boxes_small, got.boxes_medium) == (1, 0)
    assert {name: (its.boxes, its.AP50) for name, its in got.sizes.items() if its.boxes} == {"above 10%": (1, 1.0)}


def test_a_count_is_of_places_and_not_of_images() -> None:
    """30 defective images of three places beside 150 good ones of as many: three places have no interval."""
    images: list[Image] = [([(A, *BOX)], [(A, 0.9, *BOX)])] * 20 + [([(A, *BOX)], [])] * 10 + [([], [])] * 150
    truth, found = build(images)
    places = [min(i // 10, 2) if i < 30 else i for i in range(180)]
    groups = {image["file_name"]: place for image, place in zip(truth["images"], places, strict=True)}
    got = metrics.evaluate(truth, found, CLASSES, validation=(truth, found), groups=groups, resamples=20)
    assert (got.inspection.effective_defective, got.inspection.effective_defect_free) == (pytest.approx(3), 150)
    assert "inspection.operating_point.escape" not in got.intervals
    assert got.intervals["inspection.operating_point.overkill"] == (0, pytest.approx(1 - 0.025 ** (1 / 150)))


def test_recall_of_few_boxes_is_of_the_images_that_they_lie_in() -> None:
    """24 boxes of 3 images, two of which are found whole, are three places."""
    boxes = [(A, 10 * x, 10 * y, 8, 8) for x in range(4) for y in range(2)]
    hit = [(k, 0.9, *box) for k, *box in boxes]
    got = measure([(boxes, hit), (boxes, hit), (boxes, [])], FOUR_IMAGES)
    assert got.inspection.operating_point.recall == pytest.approx(2 / 3)
    assert "inspection.operating_point.recall" not in got.intervals


def test_counts_of_an_older_evaluator_stay_what_they_were() -> None:
    got = measure(FOUR_IMAGES)
    old = got.model_dump(mode="json")
    del old["inspection"]["defective_images"]
    assert Metrics.model_validate(old).defective_images == 2


def test_froc_takes_ties_together() -> None:
    tied: list[Image] = [([(A, *BOX)], [(A, 0.5, *BOX)]), ([(A, *BOX)], [(A, 0.5, *FAR)])]
    got = measure(tied).inspection
    assert (got.FROC["0.25"], got.FROC["0.5"]) == (0, 0.5)
    assert got.FROC_defect_free is None


def test_escape_and_overkill_over_the_threshold() -> None:
    curve = measure(FOUR_IMAGES).inspection.image_level  # best scores: 0.9 and 0.5 bad, 0.8 and 0.1 good
    at = {t: (e, o) for t, e, o in zip(curve.thresholds, curve.escape, curve.overkill, strict=True)}
    assert at[0.0] == (0, 1)
    assert at[0.4] == (0, 0.5)
    assert at[0.6] == (0.5, 0.5)
    assert at[0.85] == (0.5, 0)
    assert at[0.95] == (1, 0)
    assert pytest.approx(3 / 4) == curve.AUROC  # of four pairs only (0.5, 0.8) is the wrong way round


def test_an_image_without_detections_scores_lowest() -> None:
    curve = measure([([(A, *BOX)], []), ([], [(A, 0.0, *FAR)])]).inspection.image_level
    assert curve.escape[0] == 1
    assert curve.overkill[0] == 1
    assert curve.AUROC == 0


def test_the_auroc_of_ties_is_a_half() -> None:
    curve = measure([([(A, *BOX)], [(A, 0.5, *BOX)]), ([], [(A, 0.5, *FAR)])]).inspection.image_level
    assert curve.AUROC == 0.5


def test_the_operating_point_is_chosen_on_validation_and_used_on_test() -> None:
    # Validation: at 0.6, F1 = 2 * 1 / (1 + 1) = 1; at 0.2, 2 * 1 / (2 + 1).
    validation: list[Image] = [([(A, *BOX)], [(A, 0.6, *BOX), (A, 0.2, *FAR)])]
    point = measure(FOUR_IMAGES, validation).inspection.operating_point
    assert point.threshold == pytest.approx(0.6)
    assert point.chosen_on == "validation"
    # On test, scores from 0.6: a hit (0.9), false alarms at 0.8 (a clean image) and 0.6.
    assert point.precision == pytest.approx(1 / 3)
    assert point.recall == pytest.approx(1 / 3)
    assert pytest.approx(2 / 6) == point.F1
    assert point.false_positives_per_image == pytest.approx(2 / 4)
    assert point.escape == pytest.approx(1 / 2)
    assert point.overkill == pytest.approx(1 / 2)


def test_deep_pcbs_f_score_at_a_threshold_of_validation() -> None:
    validation: list[Image] = [([(A, *BOX)], [(A, 0.6, *BOX), (A, 0.2, *FAR)])]
    got = measure(FOUR_IMAGES, validation)
    assert pytest.approx(2 * 1 / (3 + 3)) == got.DeepPCB_F_operating  # as above: one hit, three reported, three boxes
    assert measure(FOUR_IMAGES).DeepPCB_F_operating is None


def test_no_threshold_is_chosen_where_validation_has_no_hit() -> None:
    assert measure(FOUR_IMAGES, [([(A, *BOX)], [(A, 0.6, *FAR)])]).inspection.operating_point is None


def test_confusion_with_background() -> None:
    images: list[Image] = [
        ([(A, *BOX), (B, *OTHER)], [(A, 0.9, *BOX), (A, 0.8, *OTHER), (B, 0.7, *FAR)]),
        ([(B, *BOX)], [(B, 0.1, *BOX)]),
    ]
    got = inspection.confusion(scene(images), 0.5)
    assert got.labels == ("a", "b", "background")
    assert got.matrix == (
        (1, 0, 0),  # a is found as a
        (1, 0, 1),  # of two b, one is called a, one is missed: its detection is below 0.5
        (0, 1, 0),  # and background is called b once
    )


def test_confusion_pairs_the_best_overlap_first() -> None:
    images: list[Image] = [([(A, *BOX)], [(B, 0.9, 10, 10, 20, 16), (A, 0.6, *BOX)])]  # IoU 0.8 and 1
    assert inspection.confusion(scene(images), 0.5).matrix == ((1, 0, 0), (0, 0, 0), (0, 1, 0))


def test_confusion_leaves_out_what_lies_in_a_crowd() -> None:
    got = measure([([(A, 0, 0, 50, 50), (A, *OTHER)], [(A, 0.9, 5, 5, 10, 10), (A, 0.8, *OTHER)])], crowd=(0,))
    assert got.inspection.confusion.matrix == ((1, 0, 0), (0, 0, 0), (0, 0, 0))


def test_calibration() -> None:
    """Of two detections at 0.92 and 0.96 one is right; one at 0.32 is right; one at 0.05 does not count."""
    images: list[Image] = [
        ([(A, *BOX)], [(A, 0.92, *BOX), (A, 0.05, *FAR)]),
        ([(A, *BOX)], [(A, 0.96, *FAR), (A, 0.32, *BOX)]),
    ]
    got = measure(images).inspection.calibration
    assert got.counts == (1, 0, 0, 1, 0, 0, 0, 0, 0, 2)
    assert got.confidence[9] == pytest.approx(0.94)
    assert (got.precision[0], got.precision[1], got.precision[3], got.precision[9]) == (0, None, 1, 0.5)
    assert pytest.approx((2 * abs(0.94 - 0.5) + 1 * abs(0.32 - 1)) / 3) == got.ECE


def split(images: list[Image]) -> dict[str, tuple[int, float]]:
    s = scene(images)
    return {kind: (e.count, round(e.dAP50, 6)) for kind, e in tide.split(s).items() if e.count or e.dAP50}


HALF = 51 / 101  # AP of one hit of two boxes
NEAR = (10, 10, 20, 6)  # IoU 0.3 with BOX


@pytest.mark.parametrize(
    ("found", "want"),
    [
        # One class with two boxes, the first found; what is said of the second?
        ([(B, 0.8, *OTHER)], {"classification": (1, 1 - HALF)}),
        ([(A, 0.8, 50, 50, 20, 6)], {"localisation": (1, 1 - HALF)}),
        ([(B, 0.8, 50, 50, 20, 6)], {"both": (1, 0), "missed": (1, 1 - HALF)}),
        ([(A, 0.8, *FAR)], {"background": (1, 0), "missed": (1, 1 - HALF)}),
        ([(A, 0.8, 10, 10, 20, 18)], {"duplicate": (1, 0), "missed": (1, 1 - HALF)}),
        ([], {"missed": (1, 1 - HALF)}),
        ([(A, 0.8, *OTHER)], {}),
    ],
    ids=["classification", "localisation", "both", "background", "duplicate", "missed", "none"],
)
def test_each_kind_of_error(found: list[tuple], want: dict[str, tuple[int, float]]) -> None:
    got = split([([(A, *BOX), (A, *OTHER)], [(A, 0.9, *BOX), *found])])
    assert got == {kind: (count, pytest.approx(gain, abs=1e-6)) for kind, (count, gain) in want.items()}


def test_a_false_alarm_above_a_hit_costs_its_precision() -> None:
    got = split([([(A, *BOX)], [(A, 0.9, *FAR), (A, 0.8, *BOX)])])  # AP 1/2, without the background error 1
    assert got == {"background": (1, 0.5)}


def test_of_several_mended_errors_of_a_box_the_best_stays() -> None:
    """Two localisation errors of one box, then a hit of it: mended, the best of them is the hit and the rest go."""
    got = split([([(A, *BOX)], [(A, 0.9, *NEAR), (A, 0.8, *NEAR), (A, 0.7, *BOX)])])
    assert got == {"localisation": (2, pytest.approx(1 - 1 / 3, abs=1e-6))}


def test_localisation_goes_before_classification() -> None:
    boxes = [(A, *BOX), (B, 10, 14, 20, 20)]
    got = split([(boxes, [(B, 0.9, 10, 10, 20, 17)])])  # IoU with a: 0.85; with b: 13/24
    assert got["missed"][0] == 1, "b is found, a is missed"
    got = split([(boxes, [(B, 0.9, 10, 10, 20, 12)])])  # with a: 0.6; with b: 8/24
    assert got["localisation"][0] == 1
    assert "classification" not in got


def test_errors_where_there_is_no_box() -> None:
    s = scene([([], [(A, 0.9, *FAR)])])
    got = tide.split(s)
    assert got["background"].count == 1
    assert all(e.dAP50 is None for e in got.values())


def test_weights_are_the_sample_and_then_draws() -> None:
    weights = draw(5, 100)
    assert weights.shape == (5, 101)
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=0) == 5).all()


def test_an_interval_of_a_share_is_that_of_the_binomial() -> None:
    """Recall of one box an image, half of them found: the bootstrap is a binomial's."""
    images: list[Image] = [([(A, *BOX)], [(A, 0.9, *BOX)] if i % 2 else []) for i in range(100)]
    truth, found = build(images)
    got = metrics.evaluate(truth, found, CLASSES, validation=(truth, found))
    low, high = got.intervals["inspection.operating_point.recall"]
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.012)
    assert got.intervals["inspection.operating_point.escape"] == pytest.approx((0.3983, 0.6017), abs=1e-4)  # exact
    assert got.intervals["AR_100"] == pytest.approx((low, high))
    assert "inspection.operating_point.overkill" not in got.intervals


def test_one_image_has_no_interval() -> None:
    got = measure(HIT_FALSE_HIT)
    assert got.intervals == {}
    assert got.per_class["a"].AP50_interval is None


def test_every_number_of_the_table_has_an_interval() -> None:
    got = measure(FOUR_IMAGES * 5, FOUR_IMAGES)
    plain = {"AP", "AP50", "AP75", "AR_100", "VOC07_AP50", "VOC07_AP50_plus1", "VOC12_AP50", "DeepPCB_AP", "DeepPCB_F"}
    seen = {"FROC.1", "FROC_defect_free.1", "image_level.AUROC", "calibration.ECE", "best_F1.F1"}
    rates = {"precision", "recall", "F1", "false_positives_per_image", "escape", "overkill"}
    want = plain | {f"inspection.{n}" for n in seen} | {f"inspection.operating_point.{n}" for n in rates}
    assert want <= set(got.intervals)
    assert all(low <= high for low, high in got.intervals.values())


def test_draws_are_those_of_the_interval_and_the_same_images_for_every_model() -> None:
    """Of two models that differ in image 0 alone, a draw differs where it holds image 0 and nowhere else."""
    images = FOUR_IMAGES * 5
    one, other = measure(images), measure([(images[0][0], []), *images[1:]])
    assert one.effective_groups == 9, "fifteen boxes, five by one and five by two: 15 * 15 / (5 + 5 * 4)"
    assert one.standard_errors["AP50"] == pytest.approx(np.std(one.draws["AP50"], ddof=1) * (9 / 8) ** 0.5, abs=1e-4)
    assert one.AP50_interval == span(one.AP50, one.standard_errors["AP50"], 8)
    drawn = draw(len(images), 20)[0, 1:] > 0
    assert 0 < drawn.sum() < 20
    assert (np.array(one.draws["AP50"]) != np.array(other.draws["AP50"])).tolist() == drawn.tolist()


def test_images_of_one_place_are_drawn_together() -> None:
    """Twenty images twice each: as groups of two, they say no more than the twenty."""
    twice = [image for image in FOUR_IMAGES * 5 for _ in range(2)]
    names = {f"{i}.png": i // 2 for i in range(40)}
    once, alone = measure(FOUR_IMAGES * 5), measure(twice)
    together = metrics.evaluate(*build(twice), CLASSES, groups=names, resamples=20)
    assert (together.groups, together.images) == (20, 40)
    assert together.AP50 == once.AP50
    assert together.standard_errors["AP50"] == pytest.approx(once.standard_errors["AP50"], rel=1e-3)
    assert alone.standard_errors["AP50"] < together.standard_errors["AP50"]
    weights = draw(np.array([0, 0, 1, 2, 2]), 50)
    assert (weights[0] == weights[1]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()


def test_below_ten_boxes_or_groups_there_is_no_interval_and_of_few_images_an_exact_one() -> None:
    images: list[Image] = [([(A, *BOX)], [(A, 0.9, *BOX)])] * 9 + [([], [])] * 6
    truth, found = build(images)
    got = metrics.evaluate(truth, found, CLASSES, validation=(truth, found), resamples=20)
    assert "AP50" in got.intervals, "15 images"
    assert "sizes.below 16 x 16 px.AP50" not in got.intervals
    assert got.per_class["a"].AP50_interval is None, "9 boxes"
    assert got.intervals["inspection.operating_point.overkill"] == (0, pytest.approx(0.4593, abs=1e-4))
    assert got.intervals["inspection.operating_point.recall"] == (pytest.approx(0.6637, abs=1e-4), 1)
    few = metrics.evaluate(*build(images[:9]), CLASSES, resamples=20)
    assert (few.intervals.keys() & {"AP50", "AP"}, few.draws) == (set(), {})


def test_a_box_on_the_border_of_two_sizes_is_counted_in_both() -> None:
    got = measure([([(A, 0, 0, 32, 32)], [(A, 0.9, 0, 0, 32, 32)])])
    assert (got.boxes_small, got.boxes_medium, got.AP_small, got.AP_medium) == (1, 1, 1, 1)
