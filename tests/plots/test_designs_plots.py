import io

from moe_numpy.accounting.designs import designs
from moe_numpy.plots.designs import designs_over_years


def test_a_row_for_each_model_and_its_numbers_beside_the_points():
    shown = [d for d in designs() if d.name in ("mixtral-8x7b", "deepseek-v3")]
    figure = designs_over_years(shown)
    experts, chosen, granularity, share = figure.axes
    assert [label.get_text() for label in experts.get_yticklabels()] == [
        "2023-12  mixtral-8x7b", "2024-12  deepseek-v3"
    ]  # fmt: skip
    told = [[text.get_text() for text in axes.texts] for axes in (experts, chosen, granularity, share)]
    assert told == [["8", "256"], ["2", "8 + 1"], ["0.8", "9.3"], ["28 %", "5.6 %"]]
    (points,) = experts.get_lines()
    assert list(points.get_xdata()) == [8, 256]
    figure.savefig(io.BytesIO(), format="png")
