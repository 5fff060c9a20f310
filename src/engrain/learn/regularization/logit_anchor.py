"""Logit anchor: on a few texts of earlier lessons, the logits stay where they were.

Source: the distillation term of dark experience replay (Buzzega et al., arXiv 2004.07211), which
k-FPF-KD (Zhao et al., ICML 2023, arXiv 2304.04158) adds to its phases. For logits z of the texts of
a buffer, and z' those before the lesson:

    penalty = strength * mean over targets and the ``top_k`` largest z' of each of  (z - z')^2.

The buffer is a reservoir over the facts of earlier lessons that still hold. A run of the learner is
a task, so what the source stores with each text as it comes is here what the model says before the
lesson; this lesson's own texts have no logits worth keeping yet. The source keeps the logits of all
of its ten to hundred classes; of a vocabulary the largest are kept. A softmax does not mind one
number added to all logits, this penalty does.

k-FPF-KD is the rule ``k-fpf`` with this beside it, and its ``phases`` and ``share`` here, too:
outside of those phases nothing is paid and nothing computed. With ``phases`` 0 it holds at every
step, which is dark experience replay.

Memory: 8 top_k bytes a target. Time: a forward over the buffer before the lesson, and
``texts_per_step`` more sequences in each step that pays. Refused with ``absence``, under which the
weights of such a step may lack the lesson whose logits are held; ``kl_anchor`` holds what was never
taught. No figures of k-FPF-KD were at hand, and ``strength`` is not tuned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from engrain.data.examples import Batch, Example
from engrain.learn.compute import autocast, hidden_logits
from engrain.learn.optimization.fpf import cycles
from engrain.learn.registry import register
from engrain.learn.replay.reservoir import current, reservoir
from engrain.learn.technique import Regularization, Setting, StepCost, option


@dataclass(frozen=True)
class LogitAnchorConfig:
    """Hyper-parameters of the logit anchor."""

    strength: float = option(0.1, "weight of the squared distance in the loss", low=0.0)
    buffer: int = option(500, "texts of the buffer", low=1)
    texts_per_step: int = option(2, "texts in each step that pays", low=1)
    top_k: int = option(64, "largest logits that are kept of a target", low=1)
    phases: int = option(0, "phases of k-fpf in which it pays; 0: every step", low=0, high=10_000)
    share: float = option(0.25, "share of the steps that are phases", low=0, high=0.9)


@register("logit_anchor")
class LogitAnchor(Regularization):
    """Squared distance to the logits before the lesson."""

    Config = LogitAnchorConfig
    holds_earlier = True

    def prepare(self, setting: Setting) -> None:
        """Fill the buffer, and keep the model's logits on it."""
        self._setting = setting
        phases = cycles(setting.steps, self.config.phases, self.config.share)
        paying = [step for cycle in phases for step in range(cycle.phase, cycle.end)]
        # Counted among those that pay: phases come at distances that would pass texts over.
        turns = enumerate(paying if self.config.phases else range(setting.steps))
        self._turns = {step: turn for turn, step in turns}
        self._batches = [Batch.of(group, setting.loaded.pad_id) for group in self._groups(setting)]
        with torch.no_grad():
            self._kept = [self._largest(self._logits(batch)) for batch in self._batches]

    def _groups(self, setting: Setting) -> list[list[Example]]:
        """The texts of each step: those of like length together, so that few are padded."""
        if self.config.strength == 0:
            return []
        earlier = current(setting.earlier, setting.lesson)
        stream = [(lesson.id, text) for lesson, texts in earlier for text in texts]
        kept = reservoir(stream, self.config.buffer, setting.rng("logit_anchor"))
        ordered = sorted((setting.encode(text, lesson) for lesson, text in kept), key=len)
        count = self.config.texts_per_step
        groups = [ordered[at : at + count] for at in range(0, len(ordered), count)]
        setting.rng("logit_anchor", "order").shuffle(groups)
        return groups

    def _logits(self, batch: Batch) -> Tensor:
        with autocast():
            return hidden_logits(self._setting.loaded, batch)[0].float()

    def _largest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        values, index = logits.topk(min(self.config.top_k, logits.shape[-1]), dim=-1)
        return values, index.int()

    def penalty(self, step: int) -> Tensor:
        """The weighted distance on this step's texts; 0 outside of the phases."""
        if not self._batches or step not in self._turns:
            return torch.zeros(())
        at = self._turns[step] % len(self._batches)
        values, index = self._kept[at]
        found = self._logits(self._batches[at]).gather(-1, index.long())
        return float(self.config.strength) * mse_loss(found, values)

    def cost(self, setting: Setting) -> StepCost:
        """What is kept of the buffer, and the groups of the steps."""
        groups = self._groups(setting)
        targets = [sum(sum(example.loss_mask) for example in group) for group in groups]
        tokens = [len(group) * max(map(len, group)) for group in groups]
        top_k = min(self.config.top_k, setting.loaded.profile.vocab_size)
        return StepCost(
            8 * top_k * sum(targets),
            max(tokens, default=0),
            max(targets, default=0),
            sum(tokens),
            sum(targets),
            max(1, len(groups)),
        )
