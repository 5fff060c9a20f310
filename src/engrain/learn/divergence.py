"""How far a model's predictions have moved from those that it made at another time.

A :class:`Reference` keeps what a model predicts on some texts, and tells the forward
Kullback-Leibler divergence of its present predictions from that, in nats a token:

    mean over tokens of  sum_v p_then(v) log(p_then(v) / p_now(v)).

The likeliest tokens are told apart, the rest of the mass is one more outcome
(:func:`coarse_kl`). Memory: 8 bytes for each kept outcome of each token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engrain.data.examples import Batch, Example
from engrain.learn.compute import autocast, hidden_logits
from engrain.learn.replay.reservoir import current

if TYPE_CHECKING:
    from engrain.learn.technique import Setting
    from engrain.model.loading import LoadedModel

TOGETHER = 2
"""Texts that go through the model at once: their logits are held whole."""


def known_texts(setting: Setting, count: int, name: str) -> tuple[list[Example], list[Example]]:
    """Texts that the model knows before a lesson, at most ``count``, drawn at random.

    Gives what earlier lessons taught and still holds, and general texts: half of each, and where
    one kind is short the other fills up.
    """
    rng = setting.rng(name)
    taught = [
        setting.encode(text, old.id)
        for old, kept in current(setting.earlier, setting.lesson)
        for text in kept
    ]
    general = list(setting.anchors)
    half = max(count // 2, count - len(general))
    chosen = rng.sample(taught, min(len(taught), half))
    others = rng.sample(general, min(len(general), count - len(chosen)))
    return chosen, [setting.encode(text) for text in others]


def whole(example: Example, longest: int) -> Example:
    """The first tokens of an example, each of them but the first a target."""
    ids = example.ids[:longest]
    return Example(ids, (False, *(True,) * (len(ids) - 1)), 0, kind=example.kind)


@dataclass
class Reference:
    """What a model predicted: logarithms and indices ``(tokens, kept)`` of each batch."""

    loaded: LoadedModel
    batches: Sequence[Batch]
    kept: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, loaded: LoadedModel, examples: Sequence[Example], top_k: int) -> Reference:
        """What the model predicts now; ``top_k`` 0 keeps every outcome."""
        ordered = sorted(examples, key=len)
        groups = [ordered[at : at + TOGETHER] for at in range(0, len(ordered), TOGETHER)]
        batches = [Batch.of(group, loaded.pad_id) for group in groups]
        reference = cls(loaded, batches, [])
        for batch in batches:
            log_p = reference._log_probabilities(batch)
            values, index = log_p.topk(min(top_k or log_p.shape[-1], log_p.shape[-1]), dim=-1)
            reference.kept.append((values, index.to(torch.int32)))
        return reference

    def divergence(self) -> float:
        """Mean divergence of the present predictions, in nats a token."""
        total, tokens = 0.0, 0
        for batch, (log_p, index) in zip(self.batches, self.kept, strict=True):
            log_q = self._log_probabilities(batch).gather(-1, index.long())
            total += float(coarse_kl(log_p, log_q).sum(dtype=torch.float64))
            tokens += len(log_p)
        return total / max(1, tokens)

    @torch.no_grad()
    def _log_probabilities(self, batch: Batch) -> Tensor:
        model: Any = self.loaded.model
        training = model.training
        # With dropout the same weights would have another divergence each time.
        model.eval()
        try:
            with autocast():
                logits, _ = hidden_logits(self.loaded, batch)
        finally:
            model.train(training)
        return torch.log_softmax(logits.float(), dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """All that is kept."""
        found: dict[str, Tensor] = {}
        for number, (values, index) in enumerate(self.kept):
            found |= {f"{number}.values": values, f"{number}.index": index}
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.kept = [
            (state[f"{number}.values"].clone(), state[f"{number}.index"].clone())
            for number in range(len(self.batches))
        ]


def coarse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL between two distributions given at the same outcomes, the rest as one more outcome.

    ``log_p``, ``log_q``: ``(tokens, kept)``. Gives ``(tokens,)``, each at least 0.
    """
    inside = (log_p.exp() * (log_p - log_q)).sum(-1)
    rest_p = (1 - log_p.exp().sum(-1)).clamp_min(1e-7)
    rest_q = (1 - log_q.exp().sum(-1)).clamp_min(1e-7)
    return inside + rest_p * (rest_p.log() - rest_q.log())
