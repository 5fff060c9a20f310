"""The output layer where the loss needs it, and no further: some rows, a part of the vocabulary.

A batch of T targets and a vocabulary of V have T x V logits, of which ordinary code holds four
copies (logits, their fp32 form, log-probabilities, gradient). :func:`target_losses` goes over the
vocabulary in chunks and keeps a running maximum and sum, as the softmax of FlashAttention does
(Milakov and Gimelshein, arXiv 1805.02867, algorithm 3):

    loss_t = log sum_v exp(h_t w_v) - h_t w_(y_t)
    d loss_t / d h_t = sum_v (p_tv - [v = y_t]) w_v.

Memory: T x CHUNK logits at a time; small products (up to ``KEPT`` logits) are kept for backward,
larger ones computed again, which costs a third of the layer's arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engrain.model import kernels

CHUNK = 8192
"""Rows of the output matrix that are multiplied at once."""
KEPT = 1 << 23
"""Most logits that are kept from forward to backward (32 MiB in fp32)."""
KINDS = {torch.float32: 0, torch.bfloat16: 1}
_CHECKED = "_engrain_head_check"


@dataclass(frozen=True, eq=False)
class Head:
    """A model's output layer: ``softcap tanh((W h + b) / softcap)``, or ``W h + b``."""

    decoder: nn.Module
    layer: nn.Linear
    softcap: float = 0.0

    def logits(self, hidden: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., vocabulary)``."""
        found = linear(hidden, self.layer.weight, self.layer.bias)
        return torch.tanh(found / self.softcap) * self.softcap if self.softcap else found

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihoods ``(targets,)`` of hidden states ``(targets, dim)``, fp32."""
        device = hidden.device.type
        kind = hidden.dtype
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        layer = self.layer
        found: Tensor = _ChunkedLosses.apply(  # type: ignore[no-untyped-call]
            hidden, layer.weight, layer.bias, targets, self.softcap, kind
        )
        return found


def head_of(model: Any) -> Head | None:
    """The output layer of a model; None where its logits are made in another way.

    That is measured on the model once, not concluded from its configuration.
    """
    head = getattr(model, _CHECKED, None)
    if head is None:
        head = _measured(model)
        setattr(model, _CHECKED, head or False)
    return head or None


@torch.no_grad()
def _measured(model: Any) -> Head | None:
    layer = model.get_output_embeddings()
    decoder = getattr(model, "get_decoder", lambda: None)()
    if type(layer) is not nn.Linear or decoder is None or decoder is model:
        return None
    config = model.config.get_text_config(decoder=True)
    softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    head = Head(decoder, layer, softcap)
    ids = torch.arange(4, device=layer.weight.device)[None] % layer.weight.shape[0]
    with torch.autocast(ids.device.type, enabled=False):
        expected = model(input_ids=ids, use_cache=False).logits.float()
        found = head.logits(decoder(input_ids=ids, use_cache=False).last_hidden_state).float()
    tolerance = 1e-4 if layer.weight.dtype == torch.float32 else 2e-2
    close = torch.allclose(expected, found, rtol=tolerance, atol=tolerance)
    return head if close else None


class _ChunkedLosses(torch.autograd.Function):
    """Cross-entropy of an output layer, chunk by chunk of the vocabulary."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        softcap: float,
        kind: torch.dtype,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            rows = hidden.to(kind)
            peak = rows.new_full((len(rows),), -torch.inf, dtype=torch.float32)
            total, wanted = torch.zeros_like(peak), torch.zeros_like(peak)
            keep = len(rows) * weight.shape[0] <= KEPT
            kept: list[Tensor] = []
            for start, part, part_bias in _chunks(weight, bias, kind):
                logits = linear(rows, part, part_bias)
                _add(logits, start, targets, softcap, (peak, total, wanted))
                if keep:
                    kept.append(logits)
            # Two parts: beside a large peak the logarithm would lose its last digits.
            rest = total.log()
        ctx.save_for_backward(hidden, weight, bias, targets, peak, rest, *kept)
        ctx.softcap, ctx.kind = softcap, kind
        return (peak - wanted) + rest

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, peak, rest, *kept = ctx.saved_tensors
        kind, softcap = ctx.kind, ctx.softcap
        trained, biased = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        with torch.autocast(hidden.device.type, enabled=False):
            rows = hidden.to(kind)
            d_hidden = torch.zeros_like(rows, dtype=torch.float32)
            d_weight = torch.empty_like(weight) if trained else None
            d_bias = torch.empty_like(bias) if biased else None
            for number, (start, part, part_bias) in enumerate(_chunks(weight, bias, kind)):
                logits = kept[number] if kept else linear(rows, part, part_bias)
                change = _change(logits, start, targets, softcap, peak, rest, gradient)
                short = change.to(kind)
                d_hidden += short @ part
                if d_weight is not None:
                    d_weight[start : start + len(part)] = short.t() @ rows
                if d_bias is not None:
                    d_bias[start : start + len(part)] = change.sum(0)
        return d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None


def _chunks(weight: Tensor, bias: Tensor | None, kind: torch.dtype) -> Any:
    for start in range(0, weight.shape[0], CHUNK):
        part = weight[start : start + CHUNK].to(kind)
        yield start, part, None if bias is None else bias[start : start + CHUNK].to(kind)


def _add(
    logits: Tensor,
    start: int,
    targets: Tensor,
    softcap: float,
    running: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Take the logits of a part of the vocabulary into maximum, sum and the targets' logits."""
    peak, total, wanted = running
    if _by_kernel(logits, targets):
        rows, columns = logits.shape
        where = (KINDS[logits.dtype], rows, columns, start)
        kernels.run("engrain_losses", logits, *where, targets, softcap, peak, total, wanted)
        return
    logits = _capped(logits, softcap)
    higher = torch.maximum(peak, logits.amax(-1))
    total.mul_((peak - higher).exp_()).add_((logits - higher[:, None]).exp_().sum(-1))
    peak.copy_(higher)
    inside = (targets >= start) & (targets < start + logits.shape[1])
    at = (targets - start).clamp(0, logits.shape[1] - 1)[:, None]
    wanted.copy_(torch.where(inside, logits.gather(1, at)[:, 0], wanted))


def _change(
    logits: Tensor,
    start: int,
    targets: Tensor,
    softcap: float,
    peak: Tensor,
    rest: Tensor,
    gradient: Tensor,
) -> Tensor:
    """The gradient of the losses by the logits of a part of the vocabulary."""
    if _by_kernel(logits, targets):
        rows, columns = logits.shape
        where = (KINDS[logits.dtype], rows, columns, start)
        out, scale = torch.empty_like(logits), gradient.float().contiguous()
        known = (targets, softcap, peak, rest, scale)
        kernels.run("engrain_losses_back", logits, *where, *known, out)
        return out
    logits = _capped(logits, softcap)
    change = (logits - peak[:, None]).sub_(rest[:, None]).exp_()
    inside = ((targets >= start) & (targets < start + logits.shape[1])).nonzero()[:, 0]
    change[inside, targets[inside] - start] -= 1
    change *= gradient[:, None]
    if softcap:
        change *= 1 - (logits / softcap) ** 2
    return change


def _by_kernel(logits: Tensor, targets: Tensor) -> bool:
    return (
        kernels.library() is not None
        and logits.dtype in KINDS
        and logits.is_cpu
        and logits.is_contiguous()
        and targets.is_contiguous()
    )


def _capped(logits: Tensor, softcap: float) -> Tensor:
    """Logits in fp32, held below the soft cap."""
    found = logits.float()
    return torch.tanh(found / softcap) * softcap if softcap else found
