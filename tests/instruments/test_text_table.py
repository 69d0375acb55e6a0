from moe_numpy.instruments.text_table import text_table


def test_columns_are_aligned_and_lines_end_with_text():
    assert text_table(["name", "n"], [["a", 1], ["long one", 1000]]) == (
        "name         n\na            1\nlong one  1000"
    )
    assert text_table(["a", "b"], [["x", ""]]) == "a  b\nx"
