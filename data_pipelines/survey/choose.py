"""Makes cases of files: the images of a visit by channel, one file each, and its label map."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from data_pipelines.errors import DataError
from data_pipelines.survey import words
from data_pipelines.survey.found import UNNAMED, Item, Kind
from data_pipelines.survey.kinds import BY_VALUES

MOST_NAMED = 12  # channels in a message
OF_THE_HEAD = ("brain", "bet", "head", "body", "deface", "defacemask", "brainmask")  # masks of less use than others


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The files of one case.

    Attributes:
      name: unique among the cases.
      images: by channel, in the order asked for.
      label_map: if there is one, and it was asked for.
      lacks: what was asked for and is not there, such as "no flair"; empty if the case can be used.
    """

    name: str
    images: Mapping[str, Item]
    label_map: Item | None
    lacks: str = ""


def channels_of(items: Sequence[Item]) -> dict[str, int]:
    """Counts the cases that have each channel, the most frequent channel first."""
    having = {(item.layout, item.case, item.channel) for item in items if item.kind is Kind.IMAGE}
    counts = Counter(channel for _, _, channel in having)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def each_alone(items: Sequence[Item]) -> list[Item]:
    """The same items, each image a case of its own whatever its channel; label maps stay with what they were of."""
    alone = []
    for item in items:
        if item.kind is Kind.IMAGE:
            item = dataclasses.replace(item, channel=UNNAMED)
        alone.append(item)
    return alone


def cases(
    place: str, items: Sequence[Item], channels: Sequence[str], label_map: bool, alone: bool = False
) -> tuple[list[Chosen], dict[str, str]]:
    """The cases that files make.

    Args:
      place: what messages begin with.
      items: images and label maps, and what is neither.
      channels: which are wanted, in order; none where there is but one.
      label_map: whether each case is to have one.
      alone: whether each image is a case of its own.

    Returns:
      the cases, those that lack something among them, and why the other images are left out, by their names.

    Raises:
      DataError: several channels and none asked for, or no case has those that were.
    """
    images: dict[tuple[str, str], list[Item]] = defaultdict(list)
    label_maps: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.kind is Kind.IMAGE:
            images[item.layout, item.case].append(item)
        elif item.kind is Kind.LABEL_MAP:
            label_maps[item.layout, item.case].append(item)
    counts = channels_of(items)
    wanted = _wanted(place, channels, counts)
    chosen: list[Chosen] = []
    left_out: dict[str, str] = {}
    for key in sorted(images):
        ours = label_maps.get(key, []) if label_map else []
        if alone:
            groups = [{UNNAMED: item} for item in images[key]]
        else:
            picked, others = _pick(images[key], wanted)
            left_out |= others
            groups = [picked] if picked else []
        for group in groups:
            lacks = [channel for channel in wanted if channel not in group]
            fitting = _label_map(group, ours)
            lack = f"no {' and no '.join(lacks)}" if lacks else "no label map" if label_map and not fitting else ""
            name = next(iter(group.values())).name if len(wanted) == 1 else key[1]
            chosen.append(Chosen(name, group, fitting, lack))
    if images and all(one.lacks for one in chosen):
        raise DataError(_nothing(place, chosen, wanted, counts, label_map))
    return _unique(chosen), left_out


def several_label_maps(items: Sequence[Item]) -> dict[tuple[str, str], list[Item]]:
    """The label maps of cases that have more than one, the first the one that is used, by layout and case."""
    found: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.kind is Kind.LABEL_MAP:
            found[item.layout, item.case].append(item)
    return {key: sorted(maps, key=_rank) for key, maps in found.items() if len(maps) > 1}


def listed(counts: Mapping[str, int]) -> str:
    """Channels and how many cases have each, for a message."""
    named = [f"{channel} ({count})" for channel, count in list(counts.items())[:MOST_NAMED]]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more} others" if more else "")


def _wanted(place: str, channels: Sequence[str], counts: Mapping[str, int]) -> tuple[str, ...]:
    channels = (channels,) if isinstance(channels, str) else tuple(channels)
    if len({channel.casefold() for channel in channels}) < len(channels):
        raise DataError(f"data.channels={channels}: names a channel twice; name each once")
    if channels or not counts:
        return channels
    if len(counts) == 1:
        return tuple(counts)
    first = next(iter(counts))
    raise DataError(
        f"{place}: images of {len(counts)} channels, {listed(counts)} cases each; say which to train on, such as "
        f'data.channels=("{first}",), or data.pattern=GLOB of the files that are the images of one'
    )


def _pick(items: Sequence[Item], wanted: Sequence[str]) -> tuple[dict[str, Item], dict[str, str]]:
    """The best file of each channel, and why each other one is not used."""
    picked: dict[str, Item] = {}
    left_out = {item.name: f"channel not asked for: {item.channel}" for item in items}
    for channel in wanted:
        matching = sorted(_matching(items, channel), key=lambda item: item.preference)
        if matching:
            picked[channel] = matching[0]
        for other in matching[1:]:
            left_out[other.name] = f"another {channel} of the same visit is used: {matching[0].name}"
    for item in picked.values():
        del left_out[item.name]
    if len({item.name for item in picked.values()}) < len(picked):
        raise DataError(f"data.channels={tuple(wanted)}: two of these are {next(iter(picked.values())).name}; name one")
    return picked, left_out


def _matching(items: Sequence[Item], channel: str) -> list[Item]:
    """The files of a channel: by its name, else by its name in another case, else by another name of it."""
    folded = channel.casefold()
    return (
        [item for item in items if item.channel == channel]
        or [item for item in items if item.channel.casefold() == folded]
        or [item for item in items if folded in (alias.casefold() for alias in item.aliases)]
    )


def _label_map(images: Mapping[str, Item], label_maps: Sequence[Item]) -> Item | None:
    if not images:
        return None
    grid = next(iter(images.values())).grid
    fitting = [item for item in label_maps if item.grid == grid]
    return min(fitting, key=_rank, default=None)


def _rank(item: Item) -> tuple[int, tuple[int | str, ...], str]:
    """Sorts label maps: of parts, then masks, then those known by values alone, then masks of the whole head."""
    said = [word.lower() for word in words.split(item.channel)]
    if any(word in OF_THE_HEAD for word in said):
        rank = 3
    elif item.reason == BY_VALUES:
        rank = 2
    else:
        rank = int(any("mask" in word for word in said))
    return rank, item.preference, item.name


def _nothing(
    place: str, chosen: Sequence[Chosen], wanted: Sequence[str], counts: Mapping[str, int], label_map: bool
) -> str:
    """Why no case can be used."""
    if only_map := [one for one in chosen if label_map and one.lacks == "no label map"]:
        example = next(iter(only_map[0].images.values())).name
        return (
            f"{place}: none of {len(only_map)} cases has a label map, such as {example}; it lies in labelsTr, or beside the "
            "images as CASE_seg or seg, mask, label; or unset data.label_map"
        )
    example = f'("{next(iter(counts))}",)'
    lacking = Counter(one.lacks for one in chosen).most_common(1)
    what = f"all of them ({lacking[0][0]})" if lacking else "one of them"
    return (
        f"data.channels={tuple(wanted)}: no case has {what}; there are {listed(counts)} cases each; "
        f"choose of these, such as data.channels={example}"
    )


def _unique(chosen: Sequence[Chosen]) -> list[Chosen]:
    """The same cases, none with a name that another has."""
    taken: set[str] = set()
    unique = []
    for one in chosen:
        name, n = one.name, 2
        while name in taken:
            name, n = f"{one.name} ({n})", n + 1
        taken.add(name)
        unique.append(dataclasses.replace(one, name=name))
    return unique
