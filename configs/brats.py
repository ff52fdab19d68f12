"""WDM on BraTS 2023 adult glioma, as published: --config.data.root=DIR, the folder of BraTS-GLI-* folders as downloaded.

Variants: 128 (the default), 256, wavunet, bf16, published, which samples as the paper did, all of 1000 steps, fewstep,
flow, and tiny, which runs anywhere, on atlas files laid out as that dataset.
"""

from ml_collections import ConfigDict

from configs import affines, common, variants


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.base()
    config.data.name = "brats"
    config.data.orientation = "native"
    variants.apply(config, arg, variants.WDM_VARIANTS)
    # The scans' own space, 240 x 240 x 155 voxels of 1 mm to the left, back and top, padded by (8, 8, 50) as published.
    config.data.affine = affines.affine_of_field((8.5, 247.5, -50.5), (-1, -1, 1), 256 / config.data.size[0])
    return config
