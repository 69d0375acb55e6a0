"""Every model of transformers with experts is opened here, or refused with what it would need."""

import re
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

from moe_numpy.pretrained.families import FAMILIES, MISSING

EXPERTS = re.compile(r"^class \w+(?<!Shared)Experts\w*\(", re.MULTILINE)
PARTS = re.compile(r"vision|audio|talker|encoder|assistant|thinker|mm_model")  # no language models of their own


def test_every_family_with_experts_is_known():
    models = Path(transformers.__file__).parent / "models"
    found = set()
    for model_type in CONFIG_MAPPING_NAMES:
        name = model_type_to_module_name(model_type)
        file = models / name / f"modeling_{name}.py"
        if not PARTS.search(model_type) and file.exists() and EXPERTS.search(file.read_text()):
            found.add(model_type)
    assert len(found) > 60
    assert not sorted(found - FAMILIES.keys() - MISSING.keys())
