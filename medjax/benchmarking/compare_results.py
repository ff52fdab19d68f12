"""Compares two results of `--mode=benchmark` side by side."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from medjax.errors import UserError

# What is compared: name, where its spread is, whether more is better.
COMPARED = (
    ("train_step_seconds", "train", False),
    ("volumes_per_second_per_device", "train", True),
    ("denoise_step_seconds", "denoise", False),
    ("sample_seconds_per_volume", "sampler", False),
    ("tflops_per_second_per_device", "train", True),
    ("mfu", "train", True),
    ("peak_bytes", None, False),
    ("compile_seconds", None, False),
    ("data_volumes_per_second", "data", True),
)
# Where these differ, the numbers are not of the same thing.
CIRCUMSTANCES = (
    "device_kind",
    "devices",
    "mesh",
    "size",
    "batch_size",
    "sample_batch_size",
    "dtype",
    "config_hash",
    "versions",
)


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads the last result in a file: what the job printed, or the lines it appended.

    Raises:
      UserError: there is none.
    """
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--compare={path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for line in reversed(lines):
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(result, dict) and "train_step_seconds" in result and "parts" in result:
            return result
    raise UserError(
        f"--compare={path} holds no result of --mode=benchmark: give a benchmarks.jsonl, or what it printed"
    )


def compare_with(earlier: dict[str, Any], result: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Makes a table of then and now, and now / then by name; what either lacks is left out."""
    rows, ratios = [("", "then", "now", "ratio", "")], {}
    for name, part, more_is_better in COMPARED:
        then, now = earlier.get(name), result.get(name)
        if not then or now is None:
            continue
        ratios[name] = now / then
        spread = max((each["parts"].get(part) or {}).get("spread", 0.0) for each in (earlier, result)) if part else 0.0
        if abs(now / then - 1) <= spread:
            verdict = f"the same within the spread of {spread:.1%}"
        else:
            verdict = "better" if (now > then) == more_is_better else "worse"
        rows.append((name, f"{then:.5g}", f"{now:.5g}", f"{now / then:.3f}", verdict if now != then else ""))
    differing = [key for key in CIRCUMSTANCES if earlier.get(key) != result.get(key)]
    text = in_columns(rows)
    for key in differing:
        text += f"\nnot the same: {key} was {earlier.get(key)}, is {result.get(key)}"
    return text, ratios


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Aligns rows of text: the first and the last column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *middle, last in rows:
        cells = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, last]).rstrip())
    return "\n".join(lines)
