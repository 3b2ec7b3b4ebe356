"""How far we are from the float64 truth, and how far official PyTorch float32 is (Markdown).

    python -m benchmarks.parity

Forward, backward and running statistics on the weights and images of alignment/golden.py.
"""

from __future__ import annotations

from alignment import golden
from model import build_model
from utils import cli, runtime


def main(argv=None) -> None:
    parser = cli.make_parser(__doc__)
    args = parser.parse_args(argv)
    runtime.start(args.device, args.precision)
    columns = ["evaluation output", "training output", "loss", "gradient, median",
               "gradient, largest", "buffers"]
    print("| model | batch |", " | ".join(columns), "|")
    print("|---|---|" + "---|" * len(columns))
    for name in args.model_names:
        net, fixture = build_model(name, dropout=False), golden.load(name)
        for shape in ("2x64x64", "8x256x256"):
            errors = golden.training_errors(net, fixture, shape)
            errors["training output"] = errors["output"]
            errors["evaluation output"] = golden.evaluation_errors(net, fixture, shape)
            cells = [f"{ours:.1e} / {official:.1e}" for ours, official in map(errors.get, columns)]
            print(f"| {name} | {shape} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    cli.run(main)
