"""``quantize`` from the command line: models and runs, the table, what reads the result, refusals."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from published_models import LLAMA, MIXTRAL, make_published

from moe_numpy.inference import Decoder
from moe_numpy.pretrained import from_pretrained
from moe_numpy.training import Run

WIDE = MIXTRAL | {"hidden_size": 64, "intermediate_size": 32}
TINY = [
    "--d-model",
    "32",
    "--num-layers",
    "2",
    "--num-experts",
    "4",
    "--d-ff",
    "32",
    "--context",
    "16",
    "--batch-size",
    "2",
    "--steps",
    "2",
]


def text(cli, model, *options):
    done = cli("generate", model, "the cat", "--tokens", 8, "--temperature", 0, "--json", *options)
    return json.loads(done.stdout)["text"]


@pytest.mark.parametrize("format", ["int8", "int4", "mxfp4", "fp8", "bfloat16"])
def test_it_writes_what_generate_makes_in_memory(cli, format):
    pytest.importorskip("tokenizers")
    make_published(Path("model"), WIDE)
    assert cli("quantize", "model", "out", "--experts", format, "--rest", format).exit_code == 0
    assert text(cli, "out") == text(cli, "out", "--memory", "100KB") == text(cli, "model", "--format", format)


def test_the_table(cli):
    make_published(Path("model"), WIDE)
    result = cli("quantize", "model", "new/out/", "--experts", "int4", "--rest", "int8")
    rows = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert ["experts", "int4", "49,152", "196,608", "27,648", "4.50"] in [row[:6] for row in rows]
    assert ["rest", "int8"] in [row[:2] for row in rows]
    assert ["as published"] in [row[:1] for row in rows]
    (total,) = [row for row in rows if row[0] == "all"]
    assert total[1] == f"{from_pretrained('model').num_parameters():,}"
    assert "the largest in model.layers." in result.stdout
    assert "python -m moe_numpy generate new/out 'The '" in result.stdout
    assert result.stderr == ""
    assert "Error" not in cli("quantize", "model", "exact", "--rest", "float32").stdout


def test_the_document(cli):
    make_published(Path("model"), WIDE)
    document = json.loads(cli("quantize", "model", "out", "--rest", "fp8", "--json").stdout)
    assert (document["experts"], document["rest"]) == (None, "fp8")
    assert document["files"] == sorted(path.name for path in Path("out").iterdir())
    kept, rest = sorted(document["shares"], key=lambda share: share["weights"])
    assert (kept["weights"], kept["format"], kept["largest_relative_error"]) == ("as published", None, None)
    assert (rest["weights"], rest["format"], rest["matrices"]) == ("rest", "fp8", 9)
    assert 0.02 < rest["largest_relative_error"] < 0.04
    for name in ("bytes_before", "bytes_after"):
        assert document[name] == sum(share[name] for share in document["shares"])


def test_a_matrix_that_does_not_fit_is_told(cli):
    make_published(Path("model"), MIXTRAL | {"hidden_size": 64})
    result = cli("quantize", "model", "out", "--experts", "int4")
    assert result.stderr == (
        "note: the width of 8 matrices, such as model.layers.0.block_sparse_moe.experts.0.down, is no multiple of 32: "
        "they are in bfloat16\n"
    )
    assert "bfloat16" in result.stdout


def test_a_run_becomes_a_quantised_model(cli, refused, tiny, trained):
    text_of_run = tiny[tiny.index("--text") :]
    assert cli("train", *TINY, *text_of_run, "--out", "run").exit_code == 0
    assert cli("quantize", "run", "out", "--experts", "int8", "--rest", "int4").exit_code == 0
    ids = np.arange(12)

    def said(decoder):
        return decoder.read((decoder.new_sequence(), ids), every=True)

    expected = said(Decoder(Run.open(Path("run")).model()[0].eval(), "int4", "int8"))
    np.testing.assert_array_equal(said(Decoder(from_pretrained("out"))), expected)
    pytest.importorskip("tokenizers")
    assert text(cli, "out") == text(cli, "out", "--memory", "1MB")
    assert "mixtral" in json.loads(Path("out/config.json").read_text())["model_type"]
    assert cli("train", *TINY, "--recipe", "switch", *text_of_run, "--out", "other").exit_code == 0
    error = refused("quantize", "other", "again", "--experts", "int8")
    assert "other: none of glm4_moe, llama, mixtral, qwen2_moe computes the same as this run; generate" in error
    assert not Path("again").exists()


def test_a_run_that_began_with_a_published_model(cli, tiny):
    pytest.importorskip("tokenizers")
    make_published(Path("model"), WIDE)
    short = ["--steps", 2, "--batch-size", 2, "--context", 16, *tiny[tiny.index("--text") :]]
    assert cli("train", "--from", "model", *short, "--out", "run").exit_code == 0
    assert cli("quantize", "run", "out", "--experts", "int8", "--step", 2).exit_code == 0
    assert Path("out/tokenizer.json").read_bytes() == Path("model/tokenizer.json").read_bytes()
    assert cli("train", "--from", "out", *short, "--out", "further").exit_code == 0  # in float32
    assert cli("convert", "further", "plain").exit_code == 0
    assert "quantization_config" not in json.loads(Path("plain/config.json").read_text())


def test_other_commands_read_it(cli):
    pytest.importorskip("tokenizers")
    make_published(Path("model"), WIDE)
    cli("quantize", "model", "out", "--experts", "int4", "--rest", "int8")
    sizes = [json.loads(cli("count", name, "--json").stdout) for name in ("model", "out")]
    assert sizes[0]["parts"] == sizes[1]["parts"]
    result = cli("inspect", "out", "--tokens", 100, "--trace", "trace.json", "--out", "png")
    assert result.exit_code == 0
    nbytes = json.loads(Path("trace.json").read_text())["expert_bytes"]["0"]
    assert nbytes == [(64 * 64 + 64 * 32) * 9 // 16] * 4
    assert cli("convert", "out", "plain").exit_code == 0
    assert "quantization_config" not in json.loads(Path("plain/config.json").read_text())


def test_refusals(refused, cli, trained):
    Path("file").write_text("")
    assert "file/out: Not a directory" in refused("quantize", trained, "file/out", "--experts", "int8")
    make_published(Path("model"), WIDE)
    make_published(Path("dense"), LLAMA)
    assert "format must be one of float32, bfloat16, int8, int4, mxfp4, fp8, got 'int5'" in refused(
        "quantize", "model", "out", "--experts", "int5"
    )
    assert "no format is given: expected one of" in refused("quantize", "model", "out")
    assert "nowhere is not a run" in refused("quantize", "nowhere", "out", "--rest", "int8")
    assert "--step 3: model is a published model" in refused("quantize", "model", "out", "--rest", "int8", "--step", 3)
    assert "dense is dense: it has no experts" in refused("quantize", "dense", "out", "--experts", "int8")
    assert not Path("out").exists()
    cli("quantize", "model", "out", "--experts", "int4")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert "out exists and is not empty" in refused("quantize", "model", "out", "--rest", "int8")
    assert "out is quantised already (experts int4)" in refused("quantize", "out", "again", "--rest", "int8")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    shutil.copytree("out", "cut")
    Path("cut/model.safetensors").write_bytes(before["model.safetensors"][:-9])
    assert "cut/model.safetensors" in refused("generate", "cut", "the")
    assert "cut/model.safetensors" in refused("generate", "cut", "the", "--memory", "1MB")
