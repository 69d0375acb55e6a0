import io

import numpy as np
from PIL import Image

from moe_numpy import plots


def figure():
    return plots.expert_by_domain(np.random.default_rng(0).dirichlet(np.ones(16), (2, 3)), ["a", "b", "c"])


def test_a_notebook_gets_a_picture_with_its_text():
    data, metadata = plots.show(figure(), alt="three rows\n    of shares")._repr_png_()
    assert metadata == {"width": 800, "alt": "three rows of shares"}
    assert data == plots.show(figure(), alt="another")._repr_png_()[0]  # the same bytes each time


def test_fewer_colours_are_fewer_bytes_and_the_same_picture():
    drawn = io.BytesIO()
    figure().savefig(drawn, format="png")
    shown = plots.show(figure(), alt="").data
    assert len(shown) < 0.6 * len(drawn.getvalue())
    before, after = (np.asarray(Image.open(io.BytesIO(b)).convert("RGB"), int) for b in (drawn.getvalue(), shown))
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 1
