"""A published dense model as a published Mixture of Experts: the same logits, the same types, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from published import written
from published_models import LLAMA, MIXTRAL, make_published

from moe_numpy.pretrained import PretrainedError, TensorFiles, from_pretrained
from moe_numpy.pretrained.upcycling import FAMILIES, plan, write_upcycled

pytest.importorskip("tokenizers")


@pytest.fixture
def dense(tmp_path):
    return make_published(tmp_path / "dense", LLAMA, hidden_size=32, intermediate_size=24)


def upcycle(source, out, *settings, **more):
    planned = plan(source, *settings)
    write_upcycled(source, planned, out, rng=np.random.default_rng(0), **more)
    return planned


def difference(one, other, vocab_size):
    tokens = np.random.default_rng(1).integers(0, vocab_size, (2, 40))
    logits = [from_pretrained(folder, dtype=np.float32).eval()(tokens).logits.data for folder in (one, other)]
    return np.abs(logits[0] - logits[1]).max()


@pytest.mark.parametrize("weights", FAMILIES)
@pytest.mark.parametrize(("copies", "k", "parts"), [(4, 2, 1), (3, 1, 4), (5, 3, 2)])
def test_the_logits_stay(dense, tmp_path, weights, copies, k, parts):
    planned = upcycle(dense, tmp_path / "sparse", weights, copies, k, parts)
    assert difference(dense, tmp_path / "sparse", 320) < 1e-5
    config = json.loads((tmp_path / "sparse/config.json").read_text())
    assert config["model_type"] == FAMILIES[weights]
    assert config["num_experts_per_tok"] == planned.how.per_token == k * parts
    assert planned.config.num_experts == copies * parts
    assert (tmp_path / "sparse/tokenizer.json").read_bytes() == (dense / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("weights", ["renormalised", "raw", "deepseek_v3"])
def test_attention_of_another_dialect(tmp_path, weights):
    """Tied, heads of another width, Llama 3's rotation; and settings that the families have other defaults for."""
    rope = {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}
    rope["original_max_position_embeddings"] = 32
    more = {"tie_word_embeddings": True, "head_dim": 12, "rope_scaling": rope, "rope_theta": 5e5, "rms_norm_eps": None}
    dense = make_published(tmp_path / "dense", LLAMA, **more, num_key_value_heads=None)
    upcycle(dense, tmp_path / "sparse", weights, 4)
    assert difference(dense, tmp_path / "sparse", 320) < 1e-5


def test_weights_keep_their_type_and_what_is_no_network_its_bits(tmp_path):
    written(_made(tmp_path / "dense"), "llama")
    upcycle(tmp_path / "dense", tmp_path / "sparse", "renormalised", 4, 2, 4)  # s = 4: powers of two
    before, after = (TensorFiles.open(tmp_path / name) for name in ("dense", "sparse"))
    assert {tensor.dtype for tensor in after.values()} == {"BF16"}
    kept = [name for name in before if ".mlp." not in name]
    assert len(kept) > 10
    for name in kept:
        np.testing.assert_array_equal(after[name].raw, before[name].raw)
    up, part = (
        files[name].raw.view(ml_dtypes.bfloat16).astype(np.float32)
        for files, name in [
            (before, "model.layers.1.mlp.up_proj.weight"),
            (after, "model.layers.1.block_sparse_moe.experts.5.w3.weight"),
        ]
    )
    np.testing.assert_array_equal(part, 2 * up[10:20])  # expert 5 is part 1 of copy 1
    assert difference(tmp_path / "dense", tmp_path / "sparse", 64) < 1e-5


def test_units_drawn_anew_change_the_function(dense, tmp_path):
    upcycle(dense, tmp_path / "sparse", "renormalised", 4, reinitialise=0.5)
    assert difference(dense, tmp_path / "sparse", 320) > 1e-3


def test_refusals(dense, tmp_path):
    def refused(error, why, folder, *settings):
        with pytest.raises(error, match=why):
            upcycle(folder, tmp_path / "out", *settings)
        assert not (tmp_path / "out").exists()

    sparse = make_published(tmp_path / "mixtral", MIXTRAL)
    refused(PretrainedError, "layer 0 has 4 experts already", sparse, "raw", 4)
    biased = make_published(tmp_path / "mlp_bias", LLAMA, mlp_bias=True)
    refused(PretrainedError, "its networks have biases", biased, "raw", 4)
    attention = make_published(tmp_path / "bias", LLAMA, attention_bias=True)
    refused(PretrainedError, "no mixtral model continues .*bias", attention, "renormalised", 4)
    refused(ValueError, "granularity must divide intermediate_size=24, got 5", dense, "raw", 4, 2, 5)
    refused(ValueError, "must be one of renormalised", dense, "soft_moe", 4)
    refused(ValueError, "top_k must be between 1 and num_experts=4, got 5", dense, "raw", 4, 5)
    refused(ValueError, "must be at least 1", dense, "raw", 0)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("")
    with pytest.raises(FileExistsError, match="taken exists and is not empty"):
        upcycle(dense, tmp_path / "taken", "raw", 4)


def test_nothing_half_written_stays(dense, tmp_path):
    def fail(layers):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        upcycle(dense, tmp_path / "out", "raw", 4, progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def _made(folder):
    folder.mkdir()
    return folder
