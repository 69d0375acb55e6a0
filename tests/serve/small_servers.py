"""Small models behind a real server on a port of this machine."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import openai

from moe_numpy.inference import Decoder
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.models.text import ByteTokenizer
from moe_numpy.serve import Engine
from moe_numpy.serve.server import http_server, listening, url_of

CONTEXT = 64


def tiny_decoder(**changed):
    """Two sparse layers for bytes, with weights large enough to have opinions."""
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "d_ff": 8, "num_experts": 4}
    sizes["context"] = CONTEXT
    model = Transformer(ModelConfig(**sizes | changed), rng=np.random.default_rng(0)).eval()
    model.output.weight.data *= 40
    return Decoder(model)


@contextmanager
def writing(decoder, tokenizer=None, **settings):
    made = Engine(decoder, tokenizer or ByteTokenizer(), **settings)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Watched(Decoder):
    """A decoder whose reads can be watched, delayed and made to fail."""

    def __init__(self, decoder):
        vars(self).update(vars(decoder))
        self.before = lambda *texts: None

    def read(self, *texts, **settings):
        self.before(*texts)
        return super().read(*texts, **settings)


@contextmanager
def serving(served, api_key=None, limits=None, **settings):
    """A server in a thread: its url, its engine, and clients."""
    engine = Engine(served.decoder, served.tokenizer, **settings)
    with listening("127.0.0.1", 0) as socket:
        url, server = url_of(socket), http_server(served, engine, api_key, limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        until(lambda: server.started)
        key = api_key or "unused"
        try:
            with (
                httpx.Client(base_url=url, timeout=20) as http,
                openai.OpenAI(base_url=f"{url}v1", api_key=key, max_retries=0, timeout=20) as client,
            ):
                yield SimpleNamespace(url=url, engine=engine, served=served, http=http, client=client, server=server)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def until(condition, seconds=10):
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
