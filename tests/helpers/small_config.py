"""The configuration of a small run (small_runs.SMALL), as data."""

import ast

from ml_collections import ConfigDict

from configs import folder
from small_runs import SMALL


def small_config(**changes) -> ConfigDict:
    """Of volumes of 16^3 voxels, batch 2, one device, with some keys changed: small_config(**{"mesh.data": 2})."""
    config = folder.get_config("tiny")
    for argument in SMALL:
        key, _, value = argument.removeprefix("--config.").partition("=")
        config.update_from_flattened_dict({key: ast.literal_eval(value)})
    config.update_from_flattened_dict(changes)
    return config
