"""Entries: how many numbers a part of a model has, and how many of them a token is multiplied by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entries:
    """A number of parameters, split by what a token does with them.

    Attributes:
        multiplied: entries of weight matrices: one multiply-add per token each.
        other: biases, norm scales, attention sinks, and tables that are looked up: no multiply-adds.
    """

    multiplied: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Both kinds together."""
        return self.multiplied + self.other

    def __add__(self, more: "Entries") -> "Entries":
        return Entries(self.multiplied + more.multiplied, self.other + more.other)

    def __mul__(self, times: int) -> "Entries":
        return Entries(self.multiplied * times, self.other * times)
