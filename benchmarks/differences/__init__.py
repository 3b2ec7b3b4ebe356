"""The entries of `benchmarks.framework_differences`: what is computed, by each of the sides."""
