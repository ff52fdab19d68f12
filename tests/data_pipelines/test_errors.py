import pytest

from data_pipelines.errors import LONGEST, DataError
from medjax.errors import UserError


@pytest.mark.parametrize("kind", [DataError, UserError])
def test_a_message_is_one_printable_line_whatever_was_found(kind):
    assert str(kind("scan.nii: spacing is 0.7; use another")) == "scan.nii: spacing is 0.7; use another"
    told = str(kind("a.dcm: PixelSpacing is 0.\x00\x1b[2J6\nand \udc80; keep one"))
    assert told == r"a.dcm: PixelSpacing is 0.\x00\x1b[2J6 and \udc80; keep one"
    assert told.encode()
    long = str(kind(f"config.json: axes is {'a' * 10**6}; restore it"))
    assert len(long) <= LONGEST and long.startswith("config.json: axes is a") and long.endswith("a; restore it")
