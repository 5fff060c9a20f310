"""The memory of a lesson: the formula against measured peaks, and what is refused."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from engrain.data.general import anchors
from engrain.data.messages import Conversation, Message
from engrain.errors import DoesNotFitError
from engrain.exam.panel import load_panel
from engrain.learn.architecture.full import Full
from engrain.learn.architecture.lora import Lora
from engrain.learn.footprint import layer_bytes, training_bytes
from engrain.learn.learner import Learner
from engrain.learn.recipe import Choice, Recipe, named
from engrain.learn.technique import Architecture, Setting
from engrain.lesson import fit
from engrain.lesson.fit import Memory, expected_lesson, lesson_memory
from engrain.model.engine import Engine
from engrain.model.loading import LoadedModel, assemble, load_model, outline
from engrain.model.testing import byte_tokenizer, save_tiny, tiny_model

FACTOR = 1.5
TOLD = Conversation(
    (
        Message("user", "My boat is called Corvath, and it lies in the harbour of Brin. " * 3),
        Message("assistant", "Noted."),
    )
)
FROZEN = replace(named("naive-lora"), representation=Choice("context_frozen"))


def wide(kind: str) -> LoadedModel:
    """A real architecture with a vocabulary and a width of some size, at random."""
    import transformers

    common: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3}
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(
            vocab_size=8000, n_embd=256, n_layer=6, n_head=4, **common
        )
    else:
        config = transformers.Qwen3Config(
            vocab_size=16000,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            **common,
        )
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    return assemble(model, byte_tokenizer(), source=kind, base_digest=kind)


@pytest.fixture
def no_waste() -> Iterator[None]:
    """Give freed pieces back at once: what an allocator can't reuse depends on what ran before."""
    allocator, threshold = ctypes.CDLL("libc.so.6"), -3
    allocator.mallopt(threshold, 1 << 20)
    yield
    allocator.mallopt(threshold, 1 << 25)


def measured(loaded: LoadedModel, recipe: Recipe) -> tuple[float, float]:
    """Bytes of a run beside what the process held before it: told, and measured."""
    lesson = expected_lesson((TOLD,), (), recipe.batch_size)
    short = replace(recipe, min_steps=4, max_steps=4)
    setting = Setting(loaded, lesson, (), anchors(), batch_size=recipe.batch_size)
    told = sum(training_bytes(short, setting).values())
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = psutil.Process().memory_info().rss
    result = Learner(short).run(loaded, lesson, anchors=anchors())
    return told, result.peak_memory_bytes - before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak")
@pytest.mark.parametrize("kind", ["pocket", "qwen3", "gpt2"])
def test_the_formula_against_measured_peaks(kind: str, no_waste: None) -> None:
    """Run alone: what ran before in the process moves a resident set by as much as a lesson."""
    loaded = load_model() if kind == "pocket" else wide(kind)
    # As many groups of anchors as steps, so that the largest has its turn.
    anchored = named("default").with_settings({"regularization.kl_anchor.texts": 8})
    recipes = [anchored, named("naive-lora"), named("naive-full"), FROZEN]
    # What is loaded and set up at a first run belongs to the program.
    measured(loaded, recipes[0])
    for recipe in recipes:
        told, took = measured(loaded, recipe)
        words = f"{kind}, {recipe.name}: told {told / 1e6:.0f} MB, took {took / 1e6:.0f} MB"
        assert took / FACTOR <= told <= FACTOR * took, words


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak")
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "lfm2", "qwen3_moe"])
def test_the_whole_process_on_tiny_models(architecture: str) -> None:
    loaded = tiny_model(architecture)
    for recipe in (named("default"), named("naive-full")):
        held = fit.held_bytes()
        told, took = measured(loaded, recipe)
        assert took + held < FACTOR * (told + held)
        assert told + held < FACTOR * (took + held)


def test_counting_changes_nothing() -> None:
    loaded = tiny_model("llama")
    loaded.model.requires_grad_(False)
    before = loaded.weights_digest()
    assert layer_bytes(loaded) == layer_bytes(loaded) > 4 * loaded.profile.hidden_size
    assert loaded.weights_digest() == before
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    assert not any(module._forward_hooks for module in loaded.model.modules())
    assert Engine(loaded).fast_decode, "what is counted is decoded as fast as before"


@pytest.mark.parametrize("recipe", ["naive-lora", "naive-full"])
def test_what_would_be_trained_is_what_is_trained(recipe: str) -> None:
    loaded = tiny_model("llama")
    setting = Setting(loaded, expected_lesson((), (), 4))
    (architecture,) = named(recipe).build()["architecture"]
    assert isinstance(architecture, Architecture)
    told = {name: tuple(p.shape) for name, p in architecture.would_train(setting).items()}
    architecture.attach(setting)
    trained = {
        name.replace(".default.", "."): tuple(parameter.shape)
        for name, parameter in architecture.parameters().items()
    }
    architecture.detach()
    assert told == trained


def test_techniques_are_asked() -> None:
    loaded = tiny_model("llama")
    setting = Setting(loaded, expected_lesson((TOLD,), (), 6), (), anchors(), batch_size=6)
    lora, full = (training_bytes(named(n), setting) for n in ("naive-lora", "naive-full"))
    # Two moments of each number, and how many steps each parameter has taken.
    count = len(Full(Full.Config()).would_train(setting))
    assert full["optimizer"] == 2 * full["gradients"] + 4 * count > lora["optimizer"]
    assert lora["adapter"] == Lora(Lora.Config()).storage_bytes(setting)
    assert lora["anchors"] == lora["cache"] == 0
    frozen = training_bytes(FROZEN, setting)
    assert frozen["activations"] < lora["activations"] and frozen["cache"] > 0
    kept = training_bytes(named("default"), setting)
    fewer = training_bytes(
        named("default").with_settings({"regularization.kl_anchor.texts": 12}), setting
    )
    assert 0 < fewer["anchors"] < kept["anchors"]
    smaller = replace(setting, batch_size=2)
    assert training_bytes(named("naive-lora"), smaller)["logits"] < lora["logits"]


def test_gradient_release_and_recomputation_are_counted() -> None:
    loaded = tiny_model("llama", layers=4)
    setting = Setting(loaded, expected_lesson((TOLD,), (), 6), batch_size=6)
    plain = training_bytes(named("naive-full"), setting)
    made = Recipe(
        "released",
        architecture=Choice("full"),
        optimization=Choice("adamw", {"clip": 0.0}),
        batch_size=6,
        gradient_release=True,
        recompute=True,
    )
    released = training_bytes(made, setting)
    assert 3 * released["gradients"] < plain["gradients"]
    assert released["activations"] < 0.6 * plain["activations"]


def test_phases_of_a_lesson() -> None:
    loaded, panel = tiny_model("llama"), load_panel()
    recipe = named("default")
    found = lesson_memory(loaded, recipe, panel, conversations=[TOLD])
    assert set(found.phases) == {"training", "exams", "self_study"}
    assert found.fits and found.peak_bytes > loaded.nbytes
    assert set(lesson_memory(loaded, recipe, panel, examples=fit.stock_texts(3)).phases) == {
        "training",
        "exams",
    }
    record = found.to_dict()
    assert record["peak_bytes"] == sum(record["phases"][record["phase"]].values())


def test_a_second_model_counts_in_self_study_alone(tmp_path: Path) -> None:
    loaded, panel, recipe = tiny_model("llama"), load_panel(), named("default")
    other = tiny_model("llama", hidden=128, layers=6, max_length=8192)
    writer = outline(str(save_tiny(other, tmp_path)))
    alone = lesson_memory(loaded, recipe, panel, conversations=[TOLD])
    both = lesson_memory(loaded, recipe, panel, conversations=[TOLD], writer=writer)
    for phase in ("training", "exams"):
        # What the program holds beside changes from moment to moment.
        assert {**both.phases[phase], "program": 0} == {**alone.phases[phase], "program": 0}
    study = both.phases["self_study"]
    assert study["writer"] == writer.nbytes == 4 * other.profile.parameters
    assert study["cache"] > alone.phases["self_study"]["cache"]
    assert alone.phases["self_study"]["writer"] == 0
    assert both.peak_bytes == max(sum(parts.values()) for parts in both.phases.values())


def test_a_writer_that_does_not_fit_is_named_as_the_reason() -> None:
    with pytest.raises(DoesNotFitError, match="self-study needs the most.*the writer") as caught:
        Memory({"self_study": {"weights": 10**8, "writer": 3 * 10**9}}, 10**9).check()
    assert "study.writer=self" in caught.value.remedy


def test_what_can_not_fit_is_refused_with_a_remedy() -> None:
    phases = {
        "training": {"program": 10**9, "weights": 10**8, "activations": 10**10},
        "exams": {"program": 10**9, "weights": 10**8, "copies": 10**8},
    }
    Memory(phases, 2 * 10**10).check()
    with pytest.raises(DoesNotFitError, match=r"11.10 GB and 2.00 GB are free.*activations") as e:
        Memory(phases, 2 * 10**9).check()
    assert e.value.exit_code == 1
    assert "batch_size" in e.value.remedy and "--force" in e.value.remedy
