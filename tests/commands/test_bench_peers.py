import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import candidates, gguf_file, llama_cpp, peer_process
from benchmarks.peer_process import PeerError, PeerProcess
from benchmarks.random_model import MODELS

STAND_IN = """
import json, pathlib, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace as Namespace
from {here} import Completions

print("loading")  # which must not be taken for an answer

class CommonParams(Namespace):
    def __init__(self):
        super().__init__(model=Namespace(), cpuparams=Namespace(), cpuparams_batch=Namespace())

class Server:
    def __init__(self, params):
        if not pathlib.Path(params.model.path).exists():
            raise RuntimeError("no file")
        Completions.params = params
        server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{{server.server_port}}"
"""


class Completions(BaseHTTPRequestHandler):
    """llama.cpp's /completion, for a model whose next token is the sum of the text and the slots it has."""

    params = None

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/completion"
        results = []
        for i, text in enumerate(asked["prompt"]):
            tokens = [sum(text) + (self.params.n_ctx if self.params else 0)] * asked["n_predict"]
            timings = {
                "prompt_n": 1 if asked["cache_prompt"] else len(text),
                "prompt_ms": 10.0 * (i + 1),
                "predicted_ms": 100.0 * (i + 1),
            }
            top = [{"id": 7, "logprob": -0.5}, {"id": 8, "logprob": -1.5}][: asked["n_probs"]]
            results.append(
                {"index": i, "tokens": tokens, "timings": timings, "completion_probabilities": [{"top_logprobs": top}]}
            )
        content = json.dumps(results[::-1] if len(results) > 1 else results[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Completions) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield type("Server", (), {"listening_address": f"http://127.0.0.1:{server.server_port}"})()
        server.shutdown()


def test_what_a_server_says_of_its_own_times(server):
    told = llama_cpp.answered(server, [[1, 2], [3, 4]], 2, fresh=False, top=2)
    assert told == {"prompt_s": 0.02, "decode_s": 0.2, "new": [[3, 3, 3], [7, 7, 7]], "top": [[7, -0.5], [8, -1.5]]}
    told = llama_cpp.answered(server, [[1, 2]], 0, fresh=True)
    assert told == {"prompt_s": 0.01, "decode_s": 0.1, "new": [[3]], "top": []}


def test_a_prompt_that_was_not_read_is_not_measured(server, monkeypatch):
    monkeypatch.setattr(json, "dumps", partial(_cached, json.dumps))
    with pytest.raises(RuntimeError, match=r"prompts of \[2\] tokens"):
        llama_cpp.answered(server, [[1, 2]], 0, fresh=True)


def _cached(dumps, value, **settings):
    return dumps(value | {"cache_prompt": True} if "cache_prompt" in value else value, **settings)


@pytest.fixture
def with_stand_in(monkeypatch, tmp_path):
    here = os.path.dirname(__file__)
    (tmp_path / "xllamacpp.py").write_text(STAND_IN.format(here=__name__.rpartition(".")[2]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), here, *filter(None, sys.path)]))
    (tmp_path / "model.gguf").touch()
    return tmp_path


def test_a_peer_answers_from_its_own_process(with_stand_in):
    file = with_stand_in / "model.gguf"
    with candidates.peer("llama.cpp F16", "benchmarks.llama_cpp", file, 2, 3, 146) as peer:
        answer = peer.answer([[1, 2], [3, 4]], 1, fresh=True, top=1)
        process = peer.process._process
        assert process.poll() is None
    assert answer.new == [[3 + 3 * 256] * 2, [7 + 3 * 256] * 2]
    assert (answer.prompt_s, answer.decode_s, answer.top) == (0.02, 0.2, [(7, -0.5)])
    assert process.returncode == -signal.SIGTERM or process.returncode == 0


def test_a_peer_that_does_not_start_says_why(with_stand_in):
    with pytest.raises(PeerError, match=r"llama\.cpp F16 ended with 1 and said: RuntimeError: no file"):
        PeerProcess("llama.cpp F16", "benchmarks.llama_cpp", with_stand_in / "nothing.gguf", 2, 3, 146)


def test_a_peer_that_ends_midway(with_stand_in):
    process = PeerProcess("llama.cpp F16", "benchmarks.llama_cpp", with_stand_in / "model.gguf", 2, 3, 146)
    try:
        process._process.kill()
        process._process.wait()
        with pytest.raises(PeerError, match=r"ended with -9 and said: "):
            process.ask(texts=[[1]], tokens=0, fresh=True)
    finally:
        process.close()


def test_a_peer_that_does_not_want_to_end(monkeypatch):
    monkeypatch.setattr(peer_process, "PATIENCE", 0.1)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", stubborn], stdin=pipe, stdout=pipe, text=True)
    process.stdout.readline()
    peer_process.end(process)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, "Q4_K_M"), ({"moe_intermediate_size": 96}, "Q4_0"), ({"num_attention_heads": 2}, "Q4_0")],
)
def test_rows_that_do_not_fit_blocks_of_256(changes, expected):
    assert gguf_file.format_for("int4", MODELS["qwen3-moe-701m"] | changes) == expected


def test_the_nearest_formats():
    settings = MODELS["olmoe-1b-7b"]
    found = [gguf_file.format_for(ours, settings) for ours in ("bfloat16", "int8", "int4", "mxfp4", "float32", "fp8")]
    assert found == ["F16", "Q8_0", "Q4_K_M", "MXFP4", None, None]
