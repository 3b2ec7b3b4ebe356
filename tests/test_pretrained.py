"""Weights that come with the project: their cards, publishing them, and that they find targets."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from evaluation import Evaluator
from model import MODEL_NAMES
from utils import cli, datasets, pretrained
from utils.checkpoint import checkpoint_folder, read_meta
from utils.errors import UserError
from utils.logs import EpochRecord, read_log, write_log

SHIPPED = sorted(pretrained.FOLDER.glob("*/*.npz"))


def record(epoch, mIoU):
    return EpochRecord(epoch, 1 - epoch / 10, "Nov 23 08:00:00", pixAcc=0.9, mIoU=mIoU, Pd=0.8,
                       Fa=3e-6, fscore=0.7)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project of its own, and in it a run of three epochs whose second was the best."""
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "model" / "pretrained")
    history = [record(1, 0.2), record(2, 0.612345), record(3, 0.5)]
    recipe = {"batch_size": 8, "epochs": 400, "lr": 5e-4, "seed": 42, "image_size": 256}
    folder = checkpoint_folder(tmp_path, "SET", "L2SKNet_UNet")
    for name, records in (("best.npz", history[:2]), ("last.npz", history)):
        meta = {"model": "L2SKNet_UNet", "dataset": "SET", "recipe": recipe,
                "started": "2026-01-02_03-04-05",
                "history": [dataclasses.asdict(one) for one in records]}
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / name, meta=np.array(json.dumps(meta)))
    write_log(tmp_path / "log" / "SET_L2SKNet_UNet_2026-01-02_03-04-05.txt", history)
    return tmp_path


def test_publish(place):
    assert pretrained.find_pretrained("SET", "L2SKNet_UNet") is None
    weights, card, log = pretrained.publish(place, "SET", "L2SKNet_UNet", "A remark.")
    assert pretrained.find_pretrained("SET", "L2SKNet_UNet") == weights
    best = checkpoint_folder(place, "SET", "L2SKNet_UNet") / "best.npz"
    assert weights.read_bytes() == best.read_bytes()
    assert [one.epoch for one in read_log(log)] == [1, 2, 3]
    text = card.read_text("utf-8")
    assert "A remark." in text
    assert "| epochs | best mIoU after epoch 2 of 3 trained; the schedule has 400 |" in text
    assert "| this file, the best by mIoU (2) | 0.8000 | 0.6123 |" in text
    assert "| the last epoch (3) | 0.7000 | 0.5000 |" in text
    assert "| seed | 42 |" in text and "| learning rate | 0.0005 |" in text


def test_nothing_to_publish(place):
    with pytest.raises(UserError, match="train and evaluate L2SKNet_FPN first"):
        pretrained.publish(place, "SET", "L2SKNet_FPN")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_cards_are_true(path):
    meta = read_meta(path)
    assert meta["model"] == path.stem in MODEL_NAMES
    assert meta["dataset"] == path.parent.name
    last = meta["history"][-1]
    assert last["mIoU"] == max(one["mIoU"] for one in meta["history"])
    assert f"| {last['loss']:.4f} | {last['mIoU']:.4f} |" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_pretrained_weights_find_targets(path, nudt, cpu):
    from utils.predict import load_model, predict

    split = datasets.load_split(nudt.parent, nudt.name, "test")
    net, evaluator = load_model(path.stem, path), Evaluator()
    for indices, x in list(datasets.test_batches(split, 8))[:8]:
        for index, probability in zip(indices, predict(net, x)):
            evaluator.update(probability, split.masks[index])
    assert evaluator.compute()["mIoU"] > 0.7 * read_meta(path)["history"][-1]["mIoU"]
