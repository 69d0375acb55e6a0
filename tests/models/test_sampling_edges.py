import numpy as np
import pytest

from moe_numpy.autodiff import NonFiniteError
from moe_numpy.models.generation import sampling_probabilities


@pytest.mark.parametrize("temperature", [np.nan, np.inf])
def test_a_temperature_that_is_no_number_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be finite, got {temperature}"):
        sampling_probabilities(np.zeros(3, np.float32), temperature)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_refused(wrong):
    with pytest.raises(NonFiniteError, match="a non-finite logit"):
        sampling_probabilities(np.array([0, wrong], np.float32))


def test_the_smallest_temperature_takes_the_largest_logit():
    assert sampling_probabilities(np.array([1, 2, 0], np.float32), 5e-324).tolist() == [0, 1, 0]
