"""What a job runs on: mesh, sharding, train state, checkpoints, reports."""
