"""llama.cpp through the package xllamacpp: python -m benchmarks.llama_cpp FILE THREADS TEXTS TOKENS

Its own server on loopback, whose ``timings`` count: ``predicted_ms`` is the time from the first new token to the last.
A fresh prompt is read with its cache off; before decoding, prompts that it still has are not read again.
"""

import json
import sys
import urllib.request
from functools import partial
from typing import Any

from .peer_process import answer_jobs


def start(file: str, num_threads: int, num_texts: int, num_tokens: int) -> Any:
    """A server for ``num_texts`` texts of ``num_tokens`` tokens, and what answers jobs with it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_parallel = num_texts
    params.n_ctx = num_texts * -(-num_tokens // 256) * 256  # it divides it by the texts, in steps of 256
    params.n_batch = max(2048, num_texts * num_tokens)  # all texts begin together
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    params.cache_ram_mib = 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    return partial(answered, server)


def answered(server: Any, texts: list[list[int]], tokens: int, fresh: bool, top: int = 0) -> dict[str, Any]:
    """The fields of :class:`benchmarks.candidates.Answer`.

    The first token comes with the prompt, so one more is asked for than is timed.
    """
    asked = {
        "prompt": texts, "n_predict": tokens + 1, "temperature": 0, "ignore_eos": True, "cache_prompt": not fresh,
        "return_tokens": True, "n_probs": top,
    }  # fmt: skip
    body = json.dumps(asked).encode()
    request = urllib.request.Request(
        f"{server.listening_address}/completion", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        results = json.load(response)
    results = sorted(results if isinstance(results, list) else [results], key=lambda result: result.get("index", 0))
    timings = [result["timings"] for result in results]
    if fresh and any(of["prompt_n"] != len(text) for of, text in zip(timings, texts, strict=True)):
        raise RuntimeError(f"prompts of {[len(text) for text in texts]} tokens, but it read {timings}")
    first = results[0]["completion_probabilities"][0]["top_logprobs"] if top else []
    return {
        "prompt_s": max(of["prompt_ms"] for of in timings) / 1e3,
        "decode_s": max(of["predicted_ms"] for of in timings) / 1e3,
        "new": [result["tokens"] for result in results],
        "top": [[of["id"], of["logprob"]] for of in first],
    }


if __name__ == "__main__":
    answer_jobs(partial(start, sys.argv[1], *map(int, sys.argv[2:])))
