"""Finds the state dicts in what a training script saved, and takes off their names what wrapped the network.

Scripts save {"model": ..., "ema": ..., "epoch": ...} and the like, or one dictionary of names "model.x" and "ema.x". Each
state dict in it is a part, by the names on the way to it: "model", "ema.ema_model". Tools that train or compile a network
put words of their own into its names; without these they are the published code's again.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# What torch.compile, FSDP, recomputation and DeepSpeed under Lightning put into names, at any place; none is a layer's.
WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
PARALLEL = "module"  # at the beginning: of training on several GPUs, and of torch.optim.swa_utils.AveragedModel
# Attributes in which training scripts keep whole networks; none of the published ones has a layer that is called so.
HOLDERS = frozenset(
    ("model", "network", "diffusion_model", "ema", "ema_model", "model_ema", "online_model", "averaged_model", PARALLEL)
)
OF_OPTIMISER = "param_groups"  # beside an optimiser's moments, which are no network's tensors
DEEPEST = 4  # dictionaries in dictionaries that are looked into, and likewise words before a network's own names
MOST_NESTED = 16  # lists in lists beside tensors
LONGEST_NAME = 1000  # characters; a published network's have under 100
SHOWN = 4  # parts that a message names

Path = tuple[str, ...]


class Found(NamedTuple):
    """Holds a tensor, or what describes one, with the name that it has in the file."""

    name: str
    tensor: Any


class PartError(ValueError):
    """Says that there is no such part, or not one alone; the message completes "FILE ..."."""


def state_dicts(content: Any, kind: type) -> dict[str, dict[str, Found]]:
    """Finds all parts of a file, those of optimisers left out; what is no tensor in them is passed over.

    Numbers that were saved as tensors beside a network, such as "step", are no part where there is a network: names of its
    layers have a dot.

    Args:
      content: dictionaries in dictionaries, some of which hold tensors by name.
      kind: class of the tensors.

    Raises:
      PartError: names or lists are such as no training script writes.
    """
    found: dict[Path, dict[str, Any]] = {}
    seen: set[int] = set()  # each once, however many names it has

    def look_into(thing: Any, path: Path) -> None:
        if not isinstance(thing, dict) or OF_OPTIMISER in thing or len(path) > DEEPEST or id(thing) in seen:
            return
        seen.add(id(thing))
        if own := tensors(thing, kind):
            found[path] = own
        for name, inside in thing.items():
            look_into(inside, (*path, str(name)))

    look_into(content, ())
    parts: dict[Path, dict[str, Any]] = {}
    for path, own in found.items():
        parts |= split(own, path)
    layered = {path: part for path, part in parts.items() if any("." in name for name in part)}
    if not layered and len(parts) > 1:
        parts.pop((), None)
    return {".".join(path): part for path, part in (layered or parts).items()}


def tensors(thing: Mapping[str, Any], kind: type) -> dict[str, Found]:
    """Returns a dictionary's own tensors, without what lies beside them.

    Raises:
      PartError: as `state_dicts` does.
    """
    own = {name: Found(name, value) for name, value in thing.items() if isinstance(value, kind)}
    if not own:
        return {}
    longest = max(own, key=len)
    if len(longest) > LONGEST_NAME:
        raise PartError(f"names a tensor in {len(longest)} characters: save model.state_dict() alone")
    nested = [value for value in thing.values() if isinstance(value, (list, tuple))]
    for _ in range(MOST_NESTED):
        inside = {id(item): item for value in nested for item in value if isinstance(item, (list, tuple))}
        nested = list(inside.values())
    if nested:
        raise PartError(f"has lists in lists over {MOST_NESTED} times beside tensors: save model.state_dict() alone")
    return own


def split(state_dict: Mapping[str, Any], path: Path = ()) -> dict[Path, dict[str, Any]]:
    """Divides a state dict by the attributes, or dictionaries, that whole networks are kept in.

    Args:
      state_dict: tensors by name.
      path: names on the way to it.

    Returns:
      Each network's tensors by its own names; what is in no holder is left out where there are some.
    """
    own = unwrapped(state_dict)
    held: dict[str, dict[str, Any]] = {}
    for name, tensor in own.items():
        first, dot, rest = name.partition(".")
        if dot and first in HOLDERS:
            held.setdefault(first, {})[rest] = tensor
    beside = [name for name in own if "." in name and name.partition(".")[0] not in HOLDERS]
    if not held or len(path) > DEEPEST or (beside and held.keys() == {PARALLEL}):
        return {path: own}
    found: dict[Path, dict[str, Any]] = {}
    for holder, inside in held.items():
        alone = holder == PARALLEL and len(held) == 1  # says nothing of which network it is
        found |= split(inside, (*path, holder)) if not alone else _without_parallel(inside, path)
    return found


def _without_parallel(state_dict: Mapping[str, Any], path: Path) -> dict[Path, dict[str, Any]]:
    """Divides what stood behind PARALLEL; more such words are taken off first, so that their number bounds no recursion."""
    while state_dict and all(name.startswith(f"{PARALLEL}.") for name in state_dict):
        state_dict = {name.removeprefix(f"{PARALLEL}."): tensor for name, tensor in state_dict.items()}
    return split(state_dict, path)


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Removes the WRAPPERS from names, unless two tensors would have one name then."""
    names = {name: ".".join(word for word in name.split(".") if word not in WRAPPERS) for name in state_dict}
    if len(set(names.values())) < len(names):
        return dict(state_dict)
    return {names[name]: tensor for name, tensor in state_dict.items()}


def choose(parts: Mapping[str, Mapping[str, Any]], part: str | None, advice: str) -> dict[str, Any]:
    """Returns the part that is asked for, or the one that there is.

    Args:
      parts: as `state_dicts` returns them, at least one.
      part: name of it, or the end or the beginning of its name; or a word before the names of its tensors.
      advice: what to do where there are several.

    Raises:
      PartError: there is none, or more than one.
    """
    if part is None:
        fitting = list(parts)
    else:
        fitting = [name for name in parts if name == part]
        fitting = fitting or [name for name in parts if f".{name}".endswith(f".{part}")]
        fitting = fitting or [name for name in parts if name.startswith(f"{part}.")]
    if len(fitting) == 1:
        return dict(parts[fitting[0]])
    if len(fitting) > 1:
        more = ", ..." if len(fitting) > SHOWN else ""
        raise PartError(f"holds several state dicts ({listed(fitting, SHOWN)}{more}): {advice}")
    before = f"{part}."
    inside = [{n.removeprefix(before): t for n, t in own.items() if n.startswith(before)} for own in parts.values()]
    inside = [own for own in inside if own]
    if len(inside) != 1:
        held = f"holds {listed(parts, SHOWN)}" if any(parts) else "is one state dict"
        raise PartError(f"has no part {quoted(part)} (it {held}): {advice}")
    return inside[0]


def quoted(text: str) -> str:
    """Quotes a text from the file as a message may show it: short, and in one line."""
    return f"{text[:60]!r:.60}"


def listed(texts: Iterable[str], most: int) -> str:
    """Quotes the first few texts."""
    return ", ".join(map(quoted, itertools.islice(texts, most)))
