"""Prints where stock Jittor differs from PyTorch's definitions, and by how much (Markdown).

    python -m benchmarks.framework_differences

A number is the largest difference from the truth, relative to the truth's largest value (absolute
if that is 0). NumPy computes the truth in float64 by PyTorch's definition. docs/differences.md
explains the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks import NO_DATASET
from utils import cli, runtime
from utils.report.tables import print_head, print_row


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, a row as soon as it is measured."""
    args = cli.make_parser(__doc__, without_effect=(*NO_DATASET, "model_names")).parse_args(argv)
    print(f"{runtime.start(args.device, args.precision).describe()}\n")
    print_head("difference", "quantity", "stock Jittor")
    jt = runtime.jt
    _batch_norm(jt, "θ, 50 batches of 8×16×1×1", (8, 16, 1, 1), batches=50)
    _batch_norm(jt, "8×16×256×256", (8, 16, 256, 256))
    _batch_norm(jt, "8×16×256×256, values 1 ± 0.1", (8, 16, 256, 256), 1.0, 0.1)
    _batch_norm(jt, "8×16×16×16, values 10 ± 0.1", (8, 16, 16, 16), 10.0, 0.1)
    _sums(jt)
    _training(jt)
    _modules(jt)


def show(difference: str, quantity: str, stock: str | np.ndarray, truth: np.ndarray = 0.0) -> None:
    """Prints a row; `stock`: a text, a bool (yes or no) or an array (its error is shown)."""
    if isinstance(stock, np.bool_):
        stock = "yes" if stock else "no"
    elif not isinstance(stock, str):
        truth = np.asarray(truth, np.float64)
        stock = f"{np.abs(stock - truth).max() / (np.abs(truth).max() or 1):.1e}"
    print_row(difference, quantity, stock)


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _batch_norm(jt, where, shape, mean=0.0, std=1.0, batches=1):
    """Some batches in training mode, then the last one in evaluation mode."""
    norm, dy, axes = jt.nn.BatchNorm(shape[1]), _normal(*shape, seed=99), (0, 2, 3)
    running = np.full((2, shape[1]), [[mean], [std**2]], np.float32)
    norm.running_mean.update(jt.array(running[0]))
    norm.running_var.update(jt.array(running[1]))
    for seed in range(batches):
        array = np.float32(mean) + np.float32(std) * _normal(*shape, seed=seed)
        x, exact = jt.array(array), array.astype(np.float64)
        y = norm(x)
        dx = jt.grad((y * jt.array(dy)).sum(), x)
        jt.sync_all(True)
        running = 0.9 * running + 0.1 * np.stack((exact.mean(axes), exact.var(axes, ddof=1)))
    root = np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    y_true = (exact - exact.mean(axes, keepdims=True)) / root
    dx_true = dy - dy.mean(axes, np.float64, keepdims=True)
    dx_true = (dx_true - y_true * (dy * y_true).mean(axes, keepdims=True)) / root
    norm.eval()
    mean_true, var_true = (value.reshape(1, -1, 1, 1) for value in running)
    for quantity, stock, truth in (
            ("training output", y, y_true), ("input gradient", dx, dx_true),
            ("running mean", norm.running_mean, running[0]),
            ("running variance", norm.running_var, running[1]),
            ("evaluation output", norm(x), (exact - mean_true) / np.sqrt(var_true + 1e-5))):
        show(f"batch norm, {where}", quantity, stock.numpy(), truth)


def _sums(jt):
    """Sums over many float32 values, and a gradient that is 0."""
    x, weight, dy = (jt.array(_normal(*shape, seed=seed)) for seed, shape in enumerate(
        ((8, 16, 64, 64), (16, 16, 1, 1), (8, 16, 64, 64))))
    bias = jt.zeros(16)
    y = jt.nn.BatchNorm(16)(jt.nn.conv2d(x, weight) + bias.reshape(1, -1, 1, 1))
    show("bias before a batch norm", "its gradient", jt.grad((y * dy).sum(), bias).numpy())
    x = np.random.default_rng(0).random((8, 16, 256, 256), np.float32)
    show("float32 sums", "mean of 256×256 values of 0 to 1", jt.array(x).mean((2, 3)).numpy(),
         x.mean((2, 3), np.float64))
    conv, dy = jt.nn.Conv2d(1, 4, 1), _normal(8, 4, 256, 256, seed=1) + 1
    gradient = jt.grad((conv(jt.array(x[:, :1])) * jt.array(dy)).sum(), conv.bias).numpy()
    show("float32 sums", "gradient of a convolution's bias, 8×4×256×256", gradient,
         dy.sum((0, 2, 3), np.float64))


def _training(jt):
    """Steps of Adam, the schedule, the order of the images."""
    for size in (1e-4, 1e-6, 1e-8):
        p = jt.zeros(1)
        adam = jt.optim.Adam([p], lr=1e-3)
        for _ in range(10):
            adam.step((p * size).sum())
        show("Adam's ε", f"10 steps down a gradient of {size:g}", p.numpy(),
             -1e-2 * size / (size + 1e-8))
    adam, rates = jt.optim.Adam([jt.zeros(1)], lr=5e-4), []
    schedule = jt.lr_scheduler.MultiStepLR(adam, [200, 300])
    for _ in range(202):
        rates.append(f"{adam.lr:.0e}")
        schedule.step()
    show("MultiStepLR", "rate in epochs 199 to 202", " ".join(rates[198:]))
    show("MultiStepLR", "has a state to save", np.bool_(hasattr(schedule, "state_dict")))
    orders = []
    for seed in (1, 2):
        jt.set_global_seed(seed)
        data = type("Indices", (jt.dataset.Dataset,), {"__getitem__": lambda _, index: index})()
        data.set_attrs(total_len=663, batch_size=663, shuffle=True)
        orders.append(next(iter(data)).numpy())
    show("shuffling", "images in the same place with seeds 1 and 2",
         f"{(orders[0] == orders[1]).sum()} of 663")
    layer = jt.nn.Linear(2, 1)
    layer.eval()
    before = layer.weight.numpy().copy()
    jt.optim.Adam(layer.parameters(), 1e-3).step(layer(jt.ones((1, 2))).sum())
    show("eval()", "an Adam made after it trains", (layer.weight.numpy() != before).any())


def _modules(jt):
    """Modules with another default, or that accept wrong input."""
    pool, drop, ones = jt.nn.MaxPool2d(2), jt.nn.Dropout(0.1), jt.ones((1, 1, 64, 64))
    show("max-pool", "of a map of 2×2", _attempt(lambda: pool(ones[:, :, :2, :2]).numpy()))
    show("dropout", "at work in a new module", (drop(ones).numpy() != drop(ones).numpy()).any())
    lost = jt.array(np.full((1, 1, 4, 4), np.nan, np.float32))
    for name, layer in (("sigmoid", jt.sigmoid), ("ReLU", jt.nn.relu), ("max-pool", pool)):
        show("NaN", f"{name} of NaN", f"{layer(lost).numpy().flat[0]:.0e}")
    weight, bias = np.zeros((1, 1, 3, 3), np.float32), np.zeros(1, np.float32)
    for what, state in (("a missing entry", {"weight": weight}),
                        ("an unknown entry", {"weight": weight, "bias": bias, "scale": bias}),
                        ("an entry of another shape", {"weight": weight[:, :, 1:], "bias": bias})):
        show("load_state_dict", what,
             _attempt(lambda state=state: jt.nn.Conv2d(1, 1, 3).load_state_dict(state)))


def _attempt(call):
    """"accepted", or "refused" by any exception."""
    try:
        call()
    except Exception:  # Jittor raises several kinds
        return "refused"
    return "accepted"


if __name__ == "__main__":
    cli.run(main)
