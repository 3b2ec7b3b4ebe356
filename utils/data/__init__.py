"""Datasets and single images, from files to arrays."""

from utils.data.datasets import Split, load_split, load_splits
from utils.data.images import read_gray, read_mask, to_float

__all__ = ["Split", "load_split", "load_splits", "read_gray", "read_mask", "to_float"]
