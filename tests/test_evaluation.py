"""The scores: against the official numbers, and against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scripts import ROOT

from evaluation import Evaluator, operating
from evaluation.pd_fa import match_in_order, match_optimally

OFFICIAL = ROOT / "tests" / "fixtures" / "metrics.npz"


def blank(height=32, width=32):
    return np.zeros((height, width), np.float32)


def squares(*places, value=1.0, shape=(32, 32)):
    """A map with a square of `value` for each (row, column, side)."""
    image = blank(*shape)
    for row, column, side in places:
        image[row : row + side, column : column + side] = value
    return image


def evaluated(*pairs, **options):
    """An Evaluator of pairs of prediction and mask."""
    evaluator = Evaluator(**options)
    for pred, mask in pairs:
        evaluator.update(pred, mask)
    return evaluator


def evaluate(*pairs, **options):
    return evaluated(*pairs, **options).compute()


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


# By hand

BLANK, THREE, TWO = blank(), squares((10, 10, 3)), squares((10, 10, 2))
SMALL = squares((2, 2, 2), shape=(8, 24))
HALF = blank()
HALF[10:12, 10] = 1
LONG, PART = blank(), blank()
LONG[10, 2:18] = PART[10, 2:11] = 1  # 9 of 16 pixels, centroids 3.5 apart
PAIR = squares((10, 10, 1), (10, 14, 1))
# What the case is, pairs of prediction and mask, and the scores; "s" before a strict one.
CASES = {
    "4 of 9 target pixels and 5 beside them": ([(squares((11, 11, 3)), THREE)], {
        "mIoU": 4 / 14, "s mIoU": 4 / 14, "pixAcc": 4 / 9, "precision": 4 / 9, "recall": 4 / 9,
        "fscore": 4 / 9}),
    "a faint prediction counts in the comparable scores only": ([(0.4 * THREE, THREE)], {
        "fscore": 1, "precision": 1, "recall": 1, "Pd": 1, "mIoU": 0, "pixAcc": 0,
        "s fscore": 0, "s precision": 0, "s recall": 0, "s Pd": 0, "s Fa": 0}),
    # The pixel of 0.44 has 0.55 of the maximum.
    "dividing by the maximum lifts pixels over the threshold": (
        [(0.8 * TWO + squares((20, 20, 1), value=0.44), TWO)], {
            "precision": 4 / 5, "fscore": 8 / 9, "Fa": 1 / 1024,
            "s precision": 1, "s fscore": 1, "s Fa": 0}),
    # With a maximum of 1: absolute and divided are the same.
    "a pixel at the threshold is not detected": (
        [(0.5 * TWO + squares((0, 0, 1)), TWO)], {"mIoU": 0, "fscore": 0, "Pd": 0}),
    "sums over the set, but nIoU averages images": (
        [(squares((10, 10, 4)), squares((10, 10, 4))), (HALF, TWO)], {
            "mIoU": 18 / 20, "nIoU": 0.75, "s nIoU": 0.75}),
    "a centroid two pixels away is a hit": ([(squares((10, 12, 3)), THREE)], {
        "Pd": 1, "s Pd": 1, "s Fa": 0}),
    "a centroid exactly three pixels away is a miss": ([(squares((10, 13, 3)), THREE)], {
        "Pd": 0, "s Pd": 0, "s Fa": 9 / 1024}),
    # 2² + 2² is less than 3², though the squares no longer touch.
    "distance is diagonal": ([(squares((12, 12, 2)), TWO)], {"Pd": 1}),
    # The 2×2 at (20, 20) has the area of the matched region.
    "comparable Fa forgives a false region of a matched area": (
        [(squares((4, 4, 2), (20, 20, 2), (26, 4, 3)), squares((4, 4, 2)))],
        {"Fa": 9 / 1024, "s Fa": 13 / 1024}),
    "comparable Fa forgives within one image only": (
        [(squares((4, 4, 2)), squares((4, 4, 2))), (squares((20, 20, 2)), BLANK)],
        {"Fa": 4 / 2048, "s Fa": 4 / 2048}),
    # The region lies two pixels from both targets.
    "a region detects one target at most": (
        [(squares((10, 12, 1)), PAIR)], {"Pd": 0.5, "s Pd": 0.5, "Fa": 0, "s Fa": 0}),
    # The first target takes the region at column 12, and the second target has none left. Both
    # regions have one pixel, the area of the matched one.
    "official matching takes the first region and so may miss a target": (
        [(squares((10, 12, 1), (11, 8, 1)), PAIR)], {"Pd": 0.5, "s Pd": 1, "Fa": 0, "s Fa": 0}),
    "a large target is matched by overlap beyond three pixels": (
        [(PART, LONG)], {"s Pd": 0, "hIoU": 9 / 16}),
    # Missed without any region: 1 of 2 objects; the package counts a false region as well.
    "the package counts a phantom region in hIoU and strict does not": (
        [(TWO, TWO), (BLANK, TWO)], {"hIoU": 1 / 3, "s hIoU": 1 / 2}),
    # Nothing there and nothing detected: no error; the package counts two.
    "the package counts two phantoms of an empty image": (
        [(TWO, TWO), (BLANK, BLANK)], {"hIoU": 1 / 3, "s hIoU": 1, "Pd": 1}),
    "nothing there and nothing detected": (
        [(BLANK, BLANK)], {"nIoU": 1, "Fa": 0, "Pd": 0, "mIoU": 0}),
    "nothing there and something detected": (
        [(squares((4, 4, 2)), BLANK)], {"nIoU": 0, "Fa": 4 / 1024, "Pd": 0}),
    "images of different sizes": (
        [(SMALL, SMALL), (squares((4, 4, 3), shape=(40, 10)), blank(40, 10))],
        {"Fa": 9 / (8 * 24 + 40 * 10)}),
    # AUC: the diagonal, all at threshold 0, nothing above.
    "an all-black prediction detects nothing": ([(BLANK, THREE)], {
        **dict.fromkeys(("mIoU", "fscore", "precision", "recall", "Pd", "Fa", "nIoU", "hIoU"), 0),
        **dict.fromkeys(("s mIoU", "s fscore", "s Pd", "s Fa", "s hIoU"), 0), "AUC": 0.5,
        "s AUC": 0.5}),
}


@pytest.mark.filterwarnings("error")  # 0 / 0 would warn
@pytest.mark.parametrize("case", CASES)
def test_scores_by_hand(case):
    pairs, expected = CASES[case]
    scores = evaluate(*pairs)
    strict = scores.pop("strict")
    found = {**scores, **{f"s {key}": value for key, value in strict.items()}}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-7)
    assert np.isfinite([*found.values()]).all()


def test_threshold_is_used_throughout():
    pred = 0.3 * TWO
    pred[20, 20] = 1.0
    at_half, lower = evaluate((pred, TWO)), evaluate((pred, TWO), threshold=0.25)
    assert (at_half["Pd"], lower["Pd"]) == (0, 1)
    assert (at_half["mIoU"], lower["mIoU"]) == (0, pytest.approx(4 / 5))
    assert (at_half["strict"]["Pd"], lower["strict"]["Pd"]) == (0, 1)


def test_counts_say_over_how_much_the_scores_are():
    diagonal = squares((10, 10, 1), (11, 11, 1))  # one region
    evaluator = evaluated((diagonal, diagonal), (blank(), blank()))
    assert evaluator.compute()["Pd"] == 1
    assert evaluator.counts() == {
        "images": 2, "images_without_target": 1, "targets": 1, "pixels": 2048
    }


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


def test_dividing_by_the_maximum_bends_the_roc_of_faint_maps():
    # A map of 0.01 over an image without target: divided by its maximum it is lit at every
    # threshold, for itself only at the first three (0, 0.005 and 0.01).
    target = squares((10, 10, 2))
    evaluator = evaluated((target, target), (blank() + np.float32(0.01), blank()))
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
    evaluator = evaluated((pred, mask))
    precision, recall = evaluator.precision_recall()
    # Divided by 0.8: target pixels at 1 and 0.125, background at 1 and 0.5.
    np.testing.assert_allclose(precision[[0, 25, 26, 100, 101, 200]],
                               [2 / 1024, 2 / 4, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    assert recall[[0, 25, 26, 200]].tolist() == [1, 1, 0.5, 0.5]
    precision, recall = evaluator.precision_recall(strict=True)
    assert (precision[160], recall[160]) == (0.5, 0.5)
    assert (precision[161], recall[161]) == (1, 0)  # nothing is detected above 0.8


# By size


def test_targets_by_size_by_hand():
    mask = squares((0, 0, 3), (0, 10, 5), (10, 10, 9), (20, 20, 10), (30, 0, 1))
    mask[9, 10] = 1  # 82 pixels; the others have 9, 25, 100 and 1
    pred = squares((0, 1, 3), (0, 10, 5), (20, 20, 10), (30, 10, 1))
    pred[0, 10] = 0
    evaluator = evaluated((pred, mask), (pred, mask))
    found = evaluator.by_size()
    assert {area: row["targets"] for area, row in found.items()} == {
        "1-9": 4, "10-25": 2, "26-81": 0, ">81": 4}
    # Of the small ones the 3×3 shares 6 of 12 pixels with its region, the single pixel is missed.
    assert found["1-9"] == {"targets": 4, "Pd": 0.5, "IoU": 0.25}
    assert found["10-25"] == {"targets": 2, "Pd": 1, "IoU": 24 / 25}
    assert found["26-81"] == {"targets": 0, "Pd": 0, "IoU": 0}
    assert found[">81"] == {"targets": 4, "Pd": 0.5, "IoU": 0.5}
    detected = sum(row["Pd"] * row["targets"] for row in found.values())
    assert detected / 10 == evaluator.compute()["strict"]["Pd"]


# Many thresholds


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sweep_equals_an_evaluator_at_each_threshold(dtype):
    grid = operating.GRID[::10]
    swept, evaluators = Evaluator(grid=grid), [Evaluator(threshold) for threshold in grid]
    rng = np.random.default_rng(7)
    for pred, mask in scenes(40):
        pred = np.clip(gaussian_filter(pred, 1) * rng.uniform(0.5, 2), 0, 1).astype(dtype)
        pred[0, :11] = grid  # a pixel at a threshold is not lit
        for evaluator in (swept, *evaluators):
            evaluator.update(pred, mask)
    strict = [evaluator.compute()["strict"] for evaluator in evaluators]
    _, *found = swept.sweep()
    assert [list(scores) for scores in found] == [
        [scores[key] for scores in strict] for key in ("Pd", "Fa", "mIoU")]
    assert len(set(found[0])) > 5 and len(set(found[1])) > 5
    assert swept.images[0].sweep.lit[0] and not len(evaluators[0].images[0].sweep.lit)


def test_a_threshold_that_lights_up_the_whole_image_is_not_taken():
    """The one region of a map above a low threshold has its centroid on the target."""
    mask = squares((14, 14, 5))
    rng = np.random.default_rng(0)
    pred = np.where(mask > 0, 0.9, rng.uniform(0.02, 0.03, mask.shape)).astype(np.float32)
    evaluator = evaluated((pred, mask), grid=operating.GRID)
    sweep, (step, spread) = evaluator.sweep(), evaluator.threshold_for(1e-6)
    assert sweep.fa[0] == 0 and sweep.fa.max() > 0
    assert sweep.iou[step] == 1 and 0.03 < sweep.thresholds[step] < 0.04
    assert spread == (sweep.thresholds[step],) * 2


def test_the_threshold_for_a_wanted_fa_by_hand():
    grid = (0.1, 0.3, 0.5, 0.7)
    # Two false pixels up to 0.4, and one that is up to 0.6: Fa of 3, 3, 1, 0 pixels of 1024.
    pred = TWO + 0.4 * squares((0, 0, 1), (5, 5, 1)) + 0.6 * squares((20, 20, 1))
    evaluator = evaluated((pred, TWO), grid=grid)
    np.testing.assert_allclose(evaluator.sweep().fa * 1024, [3, 3, 1, 0])
    for wanted, step in ((3, 0), (2.9, 2), (1, 2), (0.9, 3), (0, 3)):
        found = evaluator.threshold_for(wanted / 1024)
        assert found == (step, (grid[step],) * 2)  # one image: all draws are equal
    # 16 pixels that belong to a target until the strongest half is alone, too far from its middle.
    pred = 0.4 * LONG
    pred[10, 2:10] = 0.8
    evaluator = evaluated((pred, LONG), grid=grid)
    np.testing.assert_allclose(evaluator.sweep().fa * 1024, [0, 0, 8, 8])
    assert evaluator.threshold_for(7 / 1024).step == 0
    evaluator = evaluated((TWO, BLANK), grid=grid)
    assert evaluator.threshold_for(3 / 1024) == (None, (np.inf, np.inf))


def test_the_spread_of_a_threshold_is_over_images():
    evaluator = evaluated(*9 * [(TWO, TWO)], (TWO + 0.7 * squares((20, 20, 3)), TWO),
                          grid=(0.1, 0.5, 0.9))
    # 9 false pixels up to 0.7, of 10 images: the tenth is drawn k times of 10.
    assert evaluator.threshold_for(0.5 * 9 / 10240) == (2, (0.1, 0.9))  # k = 0 has 35 %
    assert evaluator.threshold_for(2.5 * 9 / 10240) == (0, (0.1, 0.9))  # k > 2 has 7 %
    assert evaluator.threshold_for(3.5 * 9 / 10240) == (0, (0.1, 0.1))  # k > 3 has 1 %


# Hierarchical IoU


def test_hiou_by_hand():
    # A target of 16 pixels under a region of 16, 8 in common: IoU 8 / 24, but centroids only 2
    # apart: a pair. A target without region, and two regions without target.
    mask = squares((10, 10, 4), (24, 24, 2))
    pred = squares((10, 12, 4), (2, 2, 1), (2, 28, 1))
    evaluator = evaluated((pred, mask))
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
    evaluator = evaluated((one, two))
    parts = evaluator.error_analysis()
    assert parts["localisation"]["s2m"] == parts["localisation"]["IoU"] == 1 / 2
    assert parts["segmentation"] == pytest.approx(
        {"IoU": 4 / 10, "merging": 4 / 10, "interference": 2 / 10, "perception": 0}
    )
    evaluator = evaluated((two, one))
    parts = evaluator.error_analysis()
    assert parts["localisation"]["m2s"] == parts["localisation"]["IoU"] == 1 / 2
    assert parts["segmentation"]["perception"] == pytest.approx(6 / 10)


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


def test_nothing_added():
    evaluator = Evaluator()
    assert evaluator.counts()["images"] == 0
    for method in (evaluator.compute, evaluator.roc):
        with pytest.raises(ValueError, match="no image"):
            method()


def test_every_encoding_of_a_mask_and_every_type_of_prediction_score_the_same():
    mask = squares((10, 10, 3), (20, 20, 2))
    pred = squares((11, 11, 3), (20, 20, 2), (2, 2, 1))
    expected = evaluate((0.9 * pred, mask))
    for full, dtype in ((1, bool), (1, np.uint8), (255, np.uint8), (65535, np.uint16),
                        (255, np.float64), (1, np.int64)):
        assert evaluate((0.9 * pred, (full * mask).astype(dtype))) == expected
    expected = evaluate((pred, mask))
    for dtype in (np.float16, np.float32, np.float64, bool, np.uint8):
        assert evaluate((pred.astype(dtype), mask)) == expected


def test_a_grey_mask_is_a_target_above_half_of_full_scale():
    core = squares((10, 10, 2))
    grey = core.copy()
    grey[9, 10:12], grey[12, 10:12] = 0.51, 0.49
    core[9, 10:12] = 1
    for dtype, full in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        assert evaluate((core, (full * grey).astype(dtype)))["mIoU"] == 1


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
        # Targets with numbers.
        (blank(), np.uint8(TWO + 2 * squares((20, 20, 2))),
         "mask holds values up to 2, expected 0 and 1, 255 or"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_trace(pred, mask, message):
    evaluator = Evaluator()
    with pytest.raises(ValueError, match=message):
        evaluator.update(pred, mask)
    assert evaluator.counts()["images"] == 0


def test_bad_threshold_is_refused():
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            Evaluator(threshold)


def test_inputs_are_left_as_they_were():
    pred, mask = 0.5 * squares((10, 10, 3)), squares((10, 10, 3)).astype(np.uint8)
    before = pred.copy(), mask.copy()
    Evaluator().update(pred, mask)
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(mask, before[1])
