"""WDM's U-Net, loss, optimiser and denoising step in PyTorch, to be measured against ours; medjax never imports this.

Written for speed as PyTorch is written for speed: channels_last_3d, fused AdamW, foreach for the average and the clipping,
autocast, and nothing in Python that torch.compile cannot see through. Modules are named so that the published state dicts,
and those of `medjax.interop.wdm.state_dict_from_params`, load into it. Volumes are [B, C, D, H, W].
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, [resampling], convolution; the time; GroupNorm, SiLU, convolution; and a skip."""

    def __init__(self, channels: int, features: int, time_features: int, groups: int, resample: str | None = None):
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv3d(channels, features, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_features, features))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, features), nn.SiLU(), nn.Identity(), nn.Conv3d(features, features, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == features else nn.Conv3d(channels, features, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))
        h = h + self.emb_layers(embedding)[:, :, None, None, None]
        return self.skip_connection(self._resampled(x)) + self.out_layers(h)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool3d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x


class UNet(nn.Module):
    """The published network: additive skips, resampling inside residual blocks, no attention."""

    def __init__(
        self,
        base_channels: int = 64,
        channel_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4),
        blocks_per_level: int = 2,
        groups: int = 32,
        channels: int = 8,
    ):
        super().__init__()
        self.base_channels, time = base_channels, 4 * base_channels

        def block(before: int, after: int, resample: str | None = None) -> ResidualBlock:
            return ResidualBlock(before, after, time, groups, resample)

        self.time_embed = nn.Sequential(nn.Linear(base_channels, time), nn.SiLU(), nn.Linear(time, time))
        stages: list[nn.Module] = [nn.Conv3d(channels, base_channels, 3, padding=1)]
        widths, width = [base_channels], base_channels
        for level, multiplier in enumerate(channel_multipliers):
            for _ in range(blocks_per_level):
                stages.append(block(width, multiplier * base_channels))
                width = multiplier * base_channels
                widths.append(width)
            if level < len(channel_multipliers) - 1:
                stages.append(block(width, width, "down"))
                widths.append(width)
        self.input_blocks = nn.ModuleList(nn.ModuleList([stage]) for stage in stages)
        self.middle_block = nn.ModuleList([block(width, width), block(width, width)])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(channel_multipliers))):
            for i in range(blocks_per_level + 1):
                widths.pop()
                before, width = width, widths[-1] if widths else base_channels
                stage = [block(before, width)]
                if level and i == blocks_per_level:
                    stage.append(block(width, width, "up"))
                self.output_blocks.append(nn.ModuleList(stage))
        self.out = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv3d(width, channels, 3, padding=1))
        half = base_channels // 2
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        phases = t.float()[:, None] * self.frequencies
        embedding = self.time_embed(torch.cat([phases.cos(), phases.sin()], dim=-1))
        h, skips = self.input_blocks[0][0](x_t), []
        skips.append(h)
        for (stage,) in self.input_blocks[1:]:
            h = stage(h, embedding)
            skips.append(h)
        for stage in self.middle_block:
            h = stage(h, embedding)
        for stages in self.output_blocks:
            h = (h + skips.pop()) / 2
            for stage in stages:
                h = stage(h, embedding)
        return self.out(h).float()


def to_wavelet_domain(x: Tensor) -> Tensor:
    """[B, 1, D, H, W] to the coefficients [B, 8, D/2, H/2, W/2], LLL first and divided by 3."""
    for axis in (2, 3, 4):
        a, b = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
        x = torch.stack([a + b, a - b], dim=2).flatten(1, 2)
    x = x * 8**-0.5
    return torch.cat([x[:, :1] / 3, x[:, 1:]], dim=1)


def from_wavelet_domain(coefficients: Tensor) -> Tensor:
    """The inverse of `to_wavelet_domain`."""
    x = torch.cat([coefficients[:, :1] * 3, coefficients[:, 1:]], dim=1) * 8**-0.5
    for axis in (4, 3, 2):
        a, b = x.unflatten(1, (-1, 2)).unbind(2)
        x = torch.stack([a + b, a - b], dim=axis + 1).flatten(axis, axis + 1)
    return x


@dataclasses.dataclass(frozen=True)
class Settings:
    """Makes the configuration of the measured steps, with the names of configs/common.py."""

    learning_rate: float
    clip_norm: float
    ema_decay: float
    autocast: bool = False
    compile: bool = False
    steps: int = 1000  # of the linear schedule


class Twin:
    """The network with what trains it: `train_step` and `denoise_step` are what is measured."""

    def __init__(self, network: nn.Module, settings: Settings, device: str = "cpu"):
        self.settings, self.device = settings, device
        self.network = network.to(device, memory_format=torch.channels_last_3d)
        self.parameters = list(self.network.parameters())
        self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, settings.learning_rate, weight_decay=0.0, fused=True)
        betas = torch.linspace(1e-4 * 1000 / settings.steps, 0.02 * 1000 / settings.steps, settings.steps).double()
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0).float().to(device)
        self.loss = torch.compile(self._loss) if settings.compile else self._loss
        self.denoise = torch.compile(self._denoise) if settings.compile else self._denoise

    def train_step(self, volumes: Tensor) -> Tensor:
        """One update by volumes [B, 1, D, H, W] in [-1, 1]: AdamW behind a clip of the gradient, and the moving average."""
        x_0 = to_wavelet_domain(volumes)
        t = torch.randint(self.settings.steps, (len(x_0),), device=self.device)
        loss = self.loss(x_0, t, torch.randn_like(x_0))
        loss.backward()
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - self.settings.ema_decay)
        return loss.detach()

    @torch.inference_mode()
    def denoise_step(self, shape: tuple[int, ...]) -> Tensor:
        """Volumes [B, 1, D, H, W] of a sampler of one step: noise of `shape` [B, 8, d, h, w], the network, voxels clamped."""
        return self.denoise(torch.randn(shape, device=self.device))

    def _loss(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The mean over subbands of the mean squared error of x_0."""
        alpha = self.alphas_cumprod[t][:, None, None, None, None]
        x_t = alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise
        return (self._predict(x_t, t) - x_0).square().mean(dim=(0, 2, 3, 4)).mean()

    def _denoise(self, noise: Tensor) -> Tensor:
        t = torch.full((len(noise),), self.settings.steps - 1, device=self.device)
        volumes = from_wavelet_domain(self._predict(noise, t)).clamp(-1, 1)
        # As every step of a sampler does: the estimate goes back to the wavelet domain, the last one out of it again.
        return from_wavelet_domain(to_wavelet_domain(volumes)).clamp(-1, 1)

    def _predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        x_t = x_t.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.settings.autocast):
            return self.network(x_t, t)
