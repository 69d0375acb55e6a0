import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import formats, kernels, layer, step, timing
from moe_numpy.__main__ import app
from moe_numpy.commands import bench as command
from moe_numpy.formats import FORMATS
from moe_numpy.kernels import registry

QUICK = ["--rounds", "1", "--seconds", "0"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(layer.SHAPES, "cpu", (layer.Shape(16, 8, 4, 4, 2), layer.Shape(8, 8, 4, 4, 1)))
    monkeypatch.setitem(step.CONFIGS, "cpu", step.ModelConfig(d_model=16, num_layers=1, d_ff=8, context=8))
    monkeypatch.setattr(timing, "_WARM", 0)
    monkeypatch.setattr(timing, "_PAUSE", 0)
    monkeypatch.setattr(formats, "OUT", 128)
    monkeypatch.setattr(formats, "IN", 32)
    for name in "TDFEKVBS":
        monkeypatch.setattr(kernels, name, 4 if name in "EK" else 8)


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "120"})


def test_layer_as_json(small):
    result = run("layer", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["shape"] for row in document["rows"]] == [[16, 8, 4, 4, 2], [8, 8, 4, 4, 1]]
    for row in document["rows"]:
        assert row["gemm_efficiency"] == pytest.approx(row["gemm_ms"] / row["ours_ms"])
    assert "gemm_efficiency" in document["summary"]


@pytest.mark.parametrize("what", ["layer", "step", "kernels"])
def test_tables(small, what):
    result = run(what, *QUICK)
    assert result.exit_code == 0, result.output
    assert "ms" in result.output


def test_every_format_has_a_row(small):
    result = run("formats", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    rows = {row["format"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows.keys() == FORMATS.keys()
    assert rows["int8"]["bits"] == 8.5
    assert all(value > 0 for row in rows.values() for name, value in row.items() if name != "format")


def test_every_hot_loop_has_a_row(small):
    measured = {kernel.__name__ for kernel, _ in kernels._cases(np.random.default_rng(0))}
    bookkeeping = {
        "add",
        "reshaped",
        "wide_product",
        "tokens_and_ranks",
        "count",
        "offsets_of",
        "scatter",
        "to_host",
        "where_true",
        "uniforms",
        "add_along_rows",
        "normal_cdf",
    }
    in_bench_formats = {"grouped_weight_product", "weight_product", "weight_product_of_experts"}
    assert measured == registry.keys() - bookkeeping - in_bench_formats


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_what_was_measured_before_an_interrupt_is_not_lost(small, monkeypatch, json_option):
    def first_and_then_ctrl_c(*arguments):
        yield "a small layer", lambda: {"shape": [16, 8, 4, 4, 2], "ours_ms": 1.5, "gemm_efficiency": 0.5}
        raise KeyboardInterrupt

    monkeypatch.setattr(layer, "measure", first_and_then_ctrl_c)
    result = run("layer", *json_option)
    assert result.exit_code == 130
    if json_option:
        assert [row["ours_ms"] for row in json.loads(result.stdout)["rows"]] == [1.5]
    else:
        assert "16,8,4,4,2" in result.stdout
        assert "1.50" in result.stdout


def test_kernels_have_no_peer():
    result = run("kernels", "--against", "torch")
    assert result.exit_code == 2
    assert "--against torch is for layer and step, and kernels was asked for" in result.output


def test_a_missing_torch_is_said_plainly(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    result = run("layer", "--against", "torch")
    assert result.exit_code == 2
    assert "pip install torch transformers" in result.output


def test_without_the_source_there_is_nothing_to_measure_with(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "__file__", str(tmp_path / "a" / "b" / "bench.py"))
    result = run("layer")
    assert result.exit_code == 2
    assert "run it from a checkout" in result.output


@pytest.mark.parametrize("program", ["moe_numpy bench", "benchmarks"])
def test_both_programs_have_the_same_options(program):
    words = [sys.executable, "-m", *program.split(), "--help"]
    done = subprocess.run(words, cwd=Path(command.__file__).parents[2], capture_output=True, text=True, check=True)
    assert f"Usage: python -m {program} [OPTIONS]" in done.stdout
    assert "--shape" in done.stdout


def test_layers_that_differ_are_not_timed():
    with pytest.raises(ArithmeticError, match="y differs by"):
        layer._differences({"y": np.ones(3)}, {"y": np.zeros(3)}, 1e-4)


def test_the_largest_differences_of_a_layer():
    ours = {"y": np.array([1000.0, 0.0]), "dx": np.array([0.5, 2.0]), "empty": np.zeros(2)}
    peer = {"y": np.array([1000.0, 0.02]), "dx": np.array([0.5, 2.01]), "empty": np.zeros(2)}
    found = layer._differences(ours, peer, 0.1)
    assert found == pytest.approx({"max_abs_error": 0.02, "max_rel_error": 0.005}, rel=1e-5)


def test_shapes_of_ones_own():
    result = run("layer", "--shape", "9,8,4,3,2", "--shape", "5,8,4,4,1", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    assert [row["shape"] for row in json.loads(result.stdout)["rows"]] == [[9, 8, 4, 3, 2], [5, 8, 4, 4, 1]]


@pytest.mark.parametrize("text", ["9,8,4,3", "9,8,4,3,2,1", "9,8,4,3,4", "9,0,4,3,2", "9,8,4,3,2.0", "large"])
def test_a_shape_that_is_none_is_refused(text):
    result = run("layer", "--shape", text)
    assert result.exit_code == 2
    assert f"shape must be T,d,f,E,k with positive whole numbers and k <= E, got '{text}'" in result.output


def test_only_layers_have_shapes():
    result = run("step", "--shape", "9,8,4,3,2")
    assert result.exit_code == 2
    assert "--shape is for layer, and step was asked for" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda"], "device cuda: CuPy is missing"),
        (["--device", "tpu"], "device must be one of cpu, cuda, got 'tpu'"),
        (["--dtype", "float16"], "dtype must be one of float32, bfloat16, got 'float16'"),
        (["--dtype", "bfloat16"], "bfloat16 is for a layer or a step on a GPU"),
    ],
)
def test_what_cannot_be_measured_here_is_refused(monkeypatch, arguments, message):
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "cupy", None)
    monkeypatch.setitem(modules, "ml_dtypes", __import__("types").SimpleNamespace(bfloat16="V2"))
    result = run("layer", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_gpu_sees_new_indices_at_every_call():
    """It remembers what it computed about an array of indices, and a look into memory is not to be timed."""
    seen = []
    keys = np.array([1, 0, 1])
    call = kernels._call("cupy", lambda keys, num_keys: seen.append(keys), [keys, 2])
    call()
    call()
    assert len({id(x) for x in [keys, *seen]}) == 3
    assert all(np.shares_memory(x, keys) for x in seen)


def test_tokens_whose_choice_hangs_on_rounding_are_replaced():
    """By the first clear one, which is token 1 for one expert per token, token 0 for two."""
    x, router = np.eye(3, dtype=np.float32), np.array([[1, 2, 3], [1, 1, 0], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(layer._without_near_ties(x, router, 1), x[[1, 1, 2]])
    np.testing.assert_array_equal(layer._without_near_ties(x, router, 2), x[[0, 1, 0]])
    assert layer._without_near_ties(x, router, 3) is x
