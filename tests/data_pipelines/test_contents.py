import numpy as np
import pytest

from data_pipelines.cases import Case
from data_pipelines.contents import BLOCK, BLOCKS, changed_scan, difference, digest, digests, fingerprint
from data_pipelines.errors import DataError


def test_a_short_file_is_known_to_the_byte(tmp_path):
    path = tmp_path / "a.nii"
    content = np.random.default_rng(0).bytes(BLOCK * BLOCKS)
    path.write_bytes(content)
    first = digest(path)
    assert len(first) == 16 and digest(path) == first
    for place in (0, len(content) // 3, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert digest(path) != first


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_long_file_is_known_by_blocks_all_along(tmp_path, place):
    content = np.random.default_rng(0).integers(0, 255, 10 * BLOCK * BLOCKS, np.uint8)
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "copy.nii").write_bytes(content)
    content[round(place * (len(content) - 1))] ^= 1
    (tmp_path / "b.nii").write_bytes(content)
    one, copy, other = digests([tmp_path / name for name in ("a.nii", "copy.nii", "b.nii")])
    assert one == copy != other


def test_a_series_is_known_by_its_slices(tmp_path):
    for n in range(5):
        (tmp_path / f"{n}.dcm").write_bytes(bytes([n]) * 100)
    first = digest(tmp_path)
    (tmp_path / "2.dcm").write_bytes(b"?" * 100)
    second = digest(tmp_path)
    (tmp_path / "1.dcm").write_bytes(b"longer" * 100)
    assert len({first, second, digest(tmp_path)}) == 3


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="a.nii: cannot be read"):
        digest(tmp_path / "a.nii")


def test_a_fingerprint_is_of_names_subjects_and_contents(tmp_path):
    scans = [Case(f"{n}", f"subject {n}", {"image": tmp_path / "x"}, digest=f"{n}") for n in range(3)]
    first = fingerprint(scans)
    assert fingerprint(scans[::-1]) == first
    changes = ({"name": "9"}, {"subject": "subject 1"}, {"digest": "9"})
    others = [fingerprint([*scans[:2], Case(**(vars(scans[2]) | change))]) for change in changes]
    assert len({first, *others}) == 4


def test_the_first_scan_that_differs_is_named():
    there = {"a": "1", "b": "2", "c": "3"}
    assert changed_scan(there, there | {"b": "9"}) == "b holds something else"
    assert changed_scan(there, {"a": "1", "c": "3"}) == "b is gone"
    assert changed_scan(there, there | {"aa": "1"}) == "aa is new"
    assert changed_scan(there, there) is None and changed_scan({}, there) is None


def test_what_differs_is_said_in_words():
    known = {"identity": {"rules": 2, "fingerprint": "x", "split": [8, 1, 1]}, "scans": {"a": "1"}}
    changed = {"identity": known["identity"] | {"fingerprint": "y"}, "scans": {"a": "2"}}
    assert difference(known, known) is None
    assert difference(known, changed) == "a holds something else"
    assert difference(known, changed | {"scans": {"a": "1"}}) == "whose scans they are differs"
    earlier = {"identity": {"fingerprint": "x", "split": [8, 1, 1]}}
    assert "by other rules" in difference(earlier, known)
    assert difference({"identity": None}, known) is None


def test_what_is_no_record_of_data_says_nothing():
    assert difference({"identity": "damaged"}, {"identity": {"fingerprint": "0"}}) is None
    assert changed_scan("damaged", {"a": "1"}) is None


def test_a_pair_is_known_by_both_of_its_files(tmp_path):
    (tmp_path / "a.hdr").write_bytes(bytes(348))
    (tmp_path / "a.img").write_bytes(bytes(100))
    before = digest(tmp_path / "a.hdr")
    (tmp_path / "a.img").write_bytes(bytes(99) + b"1")
    assert digest(tmp_path / "a.hdr") != before


def test_another_standard_scale_is_told_in_words():
    def identity(scales):
        preprocessing = {"fit": "crop"} | ({"scales": scales} if scales else {})
        return {"identity": {"rules": 2, "fingerprint": "x", "count": 9, "preprocessing": preprocessing}}

    one, other, off = identity([[0.0, 1.0]]), identity([[0.0, 2.0]]), identity(None)
    assert difference(one, one) is None
    assert "on another standard scale" in difference(one, other)
    assert difference(one, off) == "data.standardise is on there and off here"
    assert difference(off, one) == "data.standardise is off there and on here"
