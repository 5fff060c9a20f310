"""Who asks the questions: chosen by name, loaded for self-study alone, fixed with the job."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engrain.config import ModelConfig
from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.errors import ConfigError, ModelNotFoundError, NoChatTemplateError, UsageError
from engrain.home import Home
from engrain.learn.learner import Learner
from engrain.learn.recipe import named
from engrain.learn.testing import sample_lesson
from engrain.lesson import fit, stages, zero
from engrain.lesson import job as jobbing
from engrain.lesson.writers import Guest, choose
from engrain.model import catalogue
from engrain.model.loading import load_model
from engrain.model.testing import save_tiny, tiny_model
from engrain.study.writer import EndpointWriter
from tests.home.home_tools import conversation, examples_file, new_home, open_home

WRITER = "qwen2.5-coder-1.5b"
PLAIN = ModelConfig()


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with room for worked examples, which differs in width and vocabulary's use."""
    made = tiny_model("qwen3", hidden=32, max_length=8192, seed=5)
    return save_tiny(made, tmp_path_factory.mktemp("other-writer"))


@pytest.fixture
def home(tmp_path: Path, model: Path) -> Iterator[Home]:
    with new_home(tmp_path / "home", model) as made:
        yield made


def learner(model: Path, *, mannered: bool = False, **profile: Any) -> Any:
    """A served model, as far as a choice looks at it."""
    loaded = load_model(str(model))
    loaded.profile = replace(loaded.profile, **profile)
    return SimpleNamespace(loaded=loaded, mannered=mannered)


@pytest.fixture
def here(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The catalogue's writer, got before: a tiny model by its name."""
    import shutil

    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "models" / WRITER
    shutil.copytree(other, folder)
    known = [replace(item, base_digest="") for item in catalogue.entries()]
    monkeypatch.setattr(catalogue, "entries", lambda: tuple(known))
    (folder / "origin.json").write_text(f'{{"sha256": "{catalogue.entry(WRITER).sha256}"}}')
    return folder


# ---------------------------------------------------------------------------- by name
def test_the_model_itself_and_addresses_of_this_machine(model: Path) -> None:
    served = learner(model)
    for name in ("self", str(model)):
        chosen = choose(name, served, PLAIN)
        assert chosen.is_self
        with chosen.opened() as writer:
            assert writer is None
    with choose("http://127.0.0.1:8080/v1", served, PLAIN).opened() as writer:
        assert isinstance(writer, EndpointWriter) and writer.room is None
    with pytest.raises(ConfigError, match="not on this machine"):
        choose("https://example.org/v1", served, PLAIN)


def test_a_folder_by_a_relative_path_is_found_from_elsewhere(
    model: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(other.parent)
    chosen = choose(other.name, learner(model), PLAIN)
    assert chosen.name == str(other) and chosen.outline is not None
    assert chosen.outline.max_length == 8192


def test_what_is_not_here_is_named_with_how_to_get_it(model: Path) -> None:
    served = learner(model)
    with pytest.raises(ModelNotFoundError, match=f"study.writer is '{WRITER}'") as caught:
        choose(WRITER, served, PLAIN)
    assert f"engrain models get {WRITER}" in caught.value.remedy
    with pytest.raises(ModelNotFoundError) as caught:
        choose("qwen2.5-coder-1.5", served, PLAIN)
    assert f"Did you mean {WRITER!r}?" in caught.value.remedy
    for name in ("someone/never-cached", "/no/such/folder"):
        with pytest.raises(ModelNotFoundError, match="no such model on this machine") as caught:
            choose(name, served, PLAIN)
        assert "engrain models list" in caught.value.remedy


def test_a_model_that_can_not_write_is_refused_before_a_lesson_begins(
    model: Path, tmp_path: Path
) -> None:
    short = save_tiny(tiny_model("llama", max_length=256), tmp_path / "short")
    with pytest.raises(UsageError, match="only 256 tokens"):
        choose(str(short), learner(model), PLAIN)
    mute = save_tiny(tiny_model("llama", chat_template=None), tmp_path / "mute")
    with pytest.raises(NoChatTemplateError):
        choose(str(mute), learner(model), PLAIN)


# ---------------------------------------------------------------------------- auto
def test_auto_takes_the_catalogues_writer_where_it_is_needed_and_at_hand(
    model: Path, here: Path
) -> None:
    large = catalogue.everyday().parameters
    small, untaught = learner(model, mannered=True), learner(model, parameters=large)
    for served, why in ((small, "small"), (untaught, "no lesson zero")):
        chosen = choose("auto", served, PLAIN)
        assert chosen.name == WRITER and why in chosen.why and chosen.outline is not None
    with chosen.opened() as writer:
        assert isinstance(writer, Guest)


def test_auto_is_self_where_nothing_is_won_or_nothing_fits(
    model: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = catalogue.everyday().parameters
    taught = choose("auto", learner(model, mannered=True, parameters=large), PLAIN)
    assert taught.is_self and "lesson zero" in taught.why
    larger = choose("auto", learner(model, parameters=4 * large), PLAIN)
    assert larger.is_self and "no smaller" in larger.why
    monkeypatch.setattr(fit, "free_bytes", lambda: -fit.held_bytes())
    tight = choose("auto", learner(model), PLAIN)
    assert tight.is_self and "does not fit" in tight.why
    monkeypatch.undo()


def test_auto_downloads_nothing_and_survives_a_damaged_writer(model: Path, here: Path) -> None:
    (here / "config.json").write_text("{")
    damaged = choose("auto", learner(model), PLAIN)
    assert damaged.is_self and "can't be used" in damaged.why
    (here / "origin.json").unlink()
    away = choose("auto", learner(model), PLAIN)
    assert away.is_self and f"engrain models get {WRITER}" in away.why


def test_the_pocket_model_keeps_its_own_way() -> None:
    served = SimpleNamespace(loaded=SimpleNamespace(source="pocket"), mannered=False)
    for name in (WRITER, "auto", "http://127.0.0.1:8080/v1"):
        assert choose(name, served, PLAIN).is_self  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- in memory
def test_a_guest_is_in_memory_while_it_writes_and_gone_afterwards(other: Path) -> None:
    guest = Guest(str(other), PLAIN)
    with guest as writer:
        model = weakref.ref(writer.engine.loaded.model)
        first = weakref.ref(next(writer.engine.loaded.model.parameters()))
        assert len(writer.write((), ["Hello?", "Who?"], temperature=0.0, turn=1)) == 2
        assert writer.room.tokens < 8192
    assert model() is None and first() is None


def test_a_guest_is_gone_after_an_error_too(other: Path) -> None:
    with pytest.raises(RuntimeError), Guest(str(other), PLAIN) as writer:
        model = weakref.ref(writer.engine.loaded.model)
        raise RuntimeError("study failed")
    assert model() is None


def test_a_guest_comes_with_its_own_lesson_zero(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Guest(str(other), PLAIN) as plain:
        assert plain._here.examples, "untaught: it sees worked examples"
        loaded = plain.engine.loaded
        recipe = named("naive-lora").with_settings({"min_steps": 2, "max_steps": 2})
        adapter = Learner(recipe).run(loaded, sample_lesson()).adapter
        lesson = zero.Portable(loaded.base_digest, recipe.to_dict(), {}, adapter.to_bytes())
    monkeypatch.setattr(zero, "shipped", lambda digest: lesson)
    with Guest(str(other), PLAIN) as taught:
        assert not taught._here.examples
        loaded = taught.engine.loaded
        assert loaded.changed_since(loaded.stored())


# ---------------------------------------------------------------------------- in a lesson
class StoppedError(Exception):
    """What is raised in the place of a kill."""


class Studied:
    """Self-study that asks its writer once: a random model finds nothing by itself."""

    def __init__(self) -> None:
        self.writers: list[Any] = []
        self.models: list[Any] = []
        self.taught: list[bool] = []
        self.fails = False

    def __call__(
        self, engine: Any, talks: Any, *, name: str, writer: Any, taught: bool, **_: Any
    ) -> Any:
        self.writers.append(type(writer))
        self.taught.append(taught)
        if isinstance(writer, Guest):
            self.models.append(weakref.ref(writer.engine.loaded.model))
            assert writer.write(talks[0].messages, ["Hello?"], temperature=0.0, turn=1)
        if self.fails:
            raise StoppedError
        lesson = Lesson(
            name,
            "thing 1",
            (TrainingText(chat("What is my thing 1?", "W1."), "fact", "thing: W1"),),
            (Probe("p1", "recall", chat("Name my thing 1."), ("W1",)),),
            tuple(talk.digest for talk in talks),
        )
        return SimpleNamespace(lesson=lesson)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Studied:
    made = Studied()
    monkeypatch.setattr(jobbing, "make_lesson", made)
    return made


def test_two_models_never_lie_in_memory_while_one_is_trained(
    tmp_path: Path, model: Path, other: Path, study: Studied, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Any] = []
    train = stages.Learner.run

    def training(*given: Any, **named: Any) -> Any:
        left.extend(found() for found in study.models)
        return train(*given, **named)

    monkeypatch.setattr(stages.Learner, "run", training)
    with new_home(tmp_path / "home", model, **{"study.writer": str(other)}) as home:
        outcome = home.learn(conversation(1))
        assert outcome.accepted and study.writers == [Guest] and study.taught == [False]
        assert left == [None]
        job = home.jobs()[-1]
        assert job.payload["writer"] == str(other)


def test_auto_is_self_where_no_writer_is_here(home: Home, study: Studied) -> None:
    assert home.config.study.writer == "auto"
    assert home.learn(conversation(1)).accepted
    assert study.writers == [type(None)] and home.jobs()[-1].payload["writer"] == "self"


def test_a_resumed_job_keeps_the_writer_that_it_began_with(
    tmp_path: Path, model: Path, other: Path, study: Studied
) -> None:
    study.fails = True
    with new_home(tmp_path / "home", model, **{"study.writer": str(other)}) as home:
        with pytest.raises(StoppedError):
            home.learn(conversation(1))
        job = home.jobs()[-1].id
    study.fails = False
    with open_home(tmp_path / "home", **{"study.writer": "self"}) as home:
        assert home.resume(job).accepted
    assert study.writers == [Guest, Guest]


def test_a_writer_that_is_not_here_stops_a_conversation_and_no_examples(
    tmp_path: Path, model: Path, study: Studied
) -> None:
    with new_home(tmp_path / "home", model, **{"study.writer": WRITER}) as home:
        for ask in (home.learn, home.preview, home.estimate):
            with pytest.raises(ModelNotFoundError, match="on this machine"):
                ask(conversation(1))
        assert home.jobs() == [] and not study.writers
        assert home.learn(examples_file(tmp_path, 1)).accepted
