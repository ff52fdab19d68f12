"""The keys that each task's configuration has, to read by what a run has recorded."""

from ml_collections import ConfigDict

from configs import common, medical_keys, variants

TASKS = {
    "wavelet_diffusion": lambda config: None,
    "voxel_diffusion": variants.voxels,
    "vqgan": medical_keys.vqgan_keys,
    "latent_diffusion": medical_keys.latent_diffusion_keys,
}


def keys_of_run(task: str, network: str) -> ConfigDict:
    """Every key of a configuration of a task and a network, with a value of each key's kind.

    Raises:
      KeyError: there is no such task.
    """
    config, other = common.base(), common.base()
    TASKS[task](config)
    if task == "latent_diffusion" and network == "unet":
        medical_keys.plain_unet(config)
    elif network == "factorized_unet":
        medical_keys.latent_diffusion_keys(other)
        config.model = other.model
    return config
