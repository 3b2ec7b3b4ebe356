"""Operators with PyTorch's semantics, and how activations lie in memory."""
