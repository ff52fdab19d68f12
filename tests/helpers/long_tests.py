"""The tests that `make check` leaves to `make test`: files, and folders with all that is in them."""

from pathlib import PurePath

LONG = (
    # Whole runs of launch.py, or whole jobs.
    "jobs",
    "soak/test_kills.py",
    "test_launch.py",
    # Networks, or training steps, compiled; convolutions compiled in every way and on every mesh.
    "benchmarks",
    "builders/test_vqgan_copy.py",
    "codecs",
    "generation/test_sampler.py",
    "layers/test_conv.py",
    "layers/test_conv_transpose.py",
    "layers/test_factorized_attention.py",
    "layers/test_lowering.py",
    "layers/test_spatial.py",
    "layers/test_wavelet_resample.py",
    "layers/test_winograd.py",
    "models",
    "parity/test_medical_lpips.py",
    "parity/test_medical_unet3d.py",
    "parity/test_medical_vqgan.py",
    "parity/test_wdm_eval.py",
    "parity/test_wdm_loss.py",
    "parity/test_wdm_networks.py",
    "parity/test_wdm_sample.py",
    "planning",
    "tasks",
    "training",
    # Processes of their own.
    "runtime/test_checkpoints.py",
    "runtime/test_distributed.py",
    "runtime/test_interrupt.py",
    # Many configurations, many scans.
    "configs/test_configs.py",
    "data_pipelines/readers/test_atlas.py",
    "data_pipelines/test_batches.py",
    "evaluation/test_volume_sets.py",
    # Statistics of many draws.
    "diffusion/test_convergence.py",
    "diffusion/test_spread.py",
    "metrics/test_frechet_interval.py",
    "metrics/test_memorization.py",
)
# Of these folders, what is short all the same.
SHORT = (
    "tasks/test_lowering_choice.py",
    "tasks/test_networks.py",
    "tasks/test_slices.py",
)


def is_long(path: PurePath) -> bool:
    """Whether `make check` leaves out the test file of this path below tests/."""
    name = path.as_posix()
    return name not in SHORT and any(name == long or name.startswith(f"{long}/") for long in LONG)
