"""Choosing the next token: greedy, or sampled so that a row does not depend on its batch mates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def row_uniforms(seed: int, row: int, count: int) -> Tensor:
    """The random numbers of one row, one a token, from a generator of its own.

    They depend on the seed of the call and on the row's place in it, not on how rows are batched.
    """
    name = hashlib.sha256(f"{seed}:{row}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(name[:8], "little") >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64)


def choose(
    logits: Tensor, *, temperature: float = 0.0, top_p: float = 1.0, uniforms: Tensor | None = None
) -> Tensor:
    """The next token of each row: ``logits`` is ``(rows, vocabulary)``.

    Temperature 0 is greedy. Otherwise each row's uniform number is looked up in the cumulative
    distribution of its tokens.
    """
    if temperature <= 0.0 or uniforms is None:
        return logits.float().argmax(dim=-1)
    return _draw(logits, temperature, top_p, uniforms).tokens


def settled(
    logits: Tensor,
    deviation: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    uniforms: Tensor | None = None,
) -> Tensor:
    """Which rows choose the same token wherever each logit lies within ``deviation`` of its value.

    ``logits`` is ``(rows, vocabulary)``, ``deviation`` and the result ``(rows,)``. True is certain;
    False may be said of a row that would choose the same after all. Logits that are not numbers
    count as settled: computing them again gives no numbers either.
    """
    return choose_settled(
        logits, deviation, temperature=temperature, top_p=top_p, uniforms=uniforms
    )[1]


def choose_settled(
    logits: Tensor,
    deviation: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    uniforms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What :func:`choose` and :func:`settled` say, for little more than one of them costs."""
    if temperature <= 0.0 or uniforms is None:
        logits = logits.float()
        most, tokens = logits.max(dim=-1)
        least = most - 2 * deviation.to(logits)
        return tokens, (logits >= least.unsqueeze(-1)).sum(dim=-1) <= 1
    draw = _draw(logits, temperature, top_p, uniforms)
    # Odds change by at most this factor, so a share of the whole by at most a quarter of it.
    factor = (2 * deviation.to(logits.device).double() / temperature).exp().unsqueeze(-1)
    reach = (factor - 1.0) / 4
    kept = draw.cumulative[:, -1:]
    own = draw.probabilities.gather(-1, draw.picked)
    above = draw.cumulative.gather(-1, draw.picked)
    # The sum of the kept probabilities is a share itself, and moves with the rest.
    margin = 3 * reach
    begins, ends = above - own <= 0.0, above >= kept
    if draw.order is not None:
        # Tokens near the nucleus' end may be in or out; the first is always in.
        whole = draw.probabilities + draw.dropped
        edge = (whole.cumsum(dim=-1) - whole - top_p).abs() <= reach
        edge[:, 0] = False
        margin = margin + whole.masked_fill(~edge, 0.0).sum(dim=-1, keepdim=True)
        ends &= ~edge.any(dim=-1, keepdim=True)
    upper, lower = above - draw.targets > margin, draw.targets - (above - own) > margin
    # No rounding moves where the first interval begins and the last one ends.
    certain = (upper | ends) & (lower | begins)
    if draw.order is not None:
        # Another token as likely as the one that was picked could have stood in its place.
        close = (whole * factor >= own) & (whole <= own * factor)
        certain &= (close.sum(dim=-1, keepdim=True) <= 1) & ~edge.gather(-1, draw.picked)
        # Tokens that were left out of the order could have been near the nucleus' end.
        certain &= reach < _out_of_reach(top_p)
    return draw.tokens, (certain | logits.isnan().any(dim=-1, keepdim=True)).squeeze(-1)


@dataclass(frozen=True, slots=True)
class _Draw:
    """Tokens by falling probability (``order`` None: as they are), and where a number fell."""

    probabilities: Tensor
    dropped: Tensor
    order: Tensor | None
    cumulative: Tensor
    targets: Tensor
    picked: Tensor

    @property
    def tokens(self) -> Tensor:
        picked = self.picked if self.order is None else self.order.gather(-1, self.picked)
        return picked.squeeze(-1)


def _draw(logits: Tensor, temperature: float, top_p: float, uniforms: Tensor) -> _Draw:
    probabilities, dropped, order = _nucleus(logits, temperature, top_p)
    cumulative = probabilities.cumsum(dim=-1)
    targets = uniforms.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    picked = torch.searchsorted(cumulative, targets, right=True)
    picked = picked.clamp_max(probabilities.shape[-1] - 1)
    return _Draw(probabilities, dropped, order, cumulative, targets, picked)


def _out_of_reach(top_p: float) -> float:
    """Of the probability outside the nucleus, the half that holds the least likely tokens."""
    return (1.0 - max(top_p, 0.0)) / 2


def _rare(probabilities: Tensor, top_p: float) -> float:
    """A probability below which tokens need no place in the order: sorting takes longest.

    All of them together are less likely than half of what is left outside of the nucleus.
    """
    bound = _out_of_reach(top_p)
    for rare in (1e-3, 1e-4, 1e-5):
        most = probabilities.where(probabilities < rare, 0.0).sum(dim=-1).max()
        if most <= bound:
            return rare
    return bound / probabilities.shape[-1]


def _nucleus(
    logits: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Probabilities that may be drawn, those that may not, and the tokens' order (None: as is)."""
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p >= 1.0:
        return probabilities, torch.zeros_like(probabilities), None
    common = (~(probabilities < _rare(probabilities, top_p))).any(dim=0).nonzero()[:, 0]
    probabilities, order = probabilities[:, common].sort(dim=-1, descending=True, stable=True)
    order = common[order]
    before = probabilities.cumsum(dim=-1) - probabilities
    out = before >= max(top_p, 0.0)
    # The likeliest token stays, so top_p = 0 is greedy and not empty.
    out[:, 0] = False
    dropped = probabilities.masked_fill(~out, 0.0)
    kept = probabilities.masked_fill(out, 0.0)
    kept[:, 0] = kept[:, 0].clamp_min(torch.finfo(torch.float64).tiny)
    return kept, dropped, order


class TextDecoder:
    """Text of tokens as they come: pieces never break a character, and add up to the whole.

    ``context`` are the last tokens of the prompt: tokenisers that drop a leading space do so at the
    start of a text, and what is generated is not the start.
    """

    def __init__(self, tokenizer: object, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(context[-4:])
        self._shown = len(self._decode(self._ids))
        self._from = 0

    def push(self, token: int) -> str:
        """Take one token; give the text that is certain now, which may be empty."""
        self._ids.append(token)
        text = self._decode(self._ids[self._from :])
        # An unfinished character decodes to the replacement character until its last byte comes.
        if text.endswith("\ufffd"):
            return ""
        return self._emit(text)

    def finish(self) -> str:
        """The rest of the text, with replacement characters where bytes were missing."""
        return self._emit(self._decode(self._ids[self._from :]))

    def _emit(self, text: str) -> str:
        piece = text[self._shown :]
        # Decoding from a few tokens back, not from the start, keeps the cost of a token constant.
        if len(self._ids) - self._from > 32:
            start = len(self._ids) - 8
            window = self._decode(self._ids[start:])
            # A window that starts inside a character is no good; the next token offers another.
            if not window.startswith("\ufffd"):
                self._from, text = start, window
        self._shown = len(text)
        return piece

    def _decode(self, ids: Sequence[int]) -> str:
        return decode(self._tokenizer, ids)


def decode(tokenizer: object, ids: Sequence[int]) -> str:
    """The text of tokens, without special tokens."""
    text = tokenizer.decode(  # type: ignore[attr-defined]
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)


def decode_after(tokenizer: object, context: Sequence[int], ids: Sequence[int]) -> str:
    """The text that ``ids`` add to a text ending in ``context``."""
    tail = list(context[-4:])
    before = decode(tokenizer, tail)
    whole = decode(tokenizer, [*tail, *ids])
    if whole.startswith(before):
        return whole[len(before) :]
    # The context ended inside a character that the first new token completes.
    return decode(tokenizer, ids)
