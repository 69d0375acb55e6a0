import asyncio
import json

import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as benchmarks
from benchmarks import serving
from benchmarks.fuzz_serving import SMALL
from benchmarks.peer_process import PeerError
from benchmarks.serving_client import Streamed
from benchmarks.serving_model import random_model
from benchmarks.serving_process import ServingProcess


@pytest.fixture(scope="module")
def small():
    with random_model(SMALL | {"max_position_embeddings": 128}) as found:
        yield found


def test_what_clients_got():
    """Two clients: one request of 10 tokens in 1 s, two of 5 tokens in 2 s."""
    one, two = [Streamed(0.0, 0.1, 1.0, 10)], [Streamed(0.0, 0.3, 1.0, 5), Streamed(1.0, 1.2, 2.0, 5)]
    assert serving.of_clients([one, two]) == pytest.approx(
        {
            "tokens_per_s": 10, "least": 5, "most": 10, "jain": 15**2 / (2 * (5**2 + 10**2)), "first_p50_ms": 200,
            "first_p95_ms": 290,
        }
    )  # fmt: skip
    assert serving.jain([3, 3, 3]) == 1
    assert serving.jain([9, 0, 0]) == pytest.approx(1 / 3)


def test_the_bound_is_that_of_distinct_experts(small):
    """E 8, k 2: one text reads 2 experts of a layer, eight read 8 (1 - 0.75^8) of them."""
    expert, shared = 2 * 3 * 64 * 32, 2 * (64 * 64 * 2 + 2 * 64 * 32 + 64 * 8 + 2 * 64 + 2 * 16) + 64 + 512 * 64
    experts = 8 * (1 - 0.75**8)
    assert small.most_ratio(8) == pytest.approx(8 * (shared + 2 * expert) / (shared + experts * expert), rel=1e-3)
    assert small.most_ratio(1) == 1


def test_a_server_is_measured_and_ends(small, monkeypatch):
    monkeypatch.setattr(serving, "_OTHERS", 2)
    monkeypatch.setattr(serving, "_NEWCOMERS", 1)
    arguments = ["serving", "--model", str(small.folder), "--batch", "2", "--rounds", "1", "--json"]
    result = CliRunner().invoke(benchmarks.app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    of_clients = [row for row in document["rows"] if "clients" in row]
    assert [row["clients"] for row in of_clients] == [1, 2]
    assert all(row["tokens_per_s"] > 0 and 0 < row["jain"] <= 1 for row in of_clients)
    assert of_clients[0]["ratio"] == of_clients[0]["bound"] == 1
    assert [row["newcomer"] for row in document["rows"] if "newcomer" in row] == ["prompt of 32"]
    assert [each["most"] for each in document["verdicts"]] == [2.0]


def test_verdicts():
    rows = [
        {"format": "int8", "clients": 8, "ratio": 2.9},
        {"format": "int8", "newcomer": "prompt of 32", "ratio": 1.5},
    ]
    assert [each["holds"] for each in serving.verdicts(rows)] == [False, True]
    assert [each["holds"] for each in serving.verdicts([{**row, "ratio": 3.0} for row in rows])] == [True, False]


def test_what_goes_wrong(small, tmp_path):
    with pytest.raises(PeerError, match=r"ended with 2 and said: error: .*is not"):
        ServingProcess(tmp_path / "nothing")
    with ServingProcess(small.folder) as server, pytest.raises(RuntimeError, match="the server refused"):
        asyncio.run(serving.stream(server.address, {"model": "another", "prompt": "a"}))
    assert server.exit_status == 0
    for arguments, message in (
        (["serving", "--threads", "2"], "--threads is for"),
        (["serving", "--model", "nothing"], "model must be one of"),
        (["serving", "--device", "cuda"], ""),
    ):
        result = CliRunner().invoke(benchmarks.app, arguments)
        assert result.exit_code == 2
        assert message in result.output
