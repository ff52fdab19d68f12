"""What training scripts put around a network's own names."""

import pytest

from medjax.interop.state_dict_parts import DEEPEST, PartError, choose, state_dicts

OWN = ("time_embed.0.weight", "out.2.bias")


def named(*before: str) -> dict[str, float]:
    return {".".join((*before, name)): float(i) for i, name in enumerate(OWN)}


def parts(content) -> dict[str, dict[str, float]]:
    """Each part with its tensors, which are floats here, and the names they had."""
    found = state_dicts(content, float)
    for part in found.values():
        assert all(name.split(".")[-1] in there.name for name, there in part.items())
    return {path: {name: there.tensor for name, there in part.items()} for path, part in found.items()}


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("module",),
        ("_orig_mod",),
        ("_orig_mod", "module"),
        ("module", "_orig_mod"),
        ("module", "module"),
        ("_fsdp_wrapped_module", "_orig_mod"),
        ("_forward_module", "module", "_orig_mod", "module"),
    ],
)
def test_words_of_what_wrapped_the_network_are_taken_off(words):
    assert parts(named(*words)) == {"": named()}
    assert parts({"state_dict": named(*words), "epoch": 3}) == {"state_dict": named()}
    assert parts({"state_dict": named("model", *words)}) == {"state_dict.model": named()}
    assert parts({"state_dict": named(*words, "model")}) == {"state_dict.model": named()}


def test_words_within_a_name():
    compiled = {"time_embed._orig_mod.0.weight": 0.0, "out._checkpoint_wrapped_module.2.bias": 1.0}
    assert parts(compiled) == {"": named()}
    # Without the word two tensors would have one name.
    twice = {"a._orig_mod.b": 0.0, "a.b": 1.0}
    assert parts(twice) == {"": twice}


def test_a_layer_may_be_called_as_wrappers_are():
    layers = {"encoder.module.weight": 0.0, "image.model.weight": 1.0, "module.weight": 2.0}
    assert parts(layers) == {"": layers}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"model": named(), "ema": named("module"), "step": 3.0}, ["model", "ema"]),
        (
            {"state_dict": named("model") | named("ema") | {"loss.vgg.weight": 5.0}},
            ["state_dict.model", "state_dict.ema"],
        ),
        (named("model") | named("ema_model"), ["model", "ema_model"]),
        # lucidrains' and Stable Diffusion's, whose average has names without dots
        (
            {"model": named(), "ema": {"initted": 1.0, "step": 2.0} | named("online_model") | named("ema_model")},
            ["model", "ema.online_model", "ema.ema_model"],
        ),
        (
            {"state_dict": named("model", "diffusion_model") | {"model_ema.decay": 1.0, "betas": 2.0}},
            ["state_dict.model.diffusion_model"],
        ),
        ({"n_averaged": 7.0} | named("module"), [""]),  # torch.optim.swa_utils.AveragedModel
        ({"a": {"b": {"c": named()}}}, ["a.b.c"]),
        ({"model": named(), "optimizer": {"state": {"0": {"exp_avg.x": 1.0}}, "param_groups": []}}, ["model"]),
        ({"model": named(), "rng": {"cpu": 1.0}, "losses": {"train": 2.0}}, ["model"]),
        ({"model": {"weight": 0.0}, "step": 1.0}, ["model"]),
    ],
)
def test_parts_and_what_is_none(content, found):
    assert list(parts(content)) == found
    assert all(own in (named(), {"weight": 0.0}) for own in parts(content).values())


def test_one_dictionary_of_two_names_is_one_part():
    own = named()
    assert list(parts({"best": own, "last": own})) == ["best"]


def test_a_part_is_chosen_by_its_name():
    found = {"model": {"a.b": 0.0}, "ema.online_model": {"a.b": 1.0}, "ema.ema_model": {"a.b": 2.0}}
    assert choose({"": named()}, None, "") == named()
    for part, number in (("model", 0), ("online_model", 1), ("ema.ema_model", 2)):
        assert choose(found, part, "") == {"a.b": number}
    assert choose({"": named("unet") | named("vae")}, "unet", "") == named()
    with pytest.raises(PartError, match="holds several .*'model', 'ema.online_model', 'ema.ema_model'.: do this"):
        choose(found, None, "do this")
    with pytest.raises(PartError, match="holds several state dicts .'ema.online_model', 'ema.ema_model'.: do this"):
        choose(found, "ema", "do this")
    with pytest.raises(PartError, match="has no part 'other' .it holds 'model', 'ema.online_model'"):
        choose(found, "other", "")
    with pytest.raises(PartError, match="has no part 'ema' .it is one state dict"):
        choose({"": named()}, "ema", "")


@pytest.mark.parametrize("holder", ["model", "module"])
def test_words_without_end_end(holder):
    deep = ".".join([holder] * 100)
    ((_, part),) = parts({f"{deep}.a.b": 0.0, "n": 1.0}).items()
    (name,) = part
    assert name.count(holder) <= 100 - DEEPEST
    inside = {"a.b": 0.0}
    for _ in range(100_000):
        inside = {"model": inside}
    assert parts(inside) == {}


def test_names_and_lists_that_no_script_writes():
    with pytest.raises(PartError, match="in 2000 characters"):
        parts({"a" * 2000: 0.0})
    doubled = ()
    for _ in range(60):
        doubled = (doubled, doubled)
    with pytest.raises(PartError, match="lists in lists"):
        parts({"a.b": 0.0, "c": doubled})
    assert parts({"a.b": 0.0, "betas": [[1.0, (2.0,)], ()]}) == {"": {"a.b": 0.0}}
