"""Reads `--config.KEY=VALUE` as people write it: 1e5 for a whole number, yes for a flag, None for what may be left open.

What cannot be read is told in one line with the key and what it takes; what can be is spelt as ml_collections takes it.
"""

import decimal
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FieldReference
from ml_collections.config_flags import tuple_parser

from medjax.errors import UserError

OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<key>[^=]+)(?:=(?P<value>.*))?", re.DOTALL)
YES, NO = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")
NONE = ("None", "none")
MOST_DIGITS = 18  # of a whole number


def spell_out(arguments: Sequence[str], config: ConfigDict) -> tuple[list[str], tuple[str, ...]]:
    """Rewrites the overrides among the arguments of a command line.

    Args:
      arguments: of the command, without its name.
      config: whose keys they change.

    Returns:
      The arguments as ml_collections takes them, and the keys that are to be None, which it cannot be told.

    Raises:
      UserError: there is no such key, or it takes no such value.
    """
    spelt: list[str] = []
    is_none: dict[str, bool] = {}
    rest = iter(arguments)
    for argument in rest:
        match = OVERRIDE.fullmatch(argument)
        if argument == "--":
            return [*spelt, argument, *rest], tuple(key for key, none in is_none.items() if none)
        if not match or "[" in match["key"]:  # a place in a tuple
            spelt.append(argument)
            continue
        key, value = match["key"], match["value"]
        kind, optional = kind_of(config, key)
        if value is None and kind is not bool:
            value = next(rest, None)
            if value is None:
                raise UserError(f"--config.{key}: the value is missing, give {words_for(kind)}")
        is_none[key] = optional and value in NONE
        if value is None or match["no"]:  # --config.KEY and --noconfig.KEY, of flags
            spelt.append(argument)
        elif not is_none[key]:
            spelt.append(f"--config.{key}={as_kind(key, kind, value, optional)}")
    return spelt, tuple(key for key, none in is_none.items() if none)


def kind_of(config: ConfigDict, key: str) -> tuple[type, bool]:
    """The type of a key's values, and whether it may be None.

    Raises:
      UserError: there is no such key.
    """
    *sections, name = key.split(".")
    part: Any = config
    for section in sections:
        part = part[section] if isinstance(part, ConfigDict) and section in part else None
    if not isinstance(part, ConfigDict) or name not in part:
        raise UserError(f"--config.{key}: there is no such key; {suggestion(key, list(keys_of(config)))}")
    held = dict(part.items(preserve_field_references=True))[name]
    return part.get_type(name), isinstance(held, FieldReference)


def keys_of(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration by its dotted name."""
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, ConfigDict):
            yield from keys_of(value, f"{prefix}{name}.")


def suggestion(key: str, known: Sequence[str]) -> str:
    """Says which key may have been meant."""
    same_name = [each for each in known if each.rpartition(".")[2] == key.rpartition(".")[2]]
    nearest = difflib.get_close_matches(key, known, 1) or difflib.get_close_matches(key, same_name, 3, 0.0)
    return f"did you mean {' or '.join(nearest)}?" if nearest else "configs/common.py names every key"


def as_kind(key: str, kind: type, value: str, optional: bool) -> str:
    """The value as the parser of its kind takes it.

    Raises:
      UserError: it is of another kind.
    """
    refusal = f"--config.{key}={value}: {key} takes {words_for(kind)}{', or None' if optional else ''}"
    try:
        if kind is bool:
            return {**dict.fromkeys(YES, "true"), **dict.fromkeys(NO, "false")}[value.lower()]
        if kind is int:
            return str(whole_number(value))
        if kind is float:
            float(value)
        if kind is tuple:
            tuple_parser.TupleParser().parse(value)
    except (KeyError, ValueError, SyntaxError, decimal.InvalidOperation) as error:
        raise UserError(refusal) from error
    return value


def whole_number(text: str) -> int:
    """Reads a whole number, also as 1e5.

    Raises:
      ValueError, decimal.InvalidOperation: it is none.
    """
    try:
        return flags.IntegerParser().parse(text)
    except ValueError:
        number = decimal.Decimal(text)
    if not number.is_finite() or number.adjusted() > MOST_DIGITS or number != number.to_integral_value():
        raise ValueError(text)
    return int(number)


def words_for(kind: type) -> str:
    """Says in words what a key of a type takes."""
    words = {bool: "yes or no", int: "a whole number", float: "a number", tuple: "values in brackets, as (1,2,3)"}
    return words.get(kind, "a text")
