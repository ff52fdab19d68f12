import pytest

from configs import medical_diffusion
from medjax.builders.pretrained import tell_of_another_division
from medjax.runtime.workdir import write_json


@pytest.fixture
def config(tmp_path):
    """A diffusion on the latents of a VQ-GAN whose workdir holds its configuration."""
    (tmp_path / "vqgan").mkdir()
    write_json(tmp_path / "vqgan/config.json", medical_diffusion.get_config("folder,vqgan,tiny").to_dict())
    config = medical_diffusion.get_config("folder,ddpm,tiny")
    config.latents.vqgan = str(tmp_path / "vqgan")
    return config


@pytest.mark.parametrize(("key", "value"), [("split", (0.5, 0.25, 0.25)), ("split_seed", 99)])
def test_a_vqgan_that_has_learned_from_others_than_this_run_is_told(config, key, value, capsys):
    tell_of_another_division(config)
    assert capsys.readouterr().err == ""
    config.data[key] = value
    tell_of_another_division(config)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"data.{key} is" in line and "held out here" in line
