"""The recipe of a run: the schedule that scales, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scripts import complaint

from utils.recipe import Recipe, recipe_of, resolve_recipe
from utils.training.store import RunStatus, run_status


def test_the_rate_falls_after_half_and_three_quarters():
    for epochs, milestones in ((400, (200, 300)), (60, (30, 45)), (5, (3, 4)), (1, (1, 1))):
        assert Recipe(epochs=epochs).milestones == milestones


def test_named_milestones_stand():
    assert resolve_recipe({"epochs": 60, "milestones": [50, 40]}).milestones == (40, 50)
    assert resolve_recipe({"milestones": []}).milestones == ()
    assert resolve_recipe({"milestones": []}).describe().startswith(
        "400 epochs, batch size 8, learning rate 0.001, seed 42")


def test_a_resumed_run_keeps_what_is_not_said():
    run = resolve_recipe({"epochs": 60, "lr": 5e-4, "milestones": [10, 20], "augment": True})
    assert resolve_recipe({}, run) == run
    assert resolve_recipe({"epochs": 60, "lr": 5e-4, "seed": None}, run) == run
    longer = resolve_recipe({"epochs": 80, "milestones": [20, 10]}, run)
    assert longer == dataclasses.replace(run, epochs=80)


@pytest.mark.parametrize(("given", "message"), [
    ({"lr": 1.0}, "--lr 1.0: the run to resume has 0.001; leave the flag out"),
    ({"augment": True}, "--augment: the run to resume has False; leave the flag out"),
    ({"epochs": 80}, "--epochs 80: would lower the learning rate after epochs 40 60, and the run "
                     "to resume does after 30 45; add --milestones 30 45 to keep its schedule"),
    ({"milestones": [9]}, "--milestones: would lower the learning rate after epochs 9, and the run "
                          "to resume does after 30 45; add --milestones 30 45 to keep its "
                          "schedule"),
])
def test_a_resumed_run_refuses_another_recipe(given, message):
    run = Recipe(epochs=60)
    assert complaint(resolve_recipe, given, run) == message
    last = {"recipe": dataclasses.asdict(run), "scheduler": {"milestones": [30, 45]}, "history": []}
    assert run_status(last, given) is RunStatus.NEW and run_status(last, {}) is RunStatus.RESUME


def test_a_checkpoint_holds_it():
    recipe = Recipe(epochs=60, augment=True)
    meta = json.loads(json.dumps({"recipe": dataclasses.asdict(recipe),
                                 "scheduler": {"milestones": [1]}}))
    assert recipe_of(meta) == recipe
    # Before the schedule was part of the recipe.
    older = {"recipe": {"epochs": 9, "lr": 5e-4, "seed": 1, "batch_size": 4, "image_size": 64},
             "scheduler": {"milestones": [200, 300]}}
    assert recipe_of(older) == Recipe(9, 4, 5e-4, 1, 64, (200, 300))
