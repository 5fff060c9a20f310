"""KL anchor: general predictions stay where the untaught model has them.

Source: the forward Kullback-Leibler divergence to a reference model on anchor texts, the quantity
that predicts forgetting (Shenfeld et al., arXiv 2509.04259) and the penalty of learning without
forgetting (Li and Hoiem, arXiv 1606.09282, equation 4, temperature 1):

    penalty = strength * mean over anchor tokens of  sum_v p_ref(v) log(p_ref(v) / p_now(v)).

The reference is the model with its base weights: with the model before the lesson, as in both
papers, each lesson may move a little further from where the one before had moved to.

Anchors are general texts (half of the packaged ones tell things and ask for them, or ask for what
was never told) plus the lesson's own conversation asked *in context*: closed-book training would
otherwise teach the model to ignore its context and never to say that it does not know. The
divergence is kept at the ``top_k`` likeliest tokens, with the rest of the mass as one more outcome;
by the data-processing inequality this never exceeds the full divergence, and equals it when
``top_k`` is the vocabulary.

Memory: texts * tokens * top_k numbers. Time: one forward before the lesson, ``texts_per_step`` more
sequences in each step. Raw general text in place of the divergence fails (see docs/LOG.md).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from engrain.data.examples import Batch, Example
from engrain.data.lessons import TrainingText
from engrain.learn.compute import autocast, hidden_logits
from engrain.learn.divergence import coarse_kl
from engrain.learn.registry import register
from engrain.learn.technique import Regularization, Setting, StepCost, option


@dataclass(frozen=True)
class KlAnchorConfig:
    """Hyper-parameters of the KL anchor."""

    strength: float = option(3.0, "weight of the divergence in the loss", low=0.0)
    texts: int = option(96, "anchor texts looked at for one lesson", low=1)
    reading_share: float = option(
        0.25, "share of anchors that read the lesson's conversations", low=0, high=1
    )
    texts_per_step: int = option(2, "anchor texts in each step", low=1)
    max_tokens: int = option(128, "longest general text in tokens", low=8)
    reference: str = option(
        "base",
        "whose predictions are kept: of the base, or the current model before the lesson",
        choices=("base", "current"),
    )
    top_k: int = option(256, "likeliest tokens that are told apart; 0 keeps all", low=0)


@register("kl_anchor")
class KlAnchor(Regularization):
    """Forward KL to the untaught model on general and reading texts."""

    Config = KlAnchorConfig

    def prepare(self, setting: Setting) -> None:
        """Choose the anchors and keep the reference's predictions on them."""
        self._setting = setting
        self._groups = self._grouped([self._example(text) for text in self._choose(setting)])
        self._teacher: list[tuple[Tensor, Tensor]] = []
        if self.config.strength == 0:
            return
        keys = [
            (self.name, self.config.reference, self.config.top_k, *(e.ids for e in group))
            for group in self._groups
        ]
        missing = [at for at, key in enumerate(keys) if key not in setting.memo]
        if missing:
            now = self.config.reference == "current"
            with torch.no_grad(), nullcontext() if now else setting.loaded.untaught():
                for at in missing:
                    found = self._top(self._log_probabilities(self._groups[at]))
                    setting.memo[keys[at]] = found
        self._teacher = [setting.memo[key] for key in keys]

    def _choose(self, setting: Setting) -> list[TrainingText]:
        rng = setting.rng("kl_anchor")
        reading = [t for t in setting.lesson.texts if t.kind == "reading"]
        for lesson in setting.earlier:
            reading += [t for t in lesson.texts if t.kind == "reading"]
        wanted = min(len(reading), round(self.config.reading_share * self.config.texts))
        chosen = rng.sample(reading, wanted)
        general = list(setting.anchors)
        chosen += rng.sample(general, min(len(general), self.config.texts - len(chosen)))
        return chosen

    def _example(self, text: TrainingText) -> Example:
        example = self._setting.encode(text)
        if text.kind == "reading":
            return example
        # Every token of a general text is an anchor, not the last answer alone.
        ids = example.ids[: self.config.max_tokens]
        return Example(ids, (False, *(True,) * (len(ids) - 1)), 0, kind="anchor")

    def _grouped(self, examples: list[Example]) -> list[list[Example]]:
        """The anchors of each step: those of like length together, so that few are padded."""
        count = self.config.texts_per_step
        ordered = sorted(examples, key=len)
        groups = [ordered[at : at + count] for at in range(0, len(ordered), count)]
        self._setting.rng("kl_anchor", "order").shuffle(groups)
        return groups

    def _log_probabilities(self, examples: list[Example]) -> Tensor:
        batch = Batch.of(examples, self._setting.loaded.pad_id)
        with autocast():
            logits, _ = hidden_logits(self._setting.loaded, batch)
        return torch.log_softmax(logits.float(), dim=-1)

    def _top(self, log_p: Tensor) -> tuple[Tensor, Tensor]:
        size = log_p.shape[-1]
        kept = size if self.config.top_k == 0 else min(self.config.top_k, size)
        values, index = log_p.topk(kept, dim=-1)
        return values, index

    def penalty(self, step: int) -> Tensor:
        """The weighted divergence on this step's anchors.

        Divided by the tokens of a mean step, not of this one, so that every anchor token counts
        the same whatever the length of its group.
        """
        if not self._teacher:
            return torch.zeros(())
        at = step % len(self._groups)
        log_p, index = self._teacher[at]
        log_q = self._log_probabilities(self._groups[at]).gather(-1, index)
        tokens = sum(len(known) for known, _ in self._teacher) / len(self._teacher)
        return float(self.config.strength) * coarse_kl(log_p, log_q).sum() / tokens

    def cost(self, setting: Setting) -> StepCost:
        """Values and indices of the kept outcomes, and the groups of the steps."""
        if self.config.strength == 0:
            return StepCost()
        self._setting = setting
        groups = self._grouped([self._example(text) for text in self._choose(setting)])
        sizes = [
            (len(group) * max(map(len, group)), sum(sum(e.loss_mask) for e in group))
            for group in groups
        ]
        profile = setting.loaded.profile
        size = profile.vocab_size
        # A layer keeps some twenty vectors of a token; a target has logits, logs and gradients.
        token, target = 20 * len(profile.layers) * profile.hidden_size, 3 * size
        dearest = max(sizes, key=lambda item: item[0] * token + item[1] * target, default=(0, 0))
        read, predicted = (sum(counts) for counts in zip((0, 0), *sizes, strict=True))
        kept = 12 * min(self.config.top_k or size, size) * predicted
        return StepCost(kept, *dearest, read, predicted, max(1, len(groups)))
