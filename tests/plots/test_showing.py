import io
import re
from base64 import b64decode

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from moe_numpy import plots
from moe_numpy.plots.small_svg import small_svg
from moe_numpy.plots.style import STYLES

IMAGE = re.compile(r'<img src="data:image/([^;]+);base64,([^"]*)" alt="([^"]*)" width="800"')


def bars():
    return plots.expert_load(np.full((1, 4), 0.25))


def cloud(points=3000):
    figure = Figure(figsize=(10, 3))
    figure.subplots().scatter(*np.random.default_rng(0).normal(size=(2, points)), s=np.arange(points) % 7)
    return figure


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)


def shown(figure, alt="Four bars of equal height", **given):
    data, metadata = plots.show(figure, alt, **given)._repr_mimebundle_()
    return data, metadata, IMAGE.search(data["text/html"])


def test_a_notebook_gets_a_picture_with_its_text():
    data, metadata, image = shown(bars(), 'three rows\n    of <shares> & "more"')
    assert image[3] == "three rows of &lt;shares&gt; &amp; &quot;more&quot;"
    assert data["text/plain"] == 'three rows of <shares> & "more"'
    assert metadata == {"image/png": {"alt": data["text/plain"]}}
    assert repr(plots.show(bars(), "Four bars")) == "Four bars"
    assert Image.open(io.BytesIO(b64decode(data["image/png"]))).width == 640
    assert data == shown(bars(), data["text/plain"])[0]  # the same bytes each time
    assert "figcaption" not in data["text/html"]


def test_a_caption_is_text_for_everybody():
    data, _, _ = shown(bars(), caption="Load < 1\nof each")
    assert "<figcaption>Load &lt; 1 of each</figcaption></figure>" in data["text/html"]
    assert data["text/plain"] == "Four bars of equal height\nLoad < 1 of each"


def test_lines_and_letters_are_an_svg_of_half_the_bytes():
    kind, image = shown(bars())[2].group(1, 2)
    svg = b64decode(image).decode()
    assert kind == "svg+xml"
    drawn = io.StringIO()
    bars().savefig(drawn, format="svg")
    assert len(svg) < 0.7 * len(drawn.getvalue())
    assert "<text" not in svg  # outlines: the same with any fonts
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) == set(re.findall(r' id="([^"]+)"', svg))


def test_a_thin_line_keeps_its_colour_among_few():
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for height, style in enumerate(STYLES):
        axes.plot([0, 1], [height, height + 1], **style, label=f"a line of many letters, number {height}")
    axes.legend()
    picture = Image.open(io.BytesIO(b64decode(shown(figure)[0]["image/png"])))
    there = np.array(picture.getpalette()).reshape(-1, 3)
    for style in STYLES:
        wanted = 255 * np.array(to_rgb(style["color"]))
        assert np.abs(there - wanted).sum(axis=1).min() < 24, style["color"]


def test_where_an_svg_would_be_large_it_is_a_png_that_looks_the_same():
    figure = cloud()
    kind, image = shown(figure)[2].group(1, 2)
    assert kind == "png"
    assert len(b64decode(image)) < len(small_svg(figure)) / 3
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    before, after = (
        np.asarray(Image.open(io.BytesIO(b)).convert("RGB"), int) for b in (drawn.getvalue(), b64decode(image))
    )
    assert before.shape == after.shape == (360, 1200, 3)
    assert np.abs(before - after).mean() < 1


def test_a_table_for_a_page_and_for_a_console():
    made = plots.table([("a <b>", 3, "-1.5 s"), ("c", 12, "20 s")], ("name", "count", "time"), caption="Times")
    data, metadata = made._repr_mimebundle_()
    assert data["text/plain"] == "Times\nname   count    time\na <b>      3  -1.5 s\nc         12    20 s"
    assert metadata == {}
    html = data["text/html"]
    assert html.startswith('<div style="overflow-x:auto"')
    assert html.count("white-space:nowrap") == 9
    assert "<caption>Times</caption>" in html
    assert html.count('<th style="text-align:right;') == 2
    assert '<td style="text-align:left;white-space:nowrap">a &lt;b&gt;</td>' in html


def test_a_table_with_a_cell_too_few():
    with pytest.raises(ValueError, match="row 1 has 1 cells; there are 2 columns"):
        plots.table([(1, 2), (3,)], ("a", "b"))
