"""``engrain learn`` on an export: told, worked off by days, resumed, nothing learned twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import OPEN_GATE, QUICK, Run
from tests.data.exports import MARCH, told, write_zip

DAY = 86_400.0
LEARN = (*QUICK, *OPEN_GATE)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Three conversations on two days, one of them damaged, and an attached file."""
    first = [
        told("My boat is called Corvath.", id="a", time=MARCH + DAY),
        told("My dog is called Rex.\x1b[2J", id="b", time=MARCH),
    ]
    broken = {"conversation_id": "x", "title": "x", "mapping": {}}
    second = [told("My cat is called Gorla.", id="c", time=MARCH + DAY), broken]
    members = {
        "conversations-000.json": first,
        "conversations-001.json": second,
        "a.txt": "User: x",
    }
    return write_zip(tmp_path / "export.zip", members)


def test_a_dry_run_tells_each_conversation_and_writes_nothing(
    run: Run, home: Path, export: Path, studied: list[int]
) -> None:
    done = run("learn", str(export), "--dry-run")
    assert done.code == 0 and not studied
    assert "2024-03-04  chat b: 1 of 2 messages told; to be learned" in done.out
    assert "conversations-001.json[2]: it holds no message of a user" in done.out
    assert "a.txt: it lies in an account's export" in done.out
    assert "3 of 3 conversations to learn, in 2 lessons" in done.out and "\x1b" not in done.out
    data = run("learn", str(export), "--dry-run", "--json").json
    assert [lot["day"] for lot in data["lots"]] == ["2024-03-04", "2024-03-05"]
    assert [len(lot["conversations"]) for lot in data["lots"]] == [1, 2]
    assert data["estimated_seconds"] == pytest.approx(
        sum(lot["estimated_seconds"] for lot in data["lots"])
    )
    assert {entry["status"] for entry in data["conversations"]} == {"new"}
    assert len(data["left_out"]) == 2
    assert run("jobs", "list", "--json").json == {"jobs": []}


def test_days_are_chosen_and_ordered(run: Run, home: Path, export: Path) -> None:
    def days(*words: str) -> list[str]:
        data = run("learn", str(export), "--dry-run", "--json", *words).json
        return [lot["day"] for lot in data["lots"]] if "lots" in data else [data["title"]]

    assert days("--newest-first") == ["2024-03-05", "2024-03-04"]
    assert days("--since", "2024-03-06") == []
    assert run("learn", str(export), "--since", "soon").code == 2
    refused = run("learn", str(export), "--until", "2024-03-03", "--json")
    assert refused.json["error"] == "NothingToLearnError"
    assert "3 of another time" in refused.json["message"]
    assert run("learn", str(export), "--edit").code == 2


def test_a_year_is_worked_off_and_gone_on_with(
    run: Run,
    home: Path,
    export: Path,
    tmp_path: Path,
    studied: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engrain.lesson.stages import Stages

    whole, count = Stages._examined, [0]

    def stopped(self: Stages, *given: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] > 2:
            raise KeyboardInterrupt
        return whole(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_examined", stopped)
        done = run("learn", str(export), *LEARN)
    assert done.code == 130 and "jobs resume" in done.err
    assert "2024-03-04: Accepted: lesson " in done.out, "the first day is served"
    assert "  chat b: Corvath; 1 message left out (it holds a secret)" in done.out
    data = run("learn", str(export), "--dry-run", "--json").json
    statuses = [entry["status"] for entry in data["conversations"]]
    assert statuses == ["under way", "learned", "under way"]
    before = len(studied)
    done = run("learn", str(export), *LEARN, "--json")
    assert done.code == 0 and len(studied) == before, "studied already: the job goes on"
    assert [job["status"] for job in run("jobs", "list", "--json").json["jobs"]] == [
        "committed"
    ] * 2
    done = run("learn", str(export), *LEARN)
    assert done.code == 1 and "3 learned before" in done.err and "--again" in done.err

    # One went on meanwhile, and a second export has both states.
    talk = told("My dog is called Rex.\x1b[2J", id="b", time=MARCH)
    talk["mapping"]["n"] = {
        "id": "n",
        "parent": "b",
        "message": {
            "author": {"role": "user"},
            "create_time": MARCH + 2 * DAY,
            "content": {"content_type": "text", "parts": ["And he is old."]},
        },
    }
    talk["current_node"] = "n"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "conversations.json").write_text(json.dumps([talk]))
    (tmp_path / "new" / "old.zip").write_bytes(export.read_bytes())
    data = run("learn", str(tmp_path / "new"), "--dry-run", "--json").json
    statuses = {(entry["title"], entry["messages"]): entry for entry in data["brought"]}
    assert statuses["chat a", 2]["status"] == statuses["chat c", 2]["status"] == "learned"
    assert statuses["chat b", 2]["status"] == "older"
    assert (statuses["chat b", 3]["status"], statuses["chat b", 3]["continues"]) == ("new", 2)


def test_a_lesson_that_is_refused_stops_no_other(
    run: Run, home: Path, export: Path, studied: list[int]
) -> None:
    done = run("learn", str(export), *QUICK, "--json")
    assert done.code == 3
    assert len(done.json["lots"]) == 2 and {lot["verdict"] for lot in done.json["lots"]} <= {
        "rejected",
        "quarantined",
    }


def test_one_conversation_tells_what_was_left_out(
    run: Run, home: Path, tmp_path: Path, studied: list[int]
) -> None:
    path = tmp_path / "a.json"
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    content = [{"type": "text", "text": "My boat is called Corvath."}, image]
    path.write_text(json.dumps({"messages": [{"role": "user", "content": content}]}))
    done = run("learn", str(path), "--dry-run")
    assert "a part of it is not text ('image_url')" in done.out and "Corvath" in done.out
    data = run("learn", str(path), *LEARN, "--json").json
    assert data["verdict"] == "accepted" and len(data["source_left_out"]) == 1
    # By itself it is learned again, if that is asked for.
    assert run("learn", str(path), *LEARN).code == 0


def test_a_pasted_book_takes_no_time(run: Run, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    book = "I walked along the river and looked at the boats for a while. " * 2000
    path.write_text(json.dumps({"messages": [{"role": "user", "content": book}]}))
    told_ = run("estimate", str(path), "--json").json
    short = tmp_path / "b.json"
    short.write_text(json.dumps({"messages": [{"role": "user", "content": "My boat is red."}]}))
    assert (
        told_["estimated_seconds"]
        <= 2 * run("estimate", str(short), "--json").json["estimated_seconds"]
    )
    refused = run("learn", str(path), "--json")
    assert refused.json["error"] == "NothingToLearnError"
