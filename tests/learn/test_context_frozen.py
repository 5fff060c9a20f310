"""Context-frozen training against its definition."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from engrain.data.examples import Batch, Example, encode
from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.data.messages import Message
from engrain.errors import UnsupportedModelError
from engrain.learn import compute, registry
from engrain.learn.compute import hidden_logits
from engrain.learn.learner import Learner
from engrain.learn.recipe import Choice, Recipe
from engrain.learn.representation import context_frozen
from engrain.learn.technique import Representation, Setting
from engrain.model.cache import cache_argument
from engrain.model.context import compute_context
from engrain.model.digest import tensor_digest
from engrain.model.engine import Engine
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model

MODELS = [
    ("llama", {}),
    ("llama", {"tied": False, "kv_heads": 1}),
    ("qwen3", {}),
    ("qwen3", {"sliding_window": 5}),
    ("mistral", {"sliding_window": 6}),
    ("gemma2", {"sliding_window": 6}),
    ("gemma3", {"sliding_window": 8}),
    ("olmo2", {}),
    ("smollm3", {"layers": 4}),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_bf16", lambda: False)


def batch_of(context: list[int], target: list[int], frozen: int) -> Batch:
    ids = (*context, *target)
    mask = (False,) * len(context) + (True,) * len(target)
    return Batch.of([Example(ids, mask, frozen)], pad_id=0)


def frozen(
    loaded: LoadedModel, lesson: Lesson | None = None, source: Any = None, **settings: Any
) -> Representation:
    """The technique, prepared on a model."""
    technique = registry.build("representation", "context_frozen", settings)
    assert isinstance(technique, Representation)
    technique.prepare(Setting(loaded, lesson or Lesson("none", "", ()), contexts=source))
    return technique


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

    frozen_loss = frozen(loaded).loss(batch)
    frozen_gradients = gradients(model, frozen_loss)

    with detached_context(model, 8):
        loss = cross_entropy(*hidden_logits(loaded, batch))
        reference = gradients(model, loss)

    assert torch.allclose(frozen_loss, loss, atol=1e-5)
    embedding = {id(model.get_input_embeddings().weight)}
    for name, parameter in model.named_parameters():
        if id(parameter) in embedding:
            continue
        assert torch.allclose(frozen_gradients[name], reference[name], atol=2e-5), name


def test_definition_differs_from_ordinary_masking() -> None:
    """The sceptic's check: without the detached keys and values the gradient is another one."""
    loaded = tiny_model("llama")
    model = loaded.model.requires_grad_(True)
    batch = batch_of([5, 9, 11, 7, 12, 8], [21, 22], frozen=6)
    held = gradients(model, frozen(loaded).loss(batch))
    ordinary = gradients(model, cross_entropy(*hidden_logits(loaded, batch)))
    name = next(n for n in held if n.endswith("v_proj.weight"))
    assert not torch.allclose(held[name], ordinary[name], atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"shortest": 7}])
def test_what_is_not_frozen_has_the_ordinary_gradient(settings: dict) -> None:
    """A context of one token, and one below the shortest that is frozen."""
    loaded = tiny_model("llama")
    model = loaded.model.requires_grad_(True)
    context = [5, 9, 11, 7, 12, 8] if settings else [5]
    batch = batch_of(context, [21, 22, 23], frozen=len(context))
    held = gradients(model, frozen(loaded, **settings).loss(batch))
    ordinary = gradients(model, cross_entropy(*hidden_logits(loaded, batch)))
    for name, gradient in ordinary.items():
        assert torch.allclose(held[name], gradient, atol=1e-6), name


def test_no_gradient_reaches_the_inputs_of_the_context() -> None:
    from transformers import DynamicCache

    model = tiny_model("llama").model
    vectors = model.get_input_embeddings()(torch.tensor([[5, 9, 11, 7, 21, 22]])).detach()
    vectors.requires_grad_(True)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(inputs_embeds=vectors[:, :3], **cache_argument(model, cache), use_cache=True)
    logits = model(inputs_embeds=vectors[:, 3:], **cache_argument(model, cache)).logits
    logits[:, :-1].sum().backward()
    assert vectors.grad is not None
    assert torch.equal(vectors.grad[:, :3], torch.zeros_like(vectors[:, :3]))
    assert vectors.grad[:, 3:-1].abs().sum() > 0


ROWS = [
    Example((5, 9, 11, 7, 21, 22), (False,) * 4 + (True,) * 2, 4, weight=2.0),
    Example((5, 9, 21, 22, 23), (False,) * 2 + (True,) * 3, 2),
    Example((5, 9, 11, 7, 23, 24, 25), (False,) * 4 + (True,) * 3, 4),
    Example((8, 21), (False, True), 1),
]


@pytest.mark.parametrize("shape", [{}, {"sliding_window": 3}])
def test_batch_of_unequal_contexts_equals_one_by_one(shape: dict) -> None:
    loaded = tiny_model("qwen3", **shape)
    model = loaded.model.requires_grad_(True)
    technique = frozen(loaded)
    together = technique.loss(Batch.of(ROWS, 0))
    alone = sum(row.weight * technique.loss(Batch.of([row], 0)) for row in ROWS) / 5
    assert torch.allclose(together, alone, atol=1e-5)
    one, other = gradients(model, together), gradients(model, alone)
    for name, gradient in one.items():
        assert torch.allclose(gradient, other[name], atol=1e-5), name


LONG = [Message("user", f"Line {i} of a long talk.") for i in range(9)]
FOLLOWED = Lesson(
    "long",
    "",
    tuple(
        TrainingText(chat(*(m.content for m in LONG), answer), "fact", f"talk: {answer}")
        for answer in ("Yes, it was long.", "No, it is short.", "Who can say?")
    ),
)


def long_batch(loaded: LoadedModel) -> tuple[Batch, tuple[int, ...]]:
    setting = Setting(loaded, FOLLOWED)
    examples = [setting.encode(text) for text in FOLLOWED.texts]
    assert len({e.ids[: e.context_length] for e in examples}) == 1
    return Batch.of(examples, loaded.pad_id), examples[0].ids[: examples[0].context_length - 1]


def test_live_context_is_lent_by_serving_and_gives_the_bits_of_one_computed() -> None:
    loaded = tiny_model("qwen3", max_length=1024)
    engine = Engine(loaded)
    batch, prefix = long_batch(loaded)
    answer = list(engine.stream(FOLLOWED.texts[0].messages[:-1], max_new_tokens=6))
    held = engine.cache.peek((engine.state_digest, loaded.revision))
    assert held is not None and tuple(held.ids[: len(prefix)]) == prefix
    before = [layer.keys.clone() for layer in held.cache.layers]
    loaded.model.requires_grad_(True)

    live = frozen(loaded, FOLLOWED, engine.context, live=16)
    assert (
        next(iter(live._kept.values())).keys[0].data_ptr() == held.cache.layers[0].keys.data_ptr()
    )
    losses = [live.loss(batch) for _ in range(2)]
    lent = gradients(loaded.model, losses[0])
    again = frozen(loaded, FOLLOWED, Engine(loaded).context, live=16)
    computed_loss = again.loss(batch)
    computed = gradients(loaded.model, computed_loss)

    assert torch.equal(losses[0], losses[1])
    assert torch.allclose(losses[0], computed_loss, atol=1e-6)
    for name, gradient in lent.items():
        assert torch.allclose(gradient, computed[name], atol=1e-6), name
    assert all(
        torch.equal(layer.keys, old) for layer, old in zip(held.cache.layers, before, strict=True)
    )
    loaded.model.requires_grad_(False)
    assert list(engine.stream(FOLLOWED.texts[0].messages[:-1], max_new_tokens=6)) == answer


def test_context_computed_twice_gives_the_same_bits() -> None:
    loaded = tiny_model("llama", max_length=1024)
    batch, _ = long_batch(loaded)
    kept, anew = frozen(loaded, FOLLOWED, live=16), frozen(loaded, FOLLOWED, live=16, refresh=1)
    assert torch.equal(kept.loss(batch), anew.loss(batch))


def test_several_examples_of_one_conversation_share_one_context() -> None:
    loaded = tiny_model("llama", max_length=1024)
    engine, asked = Engine(loaded), []

    def source(ids: Any) -> Any:
        asked.append(tuple(ids))
        return engine.context(ids)

    batch, prefix = long_batch(loaded)
    technique = frozen(loaded, FOLLOWED, source, live=16)
    for _ in range(3):
        technique.loss(batch)
    assert asked == [prefix]


def test_refresh_follows_the_weights_and_keeping_does_not() -> None:
    loaded = tiny_model("llama", max_length=1024)
    batch, _ = long_batch(loaded)
    kept = frozen(loaded, FOLLOWED, live=16)
    anew = frozen(loaded, FOLLOWED, live=16, refresh=2)

    def value(technique: Representation) -> float:
        return float(technique.loss(batch).detach())

    first = value(kept), value(anew)
    assert first[0] == first[1]
    with torch.no_grad():
        for layer in loaded.model.model.layers:
            layer.self_attn.v_proj.weight.mul_(1.5)
    assert value(anew) == value(kept)
    assert value(anew) != value(kept)
    assert value(anew) == value(frozen(loaded, FOLLOWED, live=16))


@pytest.mark.parametrize("refresh", [0, 1, 3])
def test_run_on_a_kept_context_continues_to_the_bit(tmp_path: Any, refresh: int) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, steps: int, loss: float) -> None:
        if done == 5:
            raise StopError

    loaded = tiny_model("llama", max_length=1024)
    recipe = Recipe(
        "long",
        representation=Choice("context_frozen", {"live": 16, "refresh": refresh}),
        batch_size=2,
        min_steps=8,
        max_steps=8,
    )
    whole = Learner(recipe).run(loaded, FOLLOWED)
    path = tmp_path / "checkpoint"
    with pytest.raises(StopError):
        Learner(recipe).run(loaded, FOLLOWED, checkpoint=path, save_every=4, on_step=stop)
    resumed = Learner(recipe).run(loaded, FOLLOWED, checkpoint=path, save_every=4)
    assert resumed.resumed_from == 4
    assert resumed.losses == whole.losses
    assert tensor_digest(dict(resumed.adapter.tensors)) == tensor_digest(
        dict(whole.adapter.tensors)
    )


@pytest.mark.parametrize(
    ("architecture", "why"), [("lfm2", "can't be cut back"), ("gemma4", "earlier ones")]
)
def test_refuses_models_whose_cache_is_more_than_keys_and_values(
    architecture: str, why: str
) -> None:
    loaded = tiny_model(architecture, max_length=1024)
    short = batch_of([5], [21, 22], frozen=1)
    assert bool(frozen(loaded).loss(short).isfinite())
    with pytest.raises(UnsupportedModelError, match=why):
        frozen(loaded).loss(batch_of([5, 6, 7], [21, 22], frozen=3))
    with pytest.raises(UnsupportedModelError, match=why) as caught:
        frozen(loaded, FOLLOWED, live=16)
    assert "full_context" in caught.value.remedy


def test_recomputed_activations_give_the_same_gradient_with_less_kept() -> None:
    loaded = tiny_model("qwen3", max_length=1024, layers=4)
    model = loaded.model.requires_grad_(True)
    batch, _ = long_batch(loaded)
    technique = frozen(loaded, FOLLOWED, live=16)

    def kept(loss: Any) -> tuple[int, dict[str, torch.Tensor]]:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss()
        return count, gradients(model, value)

    plain, expected = kept(lambda: technique.loss(batch))
    with compute.recomputing(loaded):
        little, again = kept(lambda: technique.loss(batch))
    assert little < plain / 2
    for name, gradient in expected.items():
        assert torch.equal(gradient, again[name]), name
    assert "forward" not in vars(model.model.layers[0])


@pytest.mark.parametrize(("family", "shape"), MODELS)
def test_what_short_rows_begin_with_is_computed_once(
    family: str, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[list[int]]] = []

    def counted(loaded: LoadedModel, rows: Any, key: Any = None) -> Any:
        asked.append([list(row) for row in rows])
        return compute_context(loaded, rows, key)

    monkeypatch.setattr(context_frozen, "compute_context", counted)
    loaded = tiny_model(family, **shape)
    prefix = tuple(range(5, 25))
    rows = [(7, 8, 9, 11), (12, 13), (14, 15, 16)]
    examples = [
        Example((*prefix, *row), (False,) * 21 + (True,) * (len(row) - 1), 21) for row in rows
    ]
    batch = Batch.of(examples, pad_id=0)
    shared = frozen(loaded, shortest=256, shared=16)
    whole = frozen(loaded, shortest=256, shared=0)
    # The same numbers, in other blocks; the way through the prefix is what is left out.
    torch.testing.assert_close(shared.loss(batch), whole.loss(batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.hardest, whole.hardest, rtol=1e-4, atol=1e-4)
    assert asked == [[list(prefix)]], "once for all rows, and never without sharing"


def test_rows_that_begin_apart_share_nothing() -> None:
    loaded = tiny_model("llama")
    rows = [(*range(5, 30), 3), (*range(6, 31), 3)]
    batch = Batch.of([Example(r, (False,) * 25 + (True,), 25) for r in rows], pad_id=0)
    assert frozen(loaded)._shared(batch, [0, 1]) == []


def late_text(talk: str, question: str) -> TrainingText:
    return TrainingText((*chat(talk, "Nice."), *chat(question, "The red one.")), "fact")


@pytest.mark.parametrize(("family", "shape"), MODELS)
def test_other_talk_before_a_question_is_kept_and_the_question_is_not(
    family: str, shape: dict[str, Any]
) -> None:
    loaded = tiny_model(family, max_length=256, **shape)
    model = loaded.model.requires_grad_(True)
    text = late_text("My boat is red.", "Which boat?")
    example = encode(loaded.tokenizer, text)
    lesson = Lesson("l1", "", (text,))
    late = Batch.of([example], pad_id=0)
    # The definition with a context that ends where the question begins.
    defined = Batch.of([Example(example.ids, example.loss_mask, example.before + 1)], pad_id=0)
    kept = frozen(loaded, lesson, shortest=256, talk=8)
    found = kept.loss(late)
    wanted = frozen(loaded).loss(defined)
    torch.testing.assert_close(found, wanted)
    held, reference = gradients(model, found), gradients(model, wanted)
    for name, gradient in reference.items():
        torch.testing.assert_close(held[name], gradient, rtol=1e-4, atol=1e-5), name
    assert kept.computed(example) == len(example) - example.before
    whole = gradients(model, frozen(loaded, lesson, shortest=256, talk=0).loss(late))
    if not shape.get("sliding_window"):
        assert any(not torch.allclose(whole[name], held[name], atol=1e-5) for name in held)
    few = frozen(loaded, lesson, shortest=256, talk=example.before + 1)
    assert few.computed(example) == len(example)
    least = gradients(model, few.loss(late))
    assert all(torch.allclose(whole[name], least[name], atol=1e-6) for name in whole)


def test_rows_with_talk_before_them_and_rows_without_are_one_batch() -> None:
    loaded = tiny_model("llama", max_length=256)
    model = loaded.model.requires_grad_(True)
    texts = (
        late_text("My boat is red.", "Which boat?"),
        TrainingText(chat("Which boat?", "The red one."), "fact"),
        late_text("My dog is small and has a long name.", "Which boat is mine?"),
    )
    lesson = Lesson("l1", "", texts)
    examples = [encode(loaded.tokenizer, text) for text in texts]
    settings = {"shortest": 256, "talk": 4, "shared": 0}
    whole = frozen(loaded, lesson, **settings)
    together = gradients(model, whole.loss(Batch.of(examples, pad_id=0)))
    hardest = []
    alone: dict[str, torch.Tensor] = {}
    for example in examples:
        one = frozen(loaded, lesson, **settings)
        for name, gradient in gradients(model, one.loss(Batch.of([example], pad_id=0))).items():
            alone[name] = alone.get(name, 0) + gradient / 3
        hardest.append(one.hardest)
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=1e-5), name
    torch.testing.assert_close(whole.hardest, torch.cat(hardest), rtol=1e-4, atol=1e-4)


def test_the_turns_before_the_last_question_are_counted() -> None:
    loaded = tiny_model("llama")
    talk = chat("My boat is red.", "Nice.")
    alone = encode(loaded.tokenizer, TrainingText(chat("Which boat?", "The red one."), "fact"))
    late = encode(
        loaded.tokenizer, TrainingText((*talk, *chat("Which boat?", "The red one.")), "fact")
    )
    assert alone.before == 0 < late.before < late.context_length
    assert late.ids[late.before :][-len(alone) // 2 :] == alone.ids[-len(alone) // 2 :]
    told = loaded.tokenizer.decode(late.ids[: late.before])
    assert "Nice." in told and "Which" not in told
    both = TrainingText((*talk, *chat("Which boat?", "The red one.")), "fact", answers=2)
    assert encode(loaded.tokenizer, both).before == 0, "the talk is learned, too"


def test_what_an_example_costs_is_told_before_anything_is_prepared() -> None:
    technique = registry.build("representation", "context_frozen", {"shortest": 256, "live": 256})
    assert isinstance(technique, Representation)
    learned = (False,) * 90 + (True,) * 10
    assert technique.computed(Example(tuple(range(100)), learned, 90)) == 100
    assert technique.computed(Example(tuple(range(100)), learned, 90, before=60)) == 40
    long = Example(tuple(range(400)), (False,) * 390 + (True,) * 10, 390)
    assert technique.computed(long) == 11, "kept from step to step"
