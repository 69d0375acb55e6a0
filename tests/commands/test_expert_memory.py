"""Experts in a limited memory, from the command line: generate --memory and inspect --trace."""

import json
from pathlib import Path

import pytest
from published_models import DEEPSEEK, LLAMA, make_published

from moe_numpy.commands.sizes import given_size

pytest.importorskip("tokenizers")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("300MB", 300e6),
        ("4GB", 4e9),
        ("1.5GiB", 1.5 * 2**30),
        ("10 kb", 1e4),
        ("2TiB", 2**41),
        ("7B", 7),
        ("0.5KiB", 512),
    ],
)
def test_sizes(text, size):
    assert given_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "300", "MB", "-1GB", "0MB", "0.1B", "1e3MB", "1,5GB", "nanMB", "3PB", "1.GB", "٣MB"]
)
def test_what_is_no_size(refused, text):
    error = refused("generate", "model", "the", "--memory", text)
    assert f"--memory: {text!r} is no amount of memory: expected a positive number and a unit, B, KB" in error


def test_generate_within_memory(cli, refused, trained):
    make_published(Path("model"), DEEPSEEK)

    def text(*options):
        return json.loads(cli("generate", "model", "the cat", "--tokens", 8, "--json", *options).stdout)["text"]

    assert text("--memory", "20KB") == text("--memory", "4GB") == text()
    error = refused("generate", "model", "the cat", "--memory", "3KB")
    assert "memory of 3,000 bytes is too little: the 2 experts that one layer uses at once need 16,384" in error
    assert "a run has all experts in memory" in refused("generate", trained, "the", "--memory", "4GB")
    make_published(Path("dense"), LLAMA)
    assert "this model is dense" in refused("generate", "dense", "the", "--memory", "4GB")
    path = Path("model/model.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    assert "model.safetensors" in refused("generate", "model", "the cat", "--memory", "20KB")


def test_a_trace_is_recorded_and_then_read(cli, refused):
    make_published(Path("model"), DEEPSEEK)
    first = cli("inspect", "model", "--trace", "trace.json", "--tokens", 200, "--out", "png")
    assert "192 steps, recorded in trace.json" in first.stdout
    assert Path("png/expert_cache.png").is_file()
    content = Path("trace.json").read_bytes()
    document = json.loads(cli("inspect", "model", "--trace", "trace.json", "--tokens", 50, "--json").stdout)
    cache = document["expert_cache"]
    assert (cache["recorded"], cache["steps"], cache["requests"]) == (False, 192, 384)
    assert Path("trace.json").read_bytes() == content
    assert cache["budgets"][-1] == 8 * cache["slot_bytes"]
    assert list(cache["hit_rate_by_policy"]) == ["lru", "lfu", "next-layer", "best"]
    for name, rates in cache["hit_rate_by_policy"].items():
        assert len(rates) == len(cache["budgets"])
        assert all(rate <= best for rate, best in zip(rates, cache["hit_rate_by_policy"]["best"], strict=True))
        read = cache["bytes_read_by_policy"][name]
        assert read[-1] <= 8 * 3 * 16 * 8 * 4
        assert read == sorted(read, reverse=True) or name == "lfu"
    make_published(Path("other"))
    assert "trace.json is of another model" in refused("inspect", "other", "--trace", "trace.json")
    Path("trace.json").write_text("{}")
    assert "trace.json" in refused("inspect", "model", "--trace", "trace.json")
    assert "there is no folder nowhere" in refused("inspect", "model", "--trace", "nowhere/trace.json")
    assert "Is a directory" in refused("inspect", "model", "--trace", "png")


def test_the_trace_of_a_run(cli, trained):
    result = cli("inspect", trained, "--trace", "trace.json", "--tokens", 100, "--out", "png")
    assert "96 steps, recorded in trace.json" in result.stdout
    sizes = json.loads(Path("trace.json").read_text())["expert_bytes"]
    assert all(size % 4 == 0 for of in sizes.values() for size in of)
