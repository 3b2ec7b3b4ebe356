"""Weights and checkpoints: ours, PyTorch's, and those that come with the project."""

from utils.checkpoint.weights import load_weights, save_weights

__all__ = ["load_weights", "save_weights"]
