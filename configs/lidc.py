"""WDM on LIDC-IDRI, as published: --config.data.root=DIR, the folder of LIDC-IDRI-* folders as downloaded (DICOM) or converted.

Variants: 128 (the default), 256, bf16, and tiny, which runs anywhere, on atlas files laid out as that dataset.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str | None = None) -> ConfigDict:
    config = common.base()
    config.data.name = "lidc"
    config.data.orientation = "native"
    config.data.spacing = (1.0, 1.0, 1.0)
    return common.apply(config, variants, common.WDM_VARIANTS | {"tiny": tiny})


def tiny(config: ConfigDict) -> None:
    """Trains and samples on two CPU cores in under a minute; the field of view stays the published 256 mm."""
    common.tiny(config)
    config.data.spacing = (8.0, 8.0, 8.0)
