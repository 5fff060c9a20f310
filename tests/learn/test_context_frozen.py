"""Context-frozen training against its definition."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from engrain.data.examples import Batch, Example
from engrain.learn import compute
from engrain.learn.compute import hidden_logits
from engrain.learn.representation import context_frozen
from engrain.learn.representation.context_frozen import frozen_logits
from engrain.model.testing import tiny_model

MODELS = [
    ("llama", {}),
    ("llama", {"tied": False, "kv_heads": 1}),
    ("qwen3", {}),
    ("gemma3", {"sliding_window": 8}),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_bf16", lambda: False)


def batch_of(context: list[int], target: list[int], frozen: int) -> Batch:
    ids = (*context, *target)
    mask = (False,) * len(context) + (True,) * len(target)
    return Batch.of([Example(ids, mask, frozen)], pad_id=0)


@contextmanager
def detached_context(model: torch.nn.Module, length: int) -> Iterator[None]:
    """Detach what enters attention as key and value at the first ``length`` positions."""

    def hook(module, inputs, output):  # type: ignore[no-untyped-def]
        if output.dim() == 4 and output.shape[1] != length and output.shape[2] > length:
            return torch.cat([output[:, :, :length].detach(), output[:, :, length:]], 2)
        return torch.cat([output[:, :length].detach(), output[:, length:]], 1)

    names = [name for name, _ in model.named_modules()]
    wanted = []
    for name, module in model.named_modules():
        normed = name.replace("k_proj", "k_norm")
        if name.endswith(("v_proj", "k_norm")) or (name.endswith("k_proj") and normed not in names):
            wanted.append(module.register_forward_hook(hook))
    yield
    for handle in wanted:
        handle.remove()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("architecture", "shape"), MODELS)
def test_loss_and_gradient_equal_the_definition(architecture: str, shape: dict) -> None:
    loaded = tiny_model(architecture, **shape)
    model = loaded.model.requires_grad_(True)
    batch = batch_of([5, 9, 11, 7, 12, 8, 6, 13, 4], [21, 22, 23, 24], frozen=9)

    logits, targets = frozen_logits(model, batch)
    frozen_loss = cross_entropy(logits, targets)
    frozen_gradients = gradients(model, frozen_loss)

    with detached_context(model, 8):
        logits, targets = hidden_logits(model, batch)
        loss = cross_entropy(logits, targets)
        reference = gradients(model, loss)

    assert torch.allclose(frozen_loss, loss, atol=1e-5)
    embedding = {id(model.get_input_embeddings().weight)}
    for name, parameter in model.named_parameters():
        if id(parameter) in embedding:
            continue
        assert torch.allclose(frozen_gradients[name], reference[name], atol=1e-5), name


def test_definition_differs_from_ordinary_masking() -> None:
    """The sceptic's check: without the detached keys and values the gradient is another one."""
    model = tiny_model("llama").model.requires_grad_(True)
    batch = batch_of([5, 9, 11, 7, 12, 8], [21, 22], frozen=6)
    frozen = gradients(model, cross_entropy(*frozen_logits(model, batch)))
    ordinary = gradients(model, cross_entropy(*hidden_logits(model, batch)))
    name = next(n for n in frozen if n.endswith("v_proj.weight"))
    assert not torch.allclose(frozen[name], ordinary[name], atol=1e-4)


def test_context_of_one_token_is_the_ordinary_gradient() -> None:
    model = tiny_model("llama").model.requires_grad_(True)
    batch = batch_of([5], [21, 22, 23], frozen=1)
    frozen = gradients(model, cross_entropy(*frozen_logits(model, batch)))
    ordinary = gradients(model, cross_entropy(*hidden_logits(model, batch)))
    for name, gradient in ordinary.items():
        assert torch.allclose(frozen[name], gradient, atol=1e-6), name


def test_no_gradient_reaches_the_inputs_of_the_context() -> None:
    from transformers import DynamicCache

    model = tiny_model("llama").model
    vectors = model.get_input_embeddings()(torch.tensor([[5, 9, 11, 7, 21, 22]])).detach()
    vectors.requires_grad_(True)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(inputs_embeds=vectors[:, :3], past_key_values=cache, use_cache=True)
    logits = model(inputs_embeds=vectors[:, 3:], past_key_values=cache).logits
    logits[:, :-1].sum().backward()
    assert vectors.grad is not None
    assert torch.equal(vectors.grad[:, :3], torch.zeros_like(vectors[:, :3]))
    assert vectors.grad[:, 3:-1].abs().sum() > 0


def test_batch_of_unequal_contexts_equals_one_by_one() -> None:
    model = tiny_model("llama").model
    rows = [
        Example((5, 9, 11, 7, 21, 22), (False,) * 4 + (True,) * 2, 4),
        Example((5, 9, 21, 22, 23), (False,) * 2 + (True,) * 3, 2),
        Example((8, 21), (False, True), 1),
    ]
    together, targets = frozen_logits(model, Batch.of(rows, 0))
    alone = [frozen_logits(model, Batch.of([row], 0)) for row in rows]
    assert torch.equal(targets, torch.cat([t for _, t in alone]))
    assert torch.allclose(together, torch.cat([logits for logits, _ in alone]), atol=1e-5)


def test_recomputed_cache_gives_the_same_bits() -> None:
    model = tiny_model("llama").model
    batch = batch_of([5, 9, 11, 7], [21, 22], frozen=4)
    first, _ = frozen_logits(model, batch)
    second, _ = frozen_logits(model, replace(batch))
    assert torch.equal(first, second)
    assert context_frozen.ContextFrozen.name == "context_frozen"
