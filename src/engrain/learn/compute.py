"""How the forward of a training step is computed: bf16 where the CPU has it, few logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engrain.data.examples import Batch
from engrain.model.hardware import compute_type

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def has_bf16() -> bool:
    """Whether training computes in bf16: by the processor's flags or by configuration."""
    return compute_type() == "bfloat16"


def autocast() -> AbstractContextManager[Any]:
    """Training in the compute type of :mod:`engrain.model.hardware`: bf16 by autocast, or fp32.

    Norms, losses and moments stay in fp32.
    """
    if has_bf16():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def frozen_in_compute_type(model: nn.Module) -> Iterator[None]:
    """Keep the linear weights that are not trained in the compute type for a while.

    Autocast converts a frozen weight anew at each pass; this does the same conversion once. The
    very tensors that the model had come back afterwards. Weights that are tied to an embedding
    are left alone.
    """
    if not has_bf16():
        yield
        return
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    weights = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    }
    held = [(w, w.data) for key, w in weights.items() if key not in tied and w.is_cpu]
    try:
        for weight, data in held:
            weight.data = data.to(torch.bfloat16)
        yield
    finally:
        for weight, data in held:
            weight.data = data


SHORT = 256
"""Tokens up to which attention is written out: its memory grows with their square."""


@contextmanager
def attention_for(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Attention written out plainly for a batch of short texts on a CPU.

    A fused kernel saves memory on long sequences; on some forty tokens its backward costs more
    than the two matrix products. The implementation that the model had comes back afterwards.
    """
    before = model.config._attn_implementation
    if tokens > SHORT or model.device.type != "cpu" or before != "sdpa":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def hidden_logits(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits that predict the batch's targets, and the targets.

    Gives ``(targets, vocabulary)`` and ``(targets,)``, row by row in order. Only columns that some
    row needs go through the output matrix.
    """
    columns = batch.loss_mask.any(0).nonzero().squeeze(-1)
    with attention_for(model, batch.input_ids.shape[1]):
        output = model(
            input_ids=batch.input_ids,
            attention_mask=None
            if bool(batch.attention_mask.all())
            else batch.attention_mask.long(),
            logits_to_keep=columns - 1,
            use_cache=False,
        )
    wanted = batch.loss_mask[:, columns]
    return output.logits[wanted], batch.input_ids[:, columns][wanted]
