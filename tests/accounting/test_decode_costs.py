from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.accounting import PUBLISHED, active_parameters, decoding, distinct_experts, total_parameters

MIXTRAL = PUBLISHED["mixtral-8x7b"].architecture


def test_distinct_experts_are_those_of_independent_choices():
    rng = np.random.default_rng(0)
    met = [len({e for _ in range(8) for e in rng.permutation(64)[:8].tolist()}) for _ in range(400)]
    assert distinct_experts(64, 8, 8) == pytest.approx(np.mean(met), abs=0.5)
    assert distinct_experts(64, 8, 1) == pytest.approx(8)
    assert distinct_experts(8, 8, 3) == 8


@pytest.mark.parametrize("wrong", [(8, 0, 1), (8, 9, 1), (8, 2, 0)])
def test_distinct_experts_refuse(wrong):
    with pytest.raises(ValueError, match="must be"):
        distinct_experts(*wrong)


def test_one_text_reads_the_active_weights_and_many_read_all():
    alone, crowd = decoding(MIXTRAL, 1, 100, "bf16"), decoding(MIXTRAL, 500, 100, "bf16")
    assert alone.weight_bytes == 2 * active_parameters(MIXTRAL).without_embedding
    assert 500 * crowd.weight_bytes == pytest.approx(2 * total_parameters(MIXTRAL).without_embedding)
    assert alone.cache_bytes == crowd.cache_bytes == 100 * 32 * 2 * 8 * 128 * 2
    assert alone.bytes == alone.weight_bytes + alone.cache_bytes
    assert alone.flops == crowd.flops > 2 * active_parameters(MIXTRAL).multiplied


def test_a_dense_model_reads_its_weights_once_for_all_texts():
    dense = replace(MIXTRAL, num_experts=0, feed_forward=MIXTRAL.expert)
    one, four = decoding(dense, 1, 1, "int8"), decoding(dense, 4, 1, "int8")
    assert four.weight_bytes == one.weight_bytes / 4
    assert one.experts == 0


@pytest.mark.parametrize(
    ("architecture", "batch", "message"),
    [
        (MIXTRAL, 0, "batch must be at least 1, got 0"),
        (PUBLISHED["switch-base-128"].architecture, 1, "without an encoder, got 12 layers"),
    ],
)
def test_what_is_not_counted(architecture, batch, message):
    with pytest.raises(ValueError, match=message):
        decoding(architecture, batch, 1, "bf16")
