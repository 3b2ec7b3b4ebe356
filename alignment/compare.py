"""Distances between two implementations and the truth, and the bounds they are held to.

A capture is a mapping of names to arrays: `forward/STAGE` and `backward/STAGE` (outputs of the
stages and the gradients with respect to them), `buffers/NAME` (running statistics after the step)
and `gradients/NAME` (of the parameters). NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alignment.stages import parameter_stages, stage_modules

# What is compared -> how many times as far from the float64 truth as PyTorch's float32 ours may be.
FACTORS = {"forward": 3, "backward": 5, "buffers": 3, "gradients": 5}
# PyTorch is by luck sometimes exact to the last digits, where a multiple of nothing is asked; an
# error below this part of the largest value, about 8 roundings of float32, counts as this much.
FLOOR = 5e-7
# A rounding may decide one ReLU or max-pool otherwise, on one side only, and all gradients before
# it then move at once. Measured: by 2e-4 to 2e-3 of their size, in either framework.
FLIP = {"backward": 2e-3, "gradients": 2e-3}
EXTRA = ("loss", "head, evaluating")  # beside the stages, forward only

STEPS, STEP_BOUND = 10, 1e-4  # the losses of so many steps agree to this
# The mean losses of each epoch of whole runs agree to this: rounding makes their weights part for
# good within some dozen steps, after which only the course of the training is the same.
EPOCH_BOUND = 0.03
ZERO = 1e-9  # a gradient of less than this part of the median norm is zero


def stage_rows(
    model_name: str,
    jittor: Mapping[str, np.ndarray],
    pytorch: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
) -> list[dict]:
    """Compares three captures stage by stage.

    Returns:
        Dicts of `kind` (of FACTORS), `stage`, `scale` (the truth's size), `jittor` and `pytorch`
        (distances from the truth), `between` (their own distance), `ratio` and `passed`: up to
        FACTORS[kind], or a distance up to FLIP[kind] of the size. Outputs, their gradients and
        buffers are measured by the largest element (a buffer relative to its own largest),
        gradients of parameters by the L2 norm of all of a stage together.
    """
    captures = jittor, pytorch, truth
    rows = []
    for kind in ("forward", "backward"):
        for stage in (*stage_modules(model_name), *(EXTRA if kind == "forward" else ())):
            key = f"{kind}/{stage}"
            rows.append(_row(kind, stage, *(np.asarray(each[key], float) for each in captures)))
    for kind in ("buffers", "gradients"):
        names = [key[len(kind) + 1:] for key in truth if key.startswith(f"{kind}/")]
        for stage, members in parameter_stages(model_name, names).items():
            keys = [f"{kind}/{name}" for name in members]
            scales = [np.abs(truth[k]).max() if kind == "buffers" else 1 for k in keys]
            rows.append(_row(kind, stage, *(
                np.concatenate([np.ravel(each[k]).astype(float) / s for k, s in zip(keys, scales)])
                for each in captures
            )))
    return rows


def _row(kind, stage, jittor, pytorch, truth):
    size = np.linalg.norm if kind == "gradients" else lambda a: np.abs(a).max(initial=0)
    scale = size(truth)
    ours, theirs = size(jittor - truth), size(pytorch - truth)
    base = max(theirs, FLOOR * scale)
    return {
        "kind": kind, "stage": stage, "scale": float(scale), "jittor": float(ours),
        "pytorch": float(theirs), "between": float(size(jittor - pytorch)),
        "ratio": float(ours / base) if base else (0.0 if ours == 0 else float("inf")),
        # So that NaN does not pass.
        "passed": bool(ours <= max(FACTORS[kind] * base, FLIP.get(kind, 0) * scale)),
    }


def zero_gradients(capture: Mapping[str, np.ndarray]) -> list[str]:
    """Parameters whose true gradient is zero: biases before a batch norm.

    In float32 theirs is rounding noise, of which Adam makes steps of full size.
    """
    norms = {key[len("gradients/"):]: np.linalg.norm(array) for key, array in capture.items()
             if key.startswith("gradients/")}
    limit = ZERO * np.median(list(norms.values()))
    return [name for name, norm in norms.items() if norm <= limit]
