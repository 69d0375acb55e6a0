"""What the microscope's page asks: how the model is built, and how each token of a text is routed and expected.

A text is read by the engine's thread in pieces, between its steps, by a decoder of its own if routers are told
otherwise. Nothing of it touches the answers of others.
"""

import asyncio
from functools import partial
from typing import Any

import numpy as np

from ..inference import Choices, Decoder, Interventions, intervened
from .answering import refusal
from .engine import Engine, Refused
from .errors import BAD, FULL, ApiError
from .requests import LookRequest
from .routed import described, told
from .sampling import Sampling, log_probability
from .served import Served

MOST_TOKENS = 1024  # of a text, with what is written after it
AT_ONCE = 4  # looks


class Microscope:
    """Looks at texts.

    Args:
        served: the model.
        engine: whose thread reads.

    Attributes:
        most_tokens: of a text, with what is written after it; no more is written than fits.
    """

    def __init__(self, served: Served, engine: Engine):
        self.served, self._engine, self._looking = served, engine, 0
        self.most_tokens = min(served.context, MOST_TOKENS)

    def model(self) -> dict[str, Any]:
        """The model, layer by layer."""
        return described(self.served) | {"most_tokens": self.most_tokens}

    async def look(self, request: LookRequest) -> dict[str, Any]:
        """Each token of a text, and of what is written after it. ApiError if that cannot be.

        The loss of a token is -ln p of it after those before it, in nats; the first has none.
        """
        ids = self.served.encoded(request.text, "text")
        if len(ids) > self.most_tokens:
            message = f"text may have {self.most_tokens:,} tokens, got {len(ids):,}"
            raise ApiError(BAD, message, param="text", code="context_length_exceeded")
        decoder = self._decoder(request)
        if self._looking >= AT_ONCE:
            raise ApiError(FULL, f"{AT_ONCE} texts are being looked at", code="busy", headers={"Retry-After": "1"})
        self._looking += 1
        try:
            return await self._look(decoder, ids, request)
        finally:
            self._looking -= 1

    def _decoder(self, request: LookRequest) -> Decoder:
        off: dict[int, frozenset[int]] = {}
        for each in request.off:
            off[each.layer] = off.get(each.layer, frozenset()) | frozenset(each.experts)
        pinned: dict[int, dict[int, int]] = {}
        for pin in request.pinned:
            pinned.setdefault(pin.layer, {})[pin.position] = pin.expert
        changes = Interventions({i: e for i, e in off.items() if e}, pinned, {of.layer: of.k for of in request.top_k})
        try:
            return intervened(self.served.decoder, changes) if changes else self.served.decoder
        except ValueError as error:
            raise ApiError(BAD, str(error), code="invalid_intervention") from None

    async def _look(self, decoder: Decoder, ids: list[int], request: LookRequest) -> dict[str, Any]:
        sampling = Sampling(request.temperature, seed=request.seed)
        (rng,), sequence = sampling.generators(1), decoder.new_sequence()
        tokens = list(ids)
        choices: list[Choices] = []
        losses: list[float | None] = [None]
        logits: Any = None
        end = min(len(ids) + request.tokens, self.most_tokens)
        while sequence.length < len(tokens) or len(tokens) < end:
            if sequence.length == len(tokens):
                tokens.append(sampling.draw(logits, rng))
                losses.append(-log_probability(logits, tokens[-1], 0).value)
            start = sequence.length
            piece = np.array(tokens[start : start + self._engine.budget])
            said = await self._read(partial(decoder.read, (sequence, piece), every=True, choices={sequence: choices}))
            losses += [-log_probability(x, t, 0).value for x, t in zip(said, tokens[start + 1 :], strict=False)]
            logits = said[-1]
        known = [loss for loss in losses[: len(ids)] if loss is not None]
        return {
            "sparse_layers": self.served.decoder.routed_layers,
            "prompt_tokens": len(ids),
            "mean_loss": sum(known) / len(known) if known else None,
            "text": self.served.tokenizer.decode(tokens[len(ids) :]),
            "tokens": told(self.served, tokens, choices, losses),
        }

    async def _read(self, function: partial) -> Any:
        try:
            return await asyncio.wrap_future(self._engine.call(function))
        except Refused as error:
            raise refusal(error) from None
        except ValueError as error:  # too few experts were left
            raise ApiError(BAD, str(error), code="invalid_intervention") from None
