"""Holds what a run runs on: mesh, sharding, several processes, train state, checkpoints, metrics, workdir."""
