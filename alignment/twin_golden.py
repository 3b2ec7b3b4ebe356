"""How far the PyTorch twin is from the numbers of the official implementation, as JSON.

    python -m alignment.twin_golden          # in a process of its own: PyTorch and Jittor clash

Prints {model: {precision: {name: [of the twin, of official float32]}}}, largest errors from the
float64 truth; `parameters` are the counts of the twin and of the official network.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from alignment import golden
from alignment.twin import NETWORKS, build_twin, load_weights, soft_iou_loss

SHAPE = "2x64x64"


def errors(name: str, dtype: torch.dtype) -> dict[str, list[float]]:
    """One evaluation, then one forward and backward pass in training mode."""
    fixture = golden.load(name)
    net = build_twin(name, dropout=False).to(dtype)
    load_weights(net, golden.weights(fixture))
    size = tuple(map(int, SHAPE.split("x")))
    x, mask = (torch.from_numpy(make(*size)).to(dtype) for make in (golden.images, golden.masks))
    net.eval()
    with torch.no_grad():
        found = {"eval": net(x)}
    net.train()
    found["train"] = net(x)
    found["loss"] = soft_iou_loss(found["train"], mask)
    found["loss"].backward()
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    names = [str(key) for key in fixture[f"{SHAPE}/grad_keys"]]
    result = {key: _distances(fixture, key, value.detach().numpy()) for key, value in found.items()}

    norms = np.array([float(parameters[key].grad.norm()) for key in names])
    truth = fixture[f"f64/{SHAPE}/grad_norms"]
    some = truth > 1e-9  # biases before a batch norm have none
    for what, choose in (("median", np.median), ("largest", np.max)):
        result[f"gradient, {what}"] = [float(choose(np.abs(a - truth)[some] / truth[some]))
                                       for a in (norms, fixture[f"{SHAPE}/grad_norms"])]
    norms = np.array([float(buffers[str(key)].norm()) for key in fixture[f"{SHAPE}/buffer_keys"]])
    result["buffers"] = _distances(fixture, "buffer_norms", norms)
    return result


def _distances(fixture, key, ours):
    truth = fixture[f"f64/{SHAPE}/{key}"]
    return [float(np.abs(a - truth).max()) for a in (ours, fixture[f"{SHAPE}/{key}"])]


def main() -> None:
    """Prints the errors of all networks."""
    report = {}
    for name in NETWORKS:
        counts = sum(p.numel() for p in build_twin(name).parameters())
        report[name] = {str(dtype): errors(name, dtype) for dtype in (torch.float64, torch.float32)}
        report[name]["parameters"] = [counts, int(golden.load(name)["trainable_all"])]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
