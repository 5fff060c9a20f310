"""Full context: the whole input is in the graph, as in ordinary fine-tuning.

Source: maximum likelihood by teacher forcing (Williams and Zipser, 1989); the field's default.

    loss = sum_i w_i mean_{t in targets of i} -log p(y_t | everything before) / sum_i w_i

Memory and time grow with prompt and target alike. Right for short prompts; for a long
conversation before a short target see ``context_frozen``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engrain.data.examples import Batch
from engrain.learn.compute import autocast, hidden_states, losses_of
from engrain.learn.registry import register
from engrain.learn.technique import Representation


@dataclass(frozen=True)
class FullContextConfig:
    """Full context has no hyper-parameters."""


@register("full_context")
class FullContext(Representation):
    """Ordinary teacher forcing with the loss on the targets."""

    Config = FullContextConfig

    def loss(self, batch: Batch) -> Tensor:
        """Mean over examples of the mean over their targets."""
        with autocast():
            losses = losses_of(*hidden_states(self.setting.loaded, batch))
        self.hardest = example_max(losses, batch)
        return example_mean(losses, batch)


def example_sum(losses: Tensor, batch: Batch) -> Tensor:
    """Average target losses ``(targets,)`` within each example, then add examples by weight."""
    counts = batch.loss_mask.sum(-1)
    weights = (batch.weights / counts.clamp_min(1)).repeat_interleave(counts)
    return (losses * weights.to(losses.device)).sum()


def example_mean(losses: Tensor, batch: Batch) -> Tensor:
    """Average target losses ``(targets,)`` within each example, then examples by weight."""
    return example_sum(losses, batch) / batch.weights.sum()


def example_max(losses: Tensor, batch: Batch) -> Tensor:
    """The greatest target loss of each example, ``(batch,)``, without a graph."""
    spread = losses.detach().new_zeros(batch.loss_mask.shape)
    spread[batch.loss_mask.to(losses.device)] = losses.detach()
    return spread.amax(-1)
