"""What the pages tell people to install is what requirements.txt asks for."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def test_jax_for_an_accelerator_has_the_bounds_of_jax_itself():
    """Otherwise `pip install -U` would put a newer one in the place of that which passes."""
    (bounds,) = re.findall(r"^jax(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    told = {page.name: re.findall(r"jax\[(\w+)\]([^\s\"'`]*)", page.read_text()) for page in PAGES}
    assert {extra for extra, _ in told["README.md"]} == {"cuda12", "tpu"}
    for page, lines in told.items():
        for extra, wanted in lines:
            assert wanted == bounds, f"{page}: jax[{extra}]{wanted}"
