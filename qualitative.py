"""Draws a visual comparison: image, ground truth and several models' predictions side by side.

    python qualitative.py --names 000001 000124 000563
    python qualitative.py --model_name L2SKNet_UNet L2SKNet_1D_UNet --surface
    python qualitative.py --pred result/NUDT-SIRST/mat/L2SKNet_UNet /data/ACM/NUDT-SIRST

Takes predictions where cal_metrics.py does. Detections are circled, an inset zooms in; --surface
draws everything once more as surfaces in 3-D. Writes result/<dataset>_qualitative.png and .pdf, and
result/<dataset>_qualitative_3d.png and .pdf.
"""

from __future__ import annotations

from collections.abc import Sequence

from utils import cli
from utils.datasets import ImageList, load_split
from utils.errors import UserError, listed
from utils.paths import Paths
from utils.predict.prediction_files import prediction_folders
from utils.report.panels import detection_figure, read_examples, some_rows, surface_figure


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    parser = cli.make_parser(__doc__, any_model=True, without_effect=("device", "seed"))
    cli.add_threshold(parser)
    cli.add_pred(parser)
    cli.add_skip_bad(parser)
    parser.add_argument("--names", nargs="+", metavar="NAME",
                        help="of the test list; default four with a target, evenly chosen")
    parser.add_argument("--surface", action="store_true", help="surfaces in 3-D as well")
    args = parser.parse_args(argv)

    found = prediction_folders(args.output_dir, args.dataset_names, args.model_names,
                               args.default_models, args.pred)
    for dataset_name, folders in found.items():
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                           skip_bad=args.skip_bad)
        rows = rows_of(split, args.names) if args.names else some_rows(split)
        shown = read_examples(split, folders, rows)
        written = Paths(args.output_dir).qualitative(dataset_name)
        detection_figure(written, shown, args.threshold)
        if args.surface:
            surfaces = Paths(args.output_dir).qualitative(dataset_name, surface=True)
            surface_figure(surfaces, shown)
            written += surfaces
        print("written:", *written, sep="\n  ")


def rows_of(split: ImageList, names: Sequence[str]) -> list[int]:
    """Indices of the names in a split.

    Raises:
        UserError: one is not in it.
    """
    unknown = [name for name in names if name not in split.names]
    if unknown:
        raise UserError(f"--names {listed(unknown)}: not in the test list of {split.dataset}")
    return [split.names.index(name) for name in names]


if __name__ == "__main__":
    cli.run(main)
