"""Reading and writing a whole model: what is used, what is left out, what is refused; what stays on the disk."""

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from published import names_of, recorded, texts, values
from unchecked_shapes import unchecked_shapes

from moe_numpy import pretrained
from moe_numpy.formats import fp8, mxfp4
from moe_numpy.models import ModelConfig, Transformer, generate
from moe_numpy.pretrained import PretrainedError, TensorFiles, save_pretrained, write_tensor_files
from moe_numpy.pretrained.config import PublishedConfig
from moe_numpy.pretrained.weights import Weights


def model_of(family, name="plain", dialect="published"):
    model = recorded(family)[name]
    tensors = {n: values(n, shape, model["seed"], model["width"]) for n, shape in names_of(model).items()}
    return model[dialect], tensors, texts(model["seed"])[0]


def write(folder, config, tensors, **how):
    write_tensor_files(folder, tensors.items(), **how)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def logits(folder, ids, **how):
    return Transformer.from_pretrained(folder, **how)(ids).logits.data


def refused(folder, message, **how):
    with pytest.raises(PretrainedError, match=message) as error:
        Transformer.from_pretrained(folder, **how)
    assert str(folder) in str(error.value)


def test_a_tied_model_may_store_its_output_matrix_too(tmp_path):
    config, tensors, ids = model_of("mixtral", "top1_yarn")
    embedding = tensors["model.embed_tokens.weight"]
    expected = logits(write(tmp_path / "once", config, tensors), ids)
    twice = write(tmp_path / "twice", config, tensors | {"lm_head.weight": embedding})
    np.testing.assert_array_equal(logits(twice, ids), expected)
    changed = embedding.copy()
    changed[-1, -1] += 1
    other = write(tmp_path / "other", config, tensors | {"lm_head.weight": changed})
    refused(other, "'lm_head.weight' differs from 'model.embed_tokens.weight', but tie_word_embeddings")
    shorter = write(tmp_path / "shorter", config, tensors | {"lm_head.weight": embedding[:-1]})
    refused(shorter, "'lm_head.weight' differs from 'model.embed_tokens.weight'")


def test_tensors_left_out_by_name(tmp_path):
    config, tensors, ids = model_of("deepseek_v3")
    expected = logits(write(tmp_path / "model", config, tensors), ids)
    last = config["num_hidden_layers"]
    further = {
        name.replace(f"layers.{last - 1}.", f"layers.{last}."): array
        for name, array in tensors.items()
        if f"layers.{last - 1}." in name
    }
    further[f"model.layers.{last}.eh_proj.weight"] = np.ones((32, 64), np.float32)
    further["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.arange(4)
    folder = write(tmp_path / "more", config, tensors | further)
    np.testing.assert_array_equal(logits(folder, ids), expected)
    fewer = write(tmp_path / "fewer", config | {"num_hidden_layers": last - 1}, tensors)
    refused(fewer, f"tensor 'model.layers.{last - 1}.* and .* more is no part of a deepseek_v3 model")


def test_a_model_of_text_and_images(tmp_path):
    config, tensors, ids = model_of("llama4_text")
    images = {"vision_model.ids": np.arange(3), "multi_modal_projector.linear_1.weight": np.ones((2, 2), np.float32)}
    named = {f"language_model.{name}": array for name, array in tensors.items()}
    folder = write(tmp_path / "images", config, named | images)
    np.testing.assert_array_equal(
        logits(folder, ids), logits(write(tmp_path / "t", config["text_config"], tensors), ids)
    )
    save_pretrained(Transformer.from_pretrained(folder), tmp_path / "saved")
    assert TensorFiles.open(tmp_path / "saved").keys() == tensors.keys()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "llama4_text"
    contradicting = config | {"tie_word_embeddings": not config["text_config"]["tie_word_embeddings"]}
    refused(write(tmp_path / "tied", contradicting, named), "text_config makes it False")
    refused(write(tmp_path / "none", {"model_type": "llama4"}, named), "text_config is None")


def test_values_that_the_type_of_the_copies_cannot_hold(tmp_path):
    config, tensors, ids = model_of("mixtral")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float64) * 1e200
    folder = write(tmp_path, config, tensors)
    refused(folder, "tensor 'model.norm.weight' has a value beyond the largest of float32", dtype=np.float32)
    refused(folder, "tensor 'model.norm.weight' has a value beyond the largest of float32")
    assert np.isfinite(logits(folder, ids, dtype=np.float64)).all()


def test_copies_are_floating_point(tmp_path):
    config, tensors, _ = model_of("llama")
    folder = write(tmp_path, config, tensors)
    with pytest.raises(TypeError, match="dtype must be a floating-point type, got int32"):
        Transformer.from_pretrained(folder, dtype="int32")
    copies = Transformer.from_pretrained(folder, dtype=np.float32)
    assert all(parameter.requires_grad for parameter in copies.parameters())
    mapped = Transformer.from_pretrained(folder)
    assert not any(parameter.requires_grad for parameter in mapped.parameters())
    assert not mapped.training


def test_sizes_that_do_not_fit_each_other(tmp_path):
    config, tensors, _ = model_of("mixtral")
    for number, (change, message) in enumerate(
        [
            ({"num_experts_per_tok": 5}, "top_k must be between 1 and num_experts=4, got 5"),
            ({"num_key_value_heads": 3}, "num_attention_heads is 4: must be a multiple of num_key_value_heads, 3"),
            ({"head_dim": 7}, "d_head must be even"),
            ({"num_hidden_layers": 10**8}, "num_hidden_layers is 100000000, but there are tensors of 2 layers"),
            ({"num_local_experts": 5}, r"gate.weight' has shape \[4, 32\], config.json makes it \[5, 32\]"),
            ({"num_hidden_layers": 1}, "tensor 'model.layers.1.* is no part of a mixtral model"),
        ]
    ):
        refused(write(tmp_path / str(number), config | change, tensors), message)


def test_a_context_of_a_billion_tokens_generates(tmp_path):
    config, tensors, _ = model_of("mixtral")
    model = Transformer.from_pretrained(write(tmp_path, config | {"max_position_embeddings": 10**9}, tensors))
    assert len(list(generate(model, np.array([3, 4]), 3, rng=np.random.default_rng(0)))) == 3


def test_mxfp4_gives_the_logits_of_its_values(tmp_path):
    config, tensors, ids = model_of("gpt_oss")
    packed, rng = {}, np.random.default_rng(0)
    for name in list(tensors):
        if name.endswith("_proj") and "experts" in name:
            num_experts, inner, out = tensors[name].shape
            blocks = rng.integers(0, 256, (num_experts, out, inner // 32, 16), np.uint8)
            scales = rng.integers(122, 126, blocks.shape[:-1], np.uint8)
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            tensors[name] = mxfp4.dequantise(blocks, scales).swapaxes(-1, -2)
    values_only = write(tmp_path / "values", config, tensors)
    others = {name: array for name, array in tensors.items() if f"{name}_blocks" not in packed}
    config["quantization_config"] = {"quant_method": "mxfp4"}
    folder = write(tmp_path / "packed", config, others | packed)
    same_in_both_ways(folder, values_only, ids)
    save_pretrained(Transformer.from_pretrained(folder), tmp_path / "saved")
    same_in_both_ways(tmp_path / "saved", values_only, ids)


def test_fp8_gives_the_logits_of_its_values(tmp_path):
    config, tensors, ids = model_of("deepseek_v3")
    packed, block = {}, (12, 20)
    for name in list(tensors):
        if "experts" in name or "self_attn.o_proj" in name:
            codes, scales = fp8.quantise(tensors[name], block)
            packed |= {name: codes.view(ml_dtypes.float8_e4m3fn), f"{name}_scale_inv": scales}
            tensors[name] = fp8.dequantise(codes, scales, block)
    values_only = write(tmp_path / "values", config, tensors)
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block)}
    same_in_both_ways(write(tmp_path / "packed", config, tensors | packed), values_only, ids)


def same_in_both_ways(folder, other, ids):
    for how in ({}, {"dtype": np.float64}):
        np.testing.assert_array_equal(logits(folder, ids, **how), logits(other, ids, **how))


def test_only_the_experts_of_the_text_are_read(tmp_path, monkeypatch):
    config, tensors, _ = model_of("mixtral", "top1_yarn")
    model = Transformer.from_pretrained(write(tmp_path, config, tensors))
    read, plain = [], Weights.decoded

    def noting(self, name, part, raw):
        read.append(name)
        return plain(self, name, part, raw)

    monkeypatch.setattr(Weights, "decoded", noting)
    routings = model([[5]]).routings
    expected = {
        f"model.layers.{layer}.block_sparse_moe.experts.{e}.{w}.weight"
        for layer, routing in enumerate(routings)
        for e in routing.expert.tolist()
        for w in ("w1", "w2", "w3")
    }
    assert len(read) == len(expected) == 6
    assert set(read) == expected


def test_memory_of_a_mapped_model(tmp_path):
    """Opening takes none for weights; running takes that of one expert and of one dense matrix at a time."""
    settings = {"hidden_size": 256, "intermediate_size": 256, "num_experts": 16, "num_hidden_layers": 4}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 4, "num_experts_per_tok": 8, "vocab_size": 2048}
    made = Transformer(PublishedConfig({"model_type": "olmoe", **settings}), rng=np.random.default_rng(0))
    save_pretrained(made, tmp_path, dtype="BF16", max_shard_bytes=5e6)
    expert, matrix = 3 * 256 * 256 * 4, 2048 * 256 * 4
    assert made.num_parameters() * 2 > 26e6
    del made
    ids = np.arange(12)[None]
    with unchecked_shapes():
        Transformer.from_pretrained(tmp_path)(ids)  # compiles
        tracemalloc.start()
        try:
            model = Transformer.from_pretrained(tmp_path)
            opened, most = tracemalloc.get_traced_memory()
            assert opened < 1e6
            assert most < 1.5e6
            answer = model(ids)
            after, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert not answer.logits.requires_grad
    assert most - opened < 3 * expert + 2 * matrix
    assert after - opened < expert


def test_gradients_need_copies(tmp_path):
    config, tensors, _ = model_of("mixtral")
    mapped = Transformer.from_pretrained(write(tmp_path, config, tensors))
    with pytest.raises(ValueError, match="the experts of this model stay in their files and have no gradients"):
        pretrained.published_gradients(mapped)
    copies = Transformer.from_pretrained(tmp_path, dtype=np.float32)
    gradients = pretrained.published_gradients(copies)
    assert gradients.keys() == tensors.keys()
    assert not any(gradient.any() for gradient in gradients.values())


def test_writing_what_is_not_published():
    model = Transformer(ModelConfig(d_model=8, num_layers=1, d_ff=8), rng=np.random.default_rng(0))
    with pytest.raises(
        TypeError, match="a ModelConfig is not the configuration of a published model; convert it first"
    ):
        save_pretrained(model, "nowhere")


def test_writing_into_a_folder_with_a_model(tmp_path):
    config, tensors, _ = model_of("llama")
    model = Transformer.from_pretrained(write(tmp_path, config, tensors))
    with pytest.raises(PretrainedError, match="exists: choose another folder"):
        save_pretrained(model, tmp_path)


def test_dbrx_is_written_with_its_base_where_transformers_reads_it(tmp_path):
    config, tensors, _ = model_of("dbrx", "clipped")
    assert "rope_theta" not in config
    save_pretrained(Transformer.from_pretrained(write(tmp_path / "read", config, tensors)), tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert written["rope_theta"] == config["attn_config"]["rope_theta"] == 500000.0


def test_no_folder_and_no_settings(tmp_path):
    with pytest.raises(PretrainedError, match="nowhere does not exist"):
        Transformer.from_pretrained(tmp_path / "nowhere")
    _, tensors, _ = model_of("llama")
    write_tensor_files(tmp_path, tensors.items())
    refused(tmp_path, "config.json does not exist")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "x": "y" * 10**6}))
    refused(tmp_path, "config.json has 1,000,032 bytes, above the limit of 1,000,000")
