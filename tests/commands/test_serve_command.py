"""The command serve: what it prints, what it refuses, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import moe_numpy


def test_refusals(refused, trained, tmp_path):
    assert "is not a run" in refused("serve", tmp_path / "nowhere", "--port", 0)
    assert "give one of them" in refused("serve", trained, "--format", "int8", "--memory", "1MB")
    assert "--api-key must be printable" in refused("serve", trained, "--api-key", "with space")
    assert "--host no.such.host.invalid" in refused("serve", trained, "--host", "no.such.host.invalid")
    long = "a" * 300
    assert f"--host {long}: is no name of a machine" in refused("serve", trained, "--host", long)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is taken; --port names another" in refused("serve", trained, "--port", port)


def test_packages_that_are_missing_are_named(refused, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("server", "slow_clients"):
        monkeypatch.delitem(sys.modules, f"moe_numpy.serve.{name}", raising=False)
    said = refused("serve", trained)
    assert "the server needs uvicorn, which is missing; python -m pip install starlette uvicorn" in said


def test_rows_that_depend_on_others_cannot_be_served(cli, refused, tiny, tmp_path):
    run = tmp_path / "run"
    assert cli(*tiny, "--recipe", "expert_choice", "--out", run).exit_code == 0
    assert "cannot be decoded row by row: the experts of a row depend on other rows" in refused(
        "serve", run, "--port", 0
    )


def test_the_demo_is_trained_if_there_is_no_run(cli, trained, tmp_path, monkeypatch):
    made = []

    def demo(out, no_dense):
        made.append(out)
        out.symlink_to(trained)

    monkeypatch.setattr("moe_numpy.commands.serve.demo", demo)
    monkeypatch.setattr("moe_numpy.serve.server.HttpServer.run", lambda self, sockets: None)
    for _ in range(2):
        result = cli("serve", tmp_path / "demo", "--demo", "--port", 0)
        assert result.exit_code == 0, result.output
        assert "Serving demo at http://127.0.0.1:" in result.stdout
        assert result.stdout.endswith("Stopped.\n")
    assert made == [tmp_path / "demo"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="other systems have no such signals")
def test_a_signal_ends_it_in_order(trained):
    environment = os.environ | {"PYTHONPATH": str(Path(moe_numpy.__file__).parents[1])}
    command = [sys.executable, "-m", "moe_numpy", "serve", str(trained), "--port", "0", "--name", "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = re.search(r"Serving mine at (http://127\.0\.0\.1:\d+/)", process.stdout.readline())[1]
            assert httpx.get(f"{url}v1/models").json()["data"][0]["id"] == "mine"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert process.stdout.read().endswith("Stopped.\n")
        finally:
            process.kill()
