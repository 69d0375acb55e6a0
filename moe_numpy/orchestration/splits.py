"""Which templates and fillings are for training, for the temperature, and for measuring."""

import zlib

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_TEST_SHARE, _VALIDATION_SHARE = 15, 10  # per cent


def split_of(text: str) -> str:
    """Which split a template belongs to: a property of its text alone, so that adding one moves no other."""
    share = zlib.crc32(text.encode()) % 100
    return TEST if share < _TEST_SHARE else VALIDATION if share < _TEST_SHARE + _VALIDATION_SHARE else TRAIN
