"""The order in which the experts of one layer are used when many tokens share the step."""

from collections.abc import Collection, Mapping


def prefill_order(rows: Mapping[int, int], present: Collection[int]) -> list[int]:
    """Each expert once: those in memory first, then the others by ascending number of rows.

    Those in memory must be used before the others come: each that comes takes the place of another. What comes last
    stays, so that is what most tokens of the prompt chose: the tokens that follow are likely to choose it too.

    Args:
        rows: how many tokens chose each expert; none of them is 0.
        present: experts in memory.
    """
    return sorted(rows, key=lambda e: (e not in present, rows[e], e))
