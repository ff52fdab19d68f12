"""Finds which cuDNN, NVIDIA's convolutions, this process has loaded: another package's may have come before JAX's own."""

import contextlib
import ctypes
import importlib
import os
from collections.abc import Callable

SONAMES = ("libcudnn.so.10", "libcudnn.so.9", "libcudnn.so.8")
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")  # each knows what it was built for

Version = tuple[int, int, int]


def loaded_version(open_library: Callable[..., ctypes.CDLL] = ctypes.CDLL) -> Version | None:
    """Asks the cuDNN that is loaded for its version; None where there is none, as without a GPU of NVIDIA's."""
    for name in SONAMES:
        with contextlib.suppress(OSError, AttributeError):
            # What is not there already is not loaded.
            version = open_library(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY).cudnnGetVersion
            version.restype = ctypes.c_size_t
            return version_of(version())
    return None


def built_version() -> Version | None:
    """Asks JAX's plugin for GPUs which cuDNN it was built with; None where that cannot be known."""
    for name in PLUGINS:
        with contextlib.suppress(ImportError, AttributeError):
            return version_of(importlib.import_module(f"{name}._versions").cudnn_build_version())
    return None


def version_of(number: int) -> Version:
    """Reads the number that cuDNN gives, 91002 for 9.10.2; before version 9 it was 8907 for 8.9.7."""
    thousands = 10_000 if number >= 90_000 else 1000
    return number // thousands, number % thousands // 100, number % 100


def in_words(version: Version) -> str:
    """Writes a version with dots."""
    return ".".join(map(str, version))


def remark(loaded: Version | None, built: Version | None) -> str | None:
    """Says in one line that what is loaded is older than what JAX was built with; None where it is not, or not known."""
    if loaded is None or built is None or loaded >= built:
        return None
    return (
        f"cuDNN {in_words(loaded)} is loaded, older than {in_words(built)} that JAX was built with: convolutions may be slow or "
        "fail; look for another package's in LD_LIBRARY_PATH, or pip install -U the nvidia-cudnn wheel"
    )
