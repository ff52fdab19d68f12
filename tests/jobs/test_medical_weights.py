"""Medical Diffusion's two files in, a sample, and both out again."""

import json
import zipfile

import jax
import nibabel
import numpy as np
import pytest

from configs import medical_diffusion
from medjax.builders.pretrained import task_of
from medjax.interop import medical_checkpoints, medical_vqgan
from medjax.interop.safetensors_load import save_tensors
from medjax.interop.torch_load import load_state_dict, load_state_dicts
from medjax.interop.torch_save import save_checkpoint, save_state_dict
from medjax.runtime.workdir import read_json
from small_runs import ROOT, launch, result, snapshot

SMALL = {"data.size": (16, 16, 16), "data.batch_size": 2, "data.atlas_layout": False, "mesh.data": 1}
DRAWN = {"model.base_channels": 8, "model.channel_multipliers": (1,), "diffusion.steps": 20,
         "sample.count": 1, "sample.batch_size": 1, "sample.steps": 2}  # fmt: skip


def config_of(stage):
    config = medical_diffusion.get_config(f"adni,tiny,{stage}")
    config.update_from_flattened_dict(small(stage))
    return config


def small(stage):
    return SMALL if stage == "vqgan" else SMALL | DRAWN


def arguments(stage, workdir, mode, *more):
    own = [f"--config.{key}={value}" for key, value in small(stage).items()]
    config = f"--config={ROOT}/configs/medical_diffusion.py:adni,tiny,{stage}"
    return ["launch.py", config, *own, f"--workdir={workdir}", f"--mode={mode}", *more]


def random_weights(stage, seed):
    """Parameters and variables of a task, such as training leaves."""
    generator = np.random.default_rng(seed)
    image = {"image": jax.ShapeDtypeStruct((1, 16, 16, 16, 1), np.float32)}
    params, variables = jax.eval_shape(task_of(config_of(stage)).init, jax.random.key(0), image)

    def drawn(leaf):
        return generator.uniform(0.05, 0.15, leaf.shape).astype(np.float32)

    return jax.tree.map(drawn, params), jax.tree.map(drawn, variables)


@pytest.fixture
def vqgan():
    return random_weights("vqgan", 0)


@pytest.fixture
def ckpt(tmp_path, vqgan):
    """The first stage as Lightning leaves it, a little of a perceptual loss in it."""
    perceptual = {"perceptual_model.lin0.model.1.weight": np.ones((1, 64, 1, 1), np.float32)}
    save_checkpoint(
        tmp_path / "vqgan.ckpt",
        {"epoch": 3, "global_step": 1200, "state_dict": medical_vqgan.to_state_dict(*vqgan) | perceptual},
    )
    return tmp_path / "vqgan.ckpt"


@pytest.fixture
def milestone(tmp_path, vqgan):
    """The second stage on it."""
    params, ema = (random_weights("ddpm", seed)[0] for seed in (1, 2))
    betas = task_of(config_of("ddpm")).objective.schedule.betas
    medical_checkpoints.write_diffusion(tmp_path / "model-1.pt", 0, params, ema, betas, vqgan)
    return tmp_path / "model-1.pt"


def run(argv, capsys):
    status, out, lines = launch(argv, capsys)
    assert status == 0, lines
    return result(out)


def refused(argv, capsys, *words):
    status, out, lines = launch(argv, capsys)
    assert (status, out, len(lines)) == (2, "", 1), lines
    assert all(word in lines[0] for word in words), lines[0]


def test_both_stages_in_a_sample_and_out(ckpt, milestone, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    told = run(arguments("vqgan", first, "import_weights", f"--checkpoint={ckpt}"), capsys)
    state_dict = load_state_dicts(ckpt, ("state_dict",))["state_dict"]
    assert (told["step"], told["tensors"]) == (0, len(state_dict))
    assert told["perceptual_weights"] == str(first / "perceptual.pt")
    assert list(load_state_dict(first / "perceptual.pt")) == ["lin0.model.1.weight"]
    run(arguments("vqgan", first, "export_weights", f"--output={tmp_path}/back.pt"), capsys)
    back = load_state_dict(tmp_path / "back.pt")
    assert list(back) == [name for name in state_dict if "perceptual" not in name]
    assert all(back[name].tobytes() == state_dict[name].tobytes() for name in back)

    on_first = f"--config.latents.vqgan={first}"
    told = run(arguments("ddpm", second, "import_weights", f"--checkpoint={milestone}", on_first), capsys)
    assert told["perceptual_weights"] is None
    frozen = read_json(second / "data.json")["frozen"]
    assert frozen["step"] == 0 and frozen["scaling"] == "codebook"
    run(arguments("ddpm", second, "sample"), capsys)
    sample = nibabel.load(second / "samples/sample_00000.nii.gz")
    np.testing.assert_allclose(sample.affine, read_json(second / "data.json")["affine"])
    assert 0 <= sample.get_fdata().min() <= sample.get_fdata().max() <= 1
    run(arguments("ddpm", second, "export_weights", f"--output={tmp_path}/back-1.pt"), capsys)
    assert (tmp_path / "back-1.pt").read_bytes() == milestone.read_bytes()


def test_safetensors_of_both_stages(vqgan, milestone, tmp_path, capsys):
    """Of the second, names begin with the parts of a milestone."""
    pytest.importorskip("safetensors")
    first, second = tmp_path / "first", tmp_path / "second"
    save_tensors(tmp_path / "vqgan.safetensors", medical_vqgan.to_state_dict(*vqgan))
    parts = load_state_dicts(milestone, ("model", "ema"))
    flat = {f"{part}.{name}": array for part, of in parts.items() for name, array in of.items()}
    save_tensors(tmp_path / "model-1.safetensors", flat)
    run(arguments("vqgan", first, "import_weights", f"--checkpoint={tmp_path}/vqgan.safetensors"), capsys)
    run(arguments("vqgan", first, "export_weights", f"--output={tmp_path}/back.safetensors"), capsys)
    back, sent = (load_state_dict(tmp_path / f"{name}.safetensors") for name in ("back", "vqgan"))
    assert back.keys() == sent.keys() and all(np.array_equal(back[name], sent[name]) for name in sent)
    more = (f"--checkpoint={tmp_path}/model-1.safetensors", f"--config.latents.vqgan={first}")
    run(arguments("ddpm", second, "import_weights", *more), capsys)
    output = tmp_path / "back.pt"
    refused(
        arguments("ddpm", second, "export_weights", f"--output={output.with_name('a.safetensors')}"), capsys, ".pt file"
    )
    run(arguments("ddpm", second, "export_weights", f"--output={output}"), capsys)
    assert output.read_bytes() == milestone.read_bytes()


def test_one_part_of_a_milestone(milestone, tmp_path, capsys):
    """It is taken for the parameters and for their average."""
    first, second = tmp_path / "first", tmp_path / "second"
    run(arguments("vqgan", first, "import_weights", f"--checkpoint={milestone}", "--part=model"), capsys)
    more = (f"--checkpoint={milestone}", "--part=ema", f"--config.latents.vqgan={first}")
    run(arguments("ddpm", second, "import_weights", *more), capsys)
    run(arguments("ddpm", second, "export_weights", f"--output={tmp_path}/back.pt"), capsys)
    expected = load_state_dicts(milestone, ("ema",))["ema"]
    for part in load_state_dicts(tmp_path / "back.pt", ("model", "ema")).values():
        assert all(np.array_equal(part[name], expected[name]) for name in expected)


def test_the_first_stage_of_a_milestone(milestone, ckpt, tmp_path, capsys):
    """It is the very one that the milestone may be imported on."""
    first = tmp_path / "first"
    run(arguments("vqgan", first, "import_weights", f"--checkpoint={milestone}"), capsys)
    on_first = f"--config.latents.vqgan={first}"
    run(arguments("ddpm", tmp_path / "second", "import_weights", f"--checkpoint={milestone}", on_first), capsys)


def test_what_does_not_belong_together(milestone, ckpt, tmp_path, capsys):
    other, run_of = tmp_path / "other.pt", tmp_path / "run"
    save_state_dict(other, medical_vqgan.to_state_dict(*random_weights("vqgan", 7)))
    run(arguments("vqgan", tmp_path / "first", "import_weights", f"--checkpoint={other}"), capsys)
    on_other = f"--config.latents.vqgan={tmp_path}/first"
    argv = arguments("ddpm", run_of, "import_weights", f"--checkpoint={milestone}")
    refused([*argv, on_other], capsys, f"latents.vqgan={tmp_path}/first is not the VQ-GAN that", "variant vqgan")
    refused(argv, capsys, "latents.vqgan is not set")
    refused([*argv, on_other, "--config.latents.scaling=data"], capsys, "latents.scaling is 'data'")
    refused([*argv[:-1], on_other, f"--checkpoint={ckpt}"], capsys, str(ckpt), "holds no state dict 'model'")
    refused([*argv, on_other, "--config.diffusion.steps=21"], capsys, str(milestone), "has 20 steps")
    refused([*argv, on_other, "--config.model.groups=2", "--config.model.attention_heads=1"], capsys, "other shapes")
    first_stage = arguments("vqgan", run_of, "import_weights", f"--checkpoint={ckpt}")
    refused([*first_stage, "--config.model.codes=32"], capsys, "codebook.embeddings (64, 4) for (32, 4)")
    assert not run_of.exists()


def test_a_lightning_checkpoint_that_would_run_something(ckpt, tmp_path, capsys):
    """What names a function is passed over, in the state dict too, which then is none."""
    with zipfile.ZipFile(ckpt) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    attack = b"cos\nsystem\n(X" + len(text := f"touch {tmp_path}/ran".encode()).to_bytes(4, "little") + text + b"tR"
    with zipfile.ZipFile(ckpt, "w") as archive:
        for name, content in records.items():
            if name.endswith("data.pkl"):
                content = content[:-2] + b"X\x05\x00\x00\x00hooks" + attack + b"u."
            archive.writestr(name, content)
    run(arguments("vqgan", tmp_path / "first", "import_weights", f"--checkpoint={ckpt}"), capsys)
    assert not (tmp_path / "ran").exists()
    assert json.loads((tmp_path / "first/data.json").read_text())["identity"] is None
    assert snapshot(tmp_path / "first")
