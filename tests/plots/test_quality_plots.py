import io

import numpy as np
import pytest

from moe_numpy.plots.quality import cost_of_formats


@pytest.mark.parametrize("num_experts", [4, 20])
def test_formats_and_experts(num_experts):
    formats = [{"format": "float32", "part": "both", "difference": 0.0, "error": 0.0}]
    for i, name in enumerate(("int8", "int4")):
        formats += [
            {"format": name, "part": part, "difference": 10.0 ** (i - 4), "error": 1e-5}
            for part in ("experts", "rest", "both")
        ]
    experts = [
        {"layer": layer, "expert": e, "difference": (e - 1) * 1e-6, "error": 1e-7, "share": 0.01 * e}
        for layer in (1, 3)
        for e in range(num_experts)
    ]
    figure = cost_of_formats(formats, experts, {"int8": 0.002}, "int4")
    cost, heat, scatter, _ = figure.axes
    assert [label.get_text() for label in cost.get_xticklabels()] == ["int8", "int4"]
    assert "allowed 0.002" in [text.get_text() for text in cost.texts]
    np.testing.assert_allclose(heat.images[0].get_array()[:, 1], np.arange(num_experts) - 1)
    assert len(heat.texts) == (8 if num_experts == 4 else 0)
    assert [text.get_text() for text in scatter.get_legend().get_texts()] == ["1", "3"]
    figure.savefig(io.BytesIO(), format="png")
