import json

import jax
import jax.numpy as jnp
import pytest

import launch as launcher
from medjax.benchmarking.ceilings import haar_by_matrices
from medjax.benchmarking.parts import plain_task
from medjax.benchmarking.rig import Bench
from medjax.builders.assemble import Needs, assemble
from medjax.jobs import benchmark
from medjax.models.unet import UNet
from medjax.tasks import make_task
from medjax.wavelets import haar_dwt3d
from medjax.xla import cudnn
from small_config import small_config
from small_runs import ROOT, SMALL, ends, launch, result, start
from tolerance import assert_equal_but_for_rounding

QUICKLY = ("--config.benchmark.windows=2", "--config.benchmark.seconds=0.001")
NAMES = {
    "device_kind", "devices", "train_step_seconds", "volumes_per_second_per_device", "denoise_step_seconds",
    "flops_per_volume", "tflops_per_second_per_device", "mfu", "peak_bytes", "compile_seconds", "data_volumes_per_second",
}  # fmt: skip


def argv(tmp_path, config, *more):
    return ["launch.py", "--mode=benchmark", f"--config={ROOT}/configs/{config}", f"--workdir={tmp_path}/run", *more]


def run_apart(folder, argv, devices=1):
    """The result and stderr of a process of its own, in which TensorFlow cannot be imported."""
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow/__init__.py").write_text("raise ImportError")
    ((status, out, err),) = ends([start(argv, devices, PYTHONPATH=str(folder))])
    assert status == 0, err
    return result(out), err


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A benchmark of everything on two devices, without data."""
    folder = tmp_path_factory.mktemp("benchmark")
    small = (argument for argument in SMALL if "mesh" not in argument)
    found, err = run_apart(
        folder, argv(folder, "folder.py:tiny", *small, *QUICKLY, f"--profile={folder}/trace"), devices=2
    )
    return folder, found, err


def test_every_number_is_there_but_those_of_data(first):
    _, found, _ = first
    assert found.keys() >= NAMES
    assert [name for name in NAMES if found[name] is None] == ["data_volumes_per_second"]
    assert (found["devices"], found["device_kind"], found["parts"]["data"]) == (2, "cpu", None)
    train = found["parts"]["train"]
    assert found["volumes_per_second_per_device"] == pytest.approx(
        1 / found["train_step_seconds"]
    )  # 2 volumes, 2 devices
    assert found["mfu"] == pytest.approx(
        found["flops_per_volume"] / found["train_step_seconds"] / train["ceiling_tflops_per_second_per_device"] / 1e12
    )
    # XLA leaves out what padding multiplies and counts all else as well, of which so small a network has much.
    assert 0.5 < train["flops_per_volume_compiler"] / found["flops_per_volume"] < 1.5
    assert len(train["windows"]) == 2 and train["spread"] >= 0
    assert found["sample_seconds_per_volume"] == pytest.approx(found["parts"]["sampler"]["seconds"] / 2)
    assert found["parts"]["haar"]["matrices_over_forward"] > 0
    assert found["parts"]["checkpoint"]["bytes"] > 4 * 3 * 1000


def test_a_table_and_the_longest_operations_are_shown_and_a_trace_left(first):
    folder, _, text = first
    for word in (
        "training step",
        "denoising step",
        "a batch of samples",
        "Haar, inverse",
        "checkpoint, saved",
        "by kind:",
    ):
        assert word in text
    assert "UNet/" in text  # which operations are the longest, time tells
    assert list((folder / "trace").rglob("*.xplane.pb"))


def test_results_are_appended_and_nothing_else_is_left(first):
    folder, found, _ = first
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["benchmarks.jsonl"]
    (line,) = (folder / "run" / "benchmarks.jsonl").read_text().splitlines()
    assert json.loads(line).items() <= found.items()


def test_the_version_of_cudnn_is_told_on_gpus_alone(first, monkeypatch):
    _, found, text = first
    assert "cudnn" not in found["versions"] and "cuDNN" not in text
    monkeypatch.setattr(cudnn, "loaded_version", lambda: (9, 10, 2))
    assert "cudnn" not in benchmark.versions("cpu")
    told = benchmark.versions("gpu")
    assert told["cudnn"] == "9.10.2" and told["jax"] == jax.__version__
    assert f", jax {jax.__version__}, cuDNN 9.10.2\n" in benchmark.table(found | {"versions": told})
    monkeypatch.setattr(cudnn, "loaded_version", lambda: None)  # of another maker
    assert "cudnn" not in benchmark.versions("gpu")


def test_a_cudnn_older_than_jax_needs_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cudnn, "loaded_version", lambda: (9, 8, 1))
    monkeypatch.setattr(cudnn, "built_version", lambda: (9, 10, 0))
    of_gpu = benchmark.versions
    monkeypatch.setattr(benchmark, "versions", lambda kind: of_gpu("gpu"))
    argument = "--config.benchmark.parts=haar"
    status = launcher.main(argv(tmp_path, "folder.py:tiny", *SMALL, argument, *QUICKLY))
    assert status == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "is loaded" in line]
    assert line.startswith("cuDNN 9.8.1 is loaded, older than 9.10.0")


def test_compared_with_an_earlier_result(first, tmp_path, capsys):
    folder, _, _ = first
    earlier = folder / "run" / "benchmarks.jsonl"
    more = ("--config.benchmark.parts=haar", f"--compare={earlier}", *QUICKLY)
    status, out, _ = launch(argv(tmp_path, "folder.py:tiny", *SMALL, *more), capsys)
    assert status == 0
    assert result(out)["compared"] == {}  # of the numbers compared, this one has none
    assert result(out)["train_step_seconds"] is None


def test_what_is_timed_is_the_last_step_of_training_where_all_has_begun():
    config = small_config(**{"train.steps": 7})
    bench = Bench(assemble(config, None, Needs(training=True)))
    assert bench.state().step == 6


def test_latent_diffusion_with_no_trained_vqgan(tmp_path):
    more = ("--config.benchmark.parts=train,denoise", "--config.data.size=(16,16,16)", "--config.data.batch_size=2")
    more += ("--config.data.name=synthetic", "--config.sample.batch_size=1")
    found, _ = run_apart(tmp_path, argv(tmp_path, "medical_diffusion.py:atlas,ddpm,tiny", *more, *QUICKLY))
    assert found["flops_per_volume"] > 0 and found["denoise_step_seconds"] > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--config.benchmark.parts=train,speed",), "benchmark.parts names 'speed'"),
        (("--config.benchmark.windows=0",), "benchmark.windows is 0"),
        (("--config.benchmark.parts=haar", "--profile=there"), "--profile traces the training step"),
        (("--compare=nowhere.json",), "--compare=nowhere.json cannot be read"),
    ],
)
def test_what_cannot_work_is_one_line(more, said, tmp_path, capsys):
    status, out, lines = launch(argv(tmp_path, "folder.py:tiny", *more), capsys)
    assert (status, out) == (2, "")
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "run").exists()


def test_the_matrices_make_the_same_transform():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 3))
    assert_equal_but_for_rounding(haar_by_matrices(x), haar_dwt3d(x), units=16)


def test_operations_are_counted_of_the_network_as_drawn_in_the_paper():
    config = small_config()
    config.train.remat, config.train.lowering = "blocks", "planes"
    network = plain_task(make_task(config)).network
    assert isinstance(network, UNet) and (network.lowering, network.remat) == ("direct", False)
    assert jnp.dtype(network.dtype) == jnp.float32
