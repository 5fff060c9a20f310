"""The compact forward: the model's own numbers, on the parameters that are in force."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engrain.data.messages import Message
from engrain.model import agreement
from engrain.model.agreement import measure, padding_bias
from engrain.model.cache import cache_argument, new_cache, padded
from engrain.model.decode import Plan
from engrain.model.engine import Engine
from engrain.model.layers import Unsupported
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model
from tests.model.shapes import SHAPES, random_prompts

MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2-norms-behind": ("olmo2", {}),
    "smollm3-without-positions": ("smollm3", {"layers": 4}),
    "qwen2-biases": ("qwen2", {}),
}
ORDINARY = ("gemma4-shared-kv", "qwen3-experts", "gpt2", "lfm2-convolutions")
COMPACT = [name for name in (*SHAPES, *MORE) if name not in ORDINARY]


def model_of(name: str) -> LoadedModel:
    architecture, options = {**SHAPES, **MORE}[name]
    return tiny_model(architecture, **options)


def randomised(loaded: LoadedModel) -> LoadedModel:
    """Norms and biases that are not all ones and zeros, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return loaded


def whole(loaded: LoadedModel, ids: list[int], **more: Any) -> Tensor:
    """The definition: no cache, one row."""
    with torch.inference_mode():
        logits: Tensor = loaded.model(torch.tensor([ids]), use_cache=False, **more).logits[0]
    return logits


@pytest.mark.parametrize("name", COMPACT)
@pytest.mark.parametrize("lengths", [(3,), (30, 11, 3)])
@pytest.mark.parametrize("compiled", [True, False])
def test_steps_give_the_logits_of_the_whole_sequence(
    name: str, lengths: tuple[int, ...], compiled: bool
) -> None:
    """Prefill by the model, then steps; rows leave the batch until a padded one is left alone."""
    loaded = randomised(model_of(name))
    generator = torch.Generator().manual_seed(0)
    steps = 20
    rows = [torch.randint(0, 260, (n + steps,), generator=generator).tolist() for n in lengths]
    cache = new_cache(loaded.model, loaded.profile)
    ids, mask = padded([row[:-steps] for row in rows], loaded.pad_id, left=True)
    positions = mask.cumsum(1).sub(1).clamp_min(0)
    with torch.inference_mode():
        loaded.model(
            ids, attention_mask=mask, position_ids=positions, **cache_argument(loaded.model, cache)
        )
        plan, left = Plan(loaded, compiled=compiled), list(range(len(rows)))
        for step in range(steps):
            if step in (8, 14) and len(left) > 1:
                keep = torch.arange(1, len(left))
                cache.reorder_cache(keep)  # type: ignore[arg-type]
                mask, left = mask[keep], left[1:]
            mask = torch.cat([mask, mask.new_ones(len(left), 1)], dim=1)
            tokens = torch.tensor([rows[i][step - steps] for i in left])
            bias = padding_bias(mask, torch.float32)
            logits = plan.step(tokens, mask.sum(1) - 1, cache, bias)
            for i, own in zip(left, logits, strict=True):
                expected = whole(loaded, rows[i])[step - steps]
                assert torch.allclose(own, expected, atol=2e-5 * float(expected.abs().max()))
    assert cache.get_seq_length() == max(lengths) + steps


@pytest.mark.parametrize("name", [*COMPACT, *ORDINARY])
def test_who_takes_the_compact_forward(name: str) -> None:
    engine = Engine(model_of(name))
    assert engine.fast_decode is (name in COMPACT)
    assert bool(engine.fast_decode_reason) is (name in ORDINARY)


def steps_of(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every compact step that the engine takes from now on."""
    seen: list[int] = []
    step = Plan.step

    def counted(self: Plan, tokens: Tensor, *args: Any) -> Tensor:
        seen.append(len(tokens))
        return step(self, tokens, *args)

    assert engine.fast_decode
    monkeypatch.setattr(Plan, "step", counted)
    return seen


def test_the_engine_steps_compactly(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model("llama", tied=False))
    engine.loaded.stop_ids = ()
    seen = steps_of(engine, monkeypatch)
    engine.generate(random_prompts(5), max_new_tokens=7)
    assert seen == [5] * 6
    seen.clear()
    list(engine.stream(random_prompts(1)[0], max_new_tokens=7))
    assert seen == [1] * 6


def test_weights_that_change_in_place_are_in_force_at_the_next_token() -> None:
    """A plan holds the parameters themselves: nothing in it can be stale."""
    loaded = tiny_model("qwen3", tied=False)
    cache = new_cache(loaded.model, loaded.profile)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        loaded.model(ids, **cache_argument(loaded.model, cache))
    plan = Plan(loaded)
    for index, parameter in enumerate(loaded.model.parameters()):
        before = plan.step(torch.tensor([9]), torch.tensor([4]), cache)
        for layer in cache.layers:
            layer.truncate(4)  # type: ignore[attr-defined]
        with torch.no_grad():
            parameter[-1 if index else 9].mul_(1.5)
        after = plan.step(torch.tensor([9]), torch.tensor([4]), cache)
        for layer in cache.layers:
            layer.truncate(4)  # type: ignore[attr-defined]
        assert not torch.equal(before, after)
        fresh = Plan(loaded).step(torch.tensor([9]), torch.tensor([4]), cache)
        for layer in cache.layers:
            layer.truncate(4)  # type: ignore[attr-defined]
        assert torch.equal(after, fresh)


def wrap_projection(loaded: LoadedModel) -> None:
    class Wrapped(nn.Linear):
        pass

    attention = loaded.model.model.layers[1].self_attn
    attention.v_proj = Wrapped(64, 32, bias=False)


def hook_layer(loaded: LoadedModel) -> None:
    loaded.model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def add_module(loaded: LoadedModel) -> None:
    loaded.model.model.layers[0].memory = nn.Linear(4, 4)


def add_inner_module(loaded: LoadedModel) -> None:
    loaded.model.model.layers[0].self_attn.gate = nn.Linear(4, 4)


def replace_forward(loaded: LoadedModel) -> None:
    feed = loaded.model.model.layers[0].mlp
    feed.forward = lambda x, forward=feed.forward: 2 * forward(x)


CHANGES = [wrap_projection, hook_layer, add_module, add_inner_module, replace_forward]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_was_changed_takes_the_ordinary_way(
    change: Callable[[LoadedModel], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model("llama", tied=False))
    seen = steps_of(engine, monkeypatch)
    change(engine.loaded)
    assert not engine.fast_decode and engine.fast_decode_reason
    [messages] = random_prompts(1)
    answer = "".join(engine.stream(messages, max_new_tokens=8))
    assert engine.generate([messages], max_new_tokens=8) == [answer.strip()]
    assert not seen


def test_peft_modules_take_the_ordinary_way() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    engine = Engine(tiny_model("llama", tied=False))
    assert engine.fast_decode
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), engine.loaded.model)
    assert not engine.fast_decode


def test_a_forward_that_differs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale of the logits that no module shows: only the measurement can tell."""
    loaded = tiny_model("llama", tied=False)
    own = type(loaded.model).forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        output.logits = output.logits * 1.01
        return output

    monkeypatch.setattr(type(loaded.model), "forward", scaled)
    found = measure(loaded)
    assert not found.fast and "differ" in found.reason


def test_other_kinds_of_rotation_are_refused() -> None:
    loaded = tiny_model("llama")
    loaded.model.config.rope_parameters["rope_type"] = "dynamic"
    with pytest.raises(Unsupported, match="dynamic"):
        Plan(loaded)


def test_an_error_midway_leaves_the_cache_as_it_was() -> None:
    loaded = tiny_model("llama")
    cache = new_cache(loaded.model, loaded.profile)
    with torch.inference_mode():
        loaded.model(torch.tensor([[5, 6, 7]]), **cache_argument(loaded.model, cache))
    plan = Plan(loaded, compiled=False)
    plan.layers.append(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        plan.step(torch.tensor([8]), torch.tensor([3]), cache)
    assert [layer.get_seq_length() for layer in cache.layers] == [3, 3]


# Near ties


def tied_engine(gap: float) -> Engine:
    """An engine whose model gives two tokens logits that are closer than rounding."""
    engine = Engine(tiny_model("llama", tied=False))
    engine.loaded.stop_ids = ()
    head = engine.loaded.model.lm_head.weight
    with torch.no_grad():
        # Every even row is its odd neighbour, all but equal.
        head[1::2] = head[::2] * (1 + gap)
    return engine


@pytest.mark.parametrize("gap", [0.0, 1e-7, 3e-7])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9}])
def test_near_ties_are_those_of_the_definition(gap: float, options: dict[str, Any]) -> None:
    """All ways of computing a token give the one that the whole sequence alone gives."""
    engine = tied_engine(gap)
    prompts = random_prompts(8)
    options = {"max_new_tokens": 8, **options}
    alone = engine.generate(prompts, **options, batch_size=1)
    assert engine.generate(prompts, **options) == alone
    assert engine.generate(prompts, **options, batch_size=3) == alone
    if options.get("temperature"):
        return
    for messages, answer in zip(prompts, alone, strict=True):
        ids = engine.encode_chat(messages)
        start = len(ids)
        for _ in range(8):
            ids.append(int(whole(engine.loaded, ids, logits_to_keep=1)[-1].argmax()))
        text = engine.loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)
        assert answer == text.strip()
        assert "".join(engine.stream(messages, max_new_tokens=8)).strip() == answer


def test_only_near_ties_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []
    definition = Engine._definition

    def counted(self: Engine, row: Any) -> Tensor:
        again.append(row.index)
        return definition(self, row)

    monkeypatch.setattr(Engine, "_definition", counted)
    clear = Engine(tiny_model("llama", tied=False))
    clear.generate(random_prompts(8), max_new_tokens=8)
    assert len(again) <= 1
    again.clear()
    tied_engine(1e-7).generate(random_prompts(8), max_new_tokens=8)
    assert len(again) == 64


def test_the_deviation_is_never_taken_to_be_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_stepped", lambda *_: [])
    assert measure(tiny_model("llama")).deviation > 0


def test_answers_after_a_long_conversation() -> None:
    """The rotations of positions beyond the first block, and a buffer that grew."""
    engine = Engine(tiny_model("llama", tied=False, max_length=1024))
    engine.loaded.stop_ids = ()
    messages = [Message("user", "a" * 240)]
    answer = "".join(engine.stream(messages, max_new_tokens=40)).strip()
    assert engine.generate([messages], max_new_tokens=40) == [answer]
