import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from moe_numpy.accounting.plan import imbalance, shards
from moe_numpy.models import ModelConfig
from moe_numpy.training import Run, TrainingConfig

PAGE = Path(__file__).parents[2] / "docs/plan.md"
#: DeepSeek-V3 2024, sections 3.2, 3.3 and 4.2.
DEEPSEEK = (
    "plan deepseek-v3 --gpus 2048 --stages 16 --expert-parallel 64 --schedule dualpipe --micro-batches 120 "
    "--node-limit 4 --weights fp8 --moments bf16 --activations fp8 --dispatch fp8 --recompute cheap --utilisation 0.43"
)


@pytest.fixture
def document(cli):
    def run(*arguments):
        result = cli("plan", *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def row(output, start):
    """The only line that starts with ``start``."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    (line,) = [line for line in lines if line.startswith(start)]
    return line


def test_64_gpus(cli):
    result = cli("plan", "deepseek-v3", "--gpus", 64, "--nodes", 8)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "deepseek-v3 on 64 GPUs in 8 nodes"
    assert lines[1] == "1 stage of 64 GPUs, 1 copy of the experts over 64 GPUs in 8 nodes"
    assert row(result.stdout, "weights") == "weights 50.92 GiB 27.33B parameters, bf16"
    assert row(result.stdout, "all 376.4 GiB") == "all 376.4 GiB does not fit in 80 GiB"
    assert row(result.stdout, "to each expert") == "to each expert 0.88 7.00 24.5 KiB 196 KiB 4.014 µs"
    assert row(result.stdout, "* to each node") == "* to each node 6.72 4.63 188.1 KiB 129.7 KiB 2.657 µs"
    assert row(result.stdout, "A token's experts") == "A token's experts are on 7.68 GPUs in 5.29 nodes."
    assert row(result.stdout, "FLOPs per token") == "FLOPs per token 250.5 GFLOP"
    assert "bubble" not in result.stdout
    assert max(map(len, lines)) <= 80
    assert "…" not in result.stdout


def test_the_set_up_of_deepseek_v3(cli):
    result = cli(*DEEPSEEK.split())
    assert result.exit_code == 0, result.output
    assert "16 stages of 128 GPUs, 2 copies of the experts over 64 GPUs in 8 nodes" in result.stdout
    assert row(result.stdout, "* to each node").startswith("* to each node 6.44 3.18 ")
    assert row(result.stdout, "all 50").endswith("fits in 80 GiB")
    assert row(result.stdout, "GPU hours per trillion") == "GPU hours per trillion tokens 179,959"
    assert "pipeline bubble" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_json_of_training(document):
    found = document("mixtral-8x7b", "--gpus", 16, "--micro-batches", 4, "--sequences", 2, "--context", 128)
    assert found["layout"]["nodes"] == 2
    assert found["layout"]["expert_parallel"] == 8
    assert found["step"]["tokens"] == 4 * 2 * 128 * 16
    parts = ("compute", "exchange", "slowest_stage", "fullest_device", "bubble", "gradients")
    assert found["step"]["total"] == pytest.approx(sum(found["step"][part] for part in parts))
    memory = found["memory"]
    assert memory["total"] == sum(memory[part] for part in ("weights", "gradients", "optimizer", "activations"))
    assert memory["of_a_gpu"] == 80 * 2**30
    assert set(found["exchange"]["copies"]) == {"expert", "device", "node"}
    assert found["tokens_per_second"] == pytest.approx(found["step"]["tokens"] / found["step"]["total"])
    assert 0 < found["model_flops_utilisation"] <= 0.5
    hours = found["gpu_hours_per_trillion_tokens"]
    assert hours * 3600 * found["tokens_per_second"] == pytest.approx(16 * 1e12)


def test_options_reach_the_plan(document):
    base = document("mixtral-8x7b", "--gpus", 8)
    assert base["layout"]["nodes"] == 1
    assert document("mixtral-8x7b", "--gpus", 8, "--nodes", 2)["exchange"]["nodes_reached"] > 1
    assert document("mixtral-8x7b", "--gpus", 8, "--expert-parallel", 2)["layout"]["expert_replicas"] == 4
    assert document("mixtral-8x7b", "--gpus", 8, "--memory", "141GB")["memory"]["of_a_gpu"] == 141e9
    plain = document("mixtral-8x7b", "--gpus", 8, "--no-zero-1")["memory"]
    assert plain["optimizer"] > 1.2 * base["memory"]["optimizer"]
    shown = document("mixtral-8x7b", "--gpus", 8, "--no-overlap")["step"]
    assert shown["exchange"] == pytest.approx(shown["exchange_in_all"])
    faster = document("mixtral-8x7b", "--gpus", 8, "--peak-tflops", 2 * 989.4)["step"]
    assert faster["compute"] == pytest.approx(base["step"]["compute"] / 2)
    links = document("mixtral-8x7b", "--gpus", 8, "--intra-gbps", 320)["exchange"]["copies"]["node"]["seconds"]
    assert links == pytest.approx(base["exchange"]["copies"]["node"]["seconds"] / 2)
    assert document("mixtral-8x7b", "--gpus", 8, "--combine", "fp8", "--dispatch", "fp8")["exchange"]["copies"]["node"][
        "bytes_within"
    ] == pytest.approx(base["exchange"]["copies"]["node"]["bytes_within"] / 2)


def test_uneven_experts_wait(cli, document):
    skewed = document("mixtral-8x7b", "--gpus", 8, "--skew", 1)
    assert skewed["training"]["imbalance"] == pytest.approx(8 / sum(1 / n for n in range(1, 9)))
    assert skewed["step"]["fullest_device"] > 0
    assert "waiting for the fullest GPU" in cli("plan", "mixtral-8x7b", "--gpus", 8, "--skew", 1).stdout
    assert document("mixtral-8x7b", "--gpus", 6, "--expert-parallel", 6)["training"]["imbalance"] == pytest.approx(1.5)


def test_recorded_loads(document, trained):
    found = document(trained, "--gpus", 2, "--load", trained)
    recorded = np.array([record["expert_load"] for record in Run.open(trained).history()])
    expected = np.mean([imbalance(load, shards(4, 2)) for load in recorded])
    assert found["training"]["imbalance"] == pytest.approx(expected)
    assert expected > 1


def test_a_dense_run_exchanges_nothing(cli, document, tmp_path):
    Run.start(tmp_path / "dense", ModelConfig(num_experts=0), TrainingConfig())
    assert document(tmp_path / "dense", "--gpus", 2)["exchange"] is None
    result = cli("plan", tmp_path / "dense", "--gpus", 2)
    assert "1 stage of 2 GPUs\n" in result.stdout
    assert "to each" not in result.stdout


def test_a_published_folder_and_its_config(document, tmp_path):
    values = {
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_local_experts": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    known = document("mixtral-8x7b", "--gpus", 8)
    for path in (tmp_path, tmp_path / "config.json"):
        found = document(path, "--gpus", 8)
        assert found["memory"] == known["memory"]
        assert found["step"] == known["step"]


def test_serving(cli, document):
    found = document("deepseek-v3", "--gpus", 64, "--serve", "--texts", 8, "--dispatch", "fp8", "--weights", "fp8")
    assert found["memory"]["cache"] == 8 * 4096 * 70272
    assert found["step"]["seconds"] == max(
        found["step"][f"{part}_seconds"] for part in ("memory", "compute", "exchange")
    )
    assert found["tokens_per_second"] == pytest.approx(64 * 8 * found["tokens_per_second_of_a_text"])
    result = cli("plan", "deepseek-v3", "--gpus", 64, "--serve", "--weights", "fp8")
    assert row(result.stdout, "cache") == "cache 8.578 GiB 32 texts of 4,096 tokens"
    assert "all-to-all" in result.stdout
    assert "tokens per second of each text" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("block", re.findall(r"```\n\$ (.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_page_shows_what_is_printed(cli, block):
    command, _, shown = re.sub(r"\\\n", "", block).partition("\n")
    result = cli(*shlex.split(command)[3:])
    assert [line.rstrip() for line in result.stdout.splitlines()] == shown.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixtral-8x6b", "--gpus", 8], "unknown model 'mixtral-8x6b'; did you mean mixtral-8x7b"),
        (["zzz", "--gpus", 8], "unknown model 'zzz'; known are mixtral-8x7b"),
        (["runs/none", "--gpus", 8], "runs/none is not a run"),
        (
            ["dbrx", "--gpus", 66, "--stages", 66, "--nodes", 1],
            "stages must be between 1 and the 40 layers",
        ),
        (["dbrx", "--gpus", 8, "--nodes", 3], "nodes must divide devices=8, got 3"),
        (["dbrx", "--gpus", 12], "--nodes is needed, since 12 GPUs are no nodes of 8"),
        (["dbrx", "--gpus", 8, "--expert-parallel", 3], "expert_parallel must divide the 8 devices of a stage, got 3"),
        (["dbrx", "--gpus", 8, "--schedule", "gpipe"], "schedule must be one of 1f1b, zb1p, dualpipe, got 'gpipe'"),
        (["dbrx", "--gpus", 8, "--copies", "all"], "copies must be one of expert, device, node, got 'all'"),
        (["dbrx", "--gpus", 8, "--weights", "fp9"], "weights must be one of fp64"),
        (["dbrx", "--gpus", 8, "--serve", "--cache", "fp9"], "dtype must be one of fp64"),
        (["dbrx", "--gpus", 8, "--utilisation", 2], "utilisation must be at most 1, got 2.0"),
        (["dbrx", "--gpus", 8, "--skew", -1], "exponent must be at least 0, got -1.0"),
        (["dbrx", "--gpus", 64, "--nodes", 32, "--node-limit", 1], "node_limit must be between 2 and nodes=8, got 1"),
        (["switch-base-128", "--gpus", 8], "plans are made for models without an encoder, got one of 12 layers"),
        (["dbrx", "--gpus", 8, "--serve", "--stages", 2], "serving is planned for 1 stage, got 2"),
    ],
)
def test_wrong_input_is_one_line(refused, arguments, message):
    assert refused("plan", *arguments).startswith(message)


def test_loads_that_do_not_fit(refused, trained, tmp_path):
    assert "recorded loads of 4 experts, not of 16" in refused("plan", "dbrx", "--gpus", 8, "--load", trained)
    both = refused("plan", trained, "--gpus", 2, "--load", trained, "--skew", 1)
    assert both.startswith("--load and --skew both say how uneven the experts are; give one")
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy/history.jsonl").unlink()
    assert "has recorded no step yet" in refused("plan", trained, "--gpus", 2, "--load", tmp_path / "copy")
    Run.start(tmp_path / "dense", ModelConfig(num_experts=0), TrainingConfig())
    assert refused("plan", tmp_path / "dense", "--gpus", 2, "--skew", 1) == "--skew needs a model with experts\n"
