"""The life benchmark on a tiny model: streams that are refused, the matrix, and the JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engrain.bench import life
from engrain.bench.record import merge, read_runs, report, result_record
from engrain.data.lessons import Lesson, TrainingText, chat
from engrain.data.streams import Day, read_stream, stream_digest
from engrain.errors import ConversationError, NothingToLearnError, UsageError
from engrain.exam.panel import Panel, load_panel
from engrain.exam.report import json_ready
from engrain.learn.recipe import named
from engrain.model.digest import tensor_digest
from engrain.model.loading import LoadedModel
from engrain.model.testing import tiny_model

FIGURES = (
    "recall_final forgetting worst_drop bwt fwt abstention corrections panel_change_percent "
    "seconds_per_lesson peak_memory_bytes R"
).split()
"""What the issue names under ``recipes.NAME``."""


# ---------------------------------------------------------------------------- streams
def day(number: int = 1, **changes: Any) -> dict[str, Any]:
    talk = [{"role": "user", "content": f"My boat {number} is red."}]
    probe = {
        "id": f"p{number}",
        "kind": "recall",
        "messages": [{"role": "user", "content": f"What color is my boat {number}?"}],
        "answers": ["red"],
        "not_answers": [],
    }
    return {
        "id": f"day-{number}",
        "conversations": [{"messages": talk}],
        "probes": [probe],
        **changes,
    }


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_stream_is_read(tmp_path: Path) -> None:
    days = read_stream(written(tmp_path / "s.jsonl", day(1), day(2, supersedes=["p1"])))
    assert [d.id for d in days] == ["day-1", "day-2"] and days[1].supersedes == ("p1",)
    assert days[0].probes[0].answers == ("red",)
    again = written(tmp_path / "again.jsonl", *(d.to_dict() for d in days))
    assert stream_digest(read_stream(again)) == stream_digest(days)
    assert read_stream(written(tmp_path / "one.jsonl", day(1)))[0].id == "day-1"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"id": "day-1"}], "not a day"),
        ([day(1, conversations=None)], "not a day"),
        ([day(1, conversations=[{"messages": []}])], "no message of a user"),
        ([day(1, conversations=[{"messages": [{"role": "robot", "content": "x"}]}])], "role"),
        ([day(1, probes=[{"kind": "recall"}])], "not a day"),
        ([day(1, probes=[{**day()["probes"][0], "kind": "guess"}])], "kind 'guess'"),
        ([day(1, probes=[{**day()["probes"][0], "messages": []}])], "no message of a user"),
        ([day(1, supersedes=["p1"])], "no earlier day"),
        ([day(1), day(2, supersedes=["nothing"])], "no earlier day"),
        ([day(1), day(1)], "repeats the id"),
        ([day(1), day(2, probes=day(1)["probes"])], "repeats the id"),
        ([day(1), [1, 2]], "not an object"),
        ([[]], "no day"),
    ],
)
def test_streams_that_are_refused(tmp_path: Path, lines: list[Any], words: str) -> None:
    with pytest.raises(ConversationError, match=words) as caught:
        read_stream(written(tmp_path / "stream.jsonl", *lines))
    assert caught.value.remedy and caught.value.exit_code == 2


def test_files_that_are_no_stream(tmp_path: Path) -> None:
    empty, binary, broken = (tmp_path / name for name in ("empty", "binary", "broken.jsonl"))
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe\x00")
    broken.write_text(json.dumps(day(1)) + "\n{half")
    for path, words in (
        (empty, "empty"),
        (binary, "UTF-8"),
        (broken, r"broken.jsonl:2"),
        (tmp_path / "none", "can't be read"),
    ):
        with pytest.raises(ConversationError, match=words):
            read_stream(path)


def test_a_made_stream_has_corrections_of_earlier_days() -> None:
    stream = life.make_stream(days=4, facts_per_day=2, seed=3)
    assert [d.id for d in stream] == ["day-01", "day-02", "day-03", "day-04"]
    earlier: set[str] = set()
    for made in stream:
        assert set(made.supersedes) <= earlier
        earlier |= {probe.id for probe in made.probes}
    assert stream[2].supersedes and not stream[0].supersedes
    assert {p.kind for p in stream[2].probes} == {
        "recall",
        "paraphrase",
        "correction",
        "abstention",
    }
    assert stream_digest(stream) == stream_digest(life.make_stream(days=4, facts_per_day=2, seed=3))


# ---------------------------------------------------------------------------- a life
@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model("llama", hidden=32)


@pytest.fixture(scope="module")
def panel() -> Panel:
    limits = {"loss": 2, "capability": 1, "arithmetic": 1, "format": 1, "reading": 0}
    return load_panel().smaller({**limits, "locality": 1, "abstention": 1})


@pytest.fixture
def stream() -> list[Day]:
    """Two days of two facts; the second corrects one of the first."""
    first, second = life.make_stream(days=2, facts_per_day=2, seed=5)
    return [first, replace(second, supersedes=(first.probes[0].id, first.probes[1].id))]


@pytest.fixture
def by_rule(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Lessons from the days' probes, since a random model can't read; records the calls."""
    calls: list[dict[str, Any]] = []

    class Preview:
        def __init__(self, lesson: Lesson) -> None:
            self.lesson = lesson

    def made(engine: Any, talks: Sequence[Any], **options: Any) -> Preview:
        earlier = len(options["earlier"])  # the list itself grows
        calls.append({"state": engine.state_digest, **options, "earlier": earlier})
        said = [m.content for talk in talks for m in talk.messages if m.role == "user"]
        texts = tuple(
            TrainingText(chat(f"What about {i}?", text[:40]), "fact", f"{options['name']} {i}: x")
            for i, text in enumerate(said)
        )
        return Preview(Lesson(options["name"], "said", texts))

    monkeypatch.setattr(life, "make_lesson", made)
    return calls


def short(name: str) -> Any:
    return named(name).with_settings({"min_steps": 2, "max_steps": 2, "batch_size": 2})


def test_a_life_of_two_days(
    loaded: LoadedModel, panel: Panel, stream: list[Day], by_rule: list[dict[str, Any]]
) -> None:
    base = tensor_digest(loaded.weights())
    said: list[tuple[Any, ...]] = []
    result = life.run_life(
        loaded, stream, short("default"), panel, seed=3, on_day=lambda *what: said.append(what)
    )
    # The model is given back as it was.
    assert tensor_digest(loaded.weights()) == base
    matrix = result.run.matrix
    assert matrix.values.shape == (3, 2) and matrix.lessons == ("day-01", "day-02")
    assert [len(day_[d.id]) for day_ in result.run.history.days for d in stream] == [
        len(d.probes) for _ in range(3) for d in stream
    ]
    # What the second day corrects counts from that day on no more.
    recall = [p for p in stream[0].probes if p.answers]
    gone = set(stream[1].supersedes)
    assert len(gone) == 2 and gone < {p.id for p in recall}
    assert matrix.counts is not None
    assert matrix.counts[:, 0].tolist() == [len(recall), len(recall), len(recall) - 2]
    assert result.run.history.superseded == dict.fromkeys(gone, 2)
    assert result.run.steady_matrix.counts[:, 0].tolist() == [len(recall) - 2] * 3

    states = [day_.state for day_ in result.days]
    assert len({base, *states}) == 3
    assert [call["state"] for call in by_rule] == [base, states[0]]
    assert [call["earlier"] for call in by_rule] == [0, 1]
    assert all(call["seed"] == 3 for call in by_rule)
    assert [day_.day for day_ in result.days] == ["day-01", "day-02"]
    assert all(day_.texts and day_.groups and day_.seconds > 0 for day_ in result.days)
    assert set(what[-1] for what in said) == {"studies", "learns", "is examined"}
    assert {what[:2] for what in said} == {("default", 3)}
    # The loss is measured daily, all parts of the panel before the first and after the last.
    assert result.run.panel_after is not None
    assert set(result.run.panel_after.figures()) == set(result.run.panel_before.figures())
    assert math.isclose(result.run.panel_after.loss, result.days[-1].panel_loss)

    again = life.run_life(loaded, stream, short("default"), panel, seed=3)
    assert [day_.state for day_ in again.days] == states
    assert again.run.history.to_dict() == result.run.history.to_dict()


def test_joint_learns_once_from_the_base(
    loaded: LoadedModel, panel: Panel, stream: list[Day], by_rule: list[dict[str, Any]]
) -> None:
    base = tensor_digest(loaded.weights())
    result = life.run_life(loaded, stream, short("joint"), panel)
    assert [call["state"] for call in by_rule] == [base, base]
    assert [day_.state == base for day_ in result.days] == [True, False]
    assert result.days[0].train_seconds == 0.0 < result.days[1].train_seconds
    values = result.run.matrix.values
    assert values.shape == (3, 2)
    assert [bool(x) for x in (values != values).all(axis=1)] == [False, True, False]
    assert math.isfinite(result.run.figures()["recall_final"])
    assert tensor_digest(loaded.weights()) == base


def test_lessons_that_were_made_before_are_learned_as_they_are(
    loaded: LoadedModel, panel: Panel, stream: list[Day], by_rule: list[dict[str, Any]]
) -> None:
    base = tensor_digest(loaded.weights())
    lessons = life.study_life(loaded, stream, seed=3)
    assert list(lessons) == [day_.id for day_ in stream]
    # The untaught model makes each lesson after those of the days before.
    assert [call["state"] for call in by_rule] == [base, base]
    assert [call["earlier"] for call in by_rule] == [0, 1]
    studied = life.run_life(loaded, stream, short("naive-full"), panel, seed=3)
    count = len(by_rule)
    given = life.run_life(loaded, stream, short("naive-full"), panel, seed=3, lessons=lessons)
    assert len(by_rule) == count
    assert [d.state for d in given.days] == [d.state for d in studied.days]
    assert all(d.study_seconds == 0 < d.train_seconds for d in given.days)


@pytest.mark.parametrize("recipe", ["default", "joint"])
@pytest.mark.parametrize("empty", ["day-01", "day-02"])
def test_a_day_without_anything_to_learn(
    loaded: LoadedModel,
    panel: Panel,
    stream: list[Day],
    by_rule: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    empty: str,
) -> None:
    make = life.make_lesson

    def sometimes(*arguments: Any, **options: Any) -> Any:
        if options["name"] == empty:
            raise NothingToLearnError("Nothing new was said.", remedy="Say something.")
        return make(*arguments, **options)

    monkeypatch.setattr(life, "make_lesson", sometimes)
    base = tensor_digest(loaded.weights())
    result = life.run_life(loaded, stream, short(recipe), panel)
    by_day = {day_.day: day_ for day_ in result.days}
    assert by_day[empty].skipped == "Nothing new was said." and by_day[empty].texts == 0
    assert result.days[-1].state != base
    assert tensor_digest(loaded.weights()) == base


def test_the_json_of_the_benchmark(
    loaded: LoadedModel, panel: Panel, stream: list[Day], by_rule: list[dict[str, Any]]
) -> None:
    results = [
        life.run_life(loaded, stream, short(name), panel, seed=seed)
        for name in ("naive-lora", "joint")
        for seed in (0, 1)
    ]
    record = report(results, stream, model="tiny")
    # Strict JSON: what is not known is null, not NaN.
    record = json.loads(json.dumps(record, allow_nan=False))
    assert record["model"] == "tiny" and record["days"] == 2
    assert record["stream_digest"] == stream_digest(stream)
    assert set(record["recipes"]) == {"naive-lora", "joint"}
    for found in record["recipes"].values():
        assert set(FIGURES) <= set(found)
        assert found["seeds"] == [0, 1] and set(found["summaries"]) >= set(FIGURES) - {"R"}
        assert [len(row) for row in found["R"]] == [2, 2, 2]
        assert found["peak_memory_bytes"] > 0 and found["seconds_per_lesson"] > 0
        assert isinstance(found["panel_change_percent"], float)
    assert record["recipes"]["joint"]["R"][1] == [None, None]
    assert [(run["recipe"], run["seed"]) for run in record["runs"]] == [
        ("naive-lora", 0),
        ("naive-lora", 1),
        ("joint", 0),
        ("joint", 1),
    ]
    assert all(len(run["days"]) == 2 and run["days"][0]["state"] for run in record["runs"])


def test_runs_are_read_again_and_merged(
    loaded: LoadedModel,
    panel: Panel,
    stream: list[Day],
    by_rule: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    first, second = (
        life.run_life(loaded, stream, short("naive-lora"), panel, seed=seed) for seed in (0, 1)
    )
    about = {"base_digest": "b", "panel": {"digest": "p"}, "effort": "normal"}
    about["stream_digest"] = stream_digest(stream)

    def written(*results: life.LifeResult, **changes: Any) -> Path:
        path = tmp_path / "life.json"
        record = {**report(results, stream, **about), **changes}
        path.write_text(json.dumps(json_ready(record), allow_nan=False), encoding="utf-8")
        return path

    # What is read gives the same table as what was run, to the last digit.
    again = read_runs(written(first, second), about)
    whole = json_ready(report([first, second], stream, **about))
    assert json_ready(report(again, stream, **about)) == whole
    apart = merge([second], read_runs(written(first), about))
    assert json_ready(report(apart, stream, **about)) == whole
    assert len(merge(again, [first, second])) == 2

    with pytest.raises(UsageError, match="base_digest differ"):
        read_runs(written(first, base_digest="other"), about)
    with pytest.raises(UsageError, match="stream_digest differ"):
        read_runs(written(first, stream_digest="other"), about)
    for broken in ({"runs": [{}]}, {"runs": 3}):
        with pytest.raises(UsageError, match="holds no runs"):
            read_runs(written(first, **broken), about)
    with pytest.raises(UsageError, match="holds no runs"):
        read_runs(tmp_path / "missing.json", about)
    with pytest.raises(UsageError, match="different settings"):
        merge([replace(first, recipe_digest="other")], [second])
    assert result_record(first)["machine"]["torch"]
