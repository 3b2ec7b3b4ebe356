"""How far we are from the float64 truth, and how far official PyTorch float32 is (Markdown).

    python -m benchmarks.parity
    python -m benchmarks.parity --precision bf16    ours, and PyTorch's bfloat16 autocast

Forward, backward and running statistics on the weights and images of alignment/golden.py.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence

from alignment import golden
from benchmarks.measuring import NO_DATASET
from model import build_model
from utils import cli, runtime
from utils.errors import UserError
from utils.report.tables import print_head, print_row

COLUMNS = ("evaluation output", "training output", "loss", "gradient, median",
           "gradient, largest", "buffers")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, ours / PyTorch in each cell."""
    parser = cli.make_parser(__doc__, without_effect=NO_DATASET)
    args = parser.parse_args(argv)
    if args.precision == runtime.BF16 and importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install -r requirements-align.txt")
    runtime.start(args.device, args.precision)
    autocast = _autocast_errors() if args.precision == runtime.BF16 else None
    print_head("model", "batch", *COLUMNS)
    for name in args.model_names:
        net, fixture = build_model(name, dropout=False), golden.load(name)
        for shape in ("2x64x64", "8x256x256"):
            errors = golden.errors(fixture, shape, {
                **golden.training_results(net, fixture, shape),
                **golden.evaluation_results(net, fixture, shape)})
            pairs = [errors[column] for column in COLUMNS]
            if autocast:
                theirs = autocast[name]["bf16"][shape]
                pairs = [(ours, theirs[column][0]) for column, (ours, _) in zip(COLUMNS, pairs)]
            print_row(name, shape, *(f"{ours:.1e} / {pytorch:.1e}" for ours, pytorch in pairs))


def _autocast_errors():
    command = [sys.executable, "-m", "alignment.twin_golden", "bf16"]
    run = subprocess.run(command, cwd=cli.ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise UserError("PyTorch's side has failed, see above")
    return json.loads(run.stdout)


if __name__ == "__main__":
    cli.run(main)
