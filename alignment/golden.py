"""Numbers of the official PyTorch implementation (numbers/), and the recipe behind them.

Weights, images and masks are functions of names, so nothing large is stored. Every number exists in
float32, as official PyTorch computes it, and under `f64/` in float64, the truth. An error is a
distance from the truth; the functions below return two: ours, and official float32's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import List, Mapping, Tuple

import numpy as np

from model import soft_iou_loss
from utils import runtime  # Jittor starts where it is used: PyTorch's twin reads this as well
from utils.checkpoint.weights import get_weights, load_weights, read_arrays

NUMBERS = Path(__file__).parent / "numbers"

# The standard: how many times as far from the truth as official float32 we may be.
FACTOR, FACTORS = 3, {"gradient, largest": 5}
# Official float32 is sometimes exact by luck, and no multiple of zero can be met: least bounds.
FLOORS = {"evaluation output": 2e-7, "training output": 2e-7, "loss": 6e-8}
# Two small images: a value near zero on the other side of a ReLU moves half of the gradients. On
# one CPU (Zen 3) PyTorch's own median for L2SKNet_1D_UNet is 1.1e-5 with oneDNN, 7e-7 without.
SMALL_FLOORS = {"gradient, median": 1.1e-5}
NUDGES = (1, 2)  # for `reset`, where rounding decides what ten steps make of two small images

Fixture = Mapping[str, np.ndarray]  # what `load` returns
Errors = Tuple[float, float]  # ours, and official float32's


def load(model_name: str) -> dict[str, np.ndarray]:
    """The fixture of a network: name → array."""
    return read_arrays(NUMBERS / f"{model_name}.npz")


def _rng(name):
    return np.random.default_rng([20241225, zlib.crc32(name.encode())])


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe's value of one entry of the official state_dict."""
    z = _rng(name).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.float32(0.3) * (1 + np.abs(z))
    if name.endswith("running_mean"):
        return np.float32(0.02) * z
    if len(shape) == 4:
        return z * np.float32(1 / np.sqrt(np.prod(shape[1:])))  # a division rounds otherwise
    if name.endswith("bias"):
        return np.float32(0.1) * z
    return 1 + np.float32(0.1) * z


def weights(fixture: Fixture) -> dict[str, np.ndarray]:
    """The recipe's state_dict, the unused kernels of the official 1-D models included."""
    names = [str(name) for name in fixture["keys"]]
    shapes = [tuple(map(int, str(shape).split("x"))) for shape in fixture["shapes"]]
    return {name: weight(name, shape) for name, shape in zip(names, shapes)}


def images(n: int, h: int, w: int) -> np.ndarray:
    """n×1×h×w float32."""
    return _rng(f"input{n}x{h}x{w}").random((n, 1, h, w)).astype(np.float32)


def masks(n: int, h: int, w: int) -> np.ndarray:
    """n×1×h×w float32: three 4×4 squares per image."""
    rng, result = _rng(f"mask{n}x{h}x{w}"), np.zeros((n, 1, h, w), np.float32)
    for image in result[:, 0]:
        for _ in range(3):
            r, c = rng.integers(2, h - 6), rng.integers(2, w - 6)
            image[r : r + 4, c : c + 4] = 1
    return result


def batch(shape: str) -> tuple[runtime.jt.Var, runtime.jt.Var]:
    """Images and masks of a shape such as "2x64x64", as Jittor variables."""
    size = tuple(map(int, shape.split("x")))
    return runtime.jt.array(images(*size)), runtime.jt.array(masks(*size))


def reset(net: runtime.jt.Module, fixture: Fixture, nudge: int | None = None) -> None:
    """Gives a network the recipe's weights.

    Args:
        nudge: a seed, which moves each weight by up to half a digit of float32; None moves none.
    """
    values = weights(fixture)
    if nudge is not None:
        random = np.random.default_rng(nudge)
        values = {key: (array * random.uniform(1 - 6e-8, 1 + 6e-8, array.shape)).astype(array.dtype)
                  for key, array in values.items()}
    load_weights(net, values)


Results = Mapping[str, np.ndarray]  # by the fixture's names without the shape


def build_evaluation(net: runtime.jt.Module, fixture: Fixture, shape: str) -> runtime.jt.Var:
    """The output in evaluation mode, not yet computed."""
    reset(net, fixture)
    net.eval()
    with runtime.jt.no_grad():
        return net(batch(shape)[0])


def evaluation_results(net: runtime.jt.Module, fixture: Fixture, shape: str) -> Results:
    """The output in evaluation mode."""
    return {"eval": build_evaluation(net, fixture, shape).numpy()}


Pass = Tuple["runtime.jt.Var", "runtime.jt.Var", List["runtime.jt.Var"]]


def build_training(net: runtime.jt.Module, fixture: Fixture, shape: str) -> Pass:
    """A pass in training mode, not yet computed: output, loss, gradients."""
    reset(net, fixture)
    net.train()
    x, mask = batch(shape)
    output = net(x)
    loss = soft_iou_loss(output, mask)
    parameters = net.state_dict()
    keys = [str(name) for name in fixture[f"{shape}/grad_keys"]]
    return output, loss, runtime.jt.grad(loss, [parameters[name] for name in keys])


def read_training(
    net: runtime.jt.Module, fixture: Fixture, shape: str, built: Pass
) -> Results:
    """Output, loss, and norms of gradients and buffers after `build_training`, once computed."""
    output, loss, gradients = built
    buffers = get_weights(net)
    return {
        "train": output.numpy(), "loss": loss.numpy(),
        "grad_norms": norms(gradient.numpy() for gradient in gradients),
        "buffer_norms": norms(buffers[str(key)] for key in fixture[f"{shape}/buffer_keys"]),
    }


def training_results(net: runtime.jt.Module, fixture: Fixture, shape: str) -> Results:
    """Output, loss and norms of one forward and backward pass in training mode."""
    built = build_training(net, fixture, shape)
    runtime.jt.sync_all(True)
    return read_training(net, fixture, shape, built)


def norms(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The Euclidean norm of each array, summed in double precision."""
    return np.array([np.linalg.norm(array.astype(np.float64)) for array in arrays])


def errors(fixture: Fixture, shape: str, results: Results) -> dict[str, Errors]:
    """The errors of results, by name.

    Outputs and loss: the largest error. Gradient norms: the relative errors, of which the median
    and the largest count. Buffers (running statistics): the largest relative error of a norm. "zero
    gradients": the largest norm where the truth is zero, at biases before a batch norm.
    """
    found = {}
    for name, key in (("evaluation output", "eval"), ("training output", "train"),
                      ("loss", "loss")):
        if key in results:
            found[name] = _largest_errors(f"{shape}/{key}", fixture, results[key])
    if "grad_norms" in results:
        both, truth = _with_official("grad_norms", fixture, shape, results)
        zero = truth < 1e-9
        found["zero gradients"] = tuple(norms[zero].max(initial=0) for norms in both)
        relative = [np.abs(norms - truth)[~zero] / truth[~zero] for norms in both]
        found["gradient, median"] = tuple(map(np.median, relative))
        found["gradient, largest"] = tuple(map(np.max, relative))
    if "buffer_norms" in results:
        both, truth = _with_official("buffer_norms", fixture, shape, results)
        found["buffers"] = tuple((np.abs(norms - truth) / truth).max() for norms in both)
    return found


def _largest_errors(key, fixture, ours):
    if f"f64/{key}_sub8" in fixture:  # only every eighth row and column is stored
        key, ours = f"{key}_sub8", ours[..., ::8, ::8]
    truth = fixture[f"f64/{key}"]
    return tuple(np.abs(a.astype(np.float64) - truth).max() for a in (ours, fixture[key]))


def _with_official(key, fixture, shape, results):
    return (results[key], fixture[f"{shape}/{key}"]), fixture[f"f64/{shape}/{key}"]


def share_of_bound(kind: str, errors: Errors, shape: str) -> float:
    """Our error as a share of what the standard allows: at most 1 where it is met."""
    ours, official = errors
    floors = {**FLOORS, **(SMALL_FLOORS if shape == "2x64x64" else {})}
    bound = max(FACTORS.get(kind, FACTOR) * official, floors.get(kind, 0))
    return ours / bound if ours else 0.0
