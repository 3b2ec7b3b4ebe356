"""Converts weights of PyTorch and Jittor to our .npz, ours to PyTorch's files, and any to .onnx.

    python convert_weights.py model/checkpoints/NUDT-SIRST/L2SKNet_UNet/best.npz unet.pth.tar
    python convert_weights.py official.pth.tar official.npz
    python convert_weights.py model/pretrained/NUDT-SIRST/L2SKNet_UNet.npz net.onnx
    python convert_weights.py model/pretrained/NUDT-SIRST/L2SKNet_UNet.npz net.onnx --size 480 640

The ending of OUT decides. A .pth.tar is written as the official training script does it: a dict of
`epoch`, `total_loss` and the `state_dict` of the official Net, whose names begin with "model.". A
.pth or .pt is the bare state_dict of the network. Both have all that the official networks' strict
load_state_dict wants, and load with torch.load(…, weights_only=True).

IN is an .npz, or what torch.save or jittor.save wrote, under any name: .pth.tar, .pth, .pt, .bin,
.pkl, .ckpt. Nothing in a file is executed, and PyTorch is not needed. test.py --weights takes all
of these files as they are.

.onnx (opset 17) is the network itself, for any batch and size, with its name, training data,
threshold and input convention inside; it needs `pip install -r requirements-onnx.txt`. With --size
it is for one image of that size, for runtimes that know fixed shapes only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils import cli
from utils.checkpoint.convert import convert
from utils.runtime import start


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, metavar="IN", help="a file of weights")
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write")
    parser.add_argument("--model_name", choices=cli.MODEL_NAMES, metavar="MODEL",
                        help=f"one of {', '.join(cli.MODEL_NAMES)}; default the model that the "
                             "weights fit")
    parser.add_argument("--size", type=cli.positive(int), nargs="+", metavar="PIXELS",
                        help="the image size of an .onnx: side of a square, or height and width")
    args = parser.parse_args(argv)
    if args.size and len(args.size) > 2:
        parser.error("--size: give one side, or height and width")
    size = args.size and (args.size[0], args.size[-1])
    print(start("cpu").describe())
    print(f"{args.source} -> {args.target}")
    print(convert(args.source, args.target, args.model_name, size))


if __name__ == "__main__":
    cli.run(main)
