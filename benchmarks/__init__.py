"""Measurements whose numbers stand in README and docs/: `python -m benchmarks.<name>`."""

import utils.cli  # noqa: F401 - first: says in one line what the environment lacks
