"""The compiled step: the numbers of the model's own forward, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engrain.model import kernels
from engrain.model.agreement import measure, padding_bias
from engrain.model.cache import cache_argument, new_cache, padded
from engrain.model.compiled import ACTIVATIONS
from engrain.model.decode import Plan
from engrain.model.engine import Engine
from engrain.model.kernels import build
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model
from tests.model.shapes import random_prompts

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tied": False}),
    "llama-odd-sizes": ("llama", {"hidden": 72, "kv_heads": 1}),
    "qwen2-biases": ("qwen2", {}),
    "qwen3": ("qwen3", {"sliding_window": 130}),
    "gemma2": ("gemma2", {"sliding_window": 200}),
    "gemma3": ("gemma3", {"sliding_window": 100}),
    "mistral": ("mistral", {"sliding_window": 256}),
    "olmo2": ("olmo2", {}),
    "phi3-joint": ("phi3", {}),
    "smollm3-without-positions": ("smollm3", {"layers": 4}),
}
TYPES = (torch.float32, torch.bfloat16)


def usable() -> list[str]:
    """Instruction sets whose library is compiled, and runs on this processor."""
    return [isa for isa in build.sets() if kernels.load(isa)[0] is not None]


USABLE = usable()
needs_kernels = pytest.mark.skipif(not USABLE, reason=f"no kernels: {kernels.reason()}")


@pytest.fixture(params=USABLE or ["none"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every instruction set in turn is the one in use."""
    found, why = kernels.load(request.param) if request.param != "none" else (None, "")
    if found is None:
        pytest.skip(f"no kernels: {why or kernels.reason()}")
    monkeypatch.setattr(kernels, "_found", lambda: (found, f"{request.param}-test", ""))
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def model_of(name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A tiny model whose norms and biases are not all ones and zeros."""
    architecture, options = MODELS[name]
    loaded = tiny_model(architecture, max_length=1024, **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    loaded.model.to(dtype)
    return loaded


def tokens_of(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 260, (count,), generator=generator).tolist()


@torch.inference_mode()
def stepped(
    loaded: LoadedModel, rows: list[list[int]], steps: int, *, compiled: bool = True
) -> Tensor:
    """Logits ``(rows, steps, vocabulary)``: a prefill by the model, then steps by a plan."""
    cache = new_cache(loaded.model, loaded.profile)
    ids, mask = padded([row[:-steps] for row in rows], loaded.pad_id, left=True)
    positions = mask.cumsum(1).sub(1).clamp_min(0)
    loaded.model(
        ids, attention_mask=mask, position_ids=positions, **cache_argument(loaded.model, cache)
    )
    plan = Plan(loaded, compiled=compiled)
    assert bool(plan.without_kernels) is not compiled
    found = []
    for step in range(-steps, 0):
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        tokens = torch.tensor([row[step] for row in rows])
        bias = padding_bias(mask, loaded.dtype)
        found.append(plan.step(tokens, mask.sum(1) - 1, cache, bias))
    return torch.stack(found, dim=1)


@torch.inference_mode()
def whole(loaded: LoadedModel, rows: list[list[int]], steps: int) -> Tensor:
    """The same by the definition: one row, no cache."""
    logits = [loaded.model(torch.tensor([row]), use_cache=False).logits[0, -steps:] for row in rows]
    return torch.stack(logits)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lengths", [(258,), (131, 40, 3, 9, 260)])
def test_steps_are_those_of_the_model(isa: str, name: str, lengths: tuple[int, ...]) -> None:
    """Across the ends of chunks (128, 256), alone and in a batch with padding."""
    loaded = model_of(name)
    steps = 5 if len(lengths) == 1 else 2
    rows = [tokens_of(length, seed) for seed, length in enumerate(lengths)]
    expected = whole(loaded, rows, steps)
    close = 2e-5 * float(expected.abs().max())
    by_torch = stepped(loaded, rows, steps, compiled=False)
    by_kernels = stepped(loaded, rows, steps)
    assert torch.allclose(by_kernels, expected, rtol=0, atol=close)
    assert torch.allclose(by_kernels, by_torch, rtol=0, atol=close)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_is_as_near_to_the_truth_as_the_model(isa: str, name: str) -> None:
    """The truth: the same weights and keys, computed in fp32."""
    loaded = model_of(name, torch.bfloat16)
    rows, steps = [tokens_of(n, n) for n in (60, 33, 21)], 8
    own, ours = whole(loaded, rows, steps).float(), stepped(loaded, rows, steps).float()
    loaded.model.to(torch.float32)
    truth = whole(loaded, rows, steps)
    error, allowed = (ours - truth).square().mean().sqrt(), (own - truth).square().mean().sqrt()
    assert error <= 1.2 * allowed
    loaded.model.to(torch.bfloat16)
    assert measure(loaded).compiled


@needs_kernels
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 255, 256, 257, 600])
def test_any_length(length: int) -> None:
    for name in ("llama", "gemma3"):
        loaded = model_of(name)
        row = tokens_of(length + 1)
        expected = whole(loaded, [row], 1)
        found = stepped(loaded, [row], 1)
        assert torch.allclose(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@needs_kernels
@pytest.mark.parametrize("dtype", TYPES)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, threads: None) -> None:
    for name in ("llama-odd-sizes", "gemma2", "olmo2"):
        loaded = model_of(name, dtype)
        rows = [tokens_of(300), tokens_of(150, 1)]
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(1)
            cache = new_cache(loaded.model, loaded.profile)
            ids, mask = padded([row[:-1] for row in rows], loaded.pad_id, left=True)
            with torch.inference_mode():
                loaded.model(ids, attention_mask=mask, **cache_argument(loaded.model, cache))
            mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            torch.set_num_threads(count)
            tokens = torch.tensor([row[-1] for row in rows])
            plan = Plan(loaded)
            found.append(plan.step(tokens, mask.sum(1) - 1, cache, padding_bias(mask, dtype)))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_kernels
@pytest.mark.parametrize("dtype", TYPES)
def test_a_row_is_the_same_in_any_batch(dtype: torch.dtype) -> None:
    """To the bit, where no padding moves its tokens to other places."""
    loaded = model_of("llama", dtype)
    cache = new_cache(loaded.model, loaded.profile)
    with torch.inference_mode():
        loaded.model(torch.tensor([tokens_of(200)]), **cache_argument(loaded.model, cache))
    plan, tokens = Plan(loaded), torch.tensor(tokens_of(7, 1))
    alone = []
    for token in tokens:
        alone.append(plan.step(token[None], torch.tensor([200]), cache))
        for layer in cache.layers:
            layer.truncate(200)  # type: ignore[attr-defined]
    cache.batch_repeat_interleave(7)
    together = plan.step(tokens, torch.full((7,), 200), cache)
    assert torch.equal(together, torch.cat(alone))


@needs_kernels
@pytest.mark.parametrize("name", ["qwen3", "phi3-joint", "gemma2", "qwen2-biases"])
@pytest.mark.parametrize("moved", [False, True])
def test_changed_weights_are_in_force_at_the_next_token(name: str, moved: bool) -> None:
    """Written in place, or given other memory: the plan follows."""
    loaded = model_of(name)
    cache = new_cache(loaded.model, loaded.profile)
    with torch.inference_mode():
        loaded.model(torch.tensor([[5, 6, 7, 8]]), **cache_argument(loaded.model, cache))
    plan = Plan(loaded)

    def step(plan: Plan) -> Tensor:
        found = plan.step(torch.tensor([9]), torch.tensor([4]), cache)
        for layer in cache.layers:
            layer.truncate(4)  # type: ignore[attr-defined]
        return found

    for parameter in loaded.model.parameters():
        before = step(plan)
        changed = parameter.detach().clone()
        changed[changed.shape[0] // 2 :].mul_(1.5)
        changed[9 % changed.shape[0]].mul_(1.5)
        if moved:
            parameter.data = changed
        else:
            with torch.no_grad():
                parameter.copy_(changed)
        after = step(plan)
        assert not torch.equal(before, after)
        assert torch.equal(after, step(Plan(loaded)))


@needs_kernels
@pytest.mark.parametrize("number", sorted(ACTIVATIONS))
def test_activations(number: int) -> None:
    names = {0: "silu", 1: "gelu_pytorch_tanh", 2: "gelu"}
    from transformers.activations import ACT2FN

    loaded = model_of("llama")
    for layer in loaded.model.model.layers:
        layer.mlp.act_fn = ACT2FN[names[number]]
    row = tokens_of(20)
    expected, found = whole(loaded, [row], 4), stepped(loaded, [row], 4)
    assert torch.allclose(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@needs_kernels
def test_what_the_kernels_do_not_know_is_left_to_torch() -> None:
    class Cube(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**3

    loaded = model_of("llama")
    for layer in loaded.model.model.layers:
        layer.mlp.act_fn = Cube()
    plan = Plan(loaded)
    assert "Cube" in plan.without_kernels
    assert Engine(loaded).fast_decode
    halves = model_of("llama", torch.float64)
    assert "float64" in Plan(halves).without_kernels


@needs_kernels
def test_steps_that_differ_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong kernel is found out by measuring, and torch takes its place."""
    from engrain.model.compiled import Compiled

    loaded = model_of("llama")
    own = Compiled.step
    monkeypatch.setattr(Compiled, "step", lambda *a: own(*a) * 1.01)
    engine = Engine(loaded)
    assert engine.fast_decode and not measure(loaded).compiled
    plan = engine._plan()
    assert plan is not None and plan.without_kernels


@needs_kernels
def test_the_signature_names_the_kernels() -> None:
    plan = Plan(model_of("llama"))
    assert kernels.name() in plan.signature
    with kernels.without():
        assert kernels.name() == "" and kernels._found()[1] not in Plan(model_of("llama")).signature


def test_without_kernels_torch_computes() -> None:
    loaded = model_of("llama")
    engine = Engine(loaded)
    engine.loaded.stop_ids = ()
    answers = engine.generate(random_prompts(4), max_new_tokens=8)
    with kernels.without():
        assert kernels.library() is None and kernels.name() == ""
        assert "switched off" in Plan(loaded).without_kernels
        assert engine.fast_decode
        assert engine.generate(random_prompts(4), max_new_tokens=8) == answers


@needs_kernels
def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "digest", lambda: "0" * 16)
    for isa in USABLE:
        found, why = kernels.load(isa)
        assert found is None and "other sources" in why
    library, name, why = kernels._found.__wrapped__()
    assert library is None and name == "" and why


def test_kernels_are_switched_by_name() -> None:
    try:
        kernels.set_kernels("off")
        assert kernels.library() is None and kernels.reason() == "they are switched off"
        kernels.set_kernels("auto")
        assert bool(kernels.name()) is bool(USABLE)
        with pytest.raises(ValueError, match="neither"):
            kernels.set_kernels("neither")
    finally:
        kernels.set_kernels()
