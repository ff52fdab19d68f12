"""Finds the scans of each dataset and preprocesses them, one dataset a file."""

from data_pipelines.readers.adni import ADNI
from data_pipelines.readers.any_folder import FOLDER
from data_pipelines.readers.brats import BRATS
from data_pipelines.readers.duke import DUKE
from data_pipelines.readers.lidc import LIDC
from data_pipelines.readers.mrnet import MRNET
from data_pipelines.readers.reader import Chosen, Found, Reader

__all__ = ["READERS", "Chosen", "Found", "Reader"]

# The atlas has no files but those made here, which lie as in any folder.
READERS = {
    "atlas": FOLDER, "folder": FOLDER, "adni": ADNI, "brats": BRATS, "duke": DUKE, "lidc": LIDC, "mrnet": MRNET,
}  # fmt: skip
