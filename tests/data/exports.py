"""Small sources of every shape, as dictionaries and files: what a person might bring."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARCH = 1_709_510_400.0
"""2024-03-04, 00:00 UTC."""


def node(
    name: str, parent: str | None, role: str, *parts: Any, kind: str = "text", **more: Any
) -> dict[str, Any]:
    """A node of ChatGPT's tree."""
    message = {
        "id": name,
        "author": {"role": role},
        "content": {"content_type": kind, "parts": list(parts)},
        **more,
    }
    return {"id": name, "parent": parent, "children": [], "message": message}


def chatgpt(
    *nodes: dict[str, Any], current: str | None = None, id: str = "c1", time: float = MARCH
) -> dict[str, Any]:
    """A conversation of ChatGPT's export."""
    root = {"id": "root", "parent": None, "children": [], "message": None}
    return {
        "conversation_id": id,
        "title": f"chat {id}",
        "create_time": time,
        "mapping": {"root": root, **{one["id"]: one for one in nodes}},
        "current_node": current or (nodes[-1]["id"] if nodes else None),
    }


def told(text: str, *, id: str = "c1", time: float = MARCH) -> dict[str, Any]:
    """A conversation of ChatGPT's export in which one thing is told."""
    return chatgpt(
        node("a", "root", "user", text), node("b", "a", "assistant", "Noted."), id=id, time=time
    )


def claude_message(sender: str, *blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    text = "\n\n".join(b.get("text", "```\nThis block is not supported\n```") for b in blocks)
    return {"sender": sender, "text": text, "content": list(blocks), "attachments": [], **more}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": []}


def claude(*messages: dict[str, Any], id: str = "u1") -> dict[str, Any]:
    """A conversation of Claude's export."""
    return {
        "uuid": id,
        "name": "A chat",
        "summary": "",
        "created_at": "2024-03-04T10:00:00.000000Z",
        "updated_at": "2024-03-05T10:00:00.000000Z",
        "account": {"uuid": "me"},
        "chat_messages": [{"uuid": f"m{i}", **m} for i, m in enumerate(messages)],
    }


def open_webui(messages: Mapping[str, dict[str, Any]], current: str | None) -> dict[str, Any]:
    """A chat of Open WebUI's export."""
    return {
        "id": "w1",
        "user_id": "me",
        "title": "A chat",
        "chat": {
            "title": "A chat",
            "models": ["llama"],
            "history": {"messages": dict(messages), "currentId": current},
            "messages": [],
        },
        "created_at": int(MARCH),
        "updated_at": int(MARCH) + 60,
    }


def write_zip(path: Path, members: Mapping[str, Any]) -> Path:
    """An archive of values as JSON, texts and bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            raw = value if isinstance(value, (str, bytes)) else json.dumps(value)
            archive.writestr(name, raw)
    return path


def write_log(path: Path) -> Path:
    """A log of the ``llm`` command as its releases up to 0.31 write it."""
    with sqlite3.connect(path) as base:
        base.executescript(
            """
            create table conversations (id text primary key, name text, model text);
            create table responses (id text primary key, model text, prompt text, system text,
                response text, conversation_id text, datetime_utc text, reasoning text);
            create table tool_calls (id integer primary key, response_id text, name text);
            create table tool_results (id integer primary key, response_id text, output text);
            create table fragments (id integer primary key, content text);
            create table prompt_fragments (response_id text, fragment_id integer);
            insert into conversations values ('c1', 'Boats', 'm');
            insert into responses values ('r1', 'm', 'My boat is red.', 'Be brief.', 'Fine.', 'c1',
                '2024-03-04T10:00:00', null);
            insert into responses values ('r3', 'm', '', 'Be brief.', 'It floats.', 'c1',
                '2024-03-04T10:02:00', 'The user wants');
            insert into responses values ('r2', 'm', 'Does it float?', 'Be brief.', '', 'c1',
                '2024-03-04T10:01:00', null);
            insert into tool_calls values (1, 'r2', 'look');
            insert into tool_results values (1, 'r3', 'my dentist is Dr. Tool');
            insert into responses values ('r4', 'm', 'Sum this up.', null, 'A page.', 'c2',
                '2024-03-05T10:00:00', null);
            insert into fragments values (1, 'My dentist is Dr. Page.');
            insert into prompt_fragments values ('r4', 1);
            """
        )
    base.close()
    return path


def write_store(path: Path) -> Path:
    """A log of the ``llm`` command as its later releases write it: threads of messages."""
    rows = [
        ("m1", None, "system", "text", "Be brief.", None),
        ("m2", "m1", "user", "text", "My boat is red.", None),
        ("m3", "m2", "assistant", "reasoning", "The user has a boat.", None),
        ("m4", "m3", "assistant", "tool_call", None, '{"name": "look"}'),
        ("m5", "m4", "tool", "tool_result", None, '{"output": "my dentist is Dr. Tool"}'),
        ("m6", "m5", "assistant", "text", "Fine.", None),
        ("m7", "m6", "user", "text", None, '{"text_ref": ["Sum this up: ", {"id": 1}]}'),
    ]
    with sqlite3.connect(path) as base:
        base.executescript(
            """
            create table messages (hash text primary key, parent_hash text, role text);
            create table parts (id integer primary key, message_hash text, position integer,
                type text, tool_name text, text text, payload text);
            create table threads (id text primary key, name text, tip_message_hash text,
                forked_from text, datetime_utc text);
            create table turns (id text primary key, thread_id text, parent_message_hash text,
                tip_message_hash text, datetime_utc text);
            insert into threads values ('t1', 'Boats', 'm7', null, '2026-08-04T10:00:00');
            insert into turns values ('u1', 't1', 'm2', 'm6', '2026-08-04T10:01:00');
            """
        )
        for name, parent, role, kind, text, payload in rows:
            base.execute("insert into messages values (?, ?, ?)", (name, parent, role))
            base.execute(
                "insert into parts (message_hash, position, type, text, payload) "
                "values (?, 0, ?, ?, ?)",
                (name, kind, text, payload),
            )
    base.close()
    return path
