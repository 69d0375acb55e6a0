"""transformers in bfloat16: python -m benchmarks.transformers_decoding FOLDER IMPLEMENTATION THREADS"""

import sys
import time
from functools import partial
from typing import Any

from .peer_process import answer_jobs

_UNTIMED = 2  # tokens before the clock starts


def start(folder: str, implementation: str, num_threads: int) -> Any:
    """A model whose experts are implemented so, and what answers jobs with it."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(num_threads)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, experts_implementation=implementation
    ).eval()
    return partial(answered, model, {})


def answered(model: Any, read: dict, texts: list[list[int]], tokens: int, fresh: bool, top: int = 0) -> dict[str, Any]:
    """The fields of :class:`benchmarks.candidates.Answer`; texts that were read are cut back, not read again."""
    import torch

    begun = time.perf_counter()
    if fresh or len(texts) not in read:
        output = model(torch.tensor(texts), use_cache=True, logits_to_keep=1)
        read[len(texts)] = output.past_key_values, output.logits[:, -1]
    prompt_s = time.perf_counter() - begun
    cache, logits = read[len(texts)]
    new = [logits.argmax(-1, keepdim=True)]
    for count in (_UNTIMED, tokens) if tokens else ():
        del new[1:]
        begun = time.perf_counter()
        for _ in range(count):
            output = model(new[-1], past_key_values=cache, use_cache=True)
            new.append(output.logits[:, -1].argmax(-1, keepdim=True))
        decode_s = time.perf_counter() - begun
        cache.crop(-count)
    best = torch.log_softmax(logits[0].float(), -1).topk(top)
    return {
        "prompt_s": prompt_s,
        "decode_s": decode_s if tokens else 0.0,
        "new": torch.cat(new, 1).tolist(),
        "top": [list(pair) for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)],
    }


if __name__ == "__main__":
    answer_jobs(partial(start, *sys.argv[1:3], int(sys.argv[3])))
