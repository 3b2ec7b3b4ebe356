"""Trains networks: epochs, log, stopping and resuming."""
