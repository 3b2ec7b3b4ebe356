"""The stages of the networks: what is compared, and which parameters belong to it."""

from __future__ import annotations

from model import NETWORKS
from utils.errors import UserError

HEAD = "head"


def check_known(model_name: str) -> None:
    """Raises a UserError if a network has no official code."""
    if NETWORKS[model_name].architecture not in ("UNet", "FPN"):
        raise UserError(f"{model_name}: has no official PyTorch code to be compared with; write "
                        "its twin in alignment/twin.py and its stages in alignment/stages.py")


def stage_modules(model_name: str) -> dict[str, str]:
    """Stage → the module whose output it is, by its official name, in the order of computing.

    The head's output is the network's output, its probabilities.
    """
    unet = NETWORKS[model_name].architecture == "UNet"
    found = {f"encoder {level}": f"Conv{level + 1}" if unet else f"layer{level}"
             for level in range(4)}
    for level in range(3):
        for branch in range(4 - level):
            found[f"contrast {level}, branch {branch}"] = f"contrast{level}_{branch}"
        found[f"contrast {level}"] = f"contrConV_{level}"
    found["contrast 3"] = "contrast3"
    for level in (2, 1, 0):
        if unet:
            found[f"decoder {level}, upsampling"] = f"Up{level + 2}"
        found[f"decoder {level}"] = f"Up_conv{level + 2}" if unet else f"fuse{level + 1}{level}"
    found[HEAD] = "Conv" if unet else "head"
    return found


def parameter_stages(model_name: str, names: list[str]) -> dict[str, list[str]]:
    """Stage → the official `names` that belong to it.

    θ has its own stage per level, because its gradients are ill-conditioned.
    """
    modules = stage_modules(model_name)
    groups: dict[str, list[str]] = {}
    for stage in modules:
        groups[stage] = []
        if stage.startswith("contrast") and "," not in stage:
            groups[f"{stage}, θ"] = []
    for stage, module in modules.items():
        for name in names:
            if name.startswith(f"{module}."):
                theta = ".attn." in name
                groups[f"{stage.split(',')[0]}, θ" if theta else stage].append(name)
    return {stage: members for stage, members in groups.items() if members}
