"""How far the PyTorch twin is from the numbers of the official implementation, as JSON.

    python -m alignment.twin_golden          # in a process of its own: PyTorch and Jittor clash

Prints {model: {precision: {name: [of the twin, of official float32]}}}, the errors of
`golden.errors`; `parameters` are the counts of the twin and of the official network.
"""

from __future__ import annotations

import json

import torch

from alignment import golden
from alignment.twin import NETWORKS, build_twin, load_weights, soft_iou_loss

SHAPE = "2x64x64"


def results(name: str, precision: str, fixture: golden.Fixture) -> golden.Results:
    """One evaluation, then one forward and backward pass in training mode."""
    dtype = torch.float64 if precision == "float64" else torch.float32
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
    found = {key: value.detach().numpy() for key, value in found.items()}
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    for key, tensors in (("grad", {key: p.grad for key, p in parameters.items()}),
                         ("buffer", buffers)):
        names = fixture[f"{SHAPE}/{key}_keys"]
        found[f"{key}_norms"] = golden.norms(tensors[str(name)].numpy() for name in names)
    return found


def main() -> None:
    """Prints the errors of all networks."""
    # oneDNN's rounding depends on the processor: on Zen 3, float32 gradients of L2SKNet_1D_UNet are
    # 14 times as far from the truth with it.
    torch.backends.mkldnn.enabled = False
    report = {}
    for name in NETWORKS:
        fixture = golden.load(name)
        counts = sum(p.numel() for p in build_twin(name).parameters())
        report[name] = {"parameters": [counts, int(fixture["trainable_all"])]}
        for precision in ("float64", "float32"):
            found = golden.errors(fixture, SHAPE, results(name, precision, fixture))
            report[name][precision] = {key: list(map(float, pair)) for key, pair in found.items()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
