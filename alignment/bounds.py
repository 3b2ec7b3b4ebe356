"""Distances between two implementations and the truth, and the bounds they are held to.

A capture is a mapping of names to arrays: `forward/STAGE` and `backward/STAGE` (outputs of the
stages and the gradients with respect to them), `buffers/NAME` (running statistics after the step)
and `gradients/NAME` (of the parameters). NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alignment.stages import parameter_stages, stage_modules

# What is compared → the largest allowed ratio of our error to PyTorch's, both in float32.
FACTORS = {"forward": 3, "backward": 5, "buffers": 3, "gradients": 5}
# PyTorch's error is sometimes zero by luck, and no multiple of zero can be met. So a smaller error
# of PyTorch counts as this part of the truth's size, about 8 roundings of float32.
FLOOR = 5e-7
EXTRA = ("loss", "head, evaluating")  # compared beside the stages, forward only

STEPS, STEP_BOUND = 10, 1e-4  # the losses of the first steps agree to this bound
# The mean losses of the first epochs of whole runs agree to this bound. Rounding makes the weights
# of two runs drift apart within some dozen steps; then only the course of the training is alike.
# Later the loss falls steeply, in each run at another moment.
EPOCHS, EPOCH_BOUND = 5, 1e-3
ZERO = 1e-9  # a gradient whose norm is below this part of the median norm counts as zero


def distances(
    model_name: str,
    jittor: Mapping[str, np.ndarray],
    pytorch: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
) -> dict[tuple[str, str], tuple]:
    """How far the captures of a batch are from each other, stage by stage.

    Outputs, their gradients and buffers are measured by the largest element (each buffer relative
    to its largest element), gradients of parameters by the L2 norm over all of a stage.

    Returns:
        (kind, stage) → the truth's size, and relative to it ours − truth, PyTorch − truth and
        ours − PyTorch.
    """
    captures = jittor, pytorch, truth
    found = {}
    for kind in ("forward", "backward"):
        for stage in (*stage_modules(model_name), *(EXTRA if kind == "forward" else ())):
            key = f"{kind}/{stage}"
            found[kind, stage] = _measure(kind, *(np.asarray(c[key], float) for c in captures))
    for kind in ("buffers", "gradients"):
        names = [key[len(kind) + 1:] for key in truth if key.startswith(f"{kind}/")]
        for stage, members in parameter_stages(model_name, names).items():
            keys = [f"{kind}/{name}" for name in members]
            scales = [np.abs(truth[k]).max() if kind == "buffers" else 1 for k in keys]
            found[kind, stage] = _measure(kind, *(
                np.concatenate([np.ravel(c[k]).astype(float) / s for k, s in zip(keys, scales)])
                for c in captures
            ))
    return found


def _measure(kind, jittor, pytorch, truth):
    size = np.linalg.norm if kind == "gradients" else lambda a: np.abs(a).max(initial=0)
    scale = size(truth)
    return scale, *(size(a) / (scale or 1.0) for a in (jittor - truth, pytorch - truth,
                                                       jittor - pytorch))


def judge(batches: Sequence[Mapping[tuple[str, str], tuple]]) -> list[dict]:
    """Compares the `distances` of several batches with the bounds: each stage by its median.

    If the input of a ReLU is too close to zero for float32, rounding decides on each side whether
    it passes, and one decision moves all gradients before it by up to a hundredth. That is chance
    and happens in some batches; what is wrong or imprecise shows in all of them.

    Returns:
        Dicts of `kind` (of FACTORS), `stage`, `scale` (the truth's size), and relative to it the
        medians `jittor` and `pytorch` (from the truth) and `between`, `worst` (the largest of the
        first two), then `ratio` and `passed`: up to FACTORS[kind].
    """
    rows = []
    for kind, stage in batches[0]:
        values = np.array([batch[kind, stage] for batch in batches])
        scale, ours, theirs, between = map(float, np.median(values, 0))
        ratio = ours / max(theirs, FLOOR)
        rows.append({
            "kind": kind, "stage": stage, "scale": scale, "jittor": ours, "pytorch": theirs,
            "between": between, "worst": values[:, 1:3].max(0).tolist(), "ratio": ratio,
            "passed": ratio <= FACTORS[kind],  # so that NaN does not pass
        })
    return rows


def zero_gradients(capture: Mapping[str, np.ndarray]) -> list[str]:
    """Parameters whose true gradient is zero: biases before a batch norm.

    In float32 such a gradient is rounding noise, from which Adam makes steps of full size.
    """
    norms = {key[len("gradients/"):]: np.linalg.norm(array) for key, array in capture.items()
             if key.startswith("gradients/")}
    limit = ZERO * np.median(list(norms.values()))
    return [name for name, norm in norms.items() if norm <= limit]
