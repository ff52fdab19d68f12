"""Imports what launch.py's jobs import: a server does so once, and forks every run from there, which saves seconds a start."""

import importlib
import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ["JAX_PLATFORMS"] = "cpu"

JOBS = ("train", "sample", "evaluate", "prepare")
for job in JOBS:
    importlib.import_module(f"medjax.jobs.{job}")
for name in ("launch", "tensorflow", "tensorflow_datasets", "xla_flags", "nilearn.datasets"):
    importlib.import_module(name)
