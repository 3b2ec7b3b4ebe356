"""Measurements whose numbers stand in README and docs/: `python -m benchmarks.<name>`."""

import utils.cli  # noqa: F401 - first: says in one line what the environment lacks

# Common flags without effect on a measurement that reads no dataset.
NO_DATASET = ("dataset_names", "dataset_dir", "output_dir", "seed", "num_workers")
