"""The output layer in chunks: loss and gradients are those of the plain cross-entropy."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from engrain.learn import heads
from engrain.learn.heads import Head, head_of
from engrain.model.testing import tiny_model


@pytest.fixture(params=[1 << 30, 0], ids=["kept", "computed again"])
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "CHUNK", 7)
    monkeypatch.setattr(heads, "KEPT", request.param)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_give_loss_and_gradients_of_the_whole(softcap: float, bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 50, bias=bias)
    head = Head(torch.nn.Identity(), layer, softcap)
    hidden = (3 * torch.randn(9, 16)).requires_grad_(True)
    targets = torch.tensor([0, 6, 7, 13, 49, 48, 21, 22, 0])
    weights = torch.rand(9)

    def plain() -> torch.Tensor:
        logits = linear(hidden, layer.weight, layer.bias)
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        return cross_entropy(logits, targets, reduction="none")

    trained = [hidden, *layer.parameters()]
    expected = torch.autograd.grad((plain() * weights).sum(), trained)
    found = torch.autograd.grad((head.losses(hidden, targets) * weights).sum(), trained)
    assert torch.allclose(head.losses(hidden, targets), plain(), atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.usefixtures("small_chunks")
def test_large_logits_do_not_overflow() -> None:
    layer = torch.nn.Linear(4, 20, bias=False)
    torch.nn.init.constant_(layer.weight, 100.0)
    hidden = torch.full((2, 4), 100.0, requires_grad=True)
    losses = Head(torch.nn.Identity(), layer).losses(hidden, torch.tensor([3, 19]))
    losses.sum().backward()
    assert torch.allclose(losses, torch.full((2,), 20.0).log())
    assert hidden.grad is not None and bool(hidden.grad.isfinite().all())


def test_no_tensor_of_all_logits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "KEPT", 0)
    vocabulary, rows = 40_000, 64
    head = Head(torch.nn.Identity(), torch.nn.Linear(8, vocabulary, bias=False))
    hidden = torch.randn(rows, 8, requires_grad=True)
    targets = torch.arange(rows)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.untyped_storage().size() != 4 * 8 * vocabulary:
                largest = max(largest, out.numel())
            return out

    with Watch():
        head.losses(hidden, targets).sum().backward()
    assert 0 < largest <= rows * heads.CHUNK


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gemma3", "phi3", "gpt2"])
def test_heads_of_real_architectures_are_found(architecture: str) -> None:
    model = tiny_model(architecture).model
    head = head_of(model)
    assert head is not None
    ids = torch.tensor([[5, 9, 11]])
    with torch.no_grad():
        hidden = head.decoder(input_ids=ids).last_hidden_state
        assert torch.allclose(head.logits(hidden), model(ids).logits, atol=1e-5)


def test_model_that_changes_its_logits_is_left_alone() -> None:
    loaded = tiny_model("llama")
    forward = loaded.model.forward

    def scaled(*given, **named):  # type: ignore[no-untyped-def]
        out = forward(*given, **named)
        out.logits = out.logits * 2
        return out

    loaded.model.forward = scaled
    assert head_of(loaded.model) is None
