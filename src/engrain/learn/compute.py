"""How the forward of a training step is computed: bf16 where the CPU has it, few logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from engrain.data.examples import Batch
from engrain.learn.heads import Head, head_of
from engrain.model.context import Context, Packing, attended, attending, attending_again, objection
from engrain.model.hardware import compute_type

if TYPE_CHECKING:
    from engrain.model.loading import LoadedModel


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


SHORT = 512
"""Tokens up to which rows are packed: the attention that can do so holds a row's score pairs."""


def hidden_states(
    loaded: LoadedModel,
    batch: Batch,
    positions: Tensor | None = None,
    context: Context | None = None,
) -> tuple[Head | None, Tensor, Tensor]:
    """The output layer, what it is given where the batch's targets are predicted, the targets.

    Gives ``(targets, dim)`` and ``(targets,)``, row by row in order. Where the model makes its
    logits in another way the layer is None, and the logits ``(targets, vocabulary)`` stand in.
    ``context`` stands before each row, whose tokens are at ``positions`` ``(batch, seq)`` then.
    Rows of unequal length are packed into one where the model allows it.
    """
    model, head = loaded.model, head_of(loaded.model)
    # Batches are made and cut on the processor; only what the model reads goes where it is.
    ids, mask, targeted = (
        part.to(loaded.device) for part in (batch.input_ids, batch.attention_mask, batch.loss_mask)
    )
    targets = ids[targeted]
    # What stands before a target predicts it.
    wanted = targeted.roll(-1, 1)
    arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    way: AbstractContextManager[None] = nullcontext()
    short = ids.shape[1] <= SHORT and not objection(loaded)
    if context is not None or short:
        packing = None
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if positions is not None:
            columns = positions.to(ids.device)
        # Else right-padded rows under a causal mask: no token sees the padding.
        if short and not bool(mask.all()):
            packing, wanted = Packing.of(mask), wanted[mask][None]
            ids, columns = ids[mask][None], columns[mask][None]
        way = attending(model, context, packing)
        arguments |= {"input_ids": ids, "position_ids": columns}
    elif not bool(mask.all()):
        arguments["attention_mask"] = mask.long()
    with way:
        if head is not None:
            return head, head.decoder(**arguments).last_hidden_state[wanted], targets
        return None, model(**arguments).logits[wanted], targets


def hidden_logits(loaded: LoadedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits ``(targets, vocabulary)`` that predict the batch's targets, and the targets."""
    head, hidden, targets = hidden_states(loaded, batch)
    return (hidden if head is None else head.logits(hidden)), targets


def losses_of(head: Head | None, hidden: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihoods ``(targets,)`` of what :func:`hidden_states` gave, fp32."""
    if head is None:
        return cross_entropy(hidden.float(), targets, reduction="none")
    return head.losses(hidden, targets)


@contextmanager
def recomputing(loaded: LoadedModel) -> Iterator[None]:
    """Keep only what goes from layer to layer, and run each layer again in backward.

    A third more arithmetic; the activations of one layer at a time. (Chen et al., arXiv
    1604.06174, section 4.)
    """
    layers = loaded.model.get_submodule(loaded.profile.layers_path)
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _again(loaded.model, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _again(model: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        seen, way = attended(), model.config._attn_implementation

        def body(*given: Any, **named: Any) -> Any:
            with attending_again(model, seen, way):
                return forward(*given, **named)

        return checkpoint(body, *given, use_reentrant=False, **named)

    return run
