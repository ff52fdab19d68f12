"""WDM on LIDC-IDRI, as published: --config.data.root=DIR, the folder of LIDC-IDRI-* folders as downloaded (DICOM) or converted.

Variants: 128 (the default), 256, bf16, and tiny, which runs anywhere, on atlas files laid out as that dataset.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str | None = None) -> ConfigDict:
    config = common.base()
    config.data.name = "lidc"
    config.data.orientation = "native"
    return common.apply(config, variants, common.WDM_VARIANTS)
