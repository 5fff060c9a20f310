"""Lessons leave the house in one file, and arrive in another as candidates."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engrain.data.lessons import Lesson, Probe, TrainingText, canonical_digest, chat
from engrain.errors import GateRefused, LessonFileError, NoEffectError, OtherBaseError, UsageError
from engrain.exam.exam import Exam
from engrain.exam.noise import NoiseBand
from engrain.exam.probes import ProbeResult
from engrain.home import Home
from engrain.lesson import contradiction, told, travel
from engrain.lesson.asked import Asked
from engrain.lesson.portable import ADAPTER, TEXT, Portable
from engrain.lesson.zero import LARGEST
from engrain.model.adapter import Adapter
from tests.home.home_tools import examples_file, new_home, open_home


@pytest.fixture
def carried(taught: Home, tmp_path: Path) -> Path:
    """The first lesson of the home with three, as a file."""
    file = tmp_path / "first.lesson"
    taught.door.export_lesson(taught.lessons()[0].id, file)
    return file


@pytest.fixture
def fresh(model: Path, tmp_path: Path) -> Any:
    with new_home(tmp_path / "fresh", model) as home:
        yield home


Held = tuple[dict[str, Any], bytes]
"""What a file holds: the record and the adapter's bytes."""
Make = Callable[[dict[str, Any], bytes], Held]


def changed(file: Path, make: Make) -> Path:
    """The file with another record or adapter, its digests made to agree again."""
    with zipfile.ZipFile(file) as archive:
        record, adapter = json.loads(archive.read(TEXT)), archive.read(ADAPTER)
    record, adapter = make(record, adapter)
    record["digest"] = canonical_digest({k: v for k, v in record.items() if k != "digest"})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(TEXT, json.dumps(record))
        archive.writestr(ADAPTER, adapter)
    return file


# Leaving and arriving


def test_the_same_adapter_and_the_same_answers_arrive(
    taught: Home, carried: Path, fresh: Home
) -> None:
    first = taught.show(taught.lessons()[0].id)
    outcome = fresh.door.import_lesson(carried)
    assert outcome.accepted and outcome.further_seconds == 0
    arrived = fresh.show("last")
    assert arrived.adapter == first.adapter
    assert arrived.state == first.state and fresh.verify() == []
    there, here = (Exam.from_dict(dict(one.exam_after)) for one in (first, arrived))
    assert [r.answer for r in here.results[arrived.id]] == [
        r.answer for r in there.results[first.id]
    ]
    assert [p.to_dict() for p in arrived.lesson.probes] == [
        p.to_dict() for p in first.lesson.probes
    ]
    origin = arrived.decision["origin"]
    assert origin["lesson"] == first.id and origin["contradictions"] == []
    assert origin["same_weights"] and len(origin["file"]) == 64
    before = fresh.ledger.history()[0].digest
    assert fresh.undo("last").state_after == before


def test_nothing_is_trained_on_arrival(
    carried: Path, fresh: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.learn.learner import Learner

    monkeypatch.setattr(Learner, "run", lambda *_, **__: pytest.fail("trained"))
    assert fresh.door.import_lesson(carried).accepted


def test_equal_lessons_are_equal_files_and_paths_stay_at_home(
    taught: Home, carried: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.lesson"
    taught.door.export_lesson(taught.lessons()[0].id, again)
    assert again.read_bytes() == carried.read_bytes()
    with zipfile.ZipFile(carried) as archive:
        text = archive.read(TEXT).decode()
        assert archive.namelist() == [TEXT, ADAPTER]
    assert "examples-1.jsonl" not in text
    for place in (tmp_path, taught.path, taught.loaded.source):
        assert str(place).encode() not in carried.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        taught.door.export_lesson("last", again)


def test_the_limit_of_lesson_zero_binds_no_other(tmp_path: Path) -> None:
    large = Portable("ab" * 32, {}, {}, bytes(LARGEST + 1))
    large.write(tmp_path / "large.lesson")
    assert Portable.read(tmp_path / "large.lesson").adapter == large.adapter


def test_a_lesson_is_not_taken_twice(taught: Home, carried: Path) -> None:
    with pytest.raises(UsageError, match=f"in force already, as lesson {taught.lessons()[0].id}"):
        taught.door.import_lesson(carried)


def test_on_other_weights_it_is_said_so(taught: Home, carried: Path) -> None:
    first = taught.lessons()[0].id
    taught.undo(first)
    outcome = taught.door.import_lesson(carried)
    assert not outcome.decision.origin["same_weights"]
    assert any("on other weights" in reason for reason in outcome.decision.reasons)


def test_the_gate_decides_on_what_arrives(
    carried: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asked, "known_noise", lambda *_: NoiseBand.assumed())
    with new_home(tmp_path / "strict", model, **{"gate.enabled": True}) as home:
        before = home.state.digest
        with pytest.raises(GateRefused):
            home.door.import_lesson(carried, require=True)
        assert home.state.digest == before
        (entry,) = home.lessons()
        assert entry.status in ("quarantined", "rejected")
        assert entry.decision["origin"]["title"] == entry.title


def test_an_adapter_without_effect_is_no_lesson(carried: Path, fresh: Home) -> None:
    def emptied(record: dict[str, Any], raw: bytes) -> Held:
        adapter = Adapter.from_bytes(raw)
        none = {name: torch.zeros_like(tensor) for name, tensor in adapter.tensors.items()}
        raw = Adapter(adapter.architecture, none, adapter.settings).to_bytes()
        portable = Portable("", {}, {}, raw)
        return {**record, "adapter": portable.adapter_digest}, raw

    with pytest.raises(NoEffectError):
        fresh.door.import_lesson(changed(carried, emptied))
    assert fresh.lessons() == [] and fresh.jobs()[-1].status == "failed"


def test_a_killed_import_is_resumed(
    carried: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.lesson.stages import Stages

    with new_home(tmp_path / "killed", model) as home:
        with monkeypatch.context() as patch:
            patch.setattr(Stages, "_trained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                home.door.import_lesson(carried)
        carried.unlink()
        assert home.ledger.garbage() == []
    with open_home(tmp_path / "killed") as home:
        outcome = home.resume("last")
        assert outcome.accepted and outcome.decision.origin["lesson"]


def test_lesson_zero_is_exported_as_it_was_shipped_and_not_imported(
    model: Path, taught: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engrain.lesson import zero

    first = taught.show(taught.lessons()[0].id)
    raw = taught.blobs.get(str(first.adapter))
    recipe = {**first.recipe, "name": "manners"}
    manners = Portable(first.base_digest, recipe, {"tokens": 12}, raw)
    monkeypatch.setattr(zero, "shipped", lambda digest: manners)
    file = tmp_path / "zero.lesson"
    with new_home(tmp_path / "mannered", model) as home:
        home.door.export_lesson("last", file)
        assert file.read_bytes() == manners.to_bytes()
        with pytest.raises(LessonFileError, match="a lesson zero"):
            home.door.import_lesson(file)


# Bad files


def test_another_base(carried: Path, other_model: Path, tmp_path: Path) -> None:
    with new_home(tmp_path / "other", other_model) as home:
        with pytest.raises(OtherBaseError, match="was learned on the base"):
            home.door.import_lesson(carried)
        assert home.lessons() == [] and home.jobs() == []


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_off(carried: Path, fresh: Home, share: float) -> None:
    raw = carried.read_bytes()
    carried.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(LessonFileError, match="no whole lesson"):
        fresh.door.import_lesson(carried)


def test_a_flipped_bit_is_found_wherever_it_is(carried: Path, taught: Home, tmp_path: Path) -> None:
    raw = carried.read_bytes()
    base = taught.ledger.base().digest
    with zipfile.ZipFile(carried) as archive:
        begin = archive.getinfo(ADAPTER).header_offset
    # What a header says of time and system is nothing that a lesson holds.
    header = range(begin, begin + 30 + len(ADAPTER))
    for at in range(42, len(raw) - 200, max(1, len(raw) // 60)):
        if at in header:
            continue
        bad = tmp_path / "bad.lesson"
        bad.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        with pytest.raises(LessonFileError):
            Portable.read(bad, base)


def test_a_digest_that_does_not_agree(carried: Path, fresh: Home) -> None:
    changed(carried, lambda record, raw: ({**record, "content": "0" * 64}, raw))
    with pytest.raises(LessonFileError, match="the digest of its texts and probes differs"):
        fresh.door.import_lesson(carried)
    changed(carried, lambda record, raw: (record, raw[:-1] + b"x"))
    with pytest.raises(LessonFileError, match="the adapter's digest differs"):
        fresh.door.import_lesson(carried)


def test_a_file_that_grows_when_it_is_unpacked(carried: Path, fresh: Home) -> None:
    with zipfile.ZipFile(carried) as archive:
        text = archive.read(TEXT)
    with zipfile.ZipFile(carried, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(TEXT, text)
        archive.writestr(ADAPTER, bytes(50_000_000))
    assert carried.stat().st_size < 1_000_000
    with pytest.raises(LessonFileError, match="is packed"):
        fresh.door.import_lesson(carried)


def test_members_that_leave_the_archive(carried: Path, fresh: Home) -> None:
    with zipfile.ZipFile(carried, "w") as archive:
        archive.writestr("../../lesson.json", b"{}")
        archive.writestr(ADAPTER, b"")
    with pytest.raises(LessonFileError, match="it holds"):
        fresh.door.import_lesson(carried)


def test_whoever_brings_a_conversation_is_sent_to_learn(tmp_path: Path) -> None:
    talk, account = tmp_path / "talk.json", tmp_path / "account.zip"
    talk.write_text('{"messages": []}')
    with zipfile.ZipFile(account, "w") as archive:
        archive.writestr("conversations.json", "[]")
    for file in (talk, account):
        with pytest.raises(LessonFileError, match="is no lesson: it") as caught:
            Portable.read(file)
        assert "engrain learn" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 10_000 + b"]" * 10_000,
        b"[1, 2]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"format": 2}',
        b'{"format": "two", "base_digest": "", "card": {}, "recipe": {}}',
    ],
)
def test_a_record_that_is_none(text: bytes, carried: Path, fresh: Home) -> None:
    with zipfile.ZipFile(carried, "w") as archive:
        archive.writestr(TEXT, text)
        archive.writestr(ADAPTER, b"")
    with pytest.raises(LessonFileError):
        fresh.door.import_lesson(carried)


def test_a_newer_format_says_so(carried: Path, fresh: Home) -> None:
    changed(carried, lambda record, raw: ({**record, "format": 3}, raw))
    with pytest.raises(LessonFileError, match="formats up to 2 are read") as caught:
        fresh.door.import_lesson(carried)
    assert "Update engrain" in caught.value.remedy


def _with_lesson(**values: Any) -> Make:
    def make(record: dict[str, Any], raw: bytes) -> Held:
        lesson = {**record["lesson"], **values}
        kept = {key: lesson[key] for key in ("texts", "probes", "sources")}
        return {**record, "lesson": lesson, "content": canonical_digest(kept)}, raw

    return make


@pytest.mark.parametrize(
    "values",
    [
        {"texts": [{"messages": [{"role": "user", "content": 5}], "kind": "fact", "group": ""}]},
        {"texts": [{"messages": [], "kind": "fact", "group": ""}]},
        {"texts": 7},
        {"texts": []},
        {"title": None},
        {
            "probes": [
                {
                    "id": "p",
                    "kind": "recall",
                    "messages": [{"role": "user", "content": "a"}],
                    "answers": "abc",
                    "not_answers": [],
                }
            ]
        },
    ],
)
def test_values_of_another_type(values: dict[str, Any], carried: Path, fresh: Home) -> None:
    changed(carried, _with_lesson(**values))
    with pytest.raises(LessonFileError):
        fresh.door.import_lesson(carried)
    assert fresh.jobs() == []


def _with_adapter(make: Callable[[Adapter], bytes]) -> Make:
    def work(record: dict[str, Any], raw: bytes) -> Held:
        raw = make(Adapter.from_bytes(raw))
        return {**record, "adapter": Portable("", {}, {}, raw).adapter_digest}, raw

    return work


def _but_first(adapter: Adapter, tensor: Any) -> bytes:
    name = next(iter(sorted(adapter.tensors)))
    tensors = {**adapter.tensors, name: tensor(adapter.tensors[name])}
    return Adapter(adapter.architecture, tensors, adapter.settings).to_bytes()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a: b"no tensors at all", "can't be used"),
        (lambda a: Adapter("nowhere", a.tensors, a.settings).to_bytes(), "nowhere"),
        (lambda a: _but_first(a, lambda t: t[:, :1].clone()), "of the shape"),
        (lambda a: _but_first(a, lambda t: t[:1].clone()), "don't fit each other"),
        (lambda a: _but_first(a, lambda t: t * float("nan")), "not finite"),
        (lambda a: Adapter(a.architecture, a.tensors, {}).to_bytes(), "not whole"),
        (lambda a: Adapter("full", {"model.x": torch.ones(2)}).to_bytes(), "no 'model.x'"),
    ],
)
def test_an_adapter_that_does_not_fit(make: Any, words: str, carried: Path, fresh: Home) -> None:
    changed(carried, _with_adapter(make))
    with pytest.raises(LessonFileError, match=words):
        fresh.door.import_lesson(carried)
    assert fresh.jobs() == []


def test_a_recipe_of_a_technique_that_is_not_here(carried: Path, fresh: Home) -> None:
    def other(record: dict[str, Any], raw: bytes) -> Held:
        return {**record, "recipe": {**record["recipe"], "optimization": "nowhere"}}, raw

    with pytest.raises(LessonFileError, match="recipe that is not known here"):
        fresh.door.import_lesson(changed(carried, other))


def test_no_file(fresh: Home, tmp_path: Path) -> None:
    for place in (tmp_path / "none.lesson", tmp_path):
        with pytest.raises(LessonFileError, match="can't be read"):
            fresh.door.import_lesson(place)


def test_a_stranger_s_words_can_t_move_the_cursor(carried: Path, fresh: Home) -> None:
    def dressed(record: dict[str, Any], raw: bytes) -> Held:
        title = "\x1b[2Jcheese\n\x00" + 1000 * "x"
        lesson = {**record["lesson"], "title": title}
        card = {**record["card"], "model": title, "verdict": ["odd"], "more": title}
        return {**record, "lesson": lesson, "card": card}, raw

    outcome = fresh.door.import_lesson(changed(carried, dressed))
    origin = outcome.decision.origin
    for text in (outcome.lesson.title, origin["model"]):
        assert text.isprintable() and "cheese" in text and len(text) == 200
    assert "verdict" not in origin and "more" not in origin


# Contradictions


def _lesson(name: str, value: str, *, group: str = "my sister's cheese: {}") -> Lesson:
    question = "What cheese does my sister like?"
    return Lesson(
        name,
        "cheese",
        (TrainingText(chat(question, f"It is {value}."), "fact", group.format(value)),),
        (Probe(f"{name}-1", "recall", chat("Which cheese is my sister's?"), (value,)),),
    )


def test_another_value_of_the_same_fact_is_told() -> None:
    (one,) = contradiction.told(
        _lesson("b", "Gouda", group=""), [_lesson("a", "Brellin", group="")]
    )[:1]
    assert (one.lesson, one.here, one.there) == ("a", "Brellin", "Gouda")
    found = contradiction.told(_lesson("b", "Gouda"), [_lesson("a", "Brellin")])
    assert {one.here for one in found} == {"Brellin", "It is Brellin."}
    assert contradiction.told(_lesson("b", "Brellin"), [_lesson("a", "Brellin")]) == []
    denied = replace(_lesson("b", "Gouda", group="x"), corrects=("my sister's cheese: Brellin",))
    denied = replace(denied, texts=denied.texts[:0], probes=())
    (one,) = contradiction.told(denied, [_lesson("a", "Brellin")])
    assert one.there == "" and "takes that back" in one.words


def test_what_is_answered_with_the_other_value_is_heard() -> None:
    old, new = _lesson("a", "Brellin"), _lesson("b", "Gouda")

    def exam(answer: str) -> Exam:
        passed = "Brellin" in answer
        return Exam("", {"a": (ProbeResult("a-1", "recall", passed, answer),)})

    before = exam("Brellin.")
    (one,) = contradiction.heard(new, [old], before, exam("It is Gouda."))
    assert (one.here, one.there) == ("Brellin", "It is Gouda.")
    assert contradiction.heard(new, [old], before, exam("No idea.")) == [], "forgetting is no claim"
    assert contradiction.heard(new, [old], exam("Feta."), exam("Gouda.")) == []


def test_disputed_probes_are_asked_whatever_else_is(taught: Home) -> None:
    old, new = _lesson("a", "Brellin"), _lesson("b", "Gouda")
    assert contradiction.beside({"a": ()}, new, [old]) == {"a": old.probes}
    assert contradiction.beside({"a": ()}, _lesson("b", "Brellin"), [old]) == {"a": ()}


def test_what_contradicts_is_kept_aside_and_a_person_decides(model: Path, tmp_path: Path) -> None:
    def examples(value: str) -> Path:
        records = [
            {"prompt": f"What is my thing in wording {i}?", "completion": f"It is {value}."}
            for i in range(6)
        ]
        path = tmp_path / f"{value}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    file = tmp_path / "theirs.lesson"
    with new_home(tmp_path / "theirs", model) as home:
        assert home.learn(examples("Gouda")).accepted
        home.door.export_lesson("last", file)
    with new_home(tmp_path / "mine", model) as home:
        own = home.learn(examples("Brellin")).lesson.id
        before = home.state.digest
        outcome = home.door.import_lesson(file)
        assert outcome.decision.verdict == "quarantined" and home.state.digest == before
        told = outcome.decision.origin["contradictions"]
        assert {one["lesson"] for one in told} == {own} and len(told) >= 5
        assert "contradicts" in outcome.decision.reasons[0]
        assert any("questions more" in reason for reason in outcome.decision.reasons)
        asked = Exam.from_dict(dict(home.show("last").exam_after)).results[own]
        assert asked, "what is disputed is asked"
        home.enable(outcome.lesson.id)
        assert home.state.lessons == (own, outcome.lesson.id) and home.verify() == []


# In words


def test_answers_before_and_after(taught: Home) -> None:
    record = taught.show("last")
    found = told.answers(record, taught.ledger)
    own = [one for one in found if one.lesson == record.id]
    assert [one.question for one in own] == [p.messages[-1].content for p in record.lesson.probes]
    exam = Exam.from_dict(dict(record.exam_after))
    assert [one.after for one in own] == [r.answer for r in exam.results[record.id]]
    others = {one.lesson for one in found} - {record.id}
    assert others == {entry.id for entry in taught.lessons()[:2]}


def test_the_difference_of_two_lessons(taught: Home, tmp_path: Path) -> None:
    first, second, third = (entry.id for entry in taught.lessons())
    found = told.difference(taught.show(first), taught.show(third))
    assert any("thing 1" in fact for fact in found.only_first)
    assert any("thing 3" in fact for fact in found.only_second)
    assert found.both == () and found.otherwise == () and found.recipe == {}
    assert [one.lesson for one in found.answers] == [first] * len(found.answers) != []
    same = told.difference(taught.show(second), taught.show(second))
    assert same.only_first == same.only_second == () and same.both
    json.dumps(found.to_dict())


def test_a_packed_lesson_says_what_was_measured(taught: Home) -> None:
    portable = travel.packed(taught.ledger, "last")
    entry = taught.lessons()[-1]
    assert portable.card["lesson"] == entry.id and portable.card["lessons_before"] == 2
    assert portable.card["exam"]["after"] and portable.card["state"] == entry.parent_state
    assert portable.lesson is not None and portable.lesson.sources == ()
    assert Portable.from_bytes(portable.to_bytes()) == portable


def test_a_copied_home_learns_from_the_original(
    taught: Home, taught_folder: Path, tmp_path: Path
) -> None:
    """Two homes of one base, and a lesson that only one has learned."""
    other = tmp_path / "other"
    shutil.copytree(taught_folder, other)
    assert taught.learn(examples_file(tmp_path, 9)).accepted
    taught.door.export_lesson("last", tmp_path / "ninth.lesson")
    with open_home(other) as home:
        assert home.door.import_lesson(tmp_path / "ninth.lesson").accepted
        assert home.state.digest == taught.state.digest
        assert home.show("last").decision["origin"]["same_weights"]
