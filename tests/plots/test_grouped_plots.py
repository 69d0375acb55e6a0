import numpy as np
import pytest

from moe_numpy.plots.grouped import grouped_tiles, main, product_times, ring_of_stages, tiles

ROW = {"shape": [512, 256, 128, 8, 2], "floor_ms": 0.1, "gemm_ms": 0.2, "ours_ms": 0.5, "peer_ms": 2.0}


@pytest.mark.parametrize("rows", [(300, 90, 0, 420), (0, 0, 5), (128,), (1, 127, 128, 129), (5000, 3)])
def test_tiles_cover_every_entry_once_and_never_cross_an_expert(rows):
    covered, ends = np.zeros((sum(rows), 512), int), np.cumsum(rows)
    for tile in tiles(rows, 512, 128, 256):
        assert 0 < tile.rows <= 128
        assert ends[tile.expert] - rows[tile.expert] <= tile.row
        assert tile.row + tile.rows <= ends[tile.expert]
        covered[tile.row : tile.row + tile.rows, tile.column : tile.column + 256] += 1
    assert (covered == 1).all()


def test_tiles_come_in_the_order_of_the_kernel():
    """As ``Schedule`` in grouped_gemm.cu finds the i-th: 16 rows of tiles, then the next column."""
    width, height = 3, 40
    for i, tile in enumerate(tiles((height * 64,), width * 256, 64, 256)):
        first = i // (16 * width) * 16
        rows, rest = min(16, height - first), i - first * width
        assert (tile.row, tile.column) == ((first + rest % rows) * 64, rest // rows * 256)


def test_each_tile_is_drawn_in_the_result_and_in_the_time_of_its_block():
    result, work = grouped_tiles((130, 0, 5), blocks=2).axes
    texts = [text.get_text() for text in result.texts]
    assert texts[:6] == ["0: block 0", "1: block 1", "2: block 0", "3: block 1", "4: block 0", "5: block 1"]
    assert texts[6:] == ["expert 0\nrows 0 ... 129", "expert 1\nno rows", "expert 2\nrows 130 ... 134"]
    assert [text.get_position() for text in work.texts] == [(i // 2 + 0.5, i % 2) for i in range(6)]


def test_the_ring_has_one_stage_that_is_multiplied_and_one_that_is_filled():
    (axes,) = ring_of_stages().axes
    texts = [text.get_text() for text in axes.texts]
    stages = [text for text in texts if text.startswith("stage")]
    assert stages == ["stage 0\nmultiplied", "stage 1\nfull", "stage 2\nfull", "stage 3\nbeing\nfilled"]
    assert any("128 x 256" in text for text in texts)


def test_times_of_a_layer_stand_in_one_row_with_their_ratio():
    (axes,) = product_times([ROW, ROW | {"ours_ms": 1.0}]).axes
    drawn = [line.get_xdata().tolist() for line in axes.lines]
    assert drawn == [[0.1, 0.1], [0.2, 0.2], [0.5, 1.0], [2.0, 2.0]]
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.50", "layer / peer"]
    assert axes.get_xscale() == "log"


def test_the_command_draws_both(tmp_path):
    main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grouped_ring.png", "grouped_tiles.png"]
