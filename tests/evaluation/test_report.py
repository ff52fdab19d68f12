import base64
import dataclasses
import html
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from medjax.evaluation.plots import Curve
from medjax.evaluation.report import Evaluation, page, write_report
from medjax.evaluation.score import Score

VOID = {"meta", "link", "img", "br", "hr"}
AWKWARD = '<script>a & "b"</script>\''


class Page(html.parser.HTMLParser):
    """What a browser makes of the page; tags that do not match are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.text.append(text)

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def score(**changes):
    plain = Score(
        "fid", "Distance", 23.41234, "less", "", 40, 200, 21.87, 25.213, None, 6.318, "held-out volumes", "By hand."
    )
    return dataclasses.replace(plain, **changes)


def evaluation(**changes):
    edges, density = np.linspace(-1, 1, 5), np.array([0.1, 0.2, 0.1, 0.1])
    grey = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    plain = Evaluation(
        title="Title",
        subtitle="Subtitle",
        facts={"backbone": "random", "sampler": "ddim"},
        scores=[score(), score(name="copies", title="Copies", value=0.0, unit="volumes")],
        notes=["Only 40 real volumes."],
        histograms={"real": (edges, density), "generated": (edges, density[::-1])},
        consistency={"axial": {"real": np.array([0.5, np.nan, 0.9]), "generated": np.array([0.4, 0.8])}},
        training=[Curve("loss", [1, 2], [0.5, 0.25]), Curve("val_loss", [0, 2], [0.6, 0.3]), Curve("fid", [2], [9.0])],
        pictures={"Real": grey, "Closest": Image.new("F", (4, 3), 100.0)},
    )
    return dataclasses.replace(plain, **changes)


def test_the_page_is_whole_and_holds_everything_given():
    parsed = Page(page(evaluation()))
    text = " ".join(parsed.text)
    for told in (
        "Title",
        "Subtitle",
        "backbone",
        "random",
        "Distance",
        "held-out volumes",
        "By hand.",
        "Only 40 real volumes.",
    ):
        assert told in text
    for told in (
        "23.41",
        "95 % interval 21.9 to 25.2",
        "6.318",
        "40 real",
        "200 generated",
        "less is better",
        "0\xa0volumes",
    ):
        assert told in text
    captions = [image["alt"] for image in parsed.of("img")]
    assert captions == ["Real", "Closest"]
    plots = [svg["aria-label"] for svg in parsed.of("svg") if svg.get("role") == "img"]
    assert plots == ["Plot: Histogram", "Plot: axial", "Plot: loss", "Plot: fid"]
    assert all(header["scope"] in ("col", "row") for header in parsed.of("th"))


def test_a_p_value_is_told_in_place_of_an_interval():
    text = " ".join(Page(page(evaluation(scores=[score(low=None, high=None, p_value=0.015)]))).text)
    assert "p = 0.015 if both were of one distribution" in text
    assert "95 % interval 2" not in text


def test_every_text_is_escaped():
    texts = {name: f"{name} {AWKWARD}" for name in ("name", "title", "unit", "direction", "baseline_of", "how")}
    awkward = evaluation(
        title=f"page {AWKWARD}",
        subtitle=f"subtitle {AWKWARD}",
        facts={f"fact {AWKWARD}": f"value {AWKWARD}"},
        scores=[score(**texts)],
        notes=[f"note {AWKWARD}"],
        histograms={f"side {AWKWARD}": (np.arange(3), np.ones(2))},
        consistency={f"plane {AWKWARD}": {f"of {AWKWARD}": np.ones(3)}},
        training=[Curve(f"curve {AWKWARD}", [1], [1])],
        pictures={f"caption {AWKWARD}": Image.new("L", (2, 2))},
    )
    written = page(awkward)
    parsed = Page(written)
    assert "<script" not in written
    shown = " ".join(parsed.text)
    for told in ("page", "subtitle", "fact", "value", "note", "side", "plane", "of", "curve", "caption"):
        assert f"{told} {AWKWARD}" in shown
    for told in texts.keys() - {"name"}:  # the name is for metrics.json
        assert f"{told} {AWKWARD}" in shown
    assert parsed.of("img")[0]["alt"] == f"caption {AWKWARD}"


def test_the_page_is_made_from_any_folder(tmp_path, monkeypatch):
    expected = page(evaluation())
    monkeypatch.chdir(tmp_path)
    assert page(evaluation()) == expected


def test_pictures_are_in_the_page_and_nothing_is_fetched():
    given = evaluation()
    written = page(given)
    parsed = Page(written)
    for image, original in zip(parsed.of("img"), given.pictures.values(), strict=True):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as decoded:
            assert decoded.format == "PNG" and decoded.size == original.size
            assert (int(image["width"]), int(image["height"])) == original.size
            np.testing.assert_array_equal(np.asarray(decoded.convert("L")), np.asarray(original.convert("L")))
    for _, attributes in parsed.tags:
        assert all(attributes[name].startswith("data:") for name in ("src", "href") if name in attributes)
    assert all(attributes["xlink:href"].startswith("#") for _, attributes in parsed.tags if "xlink:href" in attributes)
    assert set(re.findall(r"url\((.)", written)) <= {"#"}
    assert "@import" not in written and "://" not in written
    assert not parsed.of("script")
    policy = next(meta["content"] for meta in parsed.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_what_is_not_a_number_is_a_dash():
    nan = float("nan")
    scores = [
        score(value=None, low=None, high=None, baseline=None),
        score(value=nan, low=nan, high=nan, error=nan, baseline=nan),
    ]
    scores.append(score(n_real=None, n_generated=None, unit="HU"))
    parsed = Page(page(evaluation(scores=scores, training=[Curve("loss", [1, 2], [nan, 1.0])])))
    cells = [cell.strip() for cell in parsed.text]
    assert cells.count("\N{EM DASH}") == 5
    assert [cell for cell in cells if cell.startswith("95 % interval")] == [
        "95 % interval 21.9 to 25.2"
    ]  # the last one's
    assert not re.search(r"\b(nan|none)\b", " ".join(cells), re.IGNORECASE)
    drawn = [attributes.get("d", "") + attributes.get("y", "") for _, attributes in parsed.tags]
    assert any(drawn) and not any("nan" in each for each in drawn)


def test_copies_are_the_first_thing_said():
    copies = score(name="copies", title="Copies", value=3.0)
    text = " ".join(Page(page(evaluation(scores=[score(), copies]))).text)
    assert text.index("3 of 200 generated volumes are flagged as copies") < text.index("Only 40 real volumes.")
    assert "flagged as copies" not in " ".join(Page(page(evaluation())).text)
    assert "flagged as copies" not in page(evaluation(scores=[dataclasses.replace(copies, value=float("nan"))]))


def test_a_standard_error_stands_in_for_an_interval():
    known = score(low=None, high=None, error=0.512)
    text = " ".join(Page(page(evaluation(scores=[known]))).text)
    assert "± 0.51 (standard error)" in text
    same = score(low=known.value - 1.96 * 0.512, high=known.value + 1.96 * 0.512)
    (drawn,) = re.findall(r'<svg class="score".*?</svg>', page(evaluation(scores=[known])), re.DOTALL)
    assert drawn in page(evaluation(scores=[same]))


def test_what_there_is_nothing_of_has_no_heading():
    empty = Evaluation("Title", "Subtitle", {}, [], [], {}, {}, [], {})
    parsed = Page(page(empty))
    assert not parsed.of("h2") and not parsed.of("table")
    headings = len(Page(page(evaluation())).of("h2"))
    assert headings == 7
    assert len(Page(page(evaluation(consistency={"axial": {"real": np.full(3, np.nan)}}))).of("h2")) == headings - 1


def test_the_same_evaluation_is_the_same_file(tmp_path):
    for name in ("one.html", "two.html"):
        write_report(tmp_path / name, evaluation(subtitle="Grüße, \udcff"))  # a file name that is not UTF-8
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "two.html"]
    assert "Grüße, ?" in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_a_page_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, evaluation())
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_report(path, evaluation(pictures={"broken": None}))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
