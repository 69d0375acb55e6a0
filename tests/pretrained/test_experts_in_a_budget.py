"""Experts within a budget of memory: the logits of the mapped model, bit for bit, in every dialect."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from published import written

from moe_numpy.inference import Decoder
from moe_numpy.models import Transformer, generate
from moe_numpy.moe import MoE
from moe_numpy.pretrained import PretrainedError, PublishedConfig, from_pretrained, save_pretrained


def store_of(model):
    return next(
        layer.feed_forward for layer in model.layers if isinstance(layer.feed_forward, MoE)
    ).experts.reader.store


SPARSE = ("dbrx", "deepseek_v3", "gpt_oss", "granitemoe", "llama4_text", "mixtral")  # one by one, stacked, transposed


@pytest.mark.parametrize(
    ("family", "packed"), [*((family, None) for family in SPARSE), ("deepseek_v3", "fp8"), ("gpt_oss", "mxfp4")]
)
def test_logits_are_those_of_the_mapped_model(tmp_path, family, packed):
    ids = written(tmp_path, family, packed)
    expected = from_pretrained(tmp_path)(ids).logits.data
    with pytest.raises(ValueError, match=r"memory of 1 bytes is too little: the \d+ experts .* need [\d,]+") as refused:
        from_pretrained(tmp_path, memory=1)
    least = int(re.search(r"need ([\d,]+)", str(refused.value))[1].replace(",", ""))
    with pytest.raises(ValueError, match="is too little"):
        from_pretrained(tmp_path, memory=least - 1)
    for memory in (least, 2 * least, 10**9):
        model = from_pretrained(tmp_path, memory=memory)
        for _ in range(2):
            np.testing.assert_array_equal(model(ids).logits.data, expected)
    last = store_of(model).counts.values()
    assert sum(of.hits for of in last) >= sum(of.requests for of in last) / 2  # the second time all are there


def test_generation_and_saving_are_the_same(tmp_path):
    written(tmp_path / "model", "mixtral")
    mapped = from_pretrained(tmp_path / "model")
    budget = from_pretrained(tmp_path / "model", memory=100_000)
    start = np.array([3, 4, 5])
    assert [list(generate(m, start, 8, rng=np.random.default_rng(0))) for m in (mapped, budget)] == [
        list(generate(mapped, start, 8, rng=np.random.default_rng(0)))
    ] * 2
    save_pretrained(budget, tmp_path / "saved")
    np.testing.assert_array_equal(from_pretrained(tmp_path / "saved")([[3]]).logits.data, mapped([[3]]).logits.data)


def test_memory_is_for_experts_in_files(tmp_path):
    written(tmp_path, "llama")
    with pytest.raises(ValueError, match="memory is for experts, and this model is dense"):
        from_pretrained(tmp_path, memory=10**9)
    with pytest.raises(ValueError, match="memory is for experts that stay in their files; a dtype makes copies"):
        from_pretrained(tmp_path, memory=10**9, dtype=np.float32)


@pytest.mark.parametrize("memory", [None, 10**6])
def test_a_file_that_changes_under_the_model(tmp_path, memory):
    ids = written(tmp_path, "olmoe")
    model = from_pretrained(tmp_path, memory=memory)
    path = max(tmp_path.glob("*.safetensors"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(PretrainedError, match=f"{path} has changed since it was opened"):
        model(ids)


def test_a_file_that_changes_under_the_decoder(tmp_path):
    """Mapped experts are not asked for one by one; their files are, before each call."""
    ids = written(tmp_path, "olmoe")[0]
    decoder = Decoder(from_pretrained(tmp_path))
    text = decoder.new_sequence()
    decoder.read((text, ids[:3]))
    path = max(tmp_path.glob("*.safetensors"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(PretrainedError, match=f"{path} has changed since it was opened"):
        decoder.read((text, ids[:3]))


SCRIPT = """
import sys
import numpy as np
from moe_numpy.pretrained import from_pretrained

def private():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) * 1024

small, large, memory = sys.argv[1], sys.argv[2], int(sys.argv[3])
ids = np.arange(24)[None]
from_pretrained(small, memory=10**9)(ids)  # compiles
before = private()
model = from_pretrained(large, memory=memory)
most = 0
for start in range(3):
    answer = model(ids + start).logits.data
    most = max(most, private())
print(most - before, float(answer.sum()))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the system does not tell private memory")
def test_private_memory(tmp_path):
    """A model of 60 MB with a budget of 10 MB: little more than that and the dense part."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_experts": 32, "num_hidden_layers": 4}
    settings = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_experts_per_tok": 4, "vocab_size": 512}
    for name, config in {"small": sizes | {"num_experts": 4, "num_hidden_layers": 1}, "large": sizes}.items():
        made = Transformer(PublishedConfig({"model_type": "olmoe", **config, **settings}), rng=np.random.default_rng(0))
        save_pretrained(made, tmp_path / name, dtype="BF16")
    total = 2 * made.num_parameters()
    dense = total - 2 * 4 * 32 * 3 * 256 * 256
    assert total > 50e6
    del made

    def measured(memory):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(tmp_path / "large"), str(memory)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return map(float, done.stdout.split())

    grown, checksum = measured(10**7)
    assert grown < 10e6 + 2 * dense + 30e6
    everything, same = measured(10**9)
    assert everything > 35e6  # so that the measurement would see it
    assert checksum == same
