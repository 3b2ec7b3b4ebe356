"""Weights and checkpoints: ours, PyTorch's, and those that come with the project."""

from utils.checkpoint.weights import (
    checkpoint_folder,
    find_weights,
    get_weights,
    load_weights,
    read_meta,
    save_weights,
)

__all__ = ["checkpoint_folder", "find_weights", "get_weights", "load_weights", "read_meta",
           "save_weights"]
