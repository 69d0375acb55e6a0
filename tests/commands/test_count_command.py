import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from moe_numpy.accounting import PUBLISHED
from moe_numpy.commands.count import count
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.training import Run, TrainingConfig

app = typer.Typer()
app.command()(count)


def run(*arguments, **env):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "TERM": "dumb", **env})


def document(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def row(output, start):
    """The only line that starts with ``start``."""
    (line,) = [line for line in output.splitlines() if line.strip().startswith(start)]
    return " ".join(line.split())


def test_without_a_model_all_are_listed():
    result = run(COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert row(result.stdout, "mixtral-8x7b") == "mixtral-8x7b 46.7B 46.7B 12.88B 12.75B 12.9B 27.6 %"
    assert row(result.stdout, "switch-c-2048") == "switch-c-2048 1.571T 1.571T 1.728B 1.728B - 0.1 %"
    assert all(name in result.stdout for name in PUBLISHED)
    assert "…" not in result.stdout


def test_one_model_in_detail():
    result = run("deepseek-v3", "--devices", "8", "--device-limit", "4", COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert row(result.stdout, "all ") == "all 671,026,404,352 100.0 % 37,552,282,624"
    assert row(result.stdout, "without input") == "without input embedding 670,099,725,312 99.9 % 36,625,603,584"
    assert row(result.stdout, "balancing biases") == "balancing biases, separate 14,848"
    assert row(result.stdout, "forward, multiplications with weights").endswith(" 73.25 GFLOP")
    assert row(result.stdout, "backward").endswith(" 187.4 GFLOP")
    assert row(result.stdout, "weights, the whole model").endswith(" 1.221 TiB")
    assert row(result.stdout, "key/value cache of 4,096 tokens").endswith(" 274.5 MiB")
    assert row(result.stdout, "all-to-all, to each chosen expert").endswith(" 12.69 MiB")
    assert row(result.stdout, "all-to-all, to each other device of 8, at most 4; expected").endswith(" 5.036 MiB")
    assert row(result.stdout, "active with input embedding") == "active with input embedding 37.55B 37B +1.49 %"
    assert row(result.stdout, "total ") == "total 671B 671B +0.00 %"
    assert "Source: DeepSeek-AI 2024" in result.stdout
    assert "Note: without the multi-token prediction layer" in result.stdout
    assert "…" not in result.stdout


def test_parts_that_a_model_lacks_are_left_out():
    result = run("mixtral-8x7b", "--devices", "4")
    assert "shared experts" not in result.stdout
    assert "balancing" not in result.stdout
    assert "Note:" not in result.stdout
    assert "all-to-all, to each other device of 4; expected" in result.stdout


def test_encoder_and_decoder_say_what_a_token_is():
    result = run("switch-base-128")
    assert "a token is one source token and one target token together" in result.stdout
    assert "active with input embedding" not in result.stdout  # not stated by the publisher


def test_context_and_dtype_reach_the_costs():
    small, large = document("olmoe-1b-7b", "--context", "100"), document("olmoe-1b-7b", "--dtype", "fp32")
    assert (small["context"], small["dtype"]) == (100, "bf16")
    assert (large["context"], large["dtype"]) == (4096, "fp32")
    assert small["flops_per_token"]["weights_forward"] == large["flops_per_token"]["weights_forward"]
    assert small["flops_per_token"]["scores_forward"] * 4096 == large["flops_per_token"]["scores_forward"] * 100
    assert large["bytes"]["weights"] == 2 * small["bytes"]["weights"] == 4 * 6_919_161_856


def test_json_of_one_model():
    counted = document("mixtral-8x7b")
    assert (counted["total"], counted["active_with_embedding"]) == (46_702_792_704, 12_879_925_248)
    assert sum(counted["parts"].values()) == counted["total"]
    assert sum(counted["active_parts"].values()) == counted["active_with_embedding"]
    assert counted["stated"]["total"] == 46.7e9
    assert counted["stated"]["total_difference_percent"] == pytest.approx(0.006, abs=1e-4)
    assert counted["bytes"]["all_to_all_per_device_expected"] is None
    flops = counted["flops_per_token"]
    assert flops["weights_forward"] + flops["scores_forward"] == flops["forward"] == flops["backward"] / 2


def test_json_of_all_models():
    assert [model["model"] for model in document()["models"]] == list(PUBLISHED)


@pytest.fixture
def folder(tmp_path):
    def make(**settings):
        Run.start(tmp_path / "run", ModelConfig(**settings), TrainingConfig())
        return str(tmp_path / "run")

    return make


def test_a_run_folder(folder):
    path = folder(context=64)
    counted = document(path)
    assert (counted["context"], counted["stated"]) == (64, None)
    assert counted["parts"]["experts"] == 4 * 8 * 3 * 128 * 256
    result = run(path)
    assert result.exit_code == 0, result.output
    assert "key/value cache of 64 tokens" in result.stdout
    assert "stated" not in result.stdout


def test_a_dense_run_has_no_traffic(folder):
    result = run(folder(num_experts=0))
    assert result.exit_code == 0, result.output
    assert "all-to-all" not in result.stdout
    assert "dense" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixtral-8x6b"], "unknown model 'mixtral-8x6b'; did you mean mixtral-8x7b"),
        (["runs/none"], "runs/none is not a run"),
        (["dbrx", "--dtype", "fp9"], "dtype must be one of fp64"),
        (["dbrx", "--devices", "3"], "devices must divide num_experts=16, got 3"),
        (["dbrx", "--device-limit", "3"], "device_limit=3 needs the number of devices"),
        (["--context", "3", "--dtype", "fp8"], "--context, --dtype needs a MODEL"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("recipe", ["hierarchical", "shazeer_2017", "soft_moe", "longcat", "mixture_of_depths"])
def test_a_run_of_layers_that_are_no_architecture_is_counted_from_its_model(tmp_path, recipe):
    config = ModelConfig(d_model=8, num_layers=2, num_heads=1, num_kv_heads=1, d_ff=6, recipe=recipe, moe_every=2)
    Run.start(tmp_path / "run", config, TrainingConfig())
    counted = document(str(tmp_path / "run"))
    model = Transformer(config, rng=np.random.default_rng(0))
    assert counted["total"] == sum(counted["parts"].values()) == model.num_parameters()
    assert counted["active_with_embedding"] == sum(counted["active_parts"].values()) == model.active_parameters()
    assert counted["parts"]["dense"] == 3 * 8 * config.active_width
    assert counted["parts"]["experts"] >= 8 * 2 * 8 * 6
    assert counted["parts"]["router"] > 0
    assert "FLOPs and bytes of these layers are not counted" in run(str(tmp_path / "run")).stdout
