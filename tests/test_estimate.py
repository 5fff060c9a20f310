"""Prices of a lesson in seconds: counted, from a few passes that are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engrain.data.general import anchors
from engrain.data.messages import Conversation, Message
from engrain.exam.panel import Panel, load_panel
from engrain.learn.recipe import Recipe, named
from engrain.learn.testing import sample_lesson
from engrain.lesson import amounts, asked, cost, pace, writers
from engrain.lesson.asked import SHORT_PANELS, panel_for
from engrain.lesson.cost import Estimate, Prices, Source, Speed, load_speed
from engrain.lesson.fit import expected_lesson, stock_texts
from engrain.lesson.pace import Pace, Passes, Shape, kept_pace, measure, panel_passes
from engrain.lesson.served import Served
from engrain.lesson.writers import Chosen
from engrain.model.loading import LoadedModel, Outline, outline
from engrain.model.testing import save_tiny, tiny_model

SPEED = Speed(Pace(1e-9, 1e-9, 1e-9, 1e-9, 1e-9), 4e-9)
MOST_TOKENS = 16_000
"""More than any timing may run through a model whose tokens are bytes."""


def talk(messages: int) -> Conversation:
    told = "My boat is called Corvath, and it lies in the harbour of Brin."
    pairs = [(Message("user", told), Message("assistant", "Noted.")) for _ in range(messages)]
    return Conversation(tuple(message for pair in pairs for message in pair))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model("llama", max_length=8192)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return load_panel().smaller(SHORT_PANELS[-1])


def priced(
    loaded: LoadedModel,
    panel: Panel,
    source: Source,
    recipe: Recipe | None = None,
    **how: Any,
) -> tuple[dict[str, float], dict[str, float], float]:
    prices = Prices(Path(), recipe or named("chat"), "base", panel, **how)
    return prices.seconds(SPEED, loaded, source)


# ---------------------------------------------------------------------------- counts
def test_a_longer_talk_and_more_effort_cost_more(loaded: LoadedModel, panel: Panel) -> None:
    few, many = (priced(loaded, panel, Source((talk(n),)))[0] for n in (3, 30))
    assert set(few) == {"self_study", "exams", "training"}
    assert all(many[name] >= few[name] > 0 for name in few)
    assert many["self_study"] > 5 * few["self_study"]
    low, normal, high = (
        priced(loaded, panel, Source((talk(3),), effort=effort))[0]["self_study"]
        for effort in ("low", "normal", "high")
    )
    assert low < normal < high


def test_a_message_is_priced_by_its_length_too(loaded: LoadedModel, panel: Panel) -> None:
    short, long = talk(4), talk(4)
    more = tuple(replace(m, content=m.content + " I see." * 30) for m in long.messages)
    costs = [
        priced(loaded, panel, Source((one,)))[0] for one in (short, replace(long, messages=more))
    ]
    assert costs[1]["self_study"] > costs[0]["self_study"]


def test_a_talk_longer_than_a_window_is_counted_by_windows(loaded: LoadedModel) -> None:
    windows = list(amounts._windows([talk(100)], loaded))
    assert len(windows) > 1 and sum(said for _, said in windows) == pytest.approx(100)
    assert all(tokens <= amounts.WINDOW_TOKENS for tokens, _ in windows)


def test_facts_are_bounded_and_earlier_lessons_are_asked_again(loaded: LoadedModel) -> None:
    assert Source((talk(500),)).facts == 64
    assert Source((talk(500),), most=7).facts == 7
    lesson = sample_lesson()
    plain, after = (
        amounts.study(Source((talk(3),), earlier=old), loaded, Chosen(), True).reader
        for old in ((), (lesson,))
    )
    assert after.read > plain.read


def test_a_second_round_is_told_apart(loaded: LoadedModel, panel: Panel) -> None:
    source, recipe = Source((talk(6),)), named("chat")
    parts, further, _ = priced(loaded, panel, source, recipe)
    assert all(0 < further[name] < parts[name] for name in ("self_study", "training"))
    assert 0 < further["exams"] < parts["exams"]
    assert priced(loaded, panel, source, recipe.with_settings({"rounds": 1}))[1] == {}


def test_weak_texts_of_earlier_lessons_take_steps(loaded: LoadedModel, panel: Panel) -> None:
    recipe = named("chat").with_settings({"max_steps": 1000})
    few, many = (
        priced(loaded, panel, Source((talk(3),), weak=n), recipe)[0]["training"] for n in (0, 40)
    )
    assert many > few
    assert amounts.steps(recipe, Source((talk(1),))) >= recipe.min_steps


def test_examples_need_no_study(loaded: LoadedModel, panel: Panel) -> None:
    recipe, texts = named("default"), stock_texts(40)
    parts, further, _ = priced(loaded, panel, Source((), texts), recipe)
    assert parts["self_study"] == 0 and further == {}
    more = priced(loaded, panel, Source((), texts * 5), recipe)[0]
    assert more["training"] > parts["training"]


def test_what_is_run_once_is_told_apart(loaded: LoadedModel, panel: Panel) -> None:
    source = Source((), stock_texts(8))
    later, _, none = priced(loaded, panel, source)
    first, _, once = priced(loaded, panel, source, panels=2, once=1, taught=True)
    assert none == 0 and once > 0 and first["exams"] > later["exams"]


# ---------------------------------------------------------------------------- the writer
def test_a_second_model_is_priced_by_its_size_and_never_loaded(
    loaded: LoadedModel, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a writer was loaded to tell what it costs")

    monkeypatch.setattr(writers, "_load", never)
    outlines: list[Outline] = []
    for layers in (2, 6):
        other = tiny_model("llama", hidden=128, layers=layers, max_length=8192)
        outlines.append(outline(str(save_tiny(other, tmp_path / str(layers)))))
    source = Source((talk(6),))
    alone, small, large = (
        priced(loaded, panel, source, writer=Chosen(f"w{i}", outline=found))[0]
        for i, found in enumerate([None, *outlines])
    )
    assert alone["self_study"] < small["self_study"] < large["self_study"]
    for part in ("exams", "training"):
        assert alone[part] == small[part] == large[part]
    examples = Source((), stock_texts(4))
    assert (
        priced(loaded, panel, examples, writer=Chosen("w", outline=outlines[0]))[0]["self_study"]
        == 0
    ), "nobody is loaded for examples"


def test_an_untaught_writer_sees_worked_examples(loaded: LoadedModel) -> None:
    assert amounts.worked_tokens(loaded, Chosen(), True) == 0
    assert amounts.worked_tokens(loaded, Chosen(), False) > 100
    short = tiny_model("llama", max_length=512)
    assert amounts.worked_tokens(short, Chosen(), False) == 0, "they would leave no room"


# ---------------------------------------------------------------------------- corrections
def test_a_finished_lesson_corrects_each_part_by_itself() -> None:
    told = {"self_study": 10.0, "exams": 10.0, "training": 10.0}
    taken = {"self_study": 40.0, "exams": 10.0, "training": 2.5}
    after = SPEED.learned(told, taken, "self")
    found = after.corrected(told, "self")
    assert found == pytest.approx({"self_study": 20.0, "exams": 10.0, "training": 5.0})
    # Another writer's study was never seen.
    assert after.corrected(told, "other")["self_study"] == 10.0
    # What was not told, or is beside all measure, says nothing.
    nothing = SPEED.learned({"self_study": 0.0, "exams": 1.0}, {"self_study": 9.0, "exams": 99}, "")
    assert nothing == SPEED


def test_what_was_timed_is_read_again(loaded: LoadedModel, panel: Panel, tmp_path: Path) -> None:
    recipe = named("chat")
    prices = Prices(tmp_path, recipe, "base", panel)
    assert load_speed(prices.path(loaded)) is None
    cost.keep_measured(prices.path(loaded), asdict(SPEED))
    prices.correct(loaded, {"exams": 1.0}, {"exams": 4.0})
    kept = load_speed(prices.path(loaded))
    assert kept == replace(SPEED, corrections={"exams": 2.0})
    other = replace(prices, recipe=recipe.with_settings({"batch_size": 3}))
    assert other.path(loaded) != prices.path(loaded)
    prices.path(loaded).write_text('{"training": 1}')
    assert load_speed(prices.path(loaded)) is None


# ---------------------------------------------------------------------------- timing
def estimated(
    folder: Path, panel: Panel, source: Source, monkeypatch: pytest.MonkeyPatch, times: int
) -> tuple[Estimate, int]:
    """An estimate in a new home, and the tokens that went through the model for it.

    The packaged anchors come so many times, but for the shortest.
    """
    loaded, read = tiny_model("llama", max_length=1024), []
    kept = anchors() + sorted(anchors(), key=cost._length)[cost.FEW :] * (times - 1)
    monkeypatch.setattr(pace, "REPEATED", 1e-12)
    for module in (amounts, cost):
        monkeypatch.setattr(module, "anchors", lambda: kept)
    hook = loaded.model.get_input_embeddings().register_forward_hook(
        lambda module, given, out: read.append(given[0].numel())
    )
    served = cast(Served, SimpleNamespace(loaded=loaded))
    found = Prices(folder, named("chat"), "base", panel).estimate(served, source)
    hook.remove()
    return found, sum(read)


def test_timing_runs_few_tokens_whatever_there_is_to_price(
    panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, tokens = estimated(tmp_path / "a", panel, Source((talk(1),)), monkeypatch, 1)
    assert 0 < tokens < MOST_TOKENS
    _, same = estimated(tmp_path / "b", load_panel(), Source((talk(200),)), monkeypatch, 3)
    assert same == tokens
    again, none = estimated(tmp_path / "a", panel, Source((talk(1),)), monkeypatch, 1)
    assert none < tokens / 10, "what was timed is timed again"
    assert again.parts == first.parts


def test_a_step_is_timed_within_its_budget(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[Recipe, int]] = []

    class Watched:
        def __init__(self, recipe: Recipe) -> None:
            self.recipe = recipe

        def run(self, loaded: Any, lesson: Any, *, anchors: Sequence[Any], on_step: Any) -> None:
            runs.append((self.recipe, len(anchors)))
            for step in range(self.recipe.max_steps):
                on_step(step + 1, self.recipe.max_steps, 0.0)

    monkeypatch.setattr(cost, "Learner", Watched)
    recipe = named("chat")
    assert cost.calibrate(loaded, recipe) > 0
    monkeypatch.setattr(cost, "MOST", 1.0)
    monkeypatch.setattr(cost, "QUICK", 0.25)
    cost.calibrate(loaded, recipe)
    (usual, few), (least, _) = runs
    assert (usual.batch_size, usual.max_steps) == (recipe.batch_size, 4)
    assert (least.batch_size, least.max_steps) == (1, 2)
    assert few == cost.FEW


def test_a_pace_is_measured_once(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure(loaded)
    assert all(value > 0 for name, value in asdict(found).items() if name != "row")
    assert found.row >= 0
    measured = []
    monkeypatch.setattr(pace, "measure", lambda model: measured.append(model) or found)
    assert kept_pace(tmp_path, loaded) == kept_pace(tmp_path, loaded) == found
    assert len(measured) == 1


def test_passes_add_up() -> None:
    shape, paced = Shape(100, 10, 400, 4, True), SPEED.pace
    one = pace.asked(5, own=10, longest=8, view=100)
    assert one.read == 150 and one.steps == 8
    assert pace.asked(40, own=10, longest=8, view=100).steps == 16, "two batches"
    assert pace.asked(0, own=10, longest=8) == Passes() == pace.scored(0, own=1, targets=1)
    both = one + pace.scored(4, own=20, targets=5)
    assert paced.seconds(both, shape) == pytest.approx(
        paced.seconds(one, shape) + 1e-9 * (80 * 100 + 20 * 10)
    )
    assert paced.seconds(one * 2, shape) == pytest.approx(2 * paced.seconds(one, shape))


# ---------------------------------------------------------------------------- the panel
def test_a_panel_is_priced_from_its_tokens(loaded: LoadedModel) -> None:
    whole = load_panel()
    found = [panel_passes(whole.smaller(counts), loaded) for counts in SHORT_PANELS]
    reads = [panel_passes(whole, loaded).read, *(passes.read for passes in found)]
    assert reads == sorted(reads, reverse=True) and reads[-1] > 0


@pytest.mark.parametrize(("factor", "rung"), [(1e-6, 0), (1e6, -1)])
def test_the_panel_of_a_larger_model_has_a_budget_in_seconds(
    loaded: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    rung: int,
) -> None:
    assert panel_for(loaded, tmp_path) == load_panel(), "a small model runs it in seconds"
    monkeypatch.setattr(asked, "QUICK", 0)
    slow = Pace(*(factor * value for value in asdict(SPEED.pace).values()))
    monkeypatch.setattr(asked, "kept_pace", lambda *_: slow)
    assert panel_for(loaded, tmp_path).digest == load_panel().smaller(SHORT_PANELS[rung]).digest


# ---------------------------------------------------------------------------- what stands for it
def test_what_stands_for_a_lesson() -> None:
    lesson = expected_lesson((talk(1),), (), 6)
    kinds = {text.kind for text in lesson.texts}
    assert kinds == {"fact", "contrast", "reading"} and len(lesson.facts()) >= 6
    given = stock_texts(1)
    assert expected_lesson((), given, 6).texts == tuple(given)
