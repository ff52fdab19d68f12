import pytest

from configs import atlas
from medjax.builders.overrides import spell_out
from medjax.errors import UserError


@pytest.fixture
def config():
    return atlas.get_config("tiny")


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        ("train.steps=1e5", "train.steps=100000"),
        ("train.steps=2.0", "train.steps=2"),
        ("train.steps=123456789012345678", "train.steps=123456789012345678"),
        ("seed=0x10", "seed=16"),
        ("sample.steps=1e2", "sample.steps=100"),
        ("data.flip=yes", "data.flip=true"),
        ("data.flip=On", "data.flip=true"),
        ("data.flip=no", "data.flip=false"),
        ("data.flip=False", "data.flip=false"),
        ("optimizer.learning_rate=1e-4", "optimizer.learning_rate=1e-4"),
        ("data.root=a=b c", "data.root=a=b c"),
        ("data.root=yes", "data.root=yes"),
        ("data.name=None", "data.name=None"),
        ("data.size=(1,2,3)", "data.size=(1,2,3)"),
    ],
)
def test_values_are_read_as_people_write_them(given, spelt, config):
    assert spell_out([f"--config.{given}"], config) == ([f"--config.{spelt}"], ())
    key, _, value = given.partition("=")
    if "flip" not in key:  # a flag's value is never an argument of its own
        assert spell_out([f"-config.{key}", value, "--mode=plan"], config)[0] == [f"--config.{spelt}", "--mode=plan"]


def test_what_may_be_left_open_may_be_none_and_the_last_value_counts(config):
    steps = "--config.sample.steps"
    assert spell_out([f"{steps}=3", f"{steps}=None"], config)[1] == ("sample.steps",)
    assert spell_out([f"{steps}=none", f"{steps}=3"], config) == ([f"{steps}=3"], ())
    assert spell_out(["--config.data.root=None"], config) == ([], ("data.root",))


def test_other_arguments_are_left_alone(config):
    others = [
        "--mode=plan",
        "--config.data.flip",
        "--noconfig.sample.ema",
        "--config.data.size[0]=4",
        "--",
        "--config.x",
    ]
    assert spell_out(others, config) == (others, ())


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("train.steps=1.5", "train.steps takes a whole number"),
        ("train.steps=1e99999999", "train.steps takes a whole number"),
        ("train.steps=inf", "train.steps takes a whole number"),
        ("train.steps=None", "train.steps takes a whole number"),
        ("sample.steps=x", "sample.steps takes a whole number, or None"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate takes a number"),
        ("data.flip=maybe", "data.flip takes yes or no"),
        ("data.size=(1,2", "data.size takes values in brackets"),
        ("train.steps", "the value is missing, give a whole number"),
        ("trian.steps=3", "no such key; did you mean train.steps?"),
        ("train.stepz=3", "no such key; did you mean train.steps?"),
        ("learning_rate=3", "no such key; did you mean optimizer.learning_rate?"),
        ("task.name=3", "no such key"),
        ("qqqq=3", "no such key; configs/common.py names every key"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line_with_its_key(argument, said, config):
    with pytest.raises(UserError) as refusal:
        spell_out([f"--config.{argument}"], config)
    text = str(refusal.value)
    assert text.startswith(f"--config.{argument.partition('=')[0]}") and said in text and "\n" not in text
