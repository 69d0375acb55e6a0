import pytest

from moe_numpy.accounting import (
    PUBLISHED,
    active_parameters,
    balancing_biases,
    published,
    total_parameters,
    weight_bytes,
)

# Sums over the parameter shapes of the reference implementations, built from the published configurations.
TOTALS = {
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "olmoe-1b-7b": 6_919_161_856,
    "qwen2-57b-a14b": 57_408_658_944,
    "qwen3-30b-a3b": 30_532_122_624,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_404_352,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "switch-base-128": 7_415_217_408,
    "switch-c-2048": 1_571_308_972_448,
    "dbrx": 131_596_523_520,
    "llama-4-scout": 107_769_861_120,
}


@pytest.mark.parametrize("name", TOTALS)
def test_total_is_that_of_the_reference_implementation(name):
    assert total_parameters(PUBLISHED[name].architecture).with_embedding == TOTALS[name]


def test_glam_is_near_the_stated_sizes():
    architecture = PUBLISHED["glam-64b-64e"].architecture
    assert total_parameters(architecture).with_embedding == pytest.approx(1.162e12, rel=5e-4)
    assert active_parameters(architecture).with_embedding == pytest.approx(96.6e9, rel=5e-4)


@pytest.mark.parametrize(
    ("name", "convention", "expected"),
    [
        ("olmoe-1b-7b", "with_embedding", 1.28e9),
        ("qwen3-30b-a3b", "with_embedding", 3.35e9),
        ("deepseek-v3", "with_embedding", 37.55e9),
        ("gpt-oss-120b", "without_embedding", 5.13e9),
        ("gpt-oss-20b", "without_embedding", 3.61e9),
    ],
)
def test_active_parameters(name, convention, expected):
    active = getattr(active_parameters(PUBLISHED[name].architecture), convention)
    assert active == pytest.approx(expected, rel=2e-3)


def test_mixtral_active_exactly():
    active = active_parameters(PUBLISHED["mixtral-8x7b"].architecture)
    assert active.with_embedding == 12_879_925_248
    assert active.without_embedding == 12_879_925_248 - 32000 * 4096


def test_balancing_biases_are_counted_separately():
    architecture = PUBLISHED["deepseek-v3"].architecture
    assert balancing_biases(architecture) == 14_848
    assert weight_bytes(architecture, "fp8") == TOTALS["deepseek-v3"] + 14_848
    assert balancing_biases(PUBLISHED["deepseek-v2"].architecture) == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_near_what_the_publisher_states(name):
    entry = PUBLISHED[name]
    total, active = total_parameters(entry.architecture), active_parameters(entry.architecture)
    assert total.with_embedding == pytest.approx(entry.stated_total, rel=0.035)
    if entry.stated_active is not None:
        nearer = min(
            abs(count / entry.stated_active - 1) for count in (active.with_embedding, active.without_embedding)
        )
        assert nearer < 0.02
    assert entry.source


@pytest.mark.parametrize("name", PUBLISHED)
def test_top_k_experts_and_everything_else_are_active(name):
    architecture = PUBLISHED[name].architecture
    total, active = total_parameters(architecture), active_parameters(architecture)
    assert active.experts.total * architecture.num_experts == total.experts.total * architecture.top_k
    assert total.parts() | {"experts": 0} == active.parts() | {"experts": 0}


def test_names_are_found_in_any_case():
    assert published("DBRX") is PUBLISHED["dbrx"]


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'mixtral-8x8b'; did you mean mixtral-8x7b"):
        published("mixtral-8x8b")
    with pytest.raises(ValueError, match=r"unknown model 'zzz'; known are mixtral-8x7b, .*llama-4-scout"):
        published("zzz")
