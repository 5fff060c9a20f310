import torch

from engrain.data.examples import Batch, Example
from engrain.learn import compute
from engrain.model.testing import tiny_model


def batch(tokens: int) -> Batch:
    rows = [tuple(range(3, 3 + size)) for size in (tokens, tokens - 2)]
    return Batch.of([Example(ids, (False, *(True,) * (len(ids) - 1)), 1) for ids in rows], 0)


def test_attention_is_written_out_for_short_texts_only() -> None:
    model = tiny_model("llama").model
    before = model.config._attn_implementation
    assert before == "sdpa"
    with compute.attention_for(model, compute.SHORT):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == before
    with compute.attention_for(model, compute.SHORT + 1):
        assert model.config._attn_implementation == before


def test_both_attentions_give_the_same_logits_and_gradients(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    loaded = tiny_model("llama")
    weight = loaded.model.get_input_embeddings().weight.requires_grad_(True)
    found = []
    for short in (compute.SHORT, 0):
        monkeypatch.setattr(compute, "SHORT", short)
        logits, targets = compute.hidden_logits(loaded.model, batch(12))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        (gradient,) = torch.autograd.grad(loss, weight)
        found.append((logits.detach(), gradient))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


def test_frozen_weights_in_the_compute_type_change_no_bit(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(compute, "has_bf16", lambda: True)
    loaded = tiny_model("llama")
    loaded.model.requires_grad_(False)
    linear = loaded.model.model.layers[0].mlp.up_proj.weight
    trained = loaded.model.model.layers[0].mlp.down_proj.weight.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in loaded.weights().items()}

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        with compute.autocast():
            logits, targets = compute.hidden_logits(loaded.model, batch(12))
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        return logits.detach(), torch.autograd.grad(loss, trained)[0]

    plain = step()
    with compute.frozen_in_compute_type(loaded.model):
        assert linear.dtype == torch.bfloat16 and trained.dtype == torch.float32
        held = step()
    assert all(torch.equal(one, other) for one, other in zip(plain, held, strict=True))
    assert linear.dtype == torch.float32
    assert loaded.changed_since(before) == []
