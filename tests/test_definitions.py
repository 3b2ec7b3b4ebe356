"""benchmarks/definitions.py: every definition by hand, and the page that shows them."""

from __future__ import annotations

import numpy as np
import pytest
from scripts import ROOT, SIZE

from benchmarks import definitions
from evaluation import Evaluator
from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_split
from utils.errors import UserError

PAGE = ROOT / "docs" / "metrics.md"


def scene():
    """Two images in which no two definitions of Pd and Fa agree; the second is perfect."""
    mask, pred = np.zeros((32, 32), np.uint8), np.full((32, 32), 0.1, np.float32)
    mask[4:6, 4:6] = 1
    pred[4:6, 4:6] = 0.8  # found
    pred[4:6, 20:22] = 0.8  # 4 false pixels, the area of the region before
    mask[10, [10, 14]] = 1
    pred[10, 12] = pred[11, 8] = 0.8  # in order, the first target takes what the second needs
    mask[20, 2:18] = 1
    pred[20, 2:11] = 0.8  # 9 of 16 pixels, centroids 3.5 apart
    pred[28, 4:9] = 0.42  # 5 pixels; 0.525 of the maximum, (0.42 - 0.1) / 0.7 = 0.457
    pred[28, 20:22] = 0.47  # 2 pixels; 0.5875 and 0.529
    easy = np.zeros((32, 32), np.uint8)
    easy[8:10, 8:10] = 1
    return [pred, 0.9 * easy.astype(np.float32)], [mask, easy]


def rows_of(printed):
    """Definition → (value, users), of the table in Markdown."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in printed.splitlines() if line.startswith("| ")]
    start = next(i for i, row in enumerate(rows) if row[0] == "definition") + 1
    return {row[0]: tuple(row[1:]) for row in rows[start:] if len(row) == 3 and row[0][0] != "-"}


def values(predictions, masks):
    return [value for value, _ in rows_of(definitions.table(predictions, masks)[1]).values()]


def test_every_definition_by_hand():
    counts = [  # detected, targets, false pixels, pixels
        (3, 5, 9, 2048),
        (3, 5, 9 + 5 + 2, 2048),
        (3, 5, 9 + 2, 2048),
        (3, 5, 9 + 4 + 1, 2048),
        (4, 5, 9 + 4, 2048),
        (5, 5, 4, 2048),
        (3, 5, 4, 2048),
        (3, 5, 4 + 1 + 1 + 5 + 2, 2048 - 22 - 4),
    ]
    # Pixels: 13 + 4 common ones, 19 + 4 detected (7 more by the maximum), 22 + 4 of targets. hIoU:
    # 5 pairs of 6 objects, whose IoU are 1, 9/16, 0, 0 and 1.
    assert values(*scene()) == [
        f"{17 / 32:.4f}", *[f"{(13 / 28 + 1) / 2:.4f}"] * 2, f"{34 / 49:.4f}",
        f"{34 / 56:.4f}",
        *(f"{found / 5:.4f} / {false / over:.2e}" for found, _, false, over in counts),
        f"{5 / 6 * (2 + 9 / 16) / 5:.4f}",
    ]


def test_ours_are_those_of_the_evaluator():
    predictions, masks = scene()
    evaluator = Evaluator()
    for pred, mask in zip(predictions, masks):
        evaluator.update(pred, mask)
    scores, rows = evaluator.compute(), values(predictions, masks)
    for row, own in ((rows[6], scores), (rows[9], scores["strict"])):
        assert row == f"{own['Pd']:.4f} / {own['Fa']:.2e}"


def test_the_shooting_rule_is_that_of_pyirstdmetrics():
    package = pytest.importorskip("py_irstd_metrics")
    rng = np.random.default_rng(0)
    masks, maps = rng.random((4, 40, 40)) > 0.996, rng.random((4, 40, 40)) ** 12
    theirs = package.ShootingRuleBasedProbabilityDetectionAndFalseAlarmRate()
    for pred, mask in zip(maps, masks):
        theirs.update(pred, mask)
    found = theirs.get()
    rate, false = found["probability_detection"][0], found["false_alarm"][0]
    assert 0 < rate < 1 and values(maps, masks)[11] == f"{rate:.4f} / {false:.2e}"


def test_a_map_without_contrast_and_an_image_without_target():
    flat, empty = np.full((8, 8), 0.6, np.float32), np.zeros((8, 8), np.uint8)
    false = [row.split(" / ")[1] for row in values([flat], [empty])[5:13]]
    # RPCANet leaves such images out.
    assert list(map(float, false)) == [1, 1, 0, 1, 1, 1, 1, 0]
    assert values([empty == 1], [empty])[1:3] == ["1.0000", "0.0000"]  # nIoU; bool as of a mask


def test_the_command_scores_files_and_the_page_has_its_rows(tmp_path, capsys):
    write_sample_dataset(tmp_path / "data" / "Tiny", 2, 3, SIZE)
    split = load_split(tmp_path / "data", "Tiny", "test")
    (tmp_path / "exact").mkdir()
    for name, mask in zip(split.names, split.masks):
        np.save(tmp_path / "exact" / f"{name}.npy", mask.astype(np.float32))
    flags = ["--dataset_dir", str(tmp_path / "data"), "--dataset_name", "Tiny", "--output_dir",
             str(tmp_path), "--pred", str(tmp_path / "exact")]
    definitions.main(flags)
    printed = rows_of(capsys.readouterr().out)
    perfect = ["1.0000"] * 5 + ["1.0000 / 0.00e+00"] * 8 + ["1.0000"]
    assert [value for value, _ in printed.values()] == perfect
    page = rows_of(PAGE.read_text("utf-8"))
    assert [(name, page[name][1]) for name in printed] == [
        (name, users) for name, (_, users) in printed.items()]
    np.save(tmp_path / "exact" / f"{split.names[0]}.npy", np.full((SIZE, SIZE), 255.0))
    with pytest.raises(UserError, match="npy: holds values from 255.0"):
        definitions.main(flags)
