"""The recipe of a training run: all settings that decide its result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from utils.errors import UserError

GAMMA = 0.1  # factor on the learning rate at each milestone
SCHEDULE = ("epochs", "milestones")  # fields that a resumed run may change


def _flag(default: Any, help: str, metavar: str = "N", alias: str | None = None) -> Any:
    """Makes a field that `utils.cli.add_recipe` turns into a flag: `crop` becomes --crop.

    The flag's type is the default's, its limits stand in `utils.cli.RECIPE_NUMBERS`.

    Args:
        help: the flag's help text, with `{default}` for its default.
        alias: the official spelling.
    """
    metadata = {"help": help, "metavar": metavar, "alias": alias}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings that decide the result of a run, beside network and dataset.

    Each field is a flag of training and is stored in checkpoints; a resumed run must keep it.
    `milestones` None means half and three quarters of `epochs`: 200 and 300 of 400, as in the
    official code.
    """

    epochs: int = _flag(400, "passes over the training images; default {default}",
                        alias="--nEpochs")
    batch_size: int = _flag(8, "images in each step; default {default}", alias="--batchSize")
    lr: float = _flag(1e-3, "initial learning rate of Adam; default {default:g} (the paper's code: "
                      "5e-4)", "RATE")
    seed: int = _flag(42, "seed of initial weights, order of images, dropout and augmentation; "
                      "default {default}")
    image_size: int = _flag(256, "resize training images to a square of this side; 0 leaves them "
                            "as they are; default {default}", "PIXELS")
    milestones: tuple[int, ...] | None = _flag(
        None, "epochs after which the learning rate falls to a tenth; --milestones alone: never; "
        "default half and three quarters of --epochs", "EPOCH")
    augment: bool = _flag(False, "flip and transpose training images at random (the paper's code "
                          "does not)")
    crop: int = _flag(0, "train on squares of this side, cut out at random after resizing; 0 takes "
                      "whole images; default {default}", "PIXELS")
    soft_masks: bool = _flag(False, "train on the masks' grey levels divided by 255, as the "
                             "paper's code does; scores still use 0 and 1")
    target_crops: float = _flag(0.0, "fraction of the crops, 0 to 1, that contain a target if "
                                "their image has one; the others fall anywhere; default "
                                "{default:g}", "FRACTION")
    scale: float = _flag(1.0, "enlarge or shrink each crop by a random factor from 1/N to N; "
                         "default {default:g}")
    photometric: bool = _flag(False, "change gamma, contrast and brightness of training images at "
                              "random, and add noise (the paper's code does not)")

    def __post_init__(self) -> None:
        for flag, used in (("target_crops", self.target_crops), ("scale", self.scale != 1)):
            if used and not self.crop:
                raise UserError(f"--{flag} {getattr(self, flag):g}: has no effect without "
                                "crops; add --crop PIXELS")
        milestones = self.milestones
        if milestones is None:
            milestones = (math.ceil(self.epochs / 2), math.ceil(self.epochs * 3 / 4))
        # JSON turns tuples into lists.
        object.__setattr__(self, "milestones", tuple(sorted(milestones)))

    def describe(self) -> str:
        """One line for the terminal and the head of the log."""
        after = " and ".join(map(str, self.milestones))
        return (
            f"{self.epochs} epochs, batch size {self.batch_size}, learning rate {self.lr:g}"
            + (f" (x{GAMMA:g} after {after})" if after else "")
            + f", seed {self.seed}, image size {self.image_size or 'native'}"
            + (f", crops of {self.crop}" if self.crop else "")
            + (", augmented" if self.augment else "")
            + (", soft masks" if self.soft_masks else "")
            + (f", {self.target_crops:g} of the crops on targets" if self.target_crops else "")
            + (f", scaled by 1/{self.scale:g} to {self.scale:g}" if self.scale != 1 else "")
            + (", photometric changes" if self.photometric else "")
        )


FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))


def recipe_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Recipe` among many values (all flags of a script)."""
    return {name: values[name] for name in FIELDS if name in values}


def resolve_recipe(given: Mapping[str, Any], resumed: Recipe | None = None) -> Recipe:
    """The recipe of a run, from the values of its flags.

    Args:
        given: field of `Recipe` → value; None (or no entry) is a flag that was not given.
        resumed: the recipe of the run to resume, which keeps its values. Only `epochs` may change,
            and only if the milestones stay.

    Raises:
        UserError: a given value differs from the run to resume.
    """
    given = {key: value for key, value in given.items() if value is not None}
    if resumed is None:
        return Recipe(**given)
    for key, value in given.items():
        if key not in SCHEDULE and value != getattr(resumed, key):
            flag = f"--{key}" if value is True else f"--{key} {value}"
            raise UserError(
                f"{flag}: the run to resume has {getattr(resumed, key)}; leave the flag out"
            )
    if given.get("epochs", resumed.epochs) == resumed.epochs:
        given.setdefault("milestones", resumed.milestones)
    recipe = Recipe(**{**dataclasses.asdict(resumed), "milestones": None, **given})
    if recipe.milestones != resumed.milestones:
        wanted, own = (" ".join(map(str, r.milestones)) for r in (recipe, resumed))
        flag = "--milestones" if "milestones" in given else f"--epochs {recipe.epochs}"
        raise UserError(
            f"{flag}: would lower the learning rate after epochs {wanted}, and the run to resume "
            f"does after {own}; add --milestones {own} to keep its schedule"
        )
    return recipe


def recipe_of(meta: Mapping[str, Any]) -> Recipe:
    """The recipe of a run from its checkpoint's `meta`, which may be of an older version."""
    return Recipe(**{"milestones": meta["scheduler"]["milestones"], **meta["recipe"]})
