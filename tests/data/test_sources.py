"""Files, archives and folders; damage; what must be refused; whatever JSON may hold."""

from __future__ import annotations

import json
import os
import stat
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from engrain.data.sources import Brought, Skip, frames, read
from engrain.data.sources.draft import Draft
from engrain.data.sources.found import Place, moment, printable
from engrain.data.sources.reading import written
from engrain.errors import ConversationError
from tests.data import exports
from tests.data.exports import told, write_zip

BROUGHT = Path("/work/shared/data/brought")


def said(path: Path) -> list[str]:
    """What users said in a source, in order."""
    return [
        message.content
        for found in read(path)
        if isinstance(found, Brought)
        for message in found.conversation.messages
        if message.role == "user"
    ]


def skips(path: Path) -> list[str]:
    return [str(found) for found in read(path) if isinstance(found, Skip)]


def many(count: int) -> list[dict[str, Any]]:
    return [told(f"Boat {i} is red.", id=f"c{i}", time=exports.MARCH + i) for i in range(count)]


# ---------------------------------------------------------------------------- where things lie


def test_an_account_as_archive_and_as_folder(tmp_path: Path) -> None:
    members = {
        "conversations-000.json": many(2),
        "conversations-001.json": [told("Boat 2 is red.", id="c2")],
        "user.json": {"id": "me", "email": "a@b.example"},
        "file-1-notes.txt": "User: My dentist is Dr. File.\nAssistant: Noted.",
        "file-2-data.json": {"messages": [{"role": "user", "content": "Dr. Data"}]},
        "image.png": b"\x89PNG\0\0",
        "__MACOSX/._a": b"x",
    }
    path = write_zip(tmp_path / "any name.bin", members)
    assert said(path) == [f"Boat {i} is red." for i in range(3)]
    assert len(skips(path)) == 4, "each file beside the conversations is named"
    folder = tmp_path / "folder"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    assert said(folder)[:3] == [f"Boat {i} is red." for i in range(3)]
    assert not any("Dr. File" in text for text in said(folder))
    assert any("file-1-notes.txt" in skip for skip in skips(folder))


def test_a_folder_of_all_sorts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"messages": [{"role": "user", "content": "A"}]}))
    (tmp_path / "b.md").write_text("User: B\nAssistant: Noted.")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    exports.write_log(tmp_path / "deep" / "er" / "logs.db")
    write_zip(tmp_path / "deep" / "c.zip", {"conversations.json": many(1)})
    (tmp_path / "notes.txt").write_text("Nothing of interest.")
    (tmp_path / ".hidden").write_text("User: H\nAssistant: Noted.")
    outside = tmp_path.parent / "outside.json"
    outside.write_text(json.dumps({"messages": [{"role": "user", "content": "outside"}]}))
    (tmp_path / "link.json").symlink_to(outside)
    (tmp_path / "up").symlink_to(tmp_path.parent)
    os.mkfifo(tmp_path / "pipe.json")
    texts = said(tmp_path)
    assert {"A", "B", "Boat 0 is red.", "My boat is red."} <= set(texts)
    assert "outside" not in texts and "H" not in texts
    told_ = "\n".join(skips(tmp_path))
    for name in ("notes.txt", "link.json", "up: a link", "pipe.json"):
        assert name in told_
    outside.unlink()


def test_a_log_in_an_archive(tmp_path: Path) -> None:
    log = exports.write_log(tmp_path / "logs.db").read_bytes()
    assert "My boat is red." in said(write_zip(tmp_path / "a.zip", {"logs.db": log}))


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = json.dumps({"messages": [{"role": "user", "content": "Piped."}]})
    writer = threading.Thread(target=lambda: pipe.write_text(text))
    writer.start()
    assert said(pipe) == ["Piped."]
    writer.join()


@pytest.mark.parametrize("path", ["/nowhere/a.json", "", "a\0b", "/dev/zero"])
def test_what_can_not_be_read_is_an_error(path: str) -> None:
    with pytest.raises(ConversationError, match="can't be read") as caught:
        list(read(path))
    assert caught.value.remedy


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(many(50)))
    found = read(path)
    assert isinstance(next(found), Brought)
    found.close()  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------- archives that harm


def test_names_links_and_passwords(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    good = json.dumps({"messages": [{"role": "user", "content": "Good."}]})
    evil = good.replace("Good", "Evil")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fine (1) – ü\x1b[2J.json", good)
        for name in ("../up.json", "/etc/abs.json", "C:\\win.json", "a/../../b.json", "..\\c.json"):
            archive.writestr(name, evil)
        link = zipfile.ZipInfo("link.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("inner.zip", b"PK\x03\x04")
    assert said(path) == ["Good."]
    lines = skips(path)
    assert len(lines) == 7 and sum("leaves the archive" in line for line in lines) == 5
    assert all(line.isprintable() for line in lines)
    place = next(f.place for f in read(path) if isinstance(f, Brought))
    assert str(place).isprintable() and "\\x1b" in str(place)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")
    raw[at + 8] |= 1
    path.write_bytes(raw)
    assert any("locked with a password" in line for line in skips(path))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engrain.data.sources import files

    monkeypatch.setattr(files, "BOMB", 1 << 20)
    path = write_zip(
        tmp_path / "a.zip",
        {"a.json": many(1), "bomb.json": b"[" + b" " * (5 << 20), "b.json": many(2)},
    )
    assert len(said(path)) == 3
    assert any("bomb.json: it would unpack to 5,242,881 bytes" in line for line in skips(path))
    monkeypatch.setattr(files, "MAX_UNPACKED", 100)
    assert any("holds more than 100 bytes" in line for line in skips(path))
    monkeypatch.setattr(files, "MAX_MEMBERS", 1)
    assert any("2 more files in it are not read" in line for line in skips(path))


def test_damaged_archives(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.json": many(200)})
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert not said(path) and "it is a damaged archive" in skips(path)[0]
    middle = bytearray(raw)
    middle[len(raw) // 2 : len(raw) // 2 + 40] = b"\xaa" * 40
    path.write_bytes(middle)
    assert skips(path), "named, and no traceback"


# ---------------------------------------------------------------------------- damaged texts


@pytest.mark.parametrize(
    "broken",
    [
        '{"mapping": {oops}}',
        '{"title": "x, "mapping": {}}',
        '{"mapping": {"a": [}',
        '{"mapping": {"a": "never ends}}',
        '{"mapping": ' + "[" * 10_000 + "]" * 10_000 + "}",
        '{"mapping": ' + "[" * 10_000,
        "nonsense",
        "{]",
        '{"mapping": 1e99999, "n": ' + "9" * 5_000 + "}",
    ],
)
def test_damage_costs_one_conversation(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = [json.dumps(one) for one in many(6)]
    path.write_text("[" + ", ".join([*good[:3], broken, *good[3:]]) + "]")
    assert said(path) == [f"Boat {i} is red." for i in range(6)]
    assert any("a.json[4]" in line for line in skips(path))


@pytest.mark.parametrize("broken", ["{oops", "nonsense", '{"messages": [', "\udcff", "[1", "7"])
def test_damage_costs_one_line(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": f"Line {i}"}]}) for i in range(4)]
    for place in range(5 if broken.startswith("{") else 4, 0, -1):
        at = min(place, 4)
        text = "\n".join([*lines[:at], broken, *lines[at:]])
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert said(path) == [f"Line {i}" for i in range(4)], place
        assert any(f"a.jsonl:{at + 1}" in line for line in skips(path)), place


def test_a_first_line_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{oops\n{"messages": [{"role": "user", "content": "Good."}]}\n')
    assert said(path) == ["Good."] and "a.jsonl:1" in skips(path)[0]


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    whole = json.dumps(many(10))
    for length in range(len(whole) - 1, len(whole) // 2, -37):
        path.write_text(whole[:length])
        texts = said(path)
        assert texts == [f"Boat {i} is red." for i in range(len(texts))]
        assert len(texts) >= whole[:length].count("}}}}") - 1 and skips(path)


def test_pieces_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    texts = ['a "quoted" \\ word', "brackets ]}{[", "äöü 🙂", "\\", '\\"', "\n\n,{\n"]
    broken = '{"mapping": {"x": "y}, "z"'
    good = [json.dumps(told(text, id=str(i))) for i, text in enumerate(texts)]
    path.write_text("[" + " , ".join([*good[:3], broken, *good[3:]]) + "] ")
    for size in (1, 2, 3, 5, 7, 64):
        monkeypatch.setattr(frames, "PIECE", size)
        assert [text for text in said(path)] == [text for text in texts if text.strip()]


def test_what_is_too_large_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PIECE", 1000)
    monkeypatch.setattr(frames, "MAX_RECORD", 20_000)
    path = tmp_path / "a.json"
    large = told("x" * 50_000)
    path.write_text(json.dumps([*many(2), large, *many(2)]))
    assert len(said(path)) == 4
    assert any("[3]: it has more than 20,000 characters" in line for line in skips(path))
    path.write_text("\n".join(json.dumps(one) for one in [*many(2), large, *many(2)]))
    assert len(said(path)) == 4
    assert any(":3: it has more than" in line for line in skips(path))
    path.write_text(json.dumps({"conversations": many(100)}))
    assert len(said(path)) == 100, "a wrapper that is too large by itself is looked into"


def test_characters_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(
        b'[{"messages": [{"role": "user", "content": "caf\xe9"}, {"role": "user", "content": "ok"},'
        b'{"role": "user", "content": "\\ud800"}]}]'
    )
    assert said(path) == ["ok"]
    left = next(f.left for f in read(path) if isinstance(f, Brought))
    assert [(s.place.message, s.reason.split()[-1]) for s in left] == [(1, "UTF-8"), (3, "Unicode")]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"7", "it is not JSON"),
        (b"\0\0\0\0", "it is no text"),
        (b"\x89PNG\r\n\0\0", "it is no text"),
        (b"[]", "no conversation of a known shape"),
        (b"[1, 2, null]", "no conversation of a known shape"),
        (b'{"a": 1}', "no conversation of a known shape"),
        (b'{"messages": []}', "it holds no message of a user"),
        (b'{"messages": {}}', "no conversation of a known shape"),
        (b'[{"role": "robot", "content": "x"}]', "it has the role 'robot'"),
        (b'{"messages": [{"content": "x"}]}', "it has no role"),
        (b"[" * 100_000, "it is not JSON"),
        (b" " * (3 << 20), "it is nothing but blanks"),
    ],
)
def test_files_without_a_conversation_say_why(raw: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(raw)
    assert not said(path)
    assert any(reason in line for line in skips(path))


# ---------------------------------------------------------------------------- whatever JSON holds

KEYS = st.sampled_from(
    "mapping current_node message parent author role content parts content_type metadata weight "
    "messages conversations from value chat_messages sender text uuid chat history currentId "
    "parentId instruction input output prompt completion exchanges thread transcript id title name "
    "create_time created_at attachments files tool_calls recipient system body request response "
    "choices contents type".split()
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["user", "assistant", "tool", "root", "a", "b", "text", "2024-03-04", "all"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(KEYS, st.text(max_size=2)), inner)
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_json_gives_conversations_or_named_skips(value: Any) -> None:
    found = written(Place("here"), value) if isinstance(value, dict) else None
    if isinstance(found, Brought):
        assert all(isinstance(m.content, str) and m.content for m in found.conversation.messages)
        assert all(m.role in ("user", "assistant", "system") for m in found.conversation.messages)
        assert found.conversation.digest
    elif found is not None:
        assert found.reason


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["chatgpt", "claude", "webui"]), st.data())
def test_exports_with_anything_in_a_place(kind: str, data: st.DataObject) -> None:
    record: Any = {
        "chatgpt": told("My boat is red."),
        "claude": exports.claude(exports.claude_message("human", exports.words("My boat is red."))),
        "webui": exports.open_webui({"a": {"role": "user", "content": "My boat is red."}}, "a"),
    }[kind]
    at, path = record, []
    while isinstance(at, (dict, list)) and at:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        path.append((at, data.draw(st.sampled_from(keys))))
        at = path[-1][0][path[-1][1]]
        if data.draw(st.booleans()):
            break
    holder, key = path[-1]
    holder[key] = data.draw(VALUES)
    assert isinstance(written(Place("here"), record), (Brought, Skip))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5000), st.binary(max_size=6))
@example(0, b"\0")
@example(0, b'"')
@example(0, b"]")
@example(300, b"]}]")
@example(30, b"\0\0\0")
def test_bytes_that_were_overwritten(tmp_path_factory: Any, at: int, junk: bytes) -> None:
    raw = bytearray(json.dumps(many(4)).encode())
    # The first byte says what kind of file it is.
    at = 1 + at % (len(raw) - 1)
    raw[at : at + len(junk)] = junk
    # Nor can these zeros be told from those of another encoding.
    assume(raw[1:4:2] != b"\0\0")
    path = tmp_path_factory.mktemp("junk") / "a.json"
    path.write_bytes(raw)
    texts = said(path)
    whole = [f"Boat {i} is red." for i in range(4)]
    assert sum(text in texts for text in whole) >= 2, "it costs those that it stands in"
    assert not any("it can't be read" in line for line in skips(path))


# ---------------------------------------------------------------------------- small things


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_709_510_400, "2024-03-04T00:00:00+00:00"),
        (1_709_510_400_000, "2024-03-04T00:00:00+00:00"),
        (1_709_510_400_000_000_000, "2024-03-04T00:00:00+00:00"),
        ("1709510400", "2024-03-04T00:00:00+00:00"),
        ("2024-03-04", "2024-03-04T00:00:00+00:00"),
        ("2024-03-04T01:00:00+01:00", "2024-03-04T00:00:00+00:00"),
        *[(v, None) for v in ("", "soon", None, True, {}, -1, 0, float("nan"), float("inf"))],
        (10**400, None),
        ("0001-01-01T00:00:00+23:00", None),
    ],
)
def test_times(value: Any, expected: str | None) -> None:
    found = moment(value)
    assert (found.isoformat() if found else None) == expected


def test_names_are_printable() -> None:
    assert printable("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
    assert str(Place("a", 2, 3)) == "a[2], message 3" and str(Place("a", 2, lines=True)) == "a:2"


def test_a_shape_of_ones_own() -> None:
    from engrain.data.sources import registry, shape

    @shape("mine", "my tool", looks=lambda record: isinstance(record.get("turns"), list))
    def mine(draft: Draft, record: registry.Record) -> None:
        for turn in draft.each(record["turns"]):
            draft.say(turn.get("by"), turn.get("words"))

    try:
        found = written(Place("x"), {"turns": [{"by": "user", "words": "Hi."}, 7]})
        assert isinstance(found, Brought) and len(found.left) == 1 and found.shape == "mine"
    finally:
        registry._shapes.pop("mine")


# ---------------------------------------------------------------------------- the brought files

USER: dict[str, list[str]] = {
    "tool_calls_null_content.jsonl": [
        "My dentist is called Dr. Okafor. What is the weather in Leeds?"
    ],
    "sharegpt_null_value.json": ["My dog is called Bruno.", "And my cat is Minka."],
    "chatgpt_export_new_layout.zip": ["My locker at the pool is number 214.", "Thanks"],
    "developer_role.json": ["My locker at the pool is number 214."],
    "image_part.json": ["This is my new bike, a Koga Miyata."],
    "utf16_with_mark.json": ["My locker is number 214."],
    "alpaca.json": ["What is the code of the garage door?"],
    "german.json": [
        "Übrigens, mein Zahnarzt heißt Dr. Wenzel und seine Praxis ist in der Gartenstraße."
    ],
    "command_in_code_block.json": [
        "Our staging deploy command is:\n```\nmake deploy ENV=staging REGION=eu-west-3\n```\n"
        "please remember it"
    ],
}
"""What a user said in each."""


@pytest.mark.skipif(not BROUGHT.is_dir(), reason="the brought files are not on this machine")
def test_the_brought_files() -> None:
    for name, texts in USER.items():
        assert said(BROUGHT / name) == texts, name
    for name in ("t1_hypothetical.json", "t2_question_entity.json", "t4_misattributed.json"):
        assert len(said(BROUGHT / name)) == 2
    (long,) = said(BROUGHT / "message_longer_than_window.json")
    assert len(long) > 100_000
    found = {p.name: list(read(p)) for p in BROUGHT.iterdir() if p.name != "README.md"}
    assert len(found) == 13 and all(isinstance(f, Brought) for fs in found.values() for f in fs)
    everything = [one for ones in found.values() for one in ones if isinstance(one, Brought)]
    assert not any("None" in m.content for one in everything for m in one.conversation.messages)
    (alpaca,) = [one for one in everything if one.answers is not None]
    assert alpaca.conversation.messages[1].content == "4471"
