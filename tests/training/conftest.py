import numpy as np
import pytest

from moe_numpy.models import ModelConfig
from moe_numpy.training import Corpus, Domain, Run, Trainer, TrainingConfig

MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=1, num_kv_heads=1, d_ff=4, num_experts=2, context=8)
TEXT = np.frombuffer(b"some text " * 30, np.uint8)


@pytest.fixture
def corpus():
    return Corpus([Domain("a", TEXT, TEXT)])


@pytest.fixture
def trained(tmp_path, corpus):
    """The folder of a run of four steps with checkpoints of step 2 and 4."""
    config = TrainingConfig(steps=4, warmup=1, batch_size=1, checkpoint_every=2)
    run = Run.start(tmp_path / "run", MODEL, config)
    Trainer(MODEL, config, corpus).train(lambda record: None, run)
    run.write_validation({0: 5.5, 4: 5.0})
    run.write_summary({"steps": 4})
    return run.folder
