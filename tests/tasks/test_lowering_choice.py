import pytest

from configs import brats
from medjax.errors import UserError
from medjax.layers.lowering import Way
from medjax.tasks.lowering_choice import one_lowering, ways_by_level

WIDTHS, SIZE = (64, 128, 256), (32, 32, 32)


def train(**changes):
    train = brats.get_config("128").train
    train.update(changes)
    return train


def test_the_table_of_the_machine_counts():
    assert ways_by_level(train(), WIDTHS, SIZE) == [Way("winograd")] * 3  # tests run on CPUs
    assert ways_by_level(train(machine="v5e"), WIDTHS, SIZE) == [Way("planes", 2), Way("planes"), Way("direct")]
    assert (one_lowering(train()), one_lowering(train(machine="v5p"))) == ("winograd", "planes")


def test_levels_are_looked_up_by_their_own_size():
    assert ways_by_level(train(machine="v5e"), (64,) * 3, (32, 32, 6)) == [
        Way("planes", 2),
        Way("planes"),
        Way("direct"),
    ]
    assert ways_by_level(train(machine="v5e"), (64,) * 3, (32, 32, 6), keep_depth=True)[-1] == Way("planes")


def test_the_configuration_overrides_it():
    assert ways_by_level(train(machine="v5e", lowering="direct"), WIDTHS, SIZE) == [Way("direct")] * 3
    assert ways_by_level(train(lowering="planes", fold=4), WIDTHS, SIZE) == [Way("planes", 4)] * 3
    assert ways_by_level(train(machine="v5e", fold=1), WIDTHS, SIZE) == [Way("planes"), Way("planes"), Way("direct")]
    assert one_lowering(train(machine="v5e", lowering="direct")) == "direct"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lowering": "fft"}, "train.lowering is 'fft': use 'direct' or"),
        ({"machine": "v7"}, "train.machine is 'v7': use 'cpu' or"),
        ({"fold": 0}, "train.fold is 0"),
        ({"fold": 16}, "train.fold is 16: level 3 of the network has W 8"),
    ],
)
def test_what_cannot_work_names_its_key(changes, message):
    with pytest.raises(UserError, match=message):
        ways_by_level(train(**changes), WIDTHS, SIZE)


def test_only_the_unet_folds():
    with pytest.raises(UserError, match=r"train.fold is 2: only model.network=unet"):
        one_lowering(train(fold=2))
