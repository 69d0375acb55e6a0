from functools import cache

import pytest
from unchecked_shapes import unchecked_shapes

from moe_numpy.instruments.influence import influence
from moe_numpy.moe.recipes import RECIPES


@pytest.fixture(scope="session")
def influence_of():
    """What exchanging tokens does to a recipe, by name and mode; computed once."""

    @cache
    def of(name, training):
        published = RECIPES[name]
        with unchecked_shapes():
            return influence(published(**published.small), training=training, seeds=1)

    return of
