"""A second round where the exam finds something missing, and weak facts that come again.

What an exam finds is scripted: a random model recalls nothing by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.errors import ConfigError, DivergedError, EngrainError, GateRefused, NoEffectError
from engrain.exam.decision import Check, Decision
from engrain.exam.exam import Exam
from engrain.exam.noise import NoiseBand
from engrain.exam.panel import PanelResult
from engrain.exam.probes import ProbeResult
from engrain.home import Home
from engrain.ledger import Ledger
from engrain.lesson import asked, stages
from engrain.lesson import job as jobbing
from engrain.lesson.asked import MOST_TIMES, Asked
from tests.home.home_tools import conversation, folded, live_digest, new_home, open_home

NONE = PanelResult("none", "none", {}, {})
ROUNDS = {"learn.rounds": 2, "learn.settings.mastery": True, "learn.settings.max_steps": 8}
THINGS = ("boat", "kite")


class StoppedError(Exception):
    """What a test raises in the place of a kill."""


def lesson(number: int) -> Lesson:
    """Two facts in two wordings each, with a held-out wording of each."""
    texts = [
        TrainingText(chat(ask, f"It is {thing.upper()}{number}."), "fact", group(thing, number))
        for thing in THINGS
        for ask in (f"What is {thing} {number}?", f"Tell me {thing} {number}.")
    ]
    probes = [
        Probe(
            f"{thing}-{number}",
            "recall",
            chat(f"Name {thing} {number}."),
            (f"{thing.upper()}{number}",),
            group=group(thing, number),
        )
        for thing in THINGS
    ]
    return Lesson("", f"day {number}", tuple(texts), tuple(probes), (conversation(number).digest,))


def group(thing: str, number: int) -> str:
    return f"{thing} {number}: {thing.upper()}{number}"


class Scripted:
    """Exams by script, and a record of what was trained and asked for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.right: Callable[[int, str], bool] = lambda exam, probe: True
        self.exams = 0
        self.runs: list[dict[str, Any]] = []
        self.reworded: list[list[str]] = []
        self.fresh: Callable[[Lesson, Sequence[str]], list[TrainingText]] = lambda one, groups: []
        self.lesson = lesson(1)
        patch.setattr(asked, "run_panel", lambda *_, **__: NONE)
        patch.setattr(Asked, "noise", lambda *_: NoiseBand.assumed())
        patch.setattr(stages, "run_exam", self.examine)
        patch.setattr(jobbing, "make_lesson", self.study)
        patch.setattr(jobbing, "more_wordings", self.reword)
        really, runs = stages.Learner, self.runs

        class Learner(really):  # type: ignore[misc,valid-type]
            def run(self, loaded: Any, lesson: Lesson, **how: Any) -> Any:
                runs.append({"recipe": self.recipe, "lesson": lesson, **how})
                return super().run(loaded, lesson, **how)

        patch.setattr(stages, "Learner", Learner)

    def examine(self, engine: Any, probes: Any, panel: Any, **_: Any) -> Exam:
        self.exams += 1
        results = {
            name: tuple(
                ProbeResult(p.id, p.kind, self.passed(p), str(self.exams)) for p in asked_probes
            )
            for name, asked_probes in probes.items()
        }
        return Exam(engine.state_digest, results, NONE)

    def passed(self, probe: Probe) -> bool:
        """Before a lesson nothing is recalled, and what was never told is not answered."""
        known = self.exams > 1 or probe.kind == "abstention"
        return known and self.right(self.exams, probe.id)

    def study(self, *_: Any, name: str, **__: Any) -> Any:
        class Preview:
            lesson = replace(self.lesson, id=name)

        return Preview

    def reword(self, engine: Any, talks: Any, of: Lesson, groups: Any, **_: Any) -> Any:
        self.reworded.append(list(groups))
        return self.fresh(of, groups)

    def learn(self, home: Home, number: int = 1, *more: Probe, **how: Any) -> stages.Outcome:
        self.lesson, self.exams = lesson(number), 0
        self.lesson = replace(self.lesson, probes=(*self.lesson.probes, *more))
        return home.learn(conversation(number), **how)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(monkeypatch)


@pytest.fixture
def home(tmp_path: Path, model: Path, scripted: Scripted) -> Iterator[Home]:
    with new_home(tmp_path / "home", model, **ROUNDS) as made:
        yield made


def wording(thing: str, text: str) -> TrainingText:
    return TrainingText(chat(text, f"It is {thing.upper()}1."), "fact", group(thing, 1))


def kite_only_later(exam: int, probe: str) -> bool:
    """The kite is recalled after a second round only."""
    return not probe.startswith("kite") or exam > 2


# ---------------------------------------------------------------------------- a second round
@pytest.mark.parametrize("broken", [NoEffectError("nothing"), DivergedError("the loss is nan")])
def test_a_second_round_that_breaks_leaves_the_first(
    home: Home, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, broken: EngrainError
) -> None:
    scripted.right = kite_only_later
    really = stages.Stages._trained

    def trained(self: Any, stage: str, *rest: Any) -> Any:
        if stage == "trained_again":
            with self._fatal(type(broken), first=rest[1]):
                raise broken
        return really(self, stage, *rest)

    monkeypatch.setattr(stages.Stages, "_trained", trained)
    outcome = scripted.learn(home)
    # The gate had its say about the first round; the job is no failure.
    assert [one["kept"] for one in outcome.decision.rounds] == [True]
    assert home.jobs()[-1].status != "failed" and home.verify() == []
    assert scripted.reworded == [[group("kite", 1)]]


def test_what_is_missing_is_trained_once_more(home: Home, scripted: Scripted) -> None:
    before = home.state.digest
    scripted.right = kite_only_later
    scripted.fresh = lambda *_: [wording("kite", "The kite, which is it?")]
    told: set[str] = set()
    outcome = scripted.learn(home, on_progress=lambda stage, *_: told.add(stage))
    assert {"studied_again", "trained_again", "examined_again"} <= told
    first, second = scripted.runs
    assert first["memo"] is second["memo"], "what the model was before is computed once"
    assert scripted.reworded == [[group("kite", 1)]], "of the missing fact alone"
    assert second["further"].questions == {"The kite, which is it?"}
    assert second["recipe"].max_steps <= first["recipe"].max_steps // 2
    one, two = outcome.decision.rounds
    assert one["missing"] == ["Name kite 1."] and two["missing"] == []
    assert (one["kept"], two["kept"]) == (False, True) and two["steps"] <= one["steps"] // 2
    assert outcome.to_dict()["rounds"] == [one, two]
    assert any("second round" in reason for reason in outcome.decision.reasons)
    assert outcome.exam_after.outcomes(outcome.lesson.id) == {"boat-1": True, "kite-1": True}

    # One adapter, told whole by the record, and gone without a trace.
    record = home.show("last")
    assert [t.question for t in record.lesson.texts][-1] == "The kite, which is it?"
    assert record.decision["rounds"] == [one, two]
    assert record.lesson.probes == outcome.lesson.probes
    assert home.state.digest == outcome.state_after == folded(home, home.state.lessons)
    assert home.verify() == [] and not list(home.path.glob("jobs/*"))
    assert home.undo("last").state_after == before == live_digest(home)


def test_a_probe_is_never_trained(home: Home, scripted: Scripted) -> None:
    scripted.right = kite_only_later
    scripted.fresh = lambda *_: [
        wording("kite", "name kite 1"),
        wording("kite", "Name boat 1."),
        wording("boat", "Not asked for."),
        wording("kite", "Which kite?"),
    ]
    outcome = scripted.learn(home)
    assert scripted.runs[1]["further"].questions == {"Which kite?"}
    trained = {text.question for run in scripted.runs for text in run["lesson"].facts()}
    assert trained == {t.question for t in lesson(1).facts()} | {"Which kite?"}
    assert {t.question for t in outcome.lesson.facts()} == trained


def test_without_fresh_wordings_a_facts_own_are_trained(home: Home, scripted: Scripted) -> None:
    scripted.right = kite_only_later
    outcome = scripted.learn(home)
    assert scripted.runs[1]["further"].questions == {"What is kite 1?", "Tell me kite 1."}
    assert outcome.lesson.texts == lesson(1).texts and outcome.decision.kept_round == 1


def test_none_where_all_is_recalled(home: Home, scripted: Scripted) -> None:
    outcome = scripted.learn(home)
    assert len(scripted.runs) == 1 and scripted.exams == 2 and not scripted.reworded
    assert [one["missing"] for one in outcome.decision.rounds] == [[]]


def test_never_a_third(home: Home, scripted: Scripted) -> None:
    scripted.right = lambda exam, probe: False
    outcome = scripted.learn(home)
    assert len(scripted.runs) == 2 and len(outcome.decision.rounds) == 2


def test_one_round_where_that_is_set(home: Home, scripted: Scripted, tmp_path: Path) -> None:
    scripted.right = lambda exam, probe: False
    with open_home(home.path, **{"learn.rounds": 1}) as once:
        assert once.recipe().rounds == 1
        scripted.learn(once)
    assert len(scripted.runs) == 1
    with open_home(home.path, **{"learn.rounds": 0}) as own:
        assert own.recipe().rounds == 1 and own.recipe("chat").rounds == 2
        assert own.recipe("default").rounds == 1
    refused = open_home(home.path, **{"learn.settings.architecture": "switchlora"})
    with refused, pytest.raises(ConfigError, match="second round"):
        refused.recipe()


def test_a_second_round_that_is_no_better_is_dropped(home: Home, scripted: Scripted) -> None:
    scripted.right = lambda exam, probe: not probe.startswith("kite")
    scripted.fresh = lambda *_: [wording("kite", "Which kite?")]
    outcome = scripted.learn(home)
    assert outcome.decision.kept_round == 0
    first = home.ledger.stage_payload(outcome.job, "trained")["adapter"]
    again = home.ledger.stage_payload(outcome.job, "trained_again")["adapter"]
    assert home.show("last").adapter == first != again
    assert outcome.lesson.texts == lesson(1).texts
    assert home.state.digest == folded(home, home.state.lessons) == live_digest(home)


def decided(verdict: Any, recalled: bool) -> Decision:
    """A decision that found enough of the new facts, or too little."""
    recall = Check("recall", 0.0, 0.5, 0.8, recalled, "It recalls some.", "little")
    return Decision(verdict, ["Decided."], [recall])


def test_what_the_gate_likes_less_is_dropped(
    tmp_path: Path, model: Path, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = new_home(tmp_path / "home", model, **ROUNDS, **{"gate.enabled": True})
    first = decided("quarantined", False)
    # It is asked after the first round whether there is a second, then of both.
    found = iter([first, first, decided("rejected", False)])
    monkeypatch.setattr(stages, "decide", lambda *_, **__: next(found))
    scripted.right = kite_only_later
    with pytest.raises(GateRefused) as caught:
        scripted.learn(home, require=True)
    told = json.loads(caught.value.details["outcome"])
    assert told["verdict"] == "quarantined" and len(told["rounds"]) == 2
    assert [one["kept"] for one in told["rounds"]] == [True, False]
    assert any("no better" in reason for reason in told["reasons"])


@pytest.mark.parametrize("verdict", ["accepted", "rejected"])
def test_where_enough_is_recalled_no_second_round_follows(
    tmp_path: Path,
    model: Path,
    scripted: Scripted,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
) -> None:
    home = new_home(tmp_path / "home", model, **ROUNDS, **{"gate.enabled": True})
    monkeypatch.setattr(stages, "decide", lambda *_, **__: decided(verdict, True))
    scripted.right = kite_only_later
    outcome = scripted.learn(home)
    assert outcome.decision.verdict == verdict and len(outcome.decision.rounds) == 1
    assert any("Not recalled: Name kite 1." in reason for reason in outcome.decision.reasons)
    assert not scripted.reworded and len(scripted.runs) == 1


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_lesson_that_answers_what_was_never_told_is_quarantined_and_says_what(
    tmp_path: Path, model: Path, scripted: Scripted, answered: int
) -> None:
    home = new_home(tmp_path / "home", model, **ROUNDS, **{"gate.enabled": True})
    before = home.state.digest
    untold = [
        Probe(thing, "abstention", chat(f"Name the {thing}."), (), ("BOAT1",), group("boat", 1))
        for thing in ("ferry", "raft", "canoe")
    ]
    wrong = [probe.id for probe in untold[:answered]]
    scripted.right = lambda exam, probe: exam == 1 or probe not in wrong
    outcome = scripted.learn(home, 1, *untold)
    said = [r for r in outcome.decision.reasons if r.startswith("Answered, though never told")]
    assert (
        said
        == {
            0: [],
            1: ["Answered, though never told: Name the ferry."],
            2: ["Answered, though never told: Name the ferry.; Name the raft."],
        }[answered]
    )
    assert outcome.accepted == (answered < 2) == (home.state.digest != before)
    assert len(scripted.runs) == 1, "what is recalled is not trained again"


@pytest.mark.parametrize("how", ["relearned", "edited"])
def test_what_a_person_saw_gets_no_wordings_that_nobody_saw(
    home: Home, scripted: Scripted, how: str
) -> None:
    scripted.right = lambda exam, probe: probe.startswith("boat")
    if how == "relearned":
        scripted.learn(home)
        scripted.reworded.clear()
        name = home.disable("last").lesson
        scripted.exams = 0
        outcome = home.relearn(name)
    else:
        outcome = scripted.learn(home, studied=lesson(1))
    assert len(outcome.decision.rounds) == 2 and not scripted.reworded


@pytest.mark.parametrize(
    "stage",
    ["examined_after", "studied_again", "trained_again", "examined_again", "decided", "committed"],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_second_round_goes_on_after_a_kill(
    tmp_path: Path, model: Path, scripted: Scripted, stage: str, after: bool
) -> None:
    if stage == "committed" and after:
        pytest.skip("it has ended")
    scripted.right = kite_only_later
    scripted.fresh = lambda *_: [wording("kite", f"Which kite, take {len(scripted.reworded)}?")]
    with new_home(tmp_path / "whole", model, **ROUNDS) as whole:
        wanted = scripted.learn(whole)
    scripted.reworded.clear()
    scripted.runs.clear()
    advance = Ledger.advance

    def dying(ledger: Ledger, job: str, name: str, payload: Any = None) -> Any:
        if name == stage and not after:
            raise StoppedError
        done = advance(ledger, job, name, payload)
        if name == stage:
            raise StoppedError
        return done

    def never(*_: Any) -> None:
        raise StoppedError

    home = new_home(tmp_path / "home", model, **ROUNDS)
    with home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "advance", dying)
        if stage == "committed":
            patch.setattr(Ledger, "commit", never)
        with pytest.raises(StoppedError):
            scripted.learn(home)
    with open_home(tmp_path / "home") as again:
        # Another process takes the exams up where the record has them.
        job = again.jobs()[-1]
        scripted.exams = sum(job.reached(f"examined_{n}") for n in ("before", "after", "again"))
        asked_twice = stage == "studied_again" and not after
        if asked_twice:
            scripted.reworded.clear()
        outcome = again.resume("last")
        assert outcome.state_after == wanted.state_after == live_digest(again)
        assert outcome.decision.rounds == wanted.decision.rounds
        assert outcome.lesson.texts == wanted.lesson.texts
        assert len(scripted.reworded) == 1, "what was asked is on record and not asked again"
        assert not list(again.path.glob("jobs/*")) and again.verify() == []


def test_a_second_round_is_killed_between_two_steps(
    tmp_path: Path, model: Path, scripted: Scripted
) -> None:
    """Its checkpoint is its own: the one of the first round is of another run."""
    long = {**ROUNDS, "learn.settings.min_steps": 44, "learn.settings.max_steps": 44}
    scripted.right = kite_only_later
    with new_home(tmp_path / "whole", model, **long) as whole:
        wanted = scripted.learn(whole)

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("trained_again", 21):
            raise StoppedError

    with new_home(tmp_path / "home", model, **long) as home:
        with pytest.raises(StoppedError):
            scripted.learn(home, on_progress=stop)
        assert len(list(home.path.glob("jobs/*"))) == 2
    with open_home(tmp_path / "home") as again:
        scripted.exams, steps = 2, []
        outcome = again.resume(
            "last", on_progress=lambda s, done, _: steps.append(done) if "trained" in s else None
        )
        assert steps == [21, 22] and outcome.state_after == wanted.state_after
        assert not list(again.path.glob("jobs/*"))


# ---------------------------------------------------------------------------- weak facts
def weak_of(home: Home) -> list[tuple[str, str]]:
    return sorted({(name, text.group) for name, text in home.asked.weak()})


def test_what_a_lesson_does_not_recall_comes_again_with_the_next(
    home: Home, scripted: Scripted
) -> None:
    scripted.right = lambda exam, probe: probe != "kite-1"
    first = scripted.learn(home).lesson.id
    assert weak_of(home) == [(first, group("kite", 1))]
    for number in range(2, 2 + MOST_TIMES):
        scripted.runs.clear()
        outcome = scripted.learn(home, number)
        (run,) = scripted.runs
        assert {(name, text.question) for name, text in run["weak"]} == {
            (first, "What is kite 1?"),
            (first, "Tell me kite 1."),
        }
        assert outcome.decision.again == {first: [group("kite", 1)]}
        assert outcome.to_dict()["again"] == outcome.decision.again
        assert home.show("last").decision["again"] == outcome.decision.again
        assert outcome.lesson.texts == lesson(number).texts, "the lesson's texts are its own"
    assert weak_of(home) == [], "not more often than that"
    scripted.runs.clear()
    assert scripted.learn(home, 9).decision.again == {} and not scripted.runs[0]["weak"]


def test_what_is_recalled_at_last_does_not_come_again(home: Home, scripted: Scripted) -> None:
    scripted.right = lambda exam, probe: probe != "kite-1"
    first = scripted.learn(home).lesson.id
    scripted.right = lambda exam, probe: True
    second = scripted.learn(home, 2).lesson.id
    assert weak_of(home) == []
    # It stood in the lesson that leaves: it is weak again, and no one had to be told.
    whole = home.state.digest
    home.disable(second)
    assert weak_of(home) == [(first, group("kite", 1))]
    home.enable(second)
    assert weak_of(home) == [] and home.state.digest == whole
    home.undo(first)
    assert weak_of(home) == []
    assert home.verify() == []


def test_what_is_corrected_does_not_come_again(home: Home, scripted: Scripted) -> None:
    scripted.right = lambda exam, probe: probe != "kite-1"
    old = scripted.learn(home).lesson
    texts = tuple(replace(t, group="kite 1: OTHER") for t in old.facts() if "kite" in t.question)
    newer = replace(old, id="newer", texts=texts, probes=())
    assert home.asked.weak() and home.asked.weak(newer) == []


def test_a_lesson_learned_again_knows_nothing_of_one_that_is_undone(
    home: Home, scripted: Scripted
) -> None:
    """Without the first lesson, the second is to the bit what it had been alone."""
    scripted.right = lambda exam, probe: probe != "kite-1"
    first = scripted.learn(home).lesson.id
    scripted.learn(home, 2)
    assert scripted.runs[-1]["weak"]
    scripted.exams = 0
    (again,) = home.undo(first, relearn=True).relearned
    assert not scripted.runs[-1]["weak"] and again.decision.again == {}
    home.undo("last")
    assert scripted.learn(home, 2).state_after == again.state_after


def test_weak_facts_are_asked_first_of_many(
    home: Home, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "EARLIER_PROBES", 1)
    for weak in ("kite-1", "boat-1"):
        scripted.right = lambda exam, probe, weak=weak: probe != weak
        name = scripted.learn(home).lesson.id
        chosen, _ = home.asked.questions(lesson(2), weak_first=True)
        assert [probe.id for probe in chosen[name]] == [weak]
        home.undo("last")


def test_recipes_without_mastery_take_no_weak_facts(home: Home, scripted: Scripted) -> None:
    scripted.right = lambda exam, probe: False
    scripted.learn(home)
    with open_home(home.path, **{"learn.settings.mastery": False, "learn.rounds": 1}) as plain:
        outcome = scripted.learn(plain, 2)
    assert not scripted.runs[-1]["weak"] and outcome.decision.again == {}
