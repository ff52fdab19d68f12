"""Reads and writes files of safetensors: tensors by name and nothing else, as Hugging Face's tools save them.

Eight bytes tell how long a header is, JSON follows that says each tensor's type, shape and place, then the numbers. There is no
checksum: of numbers that were damaged on the way nothing is noticed.
"""

import pathlib
from collections.abc import Mapping

import ml_dtypes  # noqa: F401  # makes "bfloat16" a type that NumPy knows
import numpy as np

SUFFIX = ".safetensors"
MOST_TENSORS = 100_000


class SafetensorsError(ValueError):
    """Says what is wrong with the file; the message completes "FILE ..."."""


def is_safetensors(path: pathlib.Path, start: bytes) -> bool:
    """Tells a file by its first bytes, or, where these are damaged, by its name."""
    return start[8:9] == b"{" or (path.suffix == SUFFIX and not start.startswith(b"PK"))


def load_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors by name, as read-only arrays; float16 and bfloat16 stay what they are.

    Raises:
      SafetensorsError: the file is damaged, has numbers of a type that NumPy has not, or safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise SafetensorsError("is a safetensors file: pip install safetensors, or save it in PyTorch") from None
    arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            if len(names) > MOST_TENSORS:
                raise SafetensorsError(f"has {len(names)} tensors: it is no network's safetensors file")
            for name in names:
                arrays[name] = file.get_tensor(name)
                arrays[name].flags.writeable = False
    except (SafetensorError, ValueError, AttributeError, TypeError, OverflowError) as error:
        if isinstance(error, SafetensorsError):
            raise
        reason = "".join(c if c.isprintable() else "?" for c in str(error))[:120]
        raise SafetensorsError(f"is a damaged safetensors file ({reason}): download or copy it again") from error
    return arrays


def save_tensors(path: pathlib.Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes contiguous arrays by name; one that has several names is written as often.

    Raises:
      SafetensorsError: safetensors is not installed.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise SafetensorsError("needs safetensors: pip install safetensors, or name a .pt file") from None
    # What PyTorch's tools look for before they read a file.
    save_file(dict(state_dict), path, metadata={"format": "pt"})
