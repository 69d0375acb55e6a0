"""A file of experts with known bytes."""

import numpy as np

from moe_numpy.inference import ByteRange

LAYERS, EXPERTS, SIZE = (1, 3), 6, 5000
BEGIN = 77  # no multiple of anything
SLOT = 5 * 4096  # two runs, on two and three pages at most


def write_experts(folder):
    """The bytes, and where each expert is: two ranges side by side in reverse order, and one far away."""
    count = len(LAYERS) * EXPERTS
    content = np.random.default_rng(0).integers(0, 256, BEGIN + 2 * count * SIZE, np.uint8)
    path = folder / "experts.bin"
    content.tofile(path)
    ranges = {}
    for i, layer in enumerate(LAYERS):
        for e in range(EXPERTS):
            start = BEGIN + (i * EXPERTS + e) * SIZE
            far = ByteRange(path, start + count * SIZE, SIZE)
            ranges[layer, e] = [ByteRange(path, start + 1000, SIZE - 1000), ByteRange(path, start, 1000), far]
    return content, ranges


def same(views, ranges, content):
    return len(views) == len(ranges) and all(
        np.array_equal(view, content[r.offset : r.end]) for view, r in zip(views, ranges, strict=True)
    )
