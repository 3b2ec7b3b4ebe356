"""The scores: against the official numbers, and against cases worked by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import Evaluator
from evaluation.pd_fa import match_in_order, match_optimally
from evaluation.roc import THRESHOLDS
from utils.report.reference import REFERENCE

ROOT = Path(__file__).resolve().parent.parent
OFFICIAL = ROOT / "tests" / "fixtures" / "metrics.npz"


def blank(height=32, width=32):
    return np.zeros((height, width), np.float32)


def squares(*places, value=1.0, shape=(32, 32)):
    """A map with a square of `value` for each (row, column, side)."""
    image = blank(*shape)
    for row, column, side in places:
        image[row : row + side, column : column + side] = value
    return image


def evaluate(*pairs, threshold=0.5):
    evaluator = Evaluator(threshold)
    for pred, mask in pairs:
        evaluator.update(pred, mask)
    return evaluator.compute()


# Against the official implementation


def test_equals_the_official_evaluation_code(nudt):
    official = np.load(OFFICIAL)
    evaluator = Evaluator()
    for name, pred in zip(official["names"], official["preds"]):
        mask = np.asarray(Image.open(nudt / "masks" / f"{name}.png"))
        evaluator.update(pred.astype(np.float32), mask)
    scores = evaluator.compute()
    for name in ("pixAcc", "mIoU", "Pd", "Fa", "fscore", "precision", "recall"):
        assert scores[name] == pytest.approx(float(official[name]), rel=0, abs=1e-9), name
    fpr, tpr = evaluator.roc()
    np.testing.assert_allclose(fpr, official["fpr"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(tpr, official["tpr"], rtol=0, atol=1e-9)
    assert scores["AUC"] == pytest.approx(float(official["auc"]), rel=0, abs=1e-9)


# Pixels


def test_pixel_scores_by_hand():
    # 4 of 9 target pixels, and 5 beside them; everything above and below 0.5 alike when divided
    # by the maximum, which is 1.
    mask, pred = squares((10, 10, 3)), squares((11, 11, 3))
    scores = evaluate((pred, mask))
    assert scores["mIoU"] == pytest.approx(4 / 14)
    assert scores["pixAcc"] == pytest.approx(4 / 9, abs=1e-7)
    assert scores["precision"] == scores["recall"] == pytest.approx(4 / 9)
    assert scores["fscore"] == pytest.approx(4 / 9)
    assert scores["strict"]["mIoU"] == scores["mIoU"]


def test_a_faint_prediction_counts_in_the_comparable_scores_only():
    mask = squares((10, 10, 3))
    scores = evaluate((0.4 * mask, mask))
    assert scores["fscore"] == scores["precision"] == scores["recall"] == scores["Pd"] == 1
    assert scores["mIoU"] == scores["pixAcc"] == 0
    assert {scores["strict"][k] for k in ("fscore", "precision", "recall", "Pd", "Fa")} == {0}


def test_dividing_by_the_maximum_lifts_pixels_over_the_threshold():
    mask = squares((10, 10, 2))
    pred = 0.8 * mask
    pred[20, 20] = 0.44  # 0.55 of the maximum
    scores = evaluate((pred, mask))
    assert scores["precision"] == pytest.approx(4 / 5)
    assert scores["fscore"] == pytest.approx(8 / 9)
    assert scores["Fa"] == pytest.approx(1 / 1024)
    assert scores["strict"]["precision"] == scores["strict"]["fscore"] == 1
    assert scores["strict"]["Fa"] == 0


def test_a_pixel_at_the_threshold_is_not_detected():
    mask = squares((10, 10, 2))
    pred = 0.5 * mask
    pred[0, 0] = 1.0  # a maximum of 1: absolute and divided are the same
    scores = evaluate((pred, mask))
    assert scores["mIoU"] == scores["fscore"] == scores["Pd"] == 0


def test_threshold_is_used_throughout():
    mask = squares((10, 10, 2))
    pred = 0.3 * mask
    pred[20, 20] = 1.0
    at_half, lower = evaluate((pred, mask)), evaluate((pred, mask), threshold=0.25)
    assert (at_half["Pd"], lower["Pd"]) == (0, 1)
    assert (at_half["mIoU"], lower["mIoU"]) == (0, pytest.approx(4 / 5))
    assert (at_half["strict"]["Pd"], lower["strict"]["Pd"]) == (0, 1)


def test_sums_over_the_set_but_nIoU_averages_images():
    perfect = squares((10, 10, 4))
    half_mask, half_pred = squares((10, 10, 2)), blank()
    half_pred[10:12, 10] = 1
    scores = evaluate((perfect, perfect), (half_pred, half_mask))
    assert scores["mIoU"] == pytest.approx(18 / 20)
    assert scores["nIoU"] == scores["strict"]["nIoU"] == pytest.approx((1 + 0.5) / 2)


# Targets


def test_centroid_exactly_three_pixels_away_is_a_miss():
    mask = squares((10, 10, 3))
    for step, detected in ((2, 1), (3, 0)):
        scores = evaluate((squares((10, 10 + step, 3)), mask))
        assert scores["Pd"] == scores["strict"]["Pd"] == detected
        assert scores["strict"]["Fa"] == pytest.approx((1 - detected) * 9 / 1024)
    # 2² + 2² is less than 3², though the squares no longer touch.
    assert evaluate((squares((12, 12, 2)), squares((10, 10, 2))))["Pd"] == 1


def test_diagonal_pixels_are_one_region():
    mask = squares((10, 10, 1), (11, 11, 1))
    evaluator = Evaluator()
    evaluator.update(mask, mask)
    assert evaluator.counts()["targets"] == 1
    assert evaluator.compute()["Pd"] == 1


def test_comparable_Fa_forgives_a_false_region_of_a_matched_area():
    mask = squares((4, 4, 2))
    pred = squares((4, 4, 2), (20, 20, 2), (26, 4, 3))
    scores = evaluate((pred, mask))
    assert scores["Fa"] == pytest.approx(9 / 1024)  # the 3×3; the 2×2 has the matched area
    assert scores["strict"]["Fa"] == pytest.approx((4 + 9) / 1024)


def test_comparable_Fa_forgives_within_one_image_only():
    hit = (squares((4, 4, 2)), squares((4, 4, 2)))
    false = (squares((20, 20, 2)), blank())
    scores = evaluate(hit, false)
    assert scores["Fa"] == scores["strict"]["Fa"] == pytest.approx(4 / 2048)


def test_a_region_detects_one_target_at_most():
    mask = squares((10, 10, 1), (10, 14, 1))
    pred = squares((10, 12, 1))  # 2 pixels from both
    scores = evaluate((pred, mask))
    assert scores["Pd"] == scores["strict"]["Pd"] == 0.5
    assert scores["Fa"] == scores["strict"]["Fa"] == 0


def test_official_matching_takes_the_first_region_and_so_may_miss_a_target():
    # Targets at columns 10 and 14, regions at 12 and 8 (the latter in a lower row, so it comes
    # second). The first target takes the region at 12, and the second target has none left.
    mask = squares((10, 10, 1), (10, 14, 1))
    pred = squares((10, 12, 1), (11, 8, 1))
    scores = evaluate((pred, mask))
    assert scores["Pd"] == 0.5
    assert scores["strict"]["Pd"] == 1
    assert scores["Fa"] == 0  # both regions have one pixel, the area of the matched one
    assert scores["strict"]["Fa"] == 0  # both are matched


def test_matching_by_hand():
    distances = np.array([[2.0, 1.0], [1.0, 9.0]])
    assert match_in_order(distances) == [(0, 0)]
    assert match_optimally(distances) == [(0, 1), (1, 0)]
    # As many as can be comes before near: 2.9 + 2.9 with two matches beats 0.1 with one.
    distances = np.array([[0.1, 2.9], [2.9, 9.0]])
    assert match_optimally(distances) == [(0, 1), (1, 0)]
    # Among matchings of one size the nearest.
    assert match_optimally(np.array([[2.0, 0.5, 1.0]])) == [(0, 1)]
    for empty in (np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((0, 0))):
        assert match_in_order(empty) == match_optimally(empty) == []


# ROC


def by_definition(pairs):
    """The curve in the words of its definition: one pass per threshold."""
    hits, false = np.zeros(201), np.zeros(201)
    targets = background = 0
    for pred, mask, places in pairs:
        pred = pred / pred.max()
        for i, threshold in enumerate(np.arange(201) / 200):
            reached = pred >= pred.dtype.type(threshold)
            hits[i] += sum(reached[r : r + s, c : c + s].any() for r, c, s in places)
            false[i] += (reached & (mask == 0)).sum()
        targets += len(places)
        background += (mask == 0).sum()
    return false / background, hits / targets


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_roc_is_that_of_201_passes(dtype):
    rng = np.random.default_rng(5)
    evaluator, pairs = Evaluator(), []
    for places in ([(3, 3, 3), (20, 8, 2)], [(12, 25, 1)]):
        mask = squares(*places)
        # On the steps themselves, where a rounding error would show, and between them.
        pred = np.where(
            rng.random((32, 32)) < 0.5, rng.integers(0, 201, (32, 32)) / 200, rng.random((32, 32))
        )
        pred = (0.7 * pred).astype(dtype)
        evaluator.update(pred, mask)
        pairs.append((pred, mask, places))
    fpr, tpr = evaluator.roc()
    expected_fpr, expected_tpr = by_definition(pairs)
    np.testing.assert_array_equal(fpr, expected_fpr)
    np.testing.assert_array_equal(tpr, expected_tpr)


def test_roc_by_hand():
    # Peak 0.8 at a target; its other pixel does not matter. Background: one pixel of 1, one of
    # 0.5, 1020 of 0.
    mask = blank()
    mask[10, 10:12] = 1
    pred = blank()
    pred[10, 10:12] = 0.8, 0.1
    pred[0, 0], pred[0, 5] = 1.0, 0.5
    evaluator = Evaluator()
    evaluator.update(pred, mask)
    fpr, tpr = evaluator.roc()
    assert len(fpr) == len(tpr) == len(THRESHOLDS) == 201
    np.testing.assert_allclose(fpr[[0, 1, 100, 101, 200]] * 1022, [1022, 2, 2, 1, 1], rtol=1e-12)
    assert tpr[[0, 160, 161, 200]].tolist() == [1, 1, 0, 0]
    # From (1, 1) to (2/1022, 1) to (1/1022, 1), down to (1/1022, 0); none left of that.
    assert evaluator.compute()["AUC"] == pytest.approx(1021 / 1022)


def test_dividing_by_the_maximum_bends_the_roc_of_faint_maps():
    # A map of 0.01 over an image without target: divided by its maximum it is lit at every
    # threshold, for itself only at the first three (0, 0.005 and 0.01).
    target = squares((10, 10, 2))
    evaluator = Evaluator()
    evaluator.update(target, target)
    evaluator.update(blank() + np.float32(0.01), blank())
    background = 1020 + 1024
    fpr, tpr = evaluator.roc()
    np.testing.assert_allclose(fpr[1:] * background, 1024)
    assert tpr.tolist() == [1] * 201
    strict_fpr, strict_tpr = evaluator.roc(strict=True)
    np.testing.assert_allclose(strict_fpr[[1, 2, 3, 200]] * background, [1024, 1024, 0, 0])
    assert strict_tpr.tolist() == [1] * 201
    scores = evaluator.compute()
    assert scores["AUC"] == pytest.approx(1020 / background)  # no false rate below 1024 / 2044
    assert scores["strict"]["AUC"] == pytest.approx(1)


def test_precision_and_recall_by_hand():
    mask = blank()
    mask[10, 10:12] = 1
    pred = blank()
    pred[10, 10:12] = 0.8, 0.1
    pred[0, 0], pred[0, 5] = 0.8, 0.4
    evaluator = Evaluator()
    evaluator.update(pred, mask)
    precision, recall = evaluator.precision_recall()
    # Divided by 0.8: target pixels at 1 and 0.125, background at 1 and 0.5.
    np.testing.assert_allclose(precision[[0, 25, 26, 100, 101, 200]],
                               [2 / 1024, 2 / 4, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    assert recall[[0, 25, 26, 200]].tolist() == [1, 1, 0.5, 0.5]
    precision, recall = evaluator.precision_recall(strict=True)
    assert (precision[160], recall[160]) == (0.5, 0.5)
    assert (precision[161], recall[161]) == (1, 0)  # nothing is detected above 0.8


# Hierarchical IoU


def test_hiou_by_hand():
    # A target of 16 pixels under a region of 16, 8 in common: IoU 8 / 24, but centroids only 2
    # apart: a pair. A target without region, and two regions without target.
    mask = squares((10, 10, 4), (24, 24, 2))
    pred = squares((10, 12, 4), (2, 2, 1), (2, 28, 1))
    evaluator = Evaluator()
    evaluator.update(pred, mask)
    parts = evaluator.error_analysis()
    assert parts["localisation"] == pytest.approx(
        {"IoU": 1 / 4, "s2m": 0, "m2s": 0, "interference": 2 / 4, "perception": 1 / 4}
    )
    assert parts["segmentation"] == pytest.approx(
        {"IoU": 8 / 24, "merging": 0, "interference": 8 / 24, "perception": 8 / 24}
    )
    scores = evaluator.compute()
    assert scores["hIoU"] == scores["strict"]["hIoU"] == pytest.approx(1 / 12)


def test_hiou_tells_one_region_over_two_targets_and_two_over_one():
    two, one = squares((10, 10, 2), (10, 13, 2)), blank()
    one[10:12, 10:15] = 1  # over both, centroid 1.5 from either
    evaluator = Evaluator()
    evaluator.update(one, two)
    parts = evaluator.error_analysis()
    assert parts["localisation"]["s2m"] == parts["localisation"]["IoU"] == 1 / 2
    assert parts["segmentation"] == pytest.approx(
        {"IoU": 4 / 10, "merging": 4 / 10, "interference": 2 / 10, "perception": 0}
    )
    evaluator = Evaluator()
    evaluator.update(two, one)
    parts = evaluator.error_analysis()
    assert parts["localisation"]["m2s"] == parts["localisation"]["IoU"] == 1 / 2
    assert parts["segmentation"]["perception"] == pytest.approx(6 / 10)


def test_a_large_target_is_matched_by_overlap_beyond_three_pixels():
    mask, pred = blank(), blank()
    mask[10, 2:18] = pred[10, 2:11] = 1  # 9 of 16 pixels, centroids 3.5 apart
    scores = evaluate((pred, mask))
    assert scores["strict"]["Pd"] == 0
    assert scores["hIoU"] == pytest.approx(9 / 16)


def test_package_counts_phantoms_in_hiou_and_strict_does_not():
    target = squares((10, 10, 2))
    # Missed without any region: 1 of 2 objects; the package counts a false region as well.
    scores = evaluate((target, target), (blank(), target))
    assert (scores["hIoU"], scores["strict"]["hIoU"]) == (pytest.approx(1 / 3), 1 / 2)
    # Nothing there and nothing detected: no error; the package counts two.
    scores = evaluate((target, target), (blank(), blank()))
    assert (scores["hIoU"], scores["strict"]["hIoU"]) == (pytest.approx(1 / 3), 1)


def scenes(count):
    """Random targets, and predictions that move, drop, split and invent some; some empty."""
    rng = np.random.default_rng(11)
    for index in range(count):
        mask, pred = blank(48, 48), blank(48, 48)
        for _ in range(0 if index % 7 == 0 else rng.integers(1, 7)):
            row, column, height, width = *rng.integers(4, 38, 2), *rng.integers(1, 7, 2)
            mask[row : row + height, column : column + width] = 1
            if index % 5 == 0 or rng.random() < 0.2:
                continue
            row, column = (row, column) + rng.integers(-2, 3, 2)
            pred[row : row + height, column : column + width] = rng.uniform(0.4, 1)
        if index % 5:
            pred[tuple(rng.integers(0, 48, (2, rng.integers(0, 5))))] = 0.9
        yield pred, mask > 0


def test_equals_pyirstdmetrics_where_the_definitions_meet():
    import py_irstd_metrics as package

    evaluator, images = Evaluator(), list(scenes(210))
    target_scores = package.ProbabilityDetectionAndFalseAlarmRate()
    hiou = package.MatchingBasedMetrics(matching_method=package.OPDCMatching())
    analysis = package.HierarchicalIoUBasedErrorAnalysis()
    whole = {"with_dynamic": False, "with_binary": True, "sample_based": False}
    pixels = package.CMMetrics(metric_handlers={
        "mIoU": package.IoUHandler(**whole),
        "precision": package.PrecisionHandler(**whole),
        "recall": package.RecallHandler(**whole),
        "fscore": package.FmeasureHandler(**whole, beta=1),
        "nIoU": package.IoUHandler(with_binary=True),
    })
    clean = 0  # neither target nor region: our IoU is 1, theirs 0
    for pred, mask in images:
        evaluator.update(pred, mask)
        clean += not mask.any() and not (pred > 0.5).any()
        for theirs in (target_scores, hiou, analysis, pixels):
            theirs.update(pred.astype(np.float64), mask)
    scores, strict = evaluator.compute(), evaluator.compute()["strict"]
    assert 0 < clean and 0 < strict["Pd"] < 1 and 0 < strict["hIoU"] < 1

    expected = {name: float(value["binary"]) for name, value in pixels.get().items()}
    expected["nIoU"] += clean / len(images)
    assert {name: strict[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    # They match in order, we optimally: here other pairs (so Fa differs), but as many.
    expected = target_scores.get()
    assert strict["Pd"] == pytest.approx(expected["probability_detection"].item(), abs=1e-12)
    assert scores["hIoU"] == pytest.approx(hiou.get()["hiou"].item(), abs=1e-12)

    expected, parts = analysis.get(), evaluator.error_analysis()
    names = {"IoU": "iou", "merging": "mrg_err", "interference": "itf_err", "perception": "pcp_err"}
    for ours, theirs in names.items():
        value = expected[f"seg_{theirs}"].item()
        assert parts["segmentation"][ours] == pytest.approx(value, abs=1e-12)
    phantoms = sum((not mask.any()) + (not (pred > 0.5).any()) for pred, mask in images)
    objects = round(sum(sum(image.hiou[:5]) for image in evaluator.images))
    for ours, theirs in (("IoU", "iou"), ("s2m", "s2m_err"), ("m2s", "m2s_err")):
        value = expected[f"loc_{theirs}"].item() * (objects + phantoms) / objects
        assert parts["localisation"][ours] == pytest.approx(value, abs=1e-12)
    for part in parts.values():
        assert sum(part.values()) == pytest.approx(1)


# Defined results


def finite(scores):
    values = [v for k, v in scores.items() if k != "strict"] + list(scores["strict"].values())
    return all(np.isfinite(values))


@pytest.mark.filterwarnings("error")  # 0 / 0 would warn
def test_all_black_prediction_detects_nothing():
    scores = evaluate((blank(), squares((10, 10, 3))))
    assert finite(scores)
    for kind in (scores, scores["strict"]):
        for name in ("mIoU", "fscore", "precision", "recall", "Pd", "Fa", "nIoU", "hIoU"):
            assert kind[name] == 0, name
    # The diagonal: all at threshold 0, nothing above.
    assert scores["AUC"] == scores["strict"]["AUC"] == 0.5


def test_image_without_target():
    clean, alarmed = evaluate((blank(), blank())), evaluate((squares((4, 4, 2)), blank()))
    assert finite(clean) and finite(alarmed)
    assert (clean["nIoU"], alarmed["nIoU"]) == (1, 0)
    assert (clean["Fa"], alarmed["Fa"]) == (0, 4 / 1024)
    assert clean["Pd"] == alarmed["Pd"] == clean["mIoU"] == 0

    evaluator = Evaluator()
    evaluator.update(squares((4, 4, 2)), squares((4, 4, 2)))
    evaluator.update(blank(), blank())
    assert evaluator.compute()["Pd"] == 1
    assert evaluator.counts() == {
        "images": 2, "images_without_target": 1, "targets": 1, "pixels": 2048
    }


def test_images_of_different_sizes():
    small = squares((2, 2, 2), shape=(8, 24))
    scores = evaluate((small, small), (squares((4, 4, 3), shape=(40, 10)), blank(40, 10)))
    assert scores["Fa"] == pytest.approx(9 / (8 * 24 + 40 * 10))


def test_nothing_added():
    evaluator = Evaluator()
    assert evaluator.counts()["images"] == 0
    for method in (evaluator.compute, evaluator.roc):
        with pytest.raises(ValueError, match="no image"):
            method()


def test_a_mask_of_numbered_targets_is_refused():
    mask = np.zeros((8, 8), np.uint8)
    mask[1, 1], mask[5, 5] = 1, 2
    with pytest.raises(ValueError, match="mask holds values up to 2, expected 0 and 1, 255 or"):
        Evaluator().update(np.zeros((8, 8), np.float32), mask)


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m > 0,
        lambda m: m.astype(np.uint8),
        lambda m: (m * 255).astype(np.uint8),
        lambda m: (m * 65535).astype(np.uint16),
        lambda m: m.astype(np.float64) * 255,
        lambda m: m.astype(np.int64),
    ],
    ids=["bool", "0/1", "0/255", "0/65535", "float 0/255", "int64"],
)
def test_every_encoding_of_a_mask_scores_the_same(convert):
    mask = squares((10, 10, 3), (20, 20, 2))
    pred = 0.9 * squares((11, 11, 3), (20, 20, 2), (2, 2, 1))
    assert evaluate((pred, convert(mask))) == evaluate((pred, mask))


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_a_grey_mask_is_a_target_above_half_of_full_scale(dtype, full):
    core = squares((10, 10, 2))
    grey = core * full
    grey[9, 10:12] = 0.51 * full
    grey[12, 10:12] = 0.49 * full
    core[9, 10:12] = 1
    assert evaluate((core, grey.astype(dtype)))["mIoU"] == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, bool, np.uint8])
def test_any_type_of_prediction(dtype):
    mask = squares((10, 10, 3))
    assert evaluate((mask.astype(dtype), mask))["mIoU"] == 1


@pytest.mark.parametrize(
    ("pred", "mask", "message"),
    [
        (blank(32, 31), blank(), "prediction is 32x31 but its mask is 32x32"),
        (blank()[None], blank(), "prediction must be height x width"),
        (blank(), blank()[..., None], "mask must be height x width"),
        (blank(0, 0), blank(0, 0), "height x width"),
        (blank() + np.nan, blank(), "prediction holds NaN"),
        (blank() + np.inf, blank(), "prediction holds NaN or infinite"),
        (blank() - 0.1, blank(), "prediction holds values from -0.1"),
        (blank() + 255, blank(), "prediction holds values from 255.0 to 255.0"),
        (blank() + 1j, blank(), "real numbers"),
        (blank(), blank() + np.nan, "mask holds NaN"),
        (blank(), blank() - 1, "mask holds values from -1.0"),
        (blank(), np.full((32, 32), 70000), "mask holds values"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_trace(pred, mask, message):
    evaluator = Evaluator()
    with pytest.raises(ValueError, match=message):
        evaluator.update(pred, mask)
    assert evaluator.counts()["images"] == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_bad_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        Evaluator(threshold)


def test_inputs_are_left_as_they_were():
    pred, mask = 0.5 * squares((10, 10, 3)), squares((10, 10, 3)).astype(np.uint8)
    before = pred.copy(), mask.copy()
    Evaluator().update(pred, mask)
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_reference_table_holds_both_frameworks_of_four_models():
    assert len({(row.model, row.framework) for row in REFERENCE}) == len(REFERENCE) == 8
    best = max(REFERENCE, key=lambda row: row.mIoU)
    assert best == ("L2SKNet_UNet", "Jittor", 0.9371, 0.9674, 0.9862, 1.9e-6)


@pytest.mark.parametrize("module", ["evaluation", "cal_metrics"])
def test_scoring_needs_no_jittor(module):
    code = f"import sys, {module}; sys.exit('jittor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
