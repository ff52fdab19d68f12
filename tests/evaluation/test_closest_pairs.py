import numpy as np
from scipy import ndimage

from medjax.evaluation.closest_pairs import COLUMNS, closest_pairs
from medjax.metrics.memorization import examined, find_copies
from medjax.pictures import GAP, LABEL_HEIGHT


def bumps(n, seed):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((n, 12, 12, 12)), (0, 1, 1, 1))
    window = np.einsum("i,j,k->ijk", *[np.hanning(14)[1:-1]] * 3)
    return np.clip(window * (1 + 2 * field) - 1, -1, 1)[..., None].astype(np.float32)


def test_a_mirrored_copy_leaves_no_difference_and_its_row_is_the_first_and_red():
    training, generated = bumps(16, 0), bumps(4, 1)
    generated[2] = training[5, ::-1]
    found = find_copies(examined(generated), examined(training))
    names = [f"sample {n}" for n in range(4)], [f"subject {n}" for n in range(16)]
    affine = np.diag([-2.0, 1, 1, 1])
    arguments = (found, lambda m: generated[m, ..., 0], lambda n: training[n, ..., 0], *names, affine)
    page = closest_pairs(*arguments, most=3, height=24)
    assert page.tobytes() == closest_pairs(*arguments, most=3, height=24).tobytes()

    assert page.height == LABEL_HEIGHT + 3 * (24 + GAP + LABEL_HEIGHT) + GAP
    pixels, line = np.asarray(page).astype(int), 24 + GAP + LABEL_HEIGHT
    wide = round((2 * 12 + 2 * 12 + 12) / 12 * 24)  # two planes are 24 mm wide and 12 mm high, one 12 mm
    left = GAP + (len(COLUMNS) - 1) * (wide + 3 * GAP)
    differences = [
        pixels[LABEL_HEIGHT * 2 + row * line : LABEL_HEIGHT * 2 + row * line + 24, left : left + wide]
        for row in range(3)
    ]
    assert np.abs(differences[0] - 128).max() <= 2
    assert all(np.abs(each - 128).max() > 20 for each in differences[1:])
    captions = [pixels[LABEL_HEIGHT + row * line : 2 * LABEL_HEIGHT + row * line] for row in range(3)]
    assert [bool((caption[..., 0] > caption[..., 2] + 50).any()) for caption in captions] == [True, False, False]
