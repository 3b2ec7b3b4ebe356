"""Measurements whose numbers stand in the README: `python -m benchmarks.<name>`."""
