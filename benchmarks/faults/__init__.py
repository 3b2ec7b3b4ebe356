"""What is tried against the project, one module per subject, for `python -m benchmarks.faults`."""
