"""Alignment with PyTorch, shown: `python -m alignment` (see `alignment/__main__.py`).

Only the files that have `torch` or `twin` in their names import PyTorch, and never in a process
that uses Jittor: the two clash over oneDNN.
"""

import utils.cli  # noqa: F401 - first: says in one line what the environment lacks
