"""The PyTorch half of `python -m alignment`, in a process of its own, after the Jittor half."""

from __future__ import annotations

from alignment.job import read_job
from utils import cli
from utils.errors import UserError


def main():
    job = read_job()
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"PyTorch cannot be imported ({error}); pip install -r requirements-align.txt"
        ) from error
    if job.task == "compare":
        from alignment.torch_compare import compare

        return compare(job)
    if job.task == "train":
        from alignment.torch_training import train

        return train(job)
    return 0  # "check": it can be imported


if __name__ == "__main__":
    cli.run(main)
