from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.accounting import FeedForward, flops_per_token, published
from moe_numpy.accounting.plan import (
    Hardware,
    Layout,
    Links,
    Training,
    Types,
    exchange_seconds,
    stages_of,
    step_time,
    training_flops,
)

DEEPSEEK, MIXTRAL = published("deepseek-v3").architecture, published("mixtral-8x7b").architecture
H800 = Hardware(peak=989.4e12, utilisation=0.43, within=160e9, between=50e9)
#: DeepSeek-V3 2024, sections 3.2, 3.3 and 4.2: 15,360 sequences a step are 120 for each of 128 GPUs of a stage.
PUBLISHED_SETTINGS = Training(
    Layout(2048, 256, 64, 16),
    micro_batches=120,
    schedule="dualpipe",
    types=Types("fp8", "fp32", "bf16", "fp8", "fp8", "bf16"),
    node_limit=4,
    recompute="cheap",
)


def device_hours(architecture, training, hardware):
    """Of 10^12 tokens."""
    seconds = step_time(architecture, training, hardware).total / training.tokens_per_step
    return training.layout.devices * 1e12 * seconds / 3600


def test_flops_of_a_token_of_deepseek():
    """Zhao et al. 2025 (arXiv 2505.09343), table 2: 155, 250 and, for 4,096 tokens, causal attention."""
    alone = Training(Layout(1, 1, 1))
    assert training_flops(DEEPSEEK, alone) == pytest.approx(250e9, rel=0.005)
    assert training_flops(published("deepseek-v2").architecture, alone) == pytest.approx(155e9, rel=0.05)
    lengths = [flops_per_token(DEEPSEEK, n).forward for n in (1, 4096)]
    assert training_flops(DEEPSEEK, alone) == pytest.approx(3 * sum(lengths) / 2)
    assert training_flops(DEEPSEEK, PUBLISHED_SETTINGS) == pytest.approx(training_flops(DEEPSEEK, alone))


def test_gpu_hours_of_deepseek_v3_from_its_utilisation():
    """180K hours for 10^12 tokens (DeepSeek-V3, section 1) are 38.94 % of 989 TFLOPs (arXiv 2505.09343, table 4)."""
    flops = training_flops(DEEPSEEK, PUBLISHED_SETTINGS)
    assert 1e12 * flops / (0.3894 * H800.peak) / 3600 == pytest.approx(180e3, rel=0.01)
    assert 14.8e12 * flops / (0.3894 * H800.peak) / 3600 == pytest.approx(2.664e6, rel=0.01)
    assert PUBLISHED_SETTINGS.tokens_per_step == 15360 * 4096


def test_the_step_of_deepseek_v3():
    """19.926 s, of which 2.06 s bubble and 0.29 s optimizer (arXiv 2505.09343, table 4), at a fitted utilisation."""
    step = step_time(DEEPSEEK, PUBLISHED_SETTINGS, H800)
    assert step.total == pytest.approx(19.926, rel=0.01)
    assert device_hours(DEEPSEEK, PUBLISHED_SETTINGS, H800) == pytest.approx(180e3, rel=0.01)
    assert 0.4 < step.bubble / 2.06 < 0.5
    assert 0.2 < step.gradients < 0.6
    assert step.exchange == 0  # hidden: section 3.2.1


def test_computation_and_communication_of_deepseek_v3():
    """About 1 : 1 (section 3.2.1). At the peak of FP8 it is 0.8 : 1, at the speed that was reached 3.7 : 1."""
    step = step_time(DEEPSEEK, PUBLISHED_SETTINGS, H800)
    assert step.compute / exchange_seconds(DEEPSEEK, PUBLISHED_SETTINGS, H800) == pytest.approx(3.72, abs=0.05)
    fp8 = replace(H800, peak=2 * H800.peak, utilisation=1.0)
    each = step_time(DEEPSEEK, PUBLISHED_SETTINGS, fp8).compute
    assert each / exchange_seconds(DEEPSEEK, PUBLISHED_SETTINGS, fp8) == pytest.approx(0.8, abs=0.02)


@settings(max_examples=40)
@given(st.data())
def test_parts_are_never_negative_and_more_load_is_never_faster(data):
    stages = data.draw(st.sampled_from([1, 2, 4]))
    training = Training(
        Layout(32, 4, data.draw(st.sampled_from([1, 4, 8])), stages),
        micro_batches=8,
        context=4,
        schedule=data.draw(st.sampled_from(["1f1b", "zb1p", *["dualpipe"] * (stages > 1)])),
        copies=data.draw(st.sampled_from(["expert", "device", "node"])),
        recompute=data.draw(st.sampled_from(["none", "layers"])),
        overlap=data.draw(st.booleans()),
        imbalance=data.draw(st.floats(1, 4)),
    )
    hardware = Hardware(1e15, 0.5, 1e11, data.draw(st.floats(1e8, 1e11)))
    a = replace(MIXTRAL, num_layers=5)
    step = step_time(a, training, hardware)
    assert min(getattr(step, field.name) for field in fields(step)) >= -1e-12 * step.total
    assert step.total >= step_time(a, replace(training, imbalance=1.0), hardware).total * (1 - 1e-12)
    assert step.total >= step_time(a, replace(training, overlap=True), hardware).total * (1 - 1e-12)
    flops = training_flops(a, training) * training.tokens_per_step
    assert flops / (32 * hardware.peak * step.total) <= hardware.utilisation * (1 + 1e-12)


def test_a_step_by_hand():
    """Two stages of 16 layers on a GPU each, whose experts are on the same GPU."""
    training = Training(Layout(2, 1, 1, 2), micro_batches=4, context=10)
    hardware = Hardware(1e12, 0.5, 1e9, 1e9)
    first, second = stages_of(MIXTRAL, 2, 10)
    pair = [3 * 10 * stage.forward_flops / 0.5e12 for stage in (first, second)]
    step = step_time(MIXTRAL, training, hardware)
    assert step.compute == pytest.approx(4 * sum(pair) / 2)
    assert step.slowest_stage == pytest.approx(4 * (max(pair) - sum(pair) / 2))
    assert step.bubble == pytest.approx(max(pair))
    assert (step.exchange, step.fullest_device, step.gradients) == (0, 0, 0)
    again = step_time(MIXTRAL, replace(training, recompute="layers"), hardware)
    assert again.total == pytest.approx(step.total * 4 / 3)


def test_the_exchange_adds_to_computation_or_hides_behind_it():
    training, slow = Training(Layout(8, 1, 8), micro_batches=2, context=10), Hardware(1e15, 1.0, 1e9, 1e9)
    sent = training.sent(MIXTRAL)
    row = 4096 * 2 * 2
    assert sent.within == pytest.approx(row * 2 * 7 / 8)
    alone = 2 * 10 * 2 * 32 * sent.within / 1e9
    assert exchange_seconds(MIXTRAL, training, slow) == pytest.approx(alone)
    hidden, shown = (step_time(MIXTRAL, replace(training, overlap=o), slow) for o in (True, False))
    assert hidden.compute + hidden.exchange == pytest.approx(alone)
    assert shown.exchange == pytest.approx(alone)


def test_the_fullest_device_multiplies_for_all():
    training = Training(Layout(8, 1, 8), micro_batches=1, context=10, overlap=False)
    fast = Hardware(1e12, 1.0, 1e30, 1e30)
    step, uneven = (step_time(MIXTRAL, replace(training, imbalance=i), fast) for i in (1.0, 1.5))
    experts = 3 * 10 * 2 * 32 * 2 * 3 * 4096 * 14336 / 1e12
    assert uneven.fullest_device == pytest.approx(experts / 2)
    assert uneven.total == pytest.approx(step.total + experts / 2)


def test_gradients_travel_between_copies():
    dense = replace(MIXTRAL, num_experts=0, feed_forward=FeedForward(14336))
    fast = Hardware(1e12, 1.0, 1e9, 1e8)
    (stage,) = stages_of(dense, 1, 1)
    near, far = (step_time(dense, Training(Layout(4, nodes, 1), context=1), fast) for nodes in (1, 2))
    assert near.gradients == pytest.approx(3 / 4 * stage.dense.total * (4 + 2) / 1e9)
    assert far.gradients == pytest.approx(10 * near.gradients)
    plain = step_time(dense, Training(Layout(4, 1, 1), context=1, sharded_optimizer=False), fast)
    assert plain.gradients == pytest.approx(3 / 4 * stage.dense.total * 8 / 1e9)
    assert near.exchange == near.fullest_device == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"peak": 0.0}, "peak must be positive, got 0.0"),
        ({"between": float("inf")}, "between must be positive, got inf"),
        ({"within": float("nan")}, "within must be positive, got nan"),
        ({"utilisation": 1.1}, "utilisation must be at most 1, got 1.1"),
    ],
)
def test_hardware_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        Hardware(**{"peak": 1.0, "utilisation": 0.5, "within": 1.0, "between": 1.0, **wrong})


def test_the_slower_link_decides():
    hardware = Hardware(1.0, 1.0, within=2.0, between=1.0)
    assert hardware.seconds(Links(6.0, 2.0)) == 3
    assert hardware.seconds(Links(2.0, 6.0)) == 6
