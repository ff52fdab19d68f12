from pathlib import Path

from data_pipelines.cases import Case


def case_of(path: Path) -> Case:
    """A case of one image, called "image"."""
    return Case(path.name, path.name, {"image": path})
