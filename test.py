"""Predicts the test list of a dataset, or any image or folder of images.

    python test.py --model_name L2SKNet_UNet --dataset_name NUDT-SIRST
    python test.py --model_name L2SKNet_UNet --input my_frames/

Writes result/<dataset>/img/<model>/NAME.png (0-255) and result/<dataset>/mat/<model>/NAME.mat
(key T, float32 probabilities). With --input, <dataset> is the name of the file or folder. The
weights are the best ones of the training run, or those of --weights.
"""

from __future__ import annotations

from pathlib import Path

from utils import cli
from utils.errors import UserError


def main(argv=None) -> None:
    """Runs the script with the arguments given, those of the command line by default."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"])
    cli.add_batch_size(parser)
    parser.add_argument("--input", type=Path, metavar="FILE_OR_FOLDER",
                        help="predict these images instead of a test list; no masks needed")
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="an .npz of weights; default the best of the training run")
    args = parser.parse_args(argv)
    if args.weights and len(args.model_names) > 1:
        raise UserError(f"{args.weights}: weights are of one network; name one --model_name")
    from utils import runtime
    from utils.checkpoint import find_weights
    from utils.datasets import load_split

    weights = {}
    for dataset_name in args.dataset_names[:1] if args.input else args.dataset_names:
        for model_name in args.model_names:
            path = args.weights or find_weights(args.output_dir, dataset_name, model_name)
            if path is None:
                raise UserError(
                    f"{model_name} is not trained on {dataset_name}; train it (python "
                    f"train_device0.py --model_name {model_name} --dataset_name {dataset_name}) "
                    "or name a file with --weights"
                )
            weights[dataset_name, model_name] = path

    print(runtime.start(args.device).describe())
    # Here and not above: with these Jittor starts, on any device.
    from utils.predict import input_name, predict_images, predict_split

    for (dataset_name, model_name), path in weights.items():
        if args.input:
            folder = args.output_dir / "result" / input_name(args.input)
            print(f"{args.input}, {model_name} with {path}, to {folder}")
            predict_images(model_name, path, args.input, args.output_dir)
        else:
            split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                               masks_required=False)
            folder = args.output_dir / "result" / dataset_name
            print(f"{split.describe()}, {model_name} with {path}, to {folder}")
            predict_split(model_name, path, split, args.output_dir, dataset_name,
                          args.batch_size or 8)


if __name__ == "__main__":
    cli.run(main)
