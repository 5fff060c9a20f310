"""The recipe for chat models is the same code on every family: tiny shapes, GGUF files, Gemma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engrain.data.examples import Batch
from engrain.data.general import anchors
from engrain.learn import registry
from engrain.learn.fold import fold
from engrain.learn.learner import Learner
from engrain.learn.recipe import named
from engrain.learn.technique import Representation, Setting
from engrain.learn.testing import sample_lesson
from engrain.model import catalogue
from engrain.model.context import Context
from engrain.model.digest import tensor_digest
from engrain.model.loading import LoadedModel, load_model
from engrain.model.testing import CHATML, tiny_model
from tests.model.gguf_files import Q8_0, random_model, write

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"kv_heads": 1},
    "qwen2": {},
    "qwen3": {"tied": False},
    "gemma3": {"sliding_window": 8},
}
GEMMA = "gemma-3-270m"


def chosen(loaded: LoadedModel, name: str, **settings: Any) -> Representation:
    technique = registry.build("representation", name, settings)
    assert isinstance(technique, Representation)
    technique.prepare(Setting(loaded, sample_lesson()))
    return technique


def told(loaded: LoadedModel) -> Batch:
    """The facts and a text that is read, which has the longest context."""
    setting = Setting(loaded, sample_lesson())
    texts = [text for text in setting.lesson.texts if text.kind != "contrast"]
    return Batch.of([setting.encode(text) for text in texts], loaded.pad_id)


def loss(loaded: LoadedModel, name: str, **settings: Any) -> float:
    with torch.no_grad():
        return float(chosen(loaded, name, **settings).loss(told(loaded)))


def check_a_lesson(loaded: LoadedModel, tolerance: float) -> None:
    """Learned, served, undone."""
    live, base = loaded.weights_digest(), tensor_digest(loaded.base_weights())
    modules = [name for name, _ in loaded.model.named_modules()]
    before = loss(loaded, "full_context")
    # The value of the loss is that of a full forward; only the gradient stops at the context.
    assert loss(loaded, "context_frozen", shortest=2) == pytest.approx(before, rel=tolerance)
    assert loss(loaded, "context_frozen", live=16) == pytest.approx(before, rel=tolerance)

    recipe = named("chat").with_settings({"min_steps": 6, "max_steps": 6})
    result = Learner(recipe).run(loaded, sample_lesson(), anchors=anchors()[:8], seed=1)
    assert loaded.weights_digest() == live, "the learner gives the weights back"
    assert [name for name, _ in loaded.model.named_modules()] == modules
    moved = [name for name, t in result.adapter.tensors.items() if "lora_B" in name and t.any()]
    assert len(moved) == len(loaded.profile.lora_targets), "every map has learned"

    weights = fold(loaded.base_weights(), [result.adapter])
    assert tensor_digest(weights) != base
    loaded.set_weights(weights)
    assert loaded.changed_since(loaded.base_weights())
    assert loss(loaded, "full_context") < before
    loaded.reset()
    assert loaded.weights_digest() == live
    assert tensor_digest(fold(loaded.base_weights(), [])) == base


@pytest.mark.parametrize("family", SHAPES)
def test_a_lesson_on_every_family(family: str, fp32: None) -> None:
    check_a_lesson(tiny_model(family, **SHAPES[family]), 1e-4)


@pytest.mark.parametrize("family", SHAPES)
def test_a_lesson_on_a_gguf_file(
    family: str, fp32: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))
    path = write(tmp_path / "mine.gguf", random_model(family), kind=Q8_0)
    whole = path.read_bytes()
    loaded = load_model(str(path))
    check_a_lesson(loaded, 1e-4)
    assert path.read_bytes() == whole
    assert load_model(str(path)).weights_digest() == loaded.weights_digest()


def test_sliding_layers_remember_no_further_than_their_window(fp32: None) -> None:
    """What lies further back in a frozen context may hold anything; what lies within counts."""
    window = 8
    loaded = tiny_model("gemma3", sliding_window=window)
    technique: Any = chosen(loaded, "context_frozen", live=16)
    setting = Setting(loaded, sample_lesson())
    example = setting.encode(sample_lesson().texts[-1])
    batch = Batch.of([example], loaded.pad_id)
    ((prefix, context),) = (
        (ids, kept)
        for ids, kept in technique._kept.items()
        if ids == example.ids[: example.context_length - 1]
    )
    sliding = [layer.index for layer in loaded.profile.layers if layer.window == window]
    assert sliding and len(sliding) < len(loaded.profile.layers)
    # The first token in the graph stands right behind the context and sees itself, too.
    seen = len(prefix) - window + 1

    def with_noise(where: slice, layers: list[int]) -> float:
        keys = [tensor.clone() for tensor in context.keys]
        values = [tensor.clone() for tensor in context.values]
        for layer in layers:
            keys[layer][:, :, where] += 3.0
            values[layer][:, :, where] += 3.0
        technique._kept[prefix] = Context(tuple(keys), tuple(values), context.lengths)
        with torch.no_grad():
            return float(technique.loss(batch))

    plain = with_noise(slice(0, 0), [])
    assert with_noise(slice(0, seen), sliding) == plain
    assert with_noise(slice(seen, None), sliding) != plain
    everything = [layer.index for layer in loaded.profile.layers if layer.window is None]
    assert with_noise(slice(0, seen), everything) != plain


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_lesson_on_gemma() -> None:
    if not catalogue.is_here(catalogue.entry(GEMMA)):
        pytest.skip(f"{GEMMA} is not here: engrain models get {GEMMA}")
    loaded = load_model(GEMMA, dtype="bfloat16", allow_no_template=True)
    # A base model: it was taught no talk, so any template serves.
    loaded.tokenizer.chat_template = CHATML
    assert {layer.window for layer in loaded.profile.layers} == {512, None}
    check_a_lesson(loaded, 2e-2)
