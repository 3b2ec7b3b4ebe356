"""Makes the files of tests/fixtures that PyTorch wrote: python tests/torch_fixture.py FOLDER.

Run in a process of its own: PyTorch and Jittor do not share one.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np


def content():
    """Tensors of many kinds, and what else stands in people's checkpoints."""
    import torch

    base = torch.arange(24.0).reshape(2, 3, 4) / 7
    state = OrderedDict(
        plain=base, transposed=base.permute(2, 0, 1), part=base[1, 1:, ::2], scalar=base[1, 2, 3],
        parameter=torch.nn.Parameter(base[0]), half=base[0].half(), bfloat16=base[0].bfloat16(),
        double=base[0].double() / 3,
        long=torch.tensor(-(2**40)), int=torch.tensor([-(2**20)]).int(),
        short=torch.tensor([-300]).short(), char=torch.tensor([-3]).char(),
        byte=torch.tensor([200]).byte(), bool=torch.tensor([True, False]), empty=torch.ones(0, 3),
    )
    norm = torch.nn.BatchNorm2d(3)
    optimizer = torch.optim.Adam(norm.parameters(), 1e-3)
    norm(torch.ones(2, 3, 2, 2)).sum().backward()
    optimizer.step()
    return {
        "epoch": 7, "state_dict": state, "norm": norm.state_dict(),
        "optimizer": optimizer.state_dict(), "losses": [0.5, float("inf"), -1, 2**70, 300, 70000],
        "mIoU": np.float64(0.25), "Fa": np.float32(0.5), "count": np.int64(3),
        "good": np.bool_(True),
        "words": ("naïve", None, True, False, b"\x00\xff"), "size": base.shape,
        "device": torch.device("cpu"), "dtype": torch.float32,
    }


def main():
    import torch

    folder, made = Path(sys.argv[1]), content()
    torch.save(made, folder / "torch_zip.pth.tar")
    torch.save(made, folder / "torch_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
