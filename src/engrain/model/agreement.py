"""How far two ways of computing the same logits differ on this model and machine: measured.

The definition of an answer is the model's own forward over the whole sequence, one row, no cache.
Caches, batches, padding and the compact forward compute the same numbers in another order, so the
last bits differ. How much is measured on a few tokens; it decides whether the compact forward may
be used, and which choices of a token are too close to be left to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engrain.model.cache import cache_argument, new_cache, padded
from engrain.model.decode import Plan
from engrain.model.layers import Unsupported
from engrain.model.loading import LoadedModel

TOLERANCE = {torch.float32: 1e-4}
"""Largest difference of logits, as a share of the largest logit, of a forward that is the same."""
COARSE = 5e-2
"""The tolerance for types with fewer digits."""
LENGTHS = (14, 9)
"""Tokens of the two sample rows; the shorter one is padded."""
STEPS = 3
"""Tokens of each sample row that are computed one at a time."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether the compact forward may be used (``reason`` is empty then), and the deviation.

    ``deviation`` is the largest difference from the definition that any of the engine's ways
    showed, as a share of the largest logit. ``compiled`` says whether the kernels may compute it.
    """

    reason: str
    deviation: float
    signature: tuple[Any, ...] | None
    compiled: bool = True

    @property
    def fast(self) -> bool:
        """Whether the compact forward reproduces the model."""
        return not self.reason


def read(loaded: LoadedModel, *, compiled: bool = True) -> tuple[Plan | None, str]:
    """A plan of the model, or the reason why there is none."""
    try:
        return Plan(loaded, compiled=compiled), ""
    except Unsupported as problem:
        return None, str(problem)


@torch.inference_mode()
def measure(loaded: LoadedModel) -> Agreement:
    """Compare the engine's ways of stepping the model with the definition."""
    plan, reason = read(loaded)
    rows = _sample(loaded)
    truth = [_definition(loaded, row) for row in rows]
    scale = max(float(logits.abs().max()) for logits in truth) or 1.0

    def deviation(plan: Plan | None) -> float:
        # A few tokens may happen to agree to the bit; others will not.
        worst = float(torch.finfo(loaded.dtype).eps)
        for count in (1, len(rows)):
            for row, place, logits in _stepped(loaded, rows[:count], plan):
                worst = max(worst, float((logits - truth[row][place]).abs().max()) / scale)
        return worst

    if plan is not None:
        allowed = TOLERANCE.get(loaded.dtype, COARSE)
        found = deviation(plan)
        if found <= allowed:
            return Agreement("", found, plan.signature)
        reason = f"its logits differ from the model's own by {found:.1e} of the largest"
        if not plan.without_kernels:
            by_torch, _ = read(loaded, compiled=False)
            if (found := deviation(by_torch)) <= allowed:
                return Agreement("", found, plan.signature, compiled=False)
    return Agreement(reason, deviation(None), plan.signature if plan is not None else None)


def _sample(loaded: LoadedModel) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    limit = max(STEPS + 2, loaded.max_length)
    return [
        torch.randint(
            loaded.profile.vocab_size, (min(length, limit),), generator=generator
        ).tolist()
        for length in LENGTHS
    ]


def _definition(loaded: LoadedModel, row: list[int]) -> Tensor:
    ids = torch.tensor([row], device=loaded.device)
    logits: Tensor = loaded.model(input_ids=ids, use_cache=False, return_dict=True).logits
    return logits[0].float()


def _stepped(
    loaded: LoadedModel, rows: list[list[int]], plan: Plan | None
) -> Iterator[tuple[int, int, Tensor]]:
    """Row, place from the end and logits of the last tokens: a prefill, then single steps.

    At the last step only the last row is left, with its padding, as when the others have finished.
    """
    cache = new_cache(loaded.model, loaded.profile)
    ids, mask = padded([row[:-STEPS] for row in rows], loaded.pad_id, left=True)
    ids, mask = ids.to(loaded.device), mask.to(loaded.device)
    positions = mask.cumsum(1).sub(1).clamp_min(0)
    left = list(range(len(rows)))
    for place in range(-STEPS - 1, 0):
        if place >= -STEPS:
            if place == -1:
                keep = torch.tensor(left[-1:], device=loaded.device)
                cache.reorder_cache(keep)  # type: ignore[arg-type]
                mask, left = mask[keep], left[-1:]
            ids = torch.tensor([[rows[row][place]] for row in left], device=loaded.device)
            mask = torch.cat([mask, mask.new_ones(len(left), 1)], dim=1)
            positions = mask.sum(1, keepdim=True).sub(1)
        if place >= -STEPS and plan is not None:
            bias = padding_bias(mask, loaded.dtype)
            logits = plan.step(ids[:, 0], positions[:, 0], cache, bias)
        else:
            logits = loaded.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                **cache_argument(loaded.model, cache),
                use_cache=True,
                return_dict=True,
            ).logits[:, -1]
        for row, own in zip(left, logits.float(), strict=True):
            yield row, place, own


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What :meth:`Plan.step` adds to scores: ``(rows, 1, 1, tokens)``; None without padding."""
    if bool(mask.all()):
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(mask == 0, float("-inf"))[:, None, None]
