import pytest
from published_models import make_published
from small_servers import serving, tiny_decoder, writing

from moe_numpy.inference import Decoder
from moe_numpy.models.text import ByteTokenizer
from moe_numpy.pretrained import PublishedTokenizer, from_pretrained
from moe_numpy.serve import Served


@pytest.fixture(scope="session")
def decoder():
    return tiny_decoder()


@pytest.fixture
def engine(decoder):
    """An engine that runs, for tests without a server."""
    with writing(decoder) as made:
        yield made


@pytest.fixture(scope="session")
def bytes_served(decoder):
    return Served("tiny", decoder, ByteTokenizer())


@pytest.fixture(scope="session")
def server(bytes_served):
    """A model that reads bytes, with 4 slots."""
    with serving(bytes_served, slots=4, queue=64) as made:
        yield made


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A published model with a chat template."""
    folder = make_published(tmp_path_factory.mktemp("published"))
    tokenizer = PublishedTokenizer.open(folder)
    with serving(Served("published", Decoder(from_pretrained(folder)), tokenizer, folder), slots=2) as made:
        yield made
