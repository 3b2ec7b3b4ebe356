"""Training runs: the epochs, their log, stopping and going on."""
