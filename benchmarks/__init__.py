"""Measurements whose numbers stand in README and docs/: `python -m benchmarks.<name>`."""
