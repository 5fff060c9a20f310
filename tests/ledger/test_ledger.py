from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engrain.data.lessons import Lesson, canonical_digest, chat
from engrain.data.messages import Conversation
from engrain.errors import (
    BaseChangedError,
    BlobMissingError,
    ConfigError,
    HomeLockedError,
    LedgerError,
    StateMismatchError,
    UnknownNameError,
    UsageError,
)
from engrain.ledger import HomeLock, Ledger, Status
from engrain.ledger.identifiers import ALPHABET, new_id, resolve
from engrain.ledger.records import canonical_bytes, lesson_content, sha256
from tests.ledger.ledger_tools import (
    BASE,
    change,
    conversation,
    fold_digest,
    learn,
    make_record,
    new_home,
    open_ledger,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=json_values)
def test_canonical_bytes_are_what_canonical_digest_hashes(value: object) -> None:
    assert sha256(canonical_bytes(value)) == canonical_digest(value)


def test_a_value_that_is_not_json_is_refused() -> None:
    with pytest.raises(LedgerError, match="can't be kept"):
        canonical_bytes({"x": object()})


def test_importing_the_ledger_does_not_import_torch() -> None:
    script = "import sys, engrain.ledger; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


class TestIdentifiers:
    def test_ids_are_short_and_sort_by_time(self) -> None:
        ids = [new_id(seconds) for seconds in (0.0, 1.7e9, 1.7e9 + 0.002, 4.0e9)]
        assert ids == sorted(ids)
        assert all(len(item) == 10 and set(item) <= set(ALPHABET) for item in ids)

    @given(
        st.floats(min_value=0, max_value=4e9, allow_nan=False),
        st.floats(min_value=0, max_value=4e9, allow_nan=False),
    )
    def test_always_after_the_one_before(self, first: float, second: float) -> None:
        before = new_id(first)
        assert new_id(second, after=before) > before

    def test_resolve(self) -> None:
        known = ["d20aaaaaa1", "d20aaaaaa2", "d21aaaaaa0"]
        assert resolve("lesson", "d21", known) == "d21aaaaaa0"
        assert resolve("lesson", " D2L ", known) == "d21aaaaaa0"
        assert resolve("lesson", "d20aaaaaa2", known) == "d20aaaaaa2"
        for name in ("d20", "d2", "x", "", " "):
            with pytest.raises(UnknownNameError):
                resolve("lesson", name, known)

    def test_near_names_are_proposed(self) -> None:
        with pytest.raises(UnknownNameError) as caught:
            resolve("lesson", "d21aaaaab0", ["d21aaaaaa0"])
        assert caught.value.suggestions == ["d21aaaaaa0"]


class TestBeginning:
    def test_the_first_state_is_the_base(self, ledger: Ledger) -> None:
        state = ledger.current()
        assert (state.digest, state.lessons, state.adapters) == (fold_digest(()), (), ())
        assert ledger.base().source == "pocket"
        assert ledger.verify(fold_digest) == []

    def test_beginning_again_changes_nothing(self, ledger: Ledger) -> None:
        ledger.begin(source="pocket", base_digest=BASE, state=fold_digest(()))
        assert len(ledger.events()) == 1

    def test_another_base_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(BaseChangedError, match="pocket"):
            ledger.begin(source="pocket", base_digest="c" * 64, state=fold_digest(()))
        with pytest.raises(BaseChangedError):
            ledger.check_base("c" * 64)
        ledger.check_base(BASE)
        with pytest.raises(BaseChangedError):
            ledger.commit(replace(make_record(ledger, 1), base_digest="c" * 64))

    def test_nothing_works_before_the_beginning(self, tmp_path: Path) -> None:
        with open_ledger(tmp_path, create=True) as ledger:
            for call in (ledger.current, ledger.base):
                with pytest.raises(LedgerError, match="yet"):
                    call()
            assert ledger.verify(fold_digest) == []

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "no address", "x://y"])
    def test_addresses_that_can_not_be_used(self, tmp_path: Path, url: str) -> None:
        from engrain.ledger import BlobStore

        with pytest.raises(ConfigError):
            Ledger(url, BlobStore(tmp_path), create=True)

    def test_an_address_as_text_and_odd_paths(self, tmp_path: Path) -> None:
        from engrain.ledger import BlobStore

        Ledger(f"sqlite:///{tmp_path}/a.db", BlobStore(tmp_path), create=True).close()
        assert (tmp_path / "a.db").exists()
        odd = tmp_path / "ho me?#%41é" / "ledger"
        new_home(odd).close()
        assert (odd / "ledger.db").exists()
        with open_ledger(odd) as ledger:
            assert ledger.current().lessons == ()


class TestConversations:
    def test_added_once_and_given_back(self, ledger: Ledger) -> None:
        said = conversation(1)
        assert ledger.add_conversation(said) == said.digest == ledger.add_conversation(said)
        assert ledger.get_conversation(said.digest) == said
        assert ledger.get_conversation(said.digest[:8]) == said
        entry = ledger.list_conversations()[0]
        assert (entry.digest, entry.length) == (said.digest, 2)
        assert len(ledger.events()) == 2

    def test_a_growing_chat_stores_its_beginning_once(self, ledger: Ledger) -> None:
        messages = chat(*(f"line {number}" for number in range(20)))
        for length in range(2, 21, 2):
            ledger.add_conversation(Conversation(messages[:length]))
        assert len(ledger.list_conversations()) == 10
        with ledger._database.reading() as session:
            from engrain.ledger.schema import MessageRow

            assert session.query(MessageRow).count() == 20
        assert ledger.verify(fold_digest) == []

    def test_same_words_in_another_place_are_another_message(self, ledger: Ledger) -> None:
        ledger.add_conversation(Conversation(chat("yes", "no", "yes", "no")))
        ledger.add_conversation(Conversation(chat("yes", "yes")))
        assert ledger.verify(fold_digest) == []

    def test_unknown(self, ledger: Ledger) -> None:
        for name in ("", "abc"):
            with pytest.raises(UnknownNameError):
                ledger.get_conversation(name)
        with pytest.raises(LedgerError):
            ledger.add_conversation(Conversation(()))

    @settings(max_examples=25, deadline=None)
    @given(
        contents=st.lists(
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=1, max_size=6
        )
    )
    def test_any_text(self, contents: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
        said = Conversation(chat(*contents, system="S"))
        with new_home(tmp_path_factory.mktemp("home")) as ledger:
            ledger.add_conversation(said)
            assert ledger.get_conversation(said.digest) == said
            assert ledger.verify(fold_digest) == []


class TestJobs:
    def test_stages_keep_their_payloads(self, ledger: Ledger) -> None:
        job = ledger.create_job("learn", {"path": "x.json"})
        large = {"texts": ["x" * 5000]}
        assert ledger.get_job(job).stage == ""
        ledger.advance(job, "logged", {"conversation": "c"})
        ledger.advance(job, "studied", large)
        found = ledger.get_job("last")
        assert (found.id, found.kind, found.stage) == (job, "learn", "studied")
        assert found.payload == {"path": "x.json"}
        assert found.reached("logged") and not found.reached("trained")
        assert found.status == "running"
        assert ledger.stage_payload(job, "logged") == {"conversation": "c"}
        assert ledger.stage_payload(job, "studied") == large
        assert found.stages[1].blob is not None and found.stages[1].payload is None
        assert ledger.garbage() == []
        with pytest.raises(UnknownNameError):
            ledger.stage_payload(job, "trained")
        assert ledger.verify(fold_digest) == []

    def test_advancing_again_changes_nothing(self, ledger: Ledger) -> None:
        job = ledger.create_job("learn")
        for payload in ({"a": 1}, {"texts": "x" * 5000}):
            stage = "logged" if "a" in payload else "studied"
            first = ledger.advance(job, stage, payload)
            events = len(ledger.events())
            assert ledger.advance(job, stage, payload) == first
            assert len(ledger.events()) == events
            with pytest.raises(LedgerError, match="another payload"):
                ledger.advance(job, stage, {"b": 2})
        ledger.advance(job, "trained")
        ledger.advance(job, "logged", {"a": 1})
        assert ledger.get_job(job).stage == "trained"

    def test_stages_come_in_order(self, ledger: Ledger) -> None:
        job = ledger.create_job("learn")
        ledger.advance(job, "trained")
        with pytest.raises(UsageError, match="beyond"):
            ledger.advance(job, "studied")
        for stage in ("committed", "learned"):
            with pytest.raises(UnknownNameError):
                ledger.advance(job, stage)
        ledger.advance(job, "failed", {"error": "DivergedError"})
        ledger.advance(job, "failed", {"error": "DivergedError"})
        assert ledger.get_job(job).status == "failed"
        with pytest.raises(UsageError, match="has ended"):
            ledger.advance(job, "decided")
        with pytest.raises(UsageError, match="has ended"):
            ledger.take_job(job)
        with pytest.raises(UsageError, match="has ended"):
            ledger.commit(make_record(ledger, 1, job=job))
        assert ledger.list_lessons() == []

    def test_unknown_job(self, ledger: Ledger) -> None:
        for name in ("last", "zzz"):
            with pytest.raises(UnknownNameError):
                ledger.get_job(name)

    def test_commit_ends_the_job(self, ledger: Ledger) -> None:
        job = ledger.create_job("learn")
        record = make_record(ledger, 1, job=job)
        events = len(ledger.events())
        ledger.commit(record)
        assert len(ledger.events()) == events + 1
        assert ledger.get_job(job).status == "committed"
        assert ledger.stage_payload(job, "committed") == {"lesson": record.id, "status": "active"}
        assert ledger.list_jobs(status="committed")[0].id == job
        assert ledger.list_jobs(status="running") == []
        assert ledger.verify(fold_digest) == []

    def test_a_dead_process_leaves_an_interrupted_job(self, ledger: Ledger, tmp_path: Path) -> None:
        script = """
import sys
from pathlib import Path
from tests.ledger.ledger_tools import open_ledger
ledger = open_ledger(Path(sys.argv[1]))
job = ledger.create_job("learn")
ledger.advance(job, "studied", {"texts": 3})
print(job, flush=True)
sys.stdin.read()
"""
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=worker_environment(),
        )
        assert process.stdout is not None
        job = process.stdout.readline().strip()
        found = ledger.get_job(job)
        assert (found.status, found.pid) == ("running", process.pid)
        with pytest.raises(HomeLockedError, match=str(process.pid)):
            ledger.take_job(job)
        process.kill()
        process.communicate()
        assert ledger.get_job(job).status == "interrupted"
        assert [item.id for item in ledger.list_jobs(status="interrupted")] == [job]
        assert ledger.take_job(job).status == "running"
        ledger.advance(job, "trained")
        assert ledger.stage_payload(job, "studied") == {"texts": 3}
        assert ledger.verify(fold_digest) == []


def worker_environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(item or "." for item in sys.path)}


class TestCommit:
    def test_all_of_a_lesson_comes_back(self, ledger: Ledger) -> None:
        record = make_record(ledger, 1)
        state = ledger.commit(record)
        assert state.lessons == (record.id,)
        assert state.digest == record.state == ledger.current().digest
        for name in (record.id, record.id[:8], "last", "LAST"):
            found = ledger.get_lesson(name)
            assert replace(found, at="", position=0) == record
        assert found.at and found.position == state.event
        assert found.recipe_digest == canonical_digest(record.recipe)
        assert ledger.lesson("last") == record.lesson
        entry = ledger.get_entry("last")
        assert entry.content == record.lesson.digest
        assert ledger.blobs.get(entry.content) == lesson_content(record.lesson)
        assert ledger.verify(fold_digest) == []

    def test_committing_again_changes_nothing(self, ledger: Ledger) -> None:
        record = make_record(ledger, 1)
        state = ledger.commit(record)
        assert ledger.commit(record) == state
        change(ledger, "last", "disabled")
        assert ledger.commit(record) == ledger.current()
        assert ledger.get_entry("last").status == "disabled"
        with pytest.raises(LedgerError, match="Another lesson"):
            ledger.commit(replace(record, seed=99))

    @pytest.mark.parametrize("status", ["quarantined", "rejected"])
    def test_what_the_gate_refuses_changes_no_weights(self, ledger: Ledger, status: Status) -> None:
        learn(ledger, 1)
        before = ledger.current()
        lesson = learn(ledger, 2, status)
        assert ledger.current() == before
        assert ledger.get_lesson(lesson).status == status
        assert ledger.verify(fold_digest) == []

    def test_a_record_that_contradicts_itself(self, ledger: Ledger) -> None:
        record = make_record(ledger, 1)
        refused = make_record(ledger, 2, "rejected")
        for wrong, words in (
            (replace(record, adapter=None), "no adapter"),
            (replace(record, state="x"), "not a digest"),
            (replace(record, status="undone"), "status"),
            (replace(refused, state="a" * 64), "would change the state"),
            (replace(record, lesson=replace(record.lesson, sources=("f" * 64,))), "not in the log"),
            (replace(record, decision={"x": {1, 2}}), "can't be kept"),
        ):
            with pytest.raises((LedgerError, UnknownNameError), match=words):
                ledger.commit(wrong)
        assert ledger.list_lessons() == []
        assert ledger.verify(fold_digest) == []

    def test_the_adapter_must_be_there_and_whole(self, ledger: Ledger) -> None:
        record = make_record(ledger, 1)
        assert record.adapter is not None
        with pytest.raises(BlobMissingError, match="gone"):
            ledger.commit(replace(record, adapter="e" * 64))
        ledger.blobs.path(record.adapter).write_bytes(b"other")
        with pytest.raises(BlobMissingError, match="damaged"):
            ledger.commit(record)
        assert ledger.list_lessons() == []

    def test_a_lesson_that_was_learned_on_another_state(self, ledger: Ledger) -> None:
        late = make_record(ledger, 1)
        learn(ledger, 2)
        with pytest.raises(StateMismatchError, match="in force"):
            ledger.commit(late)
        assert [entry.title for entry in ledger.list_lessons()] == ["Number 2"]

    def test_two_folds_of_the_same_adapters_must_agree(self, ledger: Ledger) -> None:
        learn(ledger, 1)
        change(ledger, "last", "disabled")
        plan = ledger.plan("last", "active")
        with pytest.raises(StateMismatchError, match="before"):
            ledger.apply(plan, "f" * 64)
        with pytest.raises(LedgerError, match="not a digest"):
            ledger.apply(plan, "f")
        ledger.apply(plan, fold_digest(plan.adapters))

    def test_not_a_number_survives(self, ledger: Ledger) -> None:
        record = replace(
            make_record(ledger, 1), exam_after={"cell": float("nan")}, decision={"x": float("nan")}
        )
        ledger.commit(record)
        found = ledger.get_lesson("last")
        assert str(found.exam_after) == "{'cell': nan}"
        assert ledger.commit(record) == ledger.current()
        assert ledger.verify(fold_digest) == []


class TestStatus:
    def test_undo_of_the_last_gives_back_the_digest_before(self, ledger: Ledger) -> None:
        digests = [ledger.current().digest]
        for number in range(3):
            learn(ledger, number)
            digests.append(ledger.current().digest)
        for digest in reversed(digests[:-1]):
            assert change(ledger, "last", "undone").digest == digest
        with pytest.raises(UsageError, match="no lesson to undo"):
            ledger.plan("last", "undone")
        assert [entry.status for entry in ledger.list_lessons()] == ["undone"] * 3
        assert ledger.verify(fold_digest) == []

    def test_a_lesson_comes_back_to_its_own_place(self, ledger: Ledger) -> None:
        ids = [learn(ledger, number) for number in range(3)]
        full = ledger.current()
        state = change(ledger, ids[0], "disabled")
        assert state.lessons == tuple(ids[1:])
        assert state.digest == fold_digest(state.adapters)
        assert change(ledger, ids[0], "active").digest == full.digest
        assert ledger.current().lessons == tuple(ids)
        assert [state.lessons for state in ledger.history()][-2:] == [tuple(ids[1:]), tuple(ids)]
        assert ledger.verify(fold_digest) == []

    def test_order_is_that_of_commits_not_of_ids(self, ledger: Ledger) -> None:
        early = make_record(ledger, 1)
        later = learn(ledger, 2)
        now = ledger.current()
        assert early.adapter is not None
        state = fold_digest([*now.adapters, early.adapter])
        ledger.commit(replace(early, parent_state=now.digest, state=state))
        assert early.id < later
        assert ledger.current().lessons == (later, early.id)
        assert ledger.verify(fold_digest) == []

    def test_what_can_not_be_done(self, ledger: Ledger) -> None:
        active, undone, rejected = learn(ledger, 1), learn(ledger, 2), learn(ledger, 3, "rejected")
        change(ledger, undone, "undone")
        for name, status, words in (
            (undone, "undone", "undone already"),
            (undone, "active", "undone, so it can't be enabled"),
            (undone, "disabled", "can't be disabled"),
            (active, "active", "active already. Possible: disable or undo"),
            (rejected, "active", "rejected, so it can't be enabled"),
        ):
            with pytest.raises(UsageError, match=words):
                ledger.plan(name, status)  # type: ignore[arg-type]
        with pytest.raises(UnknownNameError):
            ledger.plan(active, "rejected")
        with pytest.raises(UnknownNameError):
            ledger.plan("nothing", "undone")

    def test_a_person_may_let_a_quarantined_lesson_in(self, ledger: Ledger) -> None:
        first = learn(ledger, 1)
        held = learn(ledger, 2, "quarantined")
        assert ledger.plan("last", "undone").lesson == first
        assert change(ledger, held, "active").lessons == (first, held)
        assert ledger.verify(fold_digest) == []

    def test_undo_of_a_disabled_lesson_changes_no_weights(self, ledger: Ledger) -> None:
        learn(ledger, 1)
        before = change(ledger, "last", "disabled")
        assert change(ledger, "last", "undone").digest == before.digest

    def test_a_plan_grows_old(self, ledger: Ledger) -> None:
        first, second = learn(ledger, 1), learn(ledger, 2)
        old = ledger.plan(first, "undone")
        change(ledger, second, "disabled")
        with pytest.raises(LedgerError, match="have changed"):
            ledger.apply(old, fold_digest(old.adapters))

    def test_listing_by_status(self, ledger: Ledger) -> None:
        first = learn(ledger, 1)
        learn(ledger, 2, "rejected")
        assert [entry.id for entry in ledger.list_lessons(status="active")] == [first]
        with pytest.raises(UnknownNameError):
            ledger.list_lessons(status="activ")  # type: ignore[arg-type]


class TestLocking:
    def test_reading_is_allowed_and_writing_is_not(self, ledger: Ledger, tmp_path: Path) -> None:
        lesson = learn(ledger, 1)
        plan = ledger.plan(lesson, "undone")
        record = make_record(ledger, 2)
        with HomeLock(tmp_path / "lock").hold("a long lesson"):
            assert ledger.current().lessons == (lesson,)
            assert ledger.get_lesson("last").id == lesson
            assert ledger.verify(fold_digest) == []
            for write in (
                lambda: ledger.apply(plan, fold_digest(())),
                lambda: ledger.commit(record),
                lambda: ledger.create_job("learn"),
                lambda: ledger.rebuild(),
            ):
                with pytest.raises(HomeLockedError, match="a long lesson"):
                    write()
            # What a person said is kept all the same.
            said = conversation(77)
            ledger.add_conversation(said)
        assert ledger.get_conversation(said.digest) == said
        ledger.apply(plan, fold_digest(()))
        assert ledger.verify(fold_digest) == []

    def test_several_processes_append_to_one_chain(self, ledger: Ledger, tmp_path: Path) -> None:
        script = """
import sys
from pathlib import Path
from tests.ledger.ledger_tools import conversation, open_ledger
with open_ledger(Path(sys.argv[1])) as ledger:
    for number in range(20):
        ledger.add_conversation(conversation(int(sys.argv[2]) * 100 + number))
"""
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(tmp_path), str(number)], env=worker_environment()
            )
            for number in range(3)
        ]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
        assert len(ledger.list_conversations()) == 60
        assert ledger.verify(fold_digest) == []


def test_garbage_is_found_and_discarded(ledger: Ledger) -> None:
    job = ledger.create_job("learn")
    learn(ledger, 1)
    staged = ledger.blobs.put(b"an adapter that a job will commit")
    nested = ledger.blobs.put(b"named inside of a large payload")
    ledger.advance(job, "studied", {"pad": "x" * 5000, "list": [{"adapter": nested}]})
    ledger.advance(job, "trained", {"adapter": staged})
    lost = ledger.blobs.put(b"lost")
    assert ledger.garbage() == [lost]
    assert ledger.discard_garbage() == 1
    assert ledger.garbage() == []
    assert ledger.verify(fold_digest) == []


def test_lesson_ids_never_repeat_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    new_home(tmp_path).close()
    times = iter([2e9, 2e9, 1e9, 1e9, 0.0, 0.0])
    with open_ledger(tmp_path, clock=lambda: next(times, 5.0)) as ledger:
        ids = [ledger.new_lesson_id() for _ in range(10)]
    assert ids == sorted(set(ids))


def test_a_lesson_without_sources_or_texts(ledger: Ledger) -> None:
    record = replace(make_record(ledger, 1), lesson=Lesson("d200000000", "Empty", ()))
    ledger.commit(record)
    assert ledger.lesson("d2") == record.lesson
    assert ledger.verify(fold_digest) == []
