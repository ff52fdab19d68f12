"""Holds what `--mode` can name: each job is a file with `run(config, workdir) -> result`, plain data printed as JSON."""
