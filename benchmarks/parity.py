"""How far we are from the float64 truth, and how far official PyTorch float32 is (Markdown).

    python -m benchmarks.parity

Forward, backward and running statistics on the weights and images of alignment/golden.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from alignment import golden
from benchmarks.measuring import NO_DATASET
from benchmarks.table import print_head, print_row
from model import build_model
from utils import cli, runtime


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, ours / official in each cell."""
    parser = cli.make_parser(__doc__, without_effect=NO_DATASET)
    args = parser.parse_args(argv)
    runtime.start(args.device, args.precision)
    columns = ["evaluation output", "training output", "loss", "gradient, median",
               "gradient, largest", "buffers"]
    print_head("model", "batch", *columns)
    for name in args.model_names:
        net, fixture = build_model(name, dropout=False), golden.load(name)
        for shape in ("2x64x64", "8x256x256"):
            errors = golden.training_errors(net, fixture, shape)
            errors["training output"] = errors["output"]
            errors["evaluation output"] = golden.evaluation_errors(net, fixture, shape)
            pairs = map(errors.get, columns)
            print_row(name, shape, *(f"{ours:.1e} / {official:.1e}" for ours, official in pairs))


if __name__ == "__main__":
    cli.run(main)
