import numpy as np
import pytest

from medjax.evaluation.tabulate import QUESTIONS, krippendorff_alpha, read_scores

X = np.nan


def test_alpha_of_the_published_example():
    """Four readers, twelve cases, cells missing: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section D."""
    scores = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
            [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
        ]
    )
    assert krippendorff_alpha(scores) == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_agreement_and_of_chance():
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 5, (1, 3000)).astype(float)
    assert krippendorff_alpha(np.repeat(scores, 3, axis=0)) == 1
    assert abs(krippendorff_alpha(rng.integers(1, 5, (2, 3000)).astype(float))) < 0.05
    assert krippendorff_alpha(np.concatenate([scores, 5 - scores])) < -0.9


def test_near_scores_count_as_less_of_a_difference():
    truth = np.tile([1.0, 2, 3, 4], 10)
    near, far = truth.copy(), truth.copy()
    near[3::8], far[3::8] = 3, 1
    assert krippendorff_alpha(np.stack([truth, near])) > krippendorff_alpha(np.stack([truth, far])) + 0.2


@pytest.mark.parametrize("scores", [np.full((2, 3), X), [[1, 2, 3]], [[4, 4], [4, 4]], [[1, X], [X, 2]]])
def test_alpha_that_does_not_exist(scores):
    assert krippendorff_alpha(np.array(scores, float)) is None


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_sheets_as_spreadsheets_save_them(tmp_path, mark):
    lines = [["case", "reader", *QUESTIONS], ["001", "Müller", "1", "", "4"], [""] * 5]
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("\n".join(mark.join(line) for line in lines), encoding="utf-8-sig")
    expected = {("001", "Müller", QUESTIONS[0]): 1, ("001", "Müller", QUESTIONS[2]): 4}
    assert read_scores([sheet], {"001": {}}) == expected
