"""How a training step is computed: packed rows, the compute type, PEFT's layer in fewer passes."""

import copy

import peft
import pytest
import torch
from torch import nn

from engrain.data.examples import Batch, Example
from engrain.data.lessons import Lesson
from engrain.learn import compute, registry
from engrain.learn.architecture.lora import Lora
from engrain.learn.heads import head_of
from engrain.learn.technique import Setting
from engrain.model.context import Packing, objection
from engrain.model.testing import tiny_model


def batch(tokens: int) -> Batch:
    rows = [tuple(range(3, 3 + size)) for size in (tokens, tokens - 2, 3, tokens - 5)]
    return Batch.of([Example(ids, (False, *(True,) * (len(ids) - 1)), 1) for ids in rows], 0)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("llama", {}), ("qwen3", {"sliding_window": 4}), ("gemma2", {"sliding_window": 4})],
)
def test_packed_rows_give_the_logits_and_gradients_of_padded_ones(
    architecture: str, shape: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny_model(architecture, **shape)
    loaded.model.requires_grad_(True)
    found = []
    for short in (compute.SHORT, 0):
        monkeypatch.setattr(compute, "SHORT", short)
        logits, targets = compute.hidden_logits(loaded, batch(12))
        loss = nn.functional.cross_entropy(logits, targets)
        gradients = torch.autograd.grad(loss, list(loaded.model.parameters()))
        found.append((logits.detach(), targets, *gradients))
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)


def test_no_layer_sees_padding() -> None:
    loaded = tiny_model("llama")
    assert not objection(loaded) and head_of(loaded.model)
    seen: list[int] = []
    loaded.model.model.layers[0].mlp.register_forward_hook(
        lambda module, given, out: seen.append(given[0].shape[:-1].numel())
    )
    rows = batch(12)
    compute.hidden_logits(loaded, rows)
    assert seen == [int(rows.attention_mask.sum())]
    assert seen[0] < rows.input_ids.numel()


def test_packing_there_and_back_is_the_identity() -> None:
    packing = Packing.of(batch(12).attention_mask)
    tokens = torch.randn(1, 2, len(packing.gather), 5)
    assert torch.equal(packing.packed(packing.padded(tokens)), tokens.transpose(1, 2))


@pytest.mark.parametrize("architecture", ["gemma4", "lfm2"])
def test_models_that_keep_more_than_keys_and_values_learn_on_padded_rows(architecture: str) -> None:
    loaded = tiny_model(architecture)
    together, _ = compute.hidden_logits(loaded, batch(12))
    alone = []
    for row in range(4):
        one = batch(12).rows([row], torch.zeros(1, dtype=torch.long))
        alone.append(compute.hidden_logits(loaded, one)[0])
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_lora_on_transposed_matrices_keeps_pefts_layer() -> None:
    loaded = tiny_model("gpt2")
    lora = registry.build("architecture", "lora", {"rank": 4})
    assert isinstance(lora, Lora)
    lora.attach(Setting(loaded, Lesson("x", "", ())))
    logits, targets = compute.hidden_logits(loaded, batch(12))
    nn.functional.cross_entropy(logits, targets).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in lora.parameters().values())
    lora.detach()


@pytest.mark.parametrize("bf16", [False, True])
def test_lora_layer_computes_what_pefts_does(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_bf16", lambda: bf16)
    loaded = tiny_model("qwen2")
    lora = registry.build("architecture", "lora", {"rank": 4})
    assert isinstance(lora, Lora)
    lora.attach(Setting(loaded, Lesson("x", "", ())))
    layers = [m for m in loaded.model.modules() if isinstance(m, peft.tuners.lora.Linear)]
    assert len(layers) == 14 and any(m.base_layer.bias is not None for m in layers)
    torch.manual_seed(0)
    for layer in layers[:7]:
        nn.init.normal_(layer.lora_B["default"].weight)
        theirs = copy.deepcopy(layer)
        del theirs.forward
        found = []
        for module in (layer, theirs):
            inputs = torch.randn(3, 5, layer.in_features, generator=torch.manual_seed(1))
            inputs.requires_grad_(True)
            with compute.autocast():
                out = module(inputs)
            trained = [module.lora_A["default"].weight, module.lora_B["default"].weight]
            found.append(
                (out, *torch.autograd.grad(out.float().square().mean(), [inputs, *trained]))
            )
        for ours, other in zip(*found, strict=True):
            assert ours.dtype == other.dtype
            tolerance = 0.02 * float(other.detach().abs().max()) if bf16 else 1e-5
            torch.testing.assert_close(ours, other, atol=tolerance, rtol=tolerance)
    lora.detach()


def test_frozen_weights_in_the_compute_type_change_no_bit(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(compute, "has_bf16", lambda: True)
    loaded = tiny_model("llama")
    loaded.model.requires_grad_(False)
    linear = loaded.model.model.layers[0].mlp.up_proj.weight
    trained = loaded.model.model.layers[0].mlp.down_proj.weight.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in loaded.weights().items()}

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        with compute.autocast():
            logits, targets = compute.hidden_logits(loaded, batch(12))
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        return logits.detach(), torch.autograd.grad(loss, trained)[0]

    plain = step()
    with compute.frozen_in_compute_type(loaded.model):
        assert linear.dtype == torch.bfloat16 and trained.dtype == torch.float32
        held = step()
    assert all(torch.equal(one, other) for one, other in zip(plain, held, strict=True))
    assert linear.dtype == torch.float32
    assert loaded.changed_since(before) == []
