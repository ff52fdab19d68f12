"""What a survey found, in a form to compare."""

import pytest

from data_pipelines.errors import DataError
from data_pipelines.survey.survey import survey


def used(found) -> dict[str, str]:
    """The subject of each case."""
    return {case.name: case.subject for case in found.cases}


def reasons(found) -> dict[str, str]:
    """Of what is not used, by name."""
    return {row.name: row.reason for row in found.rows if row.status != "used"}


def images(found) -> dict[str, list[str]]:
    """The images of each case, below the root."""
    return {
        case.name: [path.relative_to(found.root).as_posix() for path in case.images.values()] for case in found.cases
    }


def refused(root, **asked) -> str:
    with pytest.raises(DataError) as raised:
        survey(root, **asked)
    assert "\n" not in str(raised.value)
    return str(raised.value)
