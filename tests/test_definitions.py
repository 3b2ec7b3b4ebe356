"""benchmarks/definitions.py: every definition by hand, and the page that shows them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from brightness import brightness_net
from scripts import ROOT, SIZE

from benchmarks import definitions
from utils.checkpoint.weights import save_weights
from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_split
from utils.errors import UserError
from utils.paths import BEST, Paths
from utils.training.logs import EpochRecord, write_log

PAGE = ROOT / "docs" / "metrics.md"
NAMES = list(definitions.USERS)


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


def table(printed):
    """Name → value, of a table in Markdown."""
    rows = [line.strip("| \n").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[0] in NAMES}


def test_every_definition_by_hand():
    scored = definitions.score(*scene())
    counts = [tuple(count) for count in scored.counts.values()]
    assert counts == [  # detected, targets, false pixels, pixels
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
    assert definitions.values(scored) == [
        f"{17 / 32:.4f}", f"{(13 / 28 + 1) / 2:.4f}", f"{34 / 49:.4f}", f"{34 / 56:.4f}",
        *(f"{found / 5:.4f} / {false / over:.2e}" for found, _, false, over in counts),
        f"{5 / 6 * (2 + 9 / 16) / 5:.4f}", "–", "–", "–", "–",
    ]


def test_those_that_the_evaluator_has_are_its_own():
    scored = definitions.score(*scene())
    scores, rows = scored.evaluator.compute(), list(scored.counts.values())
    for row, own in ((rows[1], scores), (rows[4], scores["strict"])):
        assert (row.detected / row.targets, row.false_pixels / row.pixels) == (own["Pd"], own["Fa"])


def test_the_shooting_rule_is_that_of_pyirstdmetrics():
    package = pytest.importorskip("py_irstd_metrics")
    rng = np.random.default_rng(0)
    masks, maps = rng.random((4, 40, 40)) > 0.996, rng.random((4, 40, 40)) ** 12
    theirs = package.ShootingRuleBasedProbabilityDetectionAndFalseAlarmRate()
    for pred, mask in zip(maps, masks):
        theirs.update(pred, mask)
    (name,) = (name for name in definitions.PD_FA if "1 px" in name)
    ours = definitions.score(maps, masks).counts[name]
    found = theirs.get()
    assert 0 < ours.detected < ours.targets and 0 < ours.false_pixels
    assert ours.detected / ours.targets == found["probability_detection"][0]
    assert ours.false_pixels / ours.pixels == found["false_alarm"][0]


def test_a_map_without_contrast_and_an_image_without_target():
    flat, empty = np.full((8, 8), 0.6, np.float32), np.zeros((8, 8), np.uint8)
    counts = list(definitions.score([flat], [empty]).counts.values())
    assert [count.false_pixels for count in counts] == [64, 64, 0, 64, 64, 64, 64, 0]
    assert counts[-1] == (0, 0, 0, 0)  # RPCANet leaves such images out


def test_the_rows_of_a_run_by_hand():
    record = EpochRecord(1, 0.9, pixAcc=0.5, mIoU=0.6, Pd=0.7, Fa=2e-5, fscore=0.5)
    records = [
        record,
        dataclasses.replace(record, epoch=2, mIoU=0.8, Fa=3e-5),
        dataclasses.replace(record, epoch=3, mIoU=0.7, Pd=0.9, Fa=4e-5),
        EpochRecord(4, 0.8),  # not evaluated
    ]
    scored = definitions.score(*scene())
    rows = definitions.values(scored, scored, records)
    assert rows[-4] == f"{17 / 32:.4f} / 0.6000 / {9 / 2048:.2e} (their own size)"
    assert rows[-3:] == [
        "0.8000 / 0.7000 / 3.00e-05 (epoch 2)",
        "0.8000 / 0.9000 / 2.00e-05 (epoch 2, 3, 1)",
        "0.7000 / 0.9000 / 4.00e-05 (epoch 3)",
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A dataset of three test images, and the folder of their masks as predictions."""
    folder = tmp_path_factory.mktemp("definitions")
    write_sample_dataset(folder / "data" / "Tiny", 2, 3, SIZE)
    split = load_split(folder / "data", "Tiny", "test")
    (folder / "exact").mkdir()
    for name, mask in zip(split.names, split.masks):
        np.save(folder / "exact" / f"{name}.npy", mask.astype(np.float32))
    return folder


def run(tiny, *flags):
    definitions.main(["--dataset_dir", str(tiny / "data"), "--dataset_name", "Tiny",
                      "--output_dir", str(tiny), "--device", "cpu", *map(str, flags)])


def test_the_command_scores_the_predictions_of_others(tiny, capsys):
    run(tiny, "--pred", tiny / "exact")
    printed = table(capsys.readouterr().out)
    assert list(printed) == NAMES
    perfect = ["1.0000"] * 4 + ["1.0000 / 0.00e+00"] * 8 + ["1.0000"]
    assert list(printed.values()) == perfect + ["–"] * 4
    np.save(tiny / "exact" / f"{load_split(tiny / 'data', 'Tiny', 'test').names[0]}.npy",
            np.full((SIZE, SIZE), 255.0))
    with pytest.raises(UserError, match="exact: prediction holds values from 255.0"):
        run(tiny, "--pred", tiny / "exact")
    for file in (tiny / "exact").iterdir():
        np.save(file, np.zeros((SIZE, 5)))
    with pytest.raises(UserError, match="^[^;]*npy: the prediction is of shape .*; save it at the "
                                        "size of the image$"):
        run(tiny, "--pred", tiny / "exact")


def test_the_command_predicts_at_both_sizes_and_reads_the_log(tiny, cpu, capsys):
    model, started = "L2SKNet_UNet", "2026-01-02_03-04-05"
    weights = Paths(tiny).checkpoints("Tiny", model) / BEST
    save_weights(brightness_net(), weights, {"started": started})
    write_log(Paths(tiny).log("Tiny", model, started),
              [EpochRecord(7, 0.9, pixAcc=0.5, mIoU=0.6, Pd=0.7, Fa=2e-5, fscore=0.5)])
    run(tiny)
    printed = table(capsys.readouterr().out)
    assert list(printed) == NAMES
    rows = list(printed.values())
    split = load_split(tiny / "data", "Tiny", "test")
    mIoU = []
    for images, masks in ((split.images, split.masks), split.resized(256)):
        detected, target = np.stack(images) > 127, np.stack(masks) > 0
        mIoU.append((detected & target).sum() / (detected | target).sum())
    assert 0 < mIoU[0] != mIoU[1] > 0
    assert rows[0] == f"{mIoU[0]:.4f}"
    assert rows[-4].split(" / ")[0] == f"{mIoU[1]:.4f}"
    assert rows[-3:] == ["0.6000 / 0.7000 / 2.00e-05 (epoch 7)"] * 3


def test_the_page_has_the_rows_of_the_command():
    lines = [line.strip("| \n").split(" | ") for line in PAGE.read_text("utf-8").splitlines()]
    assert [(row[0], row[2]) for row in lines if row[0] in NAMES and len(row) == 3] == list(
        definitions.USERS.items())
