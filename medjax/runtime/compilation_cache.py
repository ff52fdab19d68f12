"""Keeps compiled programs on disk: the second start of a run begins in seconds."""

import hashlib
import pathlib
import platform

import jax

from data_pipelines.cache import default_folder


def keep_programs() -> None:
    """Has JAX keep what it compiles in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another.

    A program for a CPU uses what that CPU can do, so computers that share a home but not a processor share none.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(default_folder() / "programs" / processor()))


def processor() -> str:
    """Names this computer's kind of CPU."""
    described = platform.machine() + platform.processor()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        described += "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return hashlib.sha256(described.encode()).hexdigest()[:12]
