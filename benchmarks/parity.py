"""Prints the errors of our networks and of official PyTorch in float32, as a Markdown table.

    python -m benchmarks.parity

An error is the distance from the official network in float64: of outputs, loss, gradients and
running statistics, on the weights and images of alignment/golden.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from alignment import golden
from benchmarks import NO_DATASET
from model import build_model
from utils import cli, runtime
from utils.report.tables import print_head, print_row

COLUMNS = ("evaluation output", "training output", "loss", "gradient, median",
           "gradient, largest", "buffers")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, ours / PyTorch in each cell."""
    parser = cli.make_parser(__doc__, without_effect=NO_DATASET)
    args = parser.parse_args(argv)
    cli.refuse_bf16(args.precision)
    runtime.start(args.device, args.precision)
    print_head("model", "batch", *COLUMNS)
    for name in args.model_names:
        net, fixture = build_model(name, dropout=False), golden.load(name)
        for shape in ("2x64x64", "8x256x256"):
            errors = golden.errors(fixture, shape, {
                **golden.training_results(net, fixture, shape),
                **golden.evaluation_results(net, fixture, shape)})
            pairs = [errors[column] for column in COLUMNS]
            print_row(name, shape, *(f"{ours:.1e} / {pytorch:.1e}" for ours, pytorch in pairs))


if __name__ == "__main__":
    cli.run(main)
