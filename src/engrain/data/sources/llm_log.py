"""The log of the ``llm`` command: an SQLite file, read without changing it.

Up to its release 0.31 a row of ``responses`` is an exchange; since then conversations are threads
of ``messages``, each with the one before it, in ``parts``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from engrain.data.sources.chats import attached
from engrain.data.sources.draft import THOUGHT, TOOL, Draft
from engrain.data.sources.registry import Record, shape

MAGIC = b"SQLite format 3\0"
MAX_CHAIN = 100_000
"""Messages of one thread at most: a damaged log may have a circle."""

Row = dict[str, Any]


class Logged(dict[str, Any]):
    """A conversation out of a log: no JSON can pass for one."""


@shape(
    "llm",
    "the log of the llm command",
    looks=lambda record: isinstance(record, Logged),
)
def llm(draft: Draft, record: Record) -> None:
    """A conversation as :func:`conversations` gives it."""
    draft.named(record, "id", "name", "time")
    for message in draft.each(record.get("thread") or ()):
        said = [text for part in message["parts"] if (text := _part(draft, part))]
        if said:
            draft.say(message["role"], "".join(said), time=message["time"])
    for row in draft.each(record.get("exchanges") or ()):
        if row.get("system") and not any(m.content == row["system"] for m in draft.messages):
            draft.say("system", row["system"])
        if row.get("reasoning"):
            draft.leave(THOUGHT)
        if row["tools"]:
            draft.leave(TOOL)
        for name in row["attached"]:
            attached(draft, {"name": name})
        for role, key in (("user", "prompt"), ("assistant", "response")):
            # Without a prompt the answer goes on behind the result of a tool, or a fragment.
            if row.get(key) or not (row["tools"] or row["attached"]):
                draft.say(role, row.get(key), time=row.get("datetime_utc"))


def _part(draft: Draft, part: Mapping[str, Any]) -> str:
    if part["type"] == "text":
        if isinstance(part["text"], str):
            return part["text"]
        # The text borrows from fragments: files and pages that were attached.
        with suppress(ValueError, TypeError, AttributeError):
            found = json.loads(part["payload"]).get("text_ref", [])
            draft.leave("a fragment was attached and is not read")
            return "".join(piece for piece in found if isinstance(piece, str))
    elif part["type"] == "reasoning":
        draft.leave(THOUGHT)
    elif part["type"] == "attachment":
        attached(draft, None)
    else:
        draft.leave(TOOL)
    return ""


def conversations(path: Path) -> Iterator[Record]:
    """The conversations of a log, oldest first, as records of the shape ``llm``.

    Raises:
        sqlite3.Error: the file is damaged.
    """
    with closing(_opened(path)) as base:
        tables = {
            row["name"]: {
                column["name"] for column in _rows(base, f"pragma table_info({_q(row['name'])})")
            }
            for row in _rows(base, "select name from sqlite_master where type = 'table'")
        }
        if {"id", "prompt", "response"} <= tables.get("responses", set()):
            yield from _exchanges(base, tables)
        if {"id", "tip_message_hash"} <= tables.get("threads", set()) and "parts" in tables:
            yield from _threads(base, tables)


def _opened(path: Path) -> sqlite3.Connection:
    where = path.resolve().as_uri()
    try:
        base = sqlite3.connect(f"{where}?mode=ro", uri=True)
        try:
            base.execute("select count(*) from sqlite_master").fetchone()
        except sqlite3.Error:
            base.close()
            raise
    except sqlite3.OperationalError:
        # A log that was being written, in a folder that can't be.
        base = sqlite3.connect(f"{where}?immutable=1", uri=True)
    base.row_factory = sqlite3.Row
    base.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    base.execute("pragma query_only = on")
    base.execute("pragma trusted_schema = off")
    return base


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _rows(base: sqlite3.Connection, query: str, *given: Any) -> Iterator[Row]:
    for row in base.execute(query, given):
        yield dict(row)


def _exchanges(base: sqlite3.Connection, tables: Mapping[str, set[str]]) -> Iterator[Record]:
    columns = tables["responses"]
    order = "datetime_utc" if "datetime_utc" in columns else "rowid"
    group = "conversation_id" if "conversation_id" in columns else "id"
    names = {}
    if {"id", "name"} <= tables.get("conversations", set()):
        names = {r["id"]: r["name"] for r in _rows(base, "select id, name from conversations")}
    known = {
        t: tables[t] for t in ("tool_calls", "tool_results") if "response_id" in tables.get(t, ())
    }
    beside = {
        kind: f"select count(*) n from {table} where response_id = ?"
        for kind, table in (
            ("attachments", "prompt_attachments"),
            ("fragments", "prompt_fragments"),
        )
        if "response_id" in tables.get(table, ())
    }
    begun = _rows(
        base,
        f"select {group} as id, min({order}) as time from responses group by {group}, "
        f"case when {group} is null then rowid end order by 2",
    )
    # Without an id each exchange is a conversation of its own.
    for one in list(begun):
        where, given = (
            (f"{group} = ?", one["id"]) if one["id"] is not None else (f"{order} = ?", one["time"])
        )
        rows = list(
            _rows(base, f"select * from responses where {where} order by {order}, rowid", given)
        )
        for row in rows:
            row["tools"] = any(
                next(_rows(base, f"select count(*) n from {t} where response_id = ?", row["id"]))[
                    "n"
                ]
                for t in known
            )
            row["attached"] = [
                kind for kind, query in beside.items() if next(_rows(base, query, row["id"]))["n"]
            ]
        yield Logged(id=one["id"], name=names.get(one["id"]), time=one["time"], exchanges=rows)


def _threads(base: sqlite3.Connection, tables: Mapping[str, set[str]]) -> Iterator[Record]:
    times = {}
    if {"tip_message_hash", "datetime_utc"} <= tables.get("turns", set()):
        query = "select tip_message_hash tip, datetime_utc time from turns order by datetime_utc"
        times = {row["tip"]: row["time"] for row in _rows(base, query)}
    for thread in list(_rows(base, "select * from threads order by rowid")):
        chain: list[Row] = []
        tip, time = thread["tip_message_hash"], thread.get("datetime_utc")
        while tip is not None and len(chain) < MAX_CHAIN:
            found = list(_rows(base, "select role, parent_hash from messages where hash = ?", tip))
            if not found:
                break
            # A turn's time is that of its last message; what was asked in it has the same.
            time = times.get(tip, time)
            query = "select type, text, payload from parts where message_hash = ? order by position"
            parts = list(_rows(base, query, tip))
            chain.append({"role": found[0]["role"], "parts": parts, "time": time})
            tip = found[0]["parent_hash"]
        yield Logged(
            id=thread["id"],
            name=thread.get("name"),
            time=thread.get("datetime_utc"),
            thread=chain[::-1],
        )
