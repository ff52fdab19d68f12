"""Says what the network is told of each volume that is drawn."""

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax.runtime.mesh import process_rows, put_batch
from medjax.task import Batch


def told_of(sample: ConfigDict, mesh: Mesh, batch_size: int) -> Batch:
    """Lays on the mesh what every volume of a batch is to be, {"class": [batch_size] int32}; {} where that is left open.

    Args:
      sample: `sample` part of the configuration, of a model that knows what it asks for.
      mesh: mesh of the sampler.
      batch_size: number of volumes in a batch.
    """
    if sample.label is None:
        return {}
    rows = process_rows(mesh, batch_size)
    return put_batch({"class": np.full(len(rows), sample.label, np.int32)}, mesh, batch_size)
