"""Context-frozen training: keys and values of the context are constants.

Source: the reference system's notes, and the exact semantics that this project gives them
(docs/explanation/learning.md). For a context c_1..c_C and targets y_1..y_D:

    1. without gradients, run c_1..c_{C-1} and keep its keys and values (a fresh cache);
    2. with gradients, run [c_C, y_1..y_{D-1}] at positions C-1..C+D-2 on that cache;
    3. loss = mean of -log p(y_t | ...).

Every weight still acts on the tokens of step 2, so queries, outputs, MLPs and the keys and
values of those tokens get gradients; none flows through activations of the context. This is not the
gradient of ordinary loss masking, which keeps the path through the context's keys and values.
c_C belongs to step 2, otherwise y_1 has no logit that can be trained.

Cost for N weights, C context and D target tokens: 2NC + 6ND instead of 6N(C+D), activations of
D tokens instead of C+D. Use it for long contexts; the gradient is not that of the full loss, so
a closed-book lesson with a short question learns a little slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engrain.data.examples import Batch
from engrain.learn.compute import autocast
from engrain.learn.registry import register
from engrain.learn.representation.full_context import example_mean
from engrain.learn.technique import Representation


@dataclass(frozen=True)
class ContextFrozenConfig:
    """Context-frozen training has no hyper-parameters."""


@register("context_frozen")
class ContextFrozen(Representation):
    """Train the continuation on a cache of the context that carries no gradient."""

    Config = ContextFrozenConfig

    def loss(self, batch: Batch) -> Tensor:
        """Mean over examples of the mean over their targets, context detached."""
        logits, targets = frozen_logits(self.setting.loaded.model, batch)
        return example_mean(cross_entropy(logits.float(), targets, reduction="none"), batch)

    def graph_tokens(self, tokens: int, targets: int, rows: int) -> int:
        """The targets and the last token of each context."""
        return min(tokens, targets + rows)


def frozen_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits ``(targets, vocabulary)`` and targets ``(targets,)`` on a frozen context.

    Contexts of different lengths are padded on the left, so that all continuations begin in one
    column; positions are counted from each example's own first token.
    """
    from transformers import DynamicCache

    frozen = (batch.context_lengths - 1).clamp_min(0)
    lengths = batch.attention_mask.sum(-1)
    width, rest = int(frozen.max()), int((lengths - frozen).max())
    columns = torch.arange(width + rest)
    # Column of the padded layout -> position in the example: the context ends at column `width`.
    positions = columns - (width - frozen)[:, None]
    valid = (positions >= 0) & (positions < lengths[:, None])
    index = positions.clamp(0, batch.input_ids.shape[1] - 1)
    ids = batch.input_ids.gather(1, index)
    is_target = batch.loss_mask.gather(1, index) & valid

    cache = DynamicCache(config=model.config)
    mask = None if bool(valid.all()) else valid.long()
    with autocast():
        if width:
            with torch.no_grad():
                model(
                    input_ids=ids[:, :width],
                    attention_mask=None if mask is None else mask[:, :width],
                    position_ids=index[:, :width],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        output = model(
            input_ids=ids[:, width:],
            attention_mask=mask,
            position_ids=index[:, width:],
            past_key_values=cache if width else None,
            use_cache=bool(width),
        )
    wanted = is_target[:, width:]
    # The logit at a column predicts the next one; column `width` is c_C and is never a target.
    return output.logits[:, :-1][wanted[:, 1:]], ids[:, width:][wanted]
