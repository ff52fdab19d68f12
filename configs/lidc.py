"""WDM on LIDC-IDRI, as published: --config.data.root=DIR, the folder of LIDC-IDRI-* folders as downloaded (DICOM) or converted.

Variants: 128 (the default), 256, wavunet, bf16, published, which samples as the paper did, all of 1000 steps, fewstep,
flow, and tiny, which runs anywhere, on atlas files laid out as that dataset.
"""

from ml_collections import ConfigDict

from configs import affines, common, variants


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.base()
    config.data.name = "lidc"
    config.data.orientation = "native"
    config.data.spacing = (1.0, 1.0, 1.0)
    variants.apply(config, arg, variants.WDM_VARIANTS | {"tiny": tiny})
    # 256 mm about wherever the scanner's middle was, in the voxel order of WDM's converter: left, front, top.
    config.data.affine = affines.affine_of_field((128.0, -128.0, -128.0), (-1, 1, 1), 256 / config.data.size[0])
    return config


def tiny(config: ConfigDict) -> None:
    """Trains and samples on two CPU cores in under a minute; the field of view stays the published 256 mm."""
    variants.tiny(config)
    config.data.spacing = (8.0, 8.0, 8.0)
