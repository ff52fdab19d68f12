"""Reference files for options of WDM's networks that the files measured on the published code leave out.

    python tests/golden/make_wdm_options.py              writes tests/golden/wdm_unet_*.npz and wdm_wavunet_*.npz
    python tests/golden/make_wdm_options.py FILE.npz     compares this file's networks with one of the published code

Needs PyTorch, which nothing else here does. The networks below were written for this purpose, from what the published
ones are known to compute and how their modules are named; on the published code's own files they agree to rounding.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from golden_files import GoldenFile, odd_integers, recipe_weight  # noqa: E402

DEFAULTS = {
    "image_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "num_channels": 8,
    "channel_mult": "1,2",
    "num_res_blocks": 2,
    "num_groups": 4,
    "num_heads": 1,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "",
    "bottleneck_attention": False,
    "use_new_attention_order": False,
    "use_scale_shift_norm": False,
    "resblock_updown": True,
    "resample_2d": False,
    "additive_skips": True,
    "use_freq": False,
    "dropout": 0.0,
}
CASES = {
    "wdm_unet_attention": {
        "attention_resolutions": "8",
        "bottleneck_attention": True,
        "num_heads": 2,
        "num_heads_upsample": 4,
        "use_scale_shift_norm": True,
        "additive_skips": False,
    },
    "wdm_unet_slices": {
        "attention_resolutions": "16,8",
        "num_head_channels": 4,
        "use_new_attention_order": True,
        "resample_2d": True,
    },
    "wdm_unet_convolutions": {
        "attention_resolutions": "8",
        "num_res_blocks": 1,
        "resblock_updown": False,
        "additive_skips": False,
    },
    "wdm_unet_slice_convolutions": {"resblock_updown": False, "resample_2d": True, "use_scale_shift_norm": True},
    "wdm_wavunet_scale_shift": {"use_freq": True, "num_res_blocks": 3, "use_scale_shift_norm": True},
}


class Block(nn.Module):
    """Pooling and nearest come before the first convolution, Haar transforms after it."""

    def __init__(self, k, c_in, c_out, resample=None):
        super().__init__()
        self.k, self.resample = k, resample
        width = 4 * k["num_channels"]
        self.in_layers = nn.Sequential(norm(k, c_in), nn.SiLU(), nn.Conv3d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, c_out * (1 + k["use_scale_shift_norm"])))
        last = nn.Conv3d(c_out, c_out, 3, padding=1)
        self.out_layers = nn.Sequential(norm(k, c_out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv3d(c_in, c_out, 1)

    def forward(self, x, emb, details=None):
        h, high = self.in_layers[:2](x), None
        if self.resample and not self.k["use_freq"]:
            h, x = (pooled(self.k, a) if self.resample == "down" else nearest(self.k, a) for a in (h, x))
        h = self.in_layers[2](h)
        if self.resample == "down" and self.k["use_freq"]:
            (h, high), (x, _) = haar(h), haar(x)
        if self.resample == "up" and self.k["use_freq"]:
            h, x = inverse_haar(h, details), inverse_haar(x, details)
        time = self.emb_layers(emb)[..., None, None, None]
        if self.k["use_scale_shift_norm"]:
            scale, shift = time.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + time)
        y = self.skip_connection(x) + h
        return y if high is None else (y, high)


class Attention(nn.Module):
    def __init__(self, k, c, heads):
        super().__init__()
        self.heads = c // k["num_head_channels"] if k["num_head_channels"] > 0 else heads
        self.new_order = k["use_new_attention_order"]
        self.norm, self.qkv, self.proj_out = norm(k, c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x):
        b, c = x.shape[:2]
        tokens = x.flatten(2)
        qkv = self.qkv(self.norm(tokens))
        if self.new_order:
            q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, -1).unbind(1)
        else:
            q, k, v = qkv.reshape(b, self.heads, 3, c // self.heads, -1).unbind(2)
        weights = torch.einsum("bnct,bncs->bnts", q, k) / (c // self.heads) ** 0.5
        attended = torch.einsum("bnts,bncs->bnct", weights.softmax(-1), v).reshape(b, c, -1)
        return (tokens + self.proj_out(attended)).reshape(x.shape)


class Pyramid(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv3d(8 * c_in, c_out, 3, padding=1)

    def forward(self, x):
        low, high = haar(x)
        return self.conv(torch.cat([low, high / 3], 1))


class Network(nn.Module):
    """Either network: `use_freq` makes it the wavelet U-Net."""

    def __init__(self, k):
        super().__init__()
        self.k, c0 = k, k["num_channels"]
        widths = [c0 * int(m) for m in k["channel_mult"].split(",")]
        factors = [k["image_size"] // int(r) for r in k["attention_resolutions"].split(",") if r]
        up_heads = k["num_heads_upsample"] if k["num_heads_upsample"] > 0 else k["num_heads"]

        def stage(c_in, c_out, factor, heads):
            attention = [Attention(k, c_out, heads)] if factor in factors else []
            return [Block(k, c_in, c_out), *attention]

        self.time_embed = nn.Sequential(nn.Linear(c0, 4 * c0), nn.SiLU(), nn.Linear(4 * c0, 4 * c0))
        down, c, skips, c_pyramid = [[nn.Conv3d(k["in_channels"], c0, 3, padding=1)]], c0, [c0], k["in_channels"]
        for level, width in enumerate(widths):
            for _ in range(k["num_res_blocks"]):
                down.append(stage(c, width, 2**level, k["num_heads"]))
                c = width
                skips.append(c)
            if k["use_freq"]:
                down += [[Block(k, c, c, "down")], [Pyramid(c_pyramid, c)]]
                c_pyramid = c
            elif level < len(widths) - 1:
                strides = (1, 2, 2) if k["resample_2d"] else 2
                op = nn.ModuleDict({"op": nn.Conv3d(c, c, 3, stride=strides, padding=1)})
                down.append([Block(k, c, c, "down") if k["resblock_updown"] else op])
                skips.append(c)
        attention = [Attention(k, c, k["num_heads"])] if k["bottleneck_attention"] else []
        middle = [Block(k, c, c), *attention, Block(k, c, c)]
        up = []
        for level, width in reversed(list(enumerate(widths))):
            if k["use_freq"]:
                for _ in range(k["num_res_blocks"]):
                    up.append(stage(c, width, 2 ** (level + 1), up_heads))
                    c = width
                up.append([*up[-1], Block(k, c, c, "up")])
                continue
            for i in range(k["num_res_blocks"] + 1):
                skip = skips.pop()
                c_out = (skips[-1] if skips else c0) if k["additive_skips"] else width
                up.append(stage(c if k["additive_skips"] else c + skip, c_out, 2**level, up_heads))
                c = c_out
                if level and i == k["num_res_blocks"]:
                    conv = nn.ModuleDict({"conv": nn.Conv3d(c, c, 3, padding=1)})
                    up[-1].append(Block(k, c, c, "up") if k["resblock_updown"] else conv)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, down))
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, up))
        if k["use_freq"]:
            self.out_res = nn.ModuleList(nn.ModuleList([Block(k, c, c)]) for _ in range(k["num_res_blocks"]))
        self.out = nn.Sequential(norm(k, c), nn.SiLU(), nn.Conv3d(c, k["out_channels"], 3, padding=1))

    def forward(self, x, t):
        width = self.k["num_channels"]
        frequencies = torch.exp(-np.log(10000.0) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
        phases = t.float()[:, None] * frequencies
        emb = self.time_embed(torch.cat([phases.cos(), phases.sin()], 1).to(x.dtype))
        h = pyramid = x
        skips, details = [], []
        for stage in self.input_blocks:
            if isinstance(stage[0], Pyramid):
                h = pyramid = stage[0](pyramid) + h
                continue
            h = self._run(stage, h, emb)
            if isinstance(h, tuple):
                h, high = h
                details.append(high)
            skips.append(h)
        h = self._run(self.middle_block, h, emb)
        for i, stage in enumerate(self.output_blocks):
            if self.k["use_freq"]:
                h = self._run(stage, h, emb, details[-1 - i // (self.k["num_res_blocks"] + 1)])
            else:
                skip = skips.pop()
                h = self._run(stage, (h + skip) / 2 if self.k["additive_skips"] else torch.cat([h, skip], 1), emb)
        for stage in self.out_res if self.k["use_freq"] else []:
            h = self._run(stage, h, emb)
        return self.out(h)

    def _run(self, stage, h, emb, details=None):
        for module in stage:
            if isinstance(module, Block):
                h = module(h, emb, details)
            elif isinstance(module, nn.ModuleDict):
                h = module["op"](h) if "op" in module else module["conv"](nearest(self.k, h))
            else:
                h = module(h)
        return h


def norm(k, c):
    return nn.GroupNorm(k["num_groups"], c)


def pooled(k, x):
    return functional.avg_pool3d(x, (1, 2, 2) if k["resample_2d"] else 2)


def nearest(k, x):
    return functional.interpolate(x, scale_factor=(1.0, 2.0, 2.0) if k["resample_2d"] else 2.0)


def haar(x):
    """LLL / 3, and the other subbands as they are, joined along the channels."""
    b, c, d, h, w = x.shape
    cubes = x.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2)
    bands = torch.einsum("bcdphqwr,ip,jq,kr->bijkcdhw", cubes, *[butterfly(x)] * 3).flatten(1, 4)
    return bands[:, :c] / 3, bands[:, c:]


def inverse_haar(low, high):
    b, c, d, h, w = low.shape
    bands = torch.cat([3 * low, high], 1).reshape(b, 2, 2, 2, c, d, h, w)
    cubes = torch.einsum("bijkcdhw,ip,jq,kr->bcdphqwr", bands, *[butterfly(low)] * 3)
    return cubes.reshape(b, c, 2 * d, 2 * h, 2 * w)


def butterfly(like):
    return like.new_tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5


def network_with(config, weights):
    network = Network(DEFAULTS | config["kwargs"])
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return network


def make(name, changes, seed):
    """One case: an output, and that of an oblong input."""
    kwargs = DEFAULTS | changes
    config = {"model": "WavUNetModel" if kwargs["use_freq"] else "UNetModel", "kwargs": kwargs, "seed": seed}
    network = Network(kwargs)
    owners, aliases = {}, []
    for key, value in network.state_dict(keep_vars=True).items():
        owner = owners.setdefault(id(value), key)
        if owner != key:
            aliases.append([key, owner])
    shapes = [[key, list(value.shape)] for key, value in network.named_parameters()]
    weights = {key: recipe_weight(key, shape, seed) for key, shape in shapes}
    network = network_with(config, weights | {key: weights[owner] for key, owner in aliases})
    config["n_params"] = sum(value.size for value in weights.values())

    x = (odd_integers(f"{name}/x", seed, (1, 8, 8, 8, 8)) / 8).astype(np.float32)
    x2 = (odd_integers(f"{name}/x2", seed, (2, 8, 4, 4, 8)) / 8).astype(np.float32)
    t, t2 = np.array([421]), np.array([0, 999])
    with torch.no_grad():
        y, y2 = (network(torch.from_numpy(a), torch.from_numpy(b)) for a, b in ((x, t), (x2, t2)))
        y_64 = network.double()(torch.from_numpy(x).double(), torch.from_numpy(t))
    np.savez_compressed(
        HERE / f"{name}.npz",
        **{"in/x": x, "in/t": t, "in/x2": x2, "in/t2": t2, "out/y": y, "out/y2": y2},
        config=json.dumps(config),
        w_recipe=json.dumps(shapes),
        w_alias=json.dumps(aliases),
    )
    print(f"{name}: deviation {y.std():.2g}, from float64 by {(y - y_64).abs().max():.1g}")


def compare(path):
    """How far these networks are from what was measured on the published code."""
    golden = GoldenFile(path)
    network = network_with(golden.config, golden.weights)
    with torch.no_grad():
        for i in ("", "2", "3"):
            if f"out/y{i}" in golden:
                y = network(torch.from_numpy(golden[f"in/x{i}"]), torch.from_numpy(golden[f"in/t{i}"]))
                print(f"{path.name}, y{i}: off by {np.abs(y.numpy() - golden[f'out/y{i}']).max():.1g}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        compare(pathlib.Path(argument))
    for n, (case, options) in enumerate([] if sys.argv[1:] else CASES.items()):
        make(case, options, seed=n)
