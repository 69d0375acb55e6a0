"""Quantised models on the disk: the bits of the decoder's own, in every family and format, and damaged files."""

import json
import shutil
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from folders import header_of, put
from published import recorded, written
from published_models import COMMON, MIXTRAL, make_published

from moe_numpy.formats import FORMATS
from moe_numpy.inference import Decoder
from moe_numpy.inference.byte_ranges import layout_of
from moe_numpy.models import Transformer
from moe_numpy.pretrained import (
    PretrainedError,
    PublishedConfig,
    TensorFiles,
    from_pretrained,
    published_gradients,
    save_pretrained,
)
from moe_numpy.pretrained.quantisation import Quantisation
from moe_numpy.pretrained.quantised import arrays_of, nbytes
from moe_numpy.pretrained.quantising import plan, relative_error, write_quantised

pytestmark = pytest.mark.usefixtures("unchecked")
WIDE = MIXTRAL | {"hidden_size": 64, "intermediate_size": 64}


def make(folder, values=WIDE):
    return make_published(folder, values, tokenizer="{}")


def quantised(source, out, experts=None, rest=None, **settings):
    return write_quantised(source, plan(source, Quantisation(experts, rest)), out, **settings)


def said(model, ids, *formats):
    decoder = Decoder(model, *formats)
    return decoder.read((decoder.new_sequence(), ids), every=True)


def assert_same_bits(source, out, ids, experts, rest):
    quantised(source, out, experts, rest, max_shard_bytes=150_000)
    expected = said(from_pretrained(source), ids, rest, experts)
    np.testing.assert_array_equal(said(from_pretrained(out), ids), expected)
    if from_pretrained(out).config.num_experts:
        np.testing.assert_array_equal(said(from_pretrained(out, memory=200_000), ids), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_the_bits_are_those_of_the_decoder_in_every_format(tmp_path, format):
    source = make(tmp_path / "model")
    ids = np.random.default_rng(1).integers(0, 300, 12)
    assert_same_bits(source, tmp_path / "both", ids, format, format)
    assert_same_bits(source, tmp_path / "experts", ids, format, None)
    assert_same_bits(source, tmp_path / "rest", ids, None, format)


LAYOUTS = {
    "gpt_oss": ("int4", "int8"),  # transposed, biases, gates and ups in turn
    "dbrx": ("fp8", "fp8"),  # several of our matrices in one tensor
    "granitemoeshared": ("mxfp4", "fp8"),
    "deepseek_v3": ("int8", "int4"),  # latents, shared experts
    "qwen2_moe": ("int4", "mxfp4"),  # a gate of the shared experts
    "llama4_text": ("fp8", "int8"),
    "ernie4_5_moe": ("bfloat16", "int8"),
    "llama": (None, "int8"),
}


@pytest.mark.parametrize("family", LAYOUTS)
def test_and_of_every_published_layout(tmp_path, family):
    ids = written(tmp_path / "model", family)[0]
    assert_same_bits(tmp_path / "model", tmp_path / "out", ids, *LAYOUTS[family])


@pytest.mark.parametrize("name", [n for n, m in recorded("qwen3_moe").items() if m["published"]["tie_word_embeddings"]])
def test_and_of_a_tied_output_matrix(tmp_path, name):
    ids = written(tmp_path / "model", "qwen3_moe", name=name)[0]
    assert_same_bits(tmp_path / "model", tmp_path / "out", ids, "int4", "int4")
    assert "lm_head.weight.codes" in TensorFiles.open(tmp_path / "out")
    count = from_pretrained(tmp_path / "model").num_parameters()
    assert from_pretrained(tmp_path / "out").num_parameters() == count


@pytest.mark.parametrize(("family", "packed"), [("deepseek_v3", "fp8"), ("gpt_oss", "mxfp4")])
@pytest.mark.parametrize("formats", [("int4", "int8"), (None, "int8"), ("int8", None)])
def test_and_of_a_model_that_was_published_in_fewer_bits(tmp_path, family, packed, formats):
    ids = written(tmp_path / "model", family, packed)[0]
    assert_same_bits(tmp_path / "model", tmp_path / "out", ids, *formats)
    section = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert section["published"]["quant_method"] == packed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, and with out, the same quantised."""
    folder = tmp_path_factory.mktemp("made")
    make(folder / "model")
    (folder / "model/additional_chat_templates").mkdir()
    (folder / "model/additional_chat_templates/rag.jinja").write_text("{{ messages }}")
    quantised(folder / "model", folder / "out", "int4", "int8")
    return folder


@pytest.fixture
def small(made, tmp_path):
    """The quantised one of a copy."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def test_what_is_written(small):
    source = small.with_name("model")
    config, published = (json.loads((folder / "config.json").read_text()) for folder in (small, source))
    assert config == published | {"quantization_config": Quantisation("int4", "int8").to_json()}
    for name in ("tokenizer.json", "tokenizer_config.json", "additional_chat_templates/rag.jinja"):
        assert (small / name).read_bytes() == (source / name).read_bytes()
    stored = {name: (t.dtype, t.shape) for name, t in TensorFiles.open(small).items()}
    assert stored["model.layers.1.self_attn.q_proj.weight.codes"] == ("I8", (64, 64))
    assert stored["model.layers.1.self_attn.q_proj.weight.scales"] == ("BF16", (64, 2))
    assert stored["model.layers.1.block_sparse_moe.experts.3.gate_up.codes"] == ("U8", (128, 2, 16))
    assert stored["lm_head.weight.codes"] == ("I8", (320, 64))
    kept = {name for name in stored if name.rpartition(".")[2] not in ("codes", "scales")}
    assert kept == {
        name for name in TensorFiles.open(source) if "norm" in name or "embed" in name or "moe.gate" in name
    }
    assert all(stored[name] == (TensorFiles.open(source)[name].dtype, stored[name][1]) for name in kept)


def test_one_expert_is_read_at_once(small):
    pieces = from_pretrained(small).layers[1].feed_forward.experts.reader.pieces
    runs = [layout_of(pieces.ranges(e)).runs for e in range(4)]
    assert [len(of) for of in runs] == [1] * 4
    assert all(a[-1].end == b[0].offset for a, b in pairwise(map(pieces.ranges, range(4))))


@pytest.mark.parametrize("format", [None, *FORMATS])
def test_sizes_are_known_before(format):
    weights = np.ones((40, 64), np.float32)
    expected = weights[0] if format is None else FORMATS[format].encode(weights)
    shape = expected.shape if format is None else weights.shape
    made = {"values": expected} if format is None else expected
    assert {name: of[1] for name, of in arrays_of(format, shape).items()} == {n: a.shape for n, a in made.items()}
    assert nbytes(arrays_of(format, shape)) == sum(array.nbytes for array in made.values())


def test_shares_tell_sizes_and_errors(tmp_path):
    source = make(tmp_path / "model", MIXTRAL | {"hidden_size": 64})  # 8 columns of down do not fit
    planned = plan(source, Quantisation("int4", "int8"))
    told = []
    shares = write_quantised(source, planned, tmp_path / "out", progress=told.append)
    found = {(share.kind, share.format): share for share in shares}
    assert set(found) == {("experts", "int4"), ("experts", "bfloat16"), ("rest", "int8"), ("as published", None)}
    assert planned.narrow() == [f"model.layers.{i}.block_sparse_moe.experts.{e}.down" for i in (0, 1) for e in range(4)]
    experts = found["experts", "int4"]
    assert (experts.matrices, experts.parameters, experts.bits_per_weight) == (8, 8 * 16 * 64, 4.5)
    assert experts.bytes_before == 4 * experts.parameters
    assert 0.05 < experts.error < 0.15
    assert experts.worst in {name.removesuffix(".codes") for name in TensorFiles.open(tmp_path / "out")}
    assert 0 < found["rest", "int8"].error < 0.01
    assert 0 < found["experts", "bfloat16"].error < 0.004
    total = from_pretrained(source).num_parameters()
    assert sum(share.parameters for share in shares) == planned.num_weights == told[-1] == total
    assert sum(share.bytes_after for share in shares) == planned.num_bytes
    assert planned.num_bytes == sum(t.raw.nbytes for t in TensorFiles.open(tmp_path / "out").values())


def test_the_error_of_a_matrix():
    weights = np.random.default_rng(0).standard_normal((1500, 32)).astype(np.float32)
    weights[3] *= 1e30
    matrix = FORMATS["int4"](**FORMATS["int4"].encode(weights))
    off = np.linalg.norm(matrix.dequantise(np.float64) - weights) / np.linalg.norm(weights.astype(np.float64))
    assert relative_error(weights, matrix) == pytest.approx(off, rel=1e-6)
    zeros = np.zeros((2, 32), np.float32)
    assert relative_error(zeros, FORMATS["int8"](**FORMATS["int8"].encode(zeros))) == 0


def test_one_matrix_is_in_memory_at_a_time(tmp_path):
    settings = {"hidden_size": 256, "intermediate_size": 256, "num_local_experts": 16}
    source = tmp_path / "model"
    made = Transformer(PublishedConfig(COMMON | MIXTRAL | settings), rng=np.random.default_rng(0))
    save_pretrained(made, source, dtype="BF16")
    matrix, model = 4 * 512 * 256, 4 * made.num_parameters()
    del made
    quantised(source, tmp_path / "warm", "int4", "int8")
    tracemalloc.start()
    quantised(source, tmp_path / "out", "int4", "int8")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * matrix + 2_000_000 < model / 2.5


class Stop(BaseException):
    """Ctrl-C."""


@pytest.mark.parametrize("error", [Stop(), OSError(28, "No space left on device")])
def test_nothing_half_written_stays(tmp_path, error):
    source = make(tmp_path / "model")
    (tmp_path / "empty").mkdir()

    def progress(weights):
        assert any(tmp_path.rglob("*.tmp"))
        if weights > 50_000:
            raise error

    before = sorted(path.name for path in tmp_path.iterdir())
    for out in ("out", "empty", "new/deep/out"):
        with pytest.raises(type(error)):
            quantised(source, tmp_path / out, "int4", progress=progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not any((tmp_path / "empty").iterdir())
    quantised(source, tmp_path / "empty", "int4")
    assert from_pretrained(tmp_path / "empty").config.quantisation == Quantisation("int4")


def test_what_is_there_stays(small, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop", "out"):
        with pytest.raises(FileExistsError, match=rf"{name} exists.*: choose another, or delete it"):
            quantised(tmp_path / "model", tmp_path / name, "int4")


def test_too_little_room_is_known_before(tmp_path, monkeypatch):
    source = make(tmp_path / "model")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(OSError, match=r"has 100,000 bytes free, and up to 1,\d\d\d,\d\d\d are needed"):
        quantised(source, tmp_path / "new/out", "int4")
    assert not (tmp_path / "new").exists()


def test_refusals(small, tmp_path):
    source = tmp_path / "model"
    for formats, message in [
        (("int5", None), "format must be one of float32, .*, got 'int5'"),
        ((None, None), "no format is given: expected one of float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan(source, Quantisation(*formats))
    with pytest.raises(PretrainedError, match=r"out is quantised already \(experts int4, rest int8\): quantise the"):
        plan(small, Quantisation("int8"))
    dense = make(tmp_path / "dense", COMMON | {"model_type": "llama"})
    with pytest.raises(ValueError, match="dense is dense: it has no experts to store in int4"):
        plan(dense, Quantisation("int4"))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, wrong):
    model = Transformer(PublishedConfig(WIDE), rng=np.random.default_rng(0))
    model.layers[1].feed_forward.experts.down.data[2, 3, 4] = wrong
    save_pretrained(model, tmp_path / "model")
    name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    with pytest.raises(PretrainedError, match=rf"model.safetensors: tensor '{name}': int4: .* got {wrong} at \[3, 4\]"):
        quantised(tmp_path / "model", tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()


def test_it_is_used_as_other_published_models_are(small, tmp_path):
    ids = np.random.default_rng(1).integers(0, 300, (1, 12))
    model = from_pretrained(small)
    decoded = from_pretrained(small, dtype=np.float32)
    assert model.num_parameters() == decoded.num_parameters()
    np.testing.assert_allclose(model(ids).logits.data[0], said(model, ids[0]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decoded(ids).logits.data, model(ids).logits.data, rtol=1e-4, atol=1e-5)
    save_pretrained(model, tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())
    again = from_pretrained(tmp_path / "saved", dtype=np.float32)
    np.testing.assert_array_equal(again(ids).logits.data, decoded(ids).logits.data)
    with pytest.raises(ValueError, match="the experts of this model stay in their files and have no gradients"):
        published_gradients(model)
    np.testing.assert_array_equal(  # decoded, and stored in another format
        said(model, ids[0], "bfloat16", "bfloat16"), said(decoded, ids[0], "bfloat16", "bfloat16")
    )


def test_biases_of_linear_maps(tmp_path):
    ids = written(tmp_path / "model", "gpt_oss")
    quantised(tmp_path / "model", tmp_path / "out", rest="float32")
    expected = from_pretrained(tmp_path / "model")(ids).logits.data
    np.testing.assert_allclose(from_pretrained(tmp_path / "out")(ids).logits.data, expected, rtol=1e-3, atol=1e-4)
    quantised(tmp_path / "model", tmp_path / "both", "bfloat16", "bfloat16")
    copy = from_pretrained(tmp_path / "both", dtype=np.float32)(ids).logits.data
    np.testing.assert_allclose(from_pretrained(tmp_path / "both")(ids).logits.data, copy, rtol=1e-3, atol=1e-4)


Q, E = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.block_sparse_moe.experts.2.down"


def settings(**changed):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= changed
        (folder / "config.json").write_text(json.dumps(config))

    return change


def header(change):
    def apply(folder):
        path = folder / "model.safetensors"
        entries, content = header_of(path)
        change(entries)
        put(path, entries, content)

    return apply


def value(name, number):
    """Write a number over the first scale."""

    def change(folder):
        path = folder / "model.safetensors"
        entries, content = header_of(path)
        at = entries[name]["data_offsets"][0]
        put(path, entries, content[:at] + number + content[at + len(number) :])

    return change


def without(name):
    def change(folder):
        path = folder / "model.safetensors"
        entries, content = header_of(path)
        begin, end = entries.pop(name)["data_offsets"]
        for entry in entries.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [at - (end - begin) for at in entry["data_offsets"]]
        put(path, entries, content[:begin] + content[end:])

    return change


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = [
    (settings(experts="int5"), "config.json: quantization_config.experts is 'int5', only None or 'float32' or"),
    (settings(experts=None, rest=None), "config.json: quantization_config.rest is None: it or experts must be one of"),
    (settings(experts="int8"), r"model.layers.0.block_sparse_moe.experts.0.gate_up.codes' is U8 \[128, 2, 16\], conf"),
    (settings(rest="mxfp4"), r"lacks tensor '.*\.blocks'"),
    (settings(rest=None), r"tensor 'lm_head.weight.codes' and \d+ more are no part of the model in config.json"),
    (settings(version=2), "quantization_config.version is 2, only 1 is supported"),
    (settings(group_size=64), "quantization_config.group_size is 64, only 32 is supported"),
    (settings(unquantized=[]), r"quantization_config.unquantized is \[\], only"),
    (settings(bits=4), "config.json sets quantization_config: 'bits', not understood"),
    (settings(quant_method="gptq"), "quant_method is 'gptq', only 'moe_numpy' or 'fp8' or 'mxfp4' is supported"),
    (settings(published={"quant_method": "gptq"}), "published.quant_method is 'gptq'"),
    (settings(quant_method="mxfp4"), "is I8 and belongs to no weight|is U8 and belongs to no weight"),
    (without(f"{Q}.scales"), f"lacks tensor '{Q}.scales'"),
    (without(f"{E}.scales"), f"lacks tensor '{E}.scales'"),
    (without("model.norm.weight"), "lacks tensor 'model.norm.weight'"),
    (cut, "model.safetensors: tensor '.*' ends at byte .*: truncated"),
    (header(lambda h: h[f"{E}.codes"].update(shape=[64, 32])), f"{E}.codes' is U8 .*makes it U8"),
    (header(lambda h: h[f"{Q}.scales"].update(dtype="F16")), f"{Q}.scales' is F16 .*makes it BF16"),
    (header(lambda h: h.update({"x.scales": h.pop(f"{E}.scales")})), f"lacks tensor '{E}.scales'"),
    (value(f"{Q}.scales", b"\x80\x7f"), rf"model.safetensors: tensor '{Q}.scales' is NaN or infinite at \[0, 0\]"),
    (value(f"{E}.scales", b"\xc0\x7f"), rf"model.safetensors: tensor '{E}.scales' is NaN or infinite at \[0, 0\]"),
]


@pytest.mark.parametrize("memory", [None, 10**6])
@pytest.mark.parametrize("i", range(len(DAMAGE)))
def test_damaged_files_are_one_line(small, i, memory):
    damage, message = DAMAGE[i]
    damage(small)
    with pytest.raises(PretrainedError, match=message) as error:
        said(from_pretrained(small, memory=memory), np.arange(64))
    assert str(error.value).isprintable()
    assert str(small) in str(error.value)


@pytest.mark.parametrize(("format", "number"), [("mxfp4", b"\xff"), ("fp8", b"\x00\x00\xc0\x7f")])
def test_scales_of_other_types_that_are_not_finite(tmp_path, format, number):
    quantised(make(tmp_path / "model"), tmp_path / "out", format, format)
    for name in (E, Q):
        value(f"{name}.scales", number)(tmp_path / "out")
        with pytest.raises(PretrainedError, match=rf"{name}.scales' is NaN or infinite at \[0, 0\]"):
            said(from_pretrained(tmp_path / "out"), np.arange(64))


def test_one_too_many(small):
    path = small / "model.safetensors"
    entries, content = header_of(path)
    entries["x.scales"] = {"dtype": "U8", "shape": [2], "data_offsets": [len(content), len(content) + 2]}
    put(path, entries, content + b"xx")
    with pytest.raises(PretrainedError, match=r"tensor 'x\.scales' is no part of the model in config.json"):
        from_pretrained(small)
