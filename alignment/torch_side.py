"""The PyTorch half of `python -m alignment`, in a process of its own, after the Jittor half."""

from __future__ import annotations

import sys

from alignment.job import read_job
from utils import cli
from utils.errors import UserError


def main() -> int:
    """Does the task that `job.start` was given; "check": PyTorch can be imported."""
    task = sys.argv[1]
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"PyTorch cannot be imported ({error}); pip install -r requirements-align.txt"
        ) from error
    if task == "compare":
        from alignment.torch_compare import compare

        compare(read_job())
    elif task == "train":
        from alignment.torch_training import train

        return train(read_job())
    return 0


if __name__ == "__main__":
    cli.run(main)
