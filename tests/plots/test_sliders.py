import sys

import pytest

from moe_numpy.plots.sliders import sliders


@pytest.fixture
def shown(monkeypatch):
    """What a cell shows."""
    display = pytest.importorskip("IPython.display")
    pytest.importorskip("ipywidgets")
    outputs = []
    monkeypatch.setattr(display, "display", lambda thing, **how: outputs.append((thing, how)))
    return outputs


def test_a_slider_for_each_argument_which_begins_in_the_middle(shown):
    drawn = []
    sliders(lambda **values: drawn.append(values), experts=[1, 2, 4], size={"small": 1, "large": 2})
    assert drawn == [{"experts": 2, "size": "large"}]
    bundle, how = shown[-1]
    assert how == {"raw": True}
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].startswith("Sliders for experts, size: run this cell")


def test_without_ipywidgets_there_is_a_line_of_text(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    sliders(lambda experts: pytest.fail("nothing shows it"), experts=[1, 2])
    assert capsys.readouterr().out.startswith("Sliders for experts need ipywidgets")
