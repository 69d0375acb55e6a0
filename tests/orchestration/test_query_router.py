import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from moe_numpy.orchestration.calibration import expected_calibration_error
from moe_numpy.orchestration.features import NUM_FEATURES, features, parts
from moe_numpy.orchestration.kinds import KINDS, NONE, OUTCOMES
from moe_numpy.orchestration.prompts import Prompt, prompts
from moe_numpy.orchestration.router import Router, RouterError, labels
from moe_numpy.orchestration.splits import TEST, TRAIN, VALIDATION, split_of
from moe_numpy.orchestration.word_lists import lines_of


def scores(router, examples):
    p, label = router.probabilities([example.text for example in examples]), labels(examples)
    right = p.argmax(axis=1) == label
    return right, p.max(axis=1), p.argmax(axis=1)


def test_held_out_templates_and_fillings(router):
    examples = [example for example in prompts(TEST, 300, 3) if example.kind != NONE]
    right, confidence, _ = scores(router, examples)
    assert right.mean() >= 0.98
    assert expected_calibration_error(confidence, right.astype(int)) <= 0.03


def test_prompts_written_by_hand(router):
    rows = [line.split("\t") for line in Path(__file__).with_name("prompts.tsv").read_text("utf-8").splitlines()]
    examples = [Prompt(text, kind, "") for kind, text in rows]
    right, confidence, _ = scores(router, examples)
    assert len(examples) >= 60
    assert right.mean() >= 0.98, [e.text for e, r in zip(examples, right, strict=True) if not r]
    assert expected_calibration_error(confidence, right.astype(int)) <= 0.03


def test_it_abstains_on_noise_and_unseen_languages(router):
    noise = [example for example in prompts(TEST, 300, 3) if example.kind == NONE]
    assert np.mean([router.choose(example.text).kind is None for example in noise]) >= 0.95


@pytest.mark.parametrize("query", ["", "   \n", "\x00\x01\x02", "🦜🦜🦜", "a" * 10_000, "\ud800", "́" * 50])
def test_odd_queries(router, query):
    assert router.choose(query).kind is None


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("write python that multiplies 17 and 23", "code"),
        ("write a poem about the number seventeen", "prose"),
        ("who invented Python?", "knowledge"),
        ("seventeen apples shared among three children", "arithmetic"),
        ("WRITE A POEM ABOUT RAIN", "prose"),
        ("in what year was Marie Curie born", "knowledge"),
    ],
)
def test_mixed_queries(router, query, kind):
    choice = router.choose(query)
    assert choice.kind == kind
    assert sum(choice.probabilities.values()) == pytest.approx(1)
    assert kind in choice.why


def test_below_the_threshold_it_abstains(router):
    sure = Router(router.weight, router.temperature, threshold=1.1)
    choice = sure.choose("write a poem about rain")
    assert choice.kind is None
    assert "below 1.1" in choice.why


def test_no_held_out_template_is_trained_on():
    trained = {example.template for example in prompts(TRAIN, 700, 0)}
    for split in (VALIDATION, TEST):
        held_out = [example for example in prompts(split, 200, 0) if example.kind != NONE]
        assert not trained & {example.template for example in held_out}
    for kind in KINDS:
        lines = lines_of(f"{kind}.txt")
        assert len(lines) == len(set(lines))
        assert 0.08 < np.mean([split_of(line) == TEST for line in lines]) < 0.25


def test_prompts_are_the_same_every_time():
    assert prompts(TEST, 20, 1) == prompts(TEST, 20, 1)
    assert prompts(TEST, 20, 1) != prompts(TEST, 20, 2)


def test_features():
    indices, values = features("please write a poem about 17 dogs")
    assert len(set(indices[:-7])) == len(indices) - 7 == len(values) - 7
    assert (values[:-7] ** 2).sum() == pytest.approx(1)
    assert indices.max() < NUM_FEATURES
    assert parts("Seventeen + 1,234.5 = x") == ["#word", "+", "#.", "=", "x"]


def test_saved_and_read_back(router, router_file, tmp_path):
    again = Router.load(router_file)
    assert again.temperature == router.temperature
    np.testing.assert_array_equal(again.weight, router.weight)
    content = router_file.read_bytes()
    for damaged in (content[:100], b"", content.replace(b"arithmetic", b"arithmetik")):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(RouterError, match="holds no router that can be read"):
            Router.load(tmp_path / "damaged")


@pytest.mark.parametrize(
    ("temperature", "outcomes", "weight"),
    [(None, OUTCOMES, 0), ("1", OUTCOMES, 0), (0, OUTCOMES, 0), (1, 3, 0), (1, [[]], 0), (1, OUTCOMES, np.nan)],
)
def test_what_was_never_saved_here_is_refused(tmp_path, temperature, outcomes, weight):
    path = tmp_path / "router"
    about = json.dumps({"temperature": temperature, "threshold": 0.5, "outcomes": outcomes})
    matrix = np.full((NUM_FEATURES, len(OUTCOMES)), weight, np.float32)
    safetensors.numpy.save_file({"weight": matrix}, path, {"router": about})
    with pytest.raises(RouterError, match="holds no router that can be read"):
        Router.load(path)


def test_a_pipe_in_place_of_the_router_is_refused(tmp_path):
    os.mkfifo(tmp_path / "router")
    with pytest.raises(OSError, match="is not a regular file"):
        Router.load(tmp_path / "router")
