"""TensorFlow where batches and records need it: it takes seconds to import, and a GPU machine may not have it."""

import os
from types import ModuleType

from data_pipelines.errors import DataError


def import_tensorflow() -> ModuleType:
    """The module, kept off the accelerator, whose memory it would take.

    Raises:
      DataError: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # tf.data needs none of it, and announces it
    try:
        import tensorflow as tf
    except ImportError as error:
        raise DataError("reading batches needs TensorFlow, which is not there: pip install tensorflow-cpu") from error
    tf.config.set_visible_devices([], "GPU")
    return tf
