"""The PyTorch twin is our network, by the published implementation's numbers and by our own."""

import jax
import numpy as np
import pytest

from comparison import assert_close, assert_gradients
from medjax.diffusion.wavelet_domain import to_wavelet_domain
from medjax.interop.wdm import state_dict_from_params
from medjax.models.unet import UNet

torch = pytest.importorskip("torch", reason="PyTorch is not installed: benchmarks/requirements.txt")
twin = pytest.importorskip("benchmarks.twin")

# What the twin does not have: it is the published network only.
OPTIONS = {"additive_skips": True, "resblock_updown": True, "resample_2d": False, "use_scale_shift_norm": False}
OPTIONS |= {"attention_resolutions": "", "bottleneck_attention": False}


def twin_of(golden) -> "twin.UNet":
    kwargs = golden.config["kwargs"]
    if any(kwargs[key] != value for key, value in OPTIONS.items()):
        pytest.skip("the twin has none of the options of this file")
    multipliers = tuple(map(int, kwargs["channel_mult"].split(",")))
    network = twin.UNet(kwargs["num_channels"], multipliers, kwargs["num_res_blocks"], kwargs["num_groups"])
    network.load_state_dict({name: torch.tensor(array) for name, array in golden.weights.items()})
    return network.to(memory_format=torch.channels_last_3d)


@pytest.mark.golden("wdm_unet", "out/y")
def test_outputs_and_gradients(golden):
    network = twin_of(golden)
    x_t, t = torch.from_numpy(golden["in/x"]).requires_grad_(), torch.from_numpy(golden["in/t"])
    y = network(x_t, t)
    assert_close(y.detach(), golden["out/y"])
    if "out/grad_names" in golden:
        y.square().mean().backward()
        assert_close(x_t.grad, golden["out/grad_x"])
        assert_gradients(golden, {name: value.grad.numpy() for name, value in network.named_parameters()})


@pytest.mark.golden("wdm_loss", "in/x0", "in/noise", "out/loss")
def test_loss(golden):
    learner = twin.Twin(twin_of(golden), twin.Settings(learning_rate=1e-4, clip_norm=0.0, ema_decay=0.0))
    x_0 = twin.to_wavelet_domain(torch.from_numpy(golden["in/x0"]))
    assert_close(x_0, golden["out/x_start_dwt"])
    noise = twin.to_wavelet_domain(torch.from_numpy(golden["in/noise"]))
    noise[:, 0] *= 3  # that of noise is not divided
    loss = learner.loss(x_0, torch.from_numpy(golden["in/t"]), noise)
    assert_close(loss.detach(), golden["out/loss"])
    loss.backward()
    assert_gradients(golden, {name: value.grad.numpy() for name, value in learner.network.named_parameters()})


def test_the_transform_and_its_inverse_are_ours():
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 6, 8), np.float32)
    coefficients = twin.to_wavelet_domain(torch.from_numpy(x))
    ours = to_wavelet_domain(np.moveaxis(x, 1, -1))
    assert_close(coefficients, np.moveaxis(ours, -1, 1), atol=1e-6)
    assert_close(twin.from_wavelet_domain(coefficients), x, atol=1e-6)


def test_our_parameters_load_and_a_step_moves_them_and_their_average():
    ours = UNet(out_channels=8, base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1, groups=4)
    params = ours.init(jax.random.key(0), np.zeros((1, 4, 4, 4, 8), np.float32), np.zeros(1))["params"]
    network = twin.UNet(8, (1, 2), 1, 4)
    network.load_state_dict({name: torch.tensor(array) for name, array in state_dict_from_params(params).items()})
    learner = twin.Twin(network, twin.Settings(learning_rate=1e-3, clip_norm=1.0, ema_decay=0.75))
    before = [parameter.detach().clone() for parameter in learner.parameters]
    learner.train_step(torch.rand(2, 1, 8, 8, 8) * 2 - 1)
    moved = [after - start for start, after in zip(before, learner.parameters, strict=True)]
    assert max(float(step.detach().abs().max()) for step in moved) == pytest.approx(1e-3, rel=1e-2)  # Adam's first
    for start, step, average in zip(before, moved, learner.ema, strict=True):
        assert_close(average, (start + step / 4).detach(), atol=1e-6)
    volumes = learner.denoise_step((2, 8, 4, 4, 4))
    assert volumes.shape == (2, 1, 8, 8, 8)
    assert volumes.abs().max() <= 1
