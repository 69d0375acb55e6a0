from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.accounting import (
    Architecture,
    FeedForward,
    GroupedQueryAttention,
    LatentAttention,
    published,
    total_parameters,
)
from moe_numpy.accounting.plan import Layout, Training, Types, device_memory, kept_numbers

DEEPSEEK = published("deepseek-v3").architecture
MIXTRAL = published("mixtral-8x7b").architecture
SMALL = Architecture(
    d_model=8,
    vocab_size=11,
    num_layers=6,
    attention=GroupedQueryAttention(2, 1, 4),
    feed_forward=FeedForward(24),
    expert=FeedForward(6),
    num_experts=7,
    top_k=2,
    shared_expert=FeedForward(6),
    first_dense_layers=1,
)
#: DeepSeek-V3 2024, sections 3.2, 3.3 and 4.2: 15,360 sequences a step are 120 for each of 128 GPUs of a stage.
PUBLISHED_SETTINGS = Training(
    Layout(2048, 256, 64, 16),
    micro_batches=120,
    schedule="dualpipe",
    types=Types("fp8", "fp32", "bf16", "fp8", "fp8", "bf16"),
    node_limit=4,
    recompute="cheap",
)


@settings(max_examples=40)
@given(st.data())
def test_all_devices_together_hold_the_model_as_often_as_it_is_copied(data):
    nodes, each = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.sampled_from([1, 2, 6]))
    stages = data.draw(st.sampled_from([n for n in (1, 2, 3, 6) if nodes * each % n == 0]))
    per_stage = nodes * each // stages
    fitting = [n for n in range(1, per_stage + 1) if per_stage % n == 0 and (each % n == 0 or n % each == 0)]
    layout = Layout(nodes * each, nodes, data.draw(st.sampled_from(fitting)), stages)
    schedule = data.draw(st.sampled_from(["1f1b", *["dualpipe"] * (stages % 2 == 0)]))
    a = replace(SMALL, num_experts=data.draw(st.integers(2, 9)))
    training = Training(
        layout, micro_batches=6, context=1, schedule=schedule, types=Types(weights="bf16", moments="bf16")
    )
    found = device_memory(a, training)
    assert len(found) == stages * layout.expert_parallel
    copies = training.pipeline.copies
    parts = total_parameters(a)
    dense = parts.with_embedding - parts.experts.total
    held = layout.expert_replicas * sum(device.parameters for device in found)
    assert held == copies * (dense * layout.data_parallel + parts.experts.total * layout.expert_replicas)
    assert layout.expert_replicas * sum(device.weights for device in found) == 2 * held
    assert layout.expert_replicas * sum(device.gradients for device in found) == 4 * held
    whole = 8 * parts.with_embedding  # fp32 master copy and two moments in bf16, once in all
    states = layout.expert_replicas * sum(device.optimizer for device in found)
    assert states == pytest.approx(whole, abs=layout.devices)
    unsharded = device_memory(a, replace(training, sharded_optimizer=False))
    assert layout.expert_replicas * sum(device.optimizer for device in unsharded) == 8 * held


def test_uneven_shards_differ_by_one_expert():
    found = device_memory(SMALL, Training(Layout(4, 1, 4)))
    assert [device.experts for device in found] == [1, 2, 2, 2]
    assert found[1].parameters - found[0].parameters == 5 * 3 * 8 * 6


def test_the_optimizer_has_no_master_copy_of_fp32_weights():
    (mixed,) = device_memory(SMALL, Training(Layout(1, 1, 1)))
    (plain,) = device_memory(SMALL, Training(Layout(1, 1, 1), types=Types(weights="fp32")))
    assert (mixed.optimizer, plain.optimizer) == (12 * mixed.parameters, 8 * mixed.parameters)


def test_parameters_on_a_device_of_deepseek_v3():
    """Sixteen stages and 64 shards leave 0.39 % of 671B parameters; DualPipe holds them twice."""
    found = device_memory(DEEPSEEK, PUBLISHED_SETTINGS)
    once = device_memory(DEEPSEEK, replace(PUBLISHED_SETTINGS, schedule="1f1b"))
    fullest, place = max(found, key=lambda m: m.total), 3
    own = [m.parameters for m in once if m.experts == 4]
    assert found[64 * place].parameters == own[64 * place] + own[64 * (15 - place)]
    experts, dense = 4 * 3 * 7168 * 2048, 187_105_280 + 3 * 7168 * 2048 + 256 * 7168 + 2 * 7168 + 1536 + 512
    assert own[64 * place] == 4 * (experts + dense)
    assert fullest.parameters < 4.9e9
    assert fullest.total < 80 * 2**30  # it was trained on GPUs of 80 GB
    assert {m.experts for m in found} == {4}


def test_what_a_dense_layer_keeps():
    a, kept = replace(SMALL, attention=GroupedQueryAttention(2, 1, 4, qk_norm="head")), kept_numbers
    q, k, f, d = 8, 4, 24, 8
    assert kept(a, False, "cheap").per_token == 2 * d + q + 2 * k + q + 2 * f
    assert kept(a, False, "none").per_token == 4 * d + (q + k) + q + 2 * k + q + 3 * f
    assert kept(a, False, "layers").per_token == d
    assert kept(a, False, "none").per_assignment == 0
    ungated = replace(a, feed_forward=FeedForward(24, gated=False))
    assert kept(ungated, False, "none").per_token == kept(a, False, "none").per_token - f
    assert kept(ungated, False, "cheap").per_token == kept(a, False, "cheap").per_token - f


def test_what_a_sparse_layer_keeps():
    d, f, q, k = 8, 6, 8, 4
    assert kept_numbers(SMALL, True, "none").per_token == 4 * d + 2 * q + 2 * k + 3 * f
    assert kept_numbers(SMALL, True, "none").per_assignment == d + 3 * f
    assert kept_numbers(SMALL, True, "cheap").per_assignment == d + 2 * f
    assert kept_numbers(SMALL, True, "layers").per_assignment == 0
    alone = replace(SMALL, shared_expert=None)
    assert kept_numbers(alone, True, "none").per_token == 4 * d + 2 * q + 2 * k


def test_what_latent_attention_keeps():
    latent = LatentAttention(4, query_rank=5, kv_rank=3, d_nope=2, d_rope=1, d_value=2)
    a = replace(SMALL, attention=latent)
    rest = kept_numbers(SMALL, False, "none").per_token - 2 * 8 - 2 * 4
    queries, values = 4 * 3, 4 * 2
    all_of_it = (5 + 3 + 1) + (5 + 3) + queries + (queries + values) + values
    assert kept_numbers(a, False, "none").per_token == rest + all_of_it
    cheap = 2 * 8 + 2 * 24 + (5 + 3 + 1) + values
    assert kept_numbers(a, False, "cheap").per_token == cheap
    direct = replace(a, attention=replace(latent, query_rank=None))
    assert kept_numbers(direct, False, "cheap").per_token == cheap - 5 + queries


def test_activations_of_each_place_in_the_pipeline():
    training = Training(Layout(6, 1, 1, 6), micro_batches=9, context=10, imbalance=1.5, recompute="cheap")
    found = device_memory(SMALL, training)
    dense, sparse = (kept_numbers(SMALL, sparse, "cheap") for sparse in (False, True))
    each = sparse.per_token + sparse.per_assignment * 2 * 1.5
    assert found[0].activations == 2 * 10 * 6 * dense.per_token
    assert found[2].activations == 2 * 10 * 4 * each
    assert found[5].activations == 2 * 10 * each + 4 * 10 * 11
    both_ways = device_memory(SMALL, replace(training, schedule="dualpipe", micro_batches=12))
    assert both_ways[0].activations == 2 * 10 * 7 * (dense.per_token + each) / 2 + 4 * 10 * 11
    again = device_memory(SMALL, replace(training, recompute="layers"))
    all_kept = kept_numbers(SMALL, True, "none")
    assert again[2].activations == 2 * 10 * (4 * 8 + all_kept.per_token + all_kept.per_assignment * 3)


def test_a_dense_model_has_no_experts():
    dense = replace(MIXTRAL, num_experts=0, feed_forward=MIXTRAL.expert)
    (found,) = device_memory(dense, Training(Layout(1, 1, 1)))
    assert (found.experts, found.parameters) == (0, total_parameters(dense).with_embedding)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"recompute": "some"}, "recompute must be one of none, cheap, layers, got 'some'"),
        ({"copies": "all"}, "copies must be one of expert, device, node, got 'all'"),
        ({"imbalance": 0.9}, "imbalance must be at least 1, got 0.9"),
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"sequences": 0}, "sequences must be at least 1, got 0"),
        ({"schedule": "none"}, "schedule must be one of"),
    ],
)
def test_settings_that_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Training(Layout(1, 1, 1), **wrong)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"moments must be one of fp64, fp32, .*, got 'fp9'"):
        Types(moments="fp9")
    with pytest.raises(ValueError, match="recompute must be one of none, cheap, layers, got 'all'"):
        kept_numbers(SMALL, True, "all")
