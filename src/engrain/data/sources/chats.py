"""Chats as lists of messages: OpenAI's, ShareGPT's, Gemini's, whatever the keys are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engrain.data.sources.draft import THOUGHT, TOOL, Draft
from engrain.data.sources.registry import Record, shape

WORDS = ("content", "text", "value", "parts", "say")
"""Keys under which tools keep what was said, the first that is there."""
SPEAKER = ("role", "from", "sender")
"""Keys under which they keep who said it."""


def is_message(record: Any) -> bool:
    """Whether a record is one message by itself: such records in a row are one conversation."""
    if not isinstance(record, Mapping) or isinstance(record.get("messages"), list):
        return False
    return "role" in record or ("from" in record and "value" in record)


def _list_of(*keys: str) -> Any:
    return lambda record: any(isinstance(record.get(key), list) for key in keys)


def _sharegpt(record: Record) -> Any:
    for key in ("conversations", "conversation"):
        items = record.get(key)
        # Exports wrap their conversations in a list of that name, too.
        if isinstance(items, list) and (not items or any(map(is_message, items))):
            return items
    return None


@shape("sharegpt", "ShareGPT", looks=lambda record: _sharegpt(record) is not None)
def sharegpt(draft: Draft, record: Record) -> None:
    """``{"conversations": [{"from": "human", "value": "..."}]}``."""
    _chat(draft, record, _sharegpt(record))


@shape("messages", "messages in the OpenAI shape", looks=_list_of("messages"))
def messages(draft: Draft, record: Record) -> None:
    """``{"messages": [{"role": "user", "content": "..."}]}``, with parts and calls of tools."""
    _chat(draft, record, record["messages"])


@shape("gemini", "Gemini's contents", looks=_list_of("contents"))
def gemini(draft: Draft, record: Record) -> None:
    """``{"contents": [{"role": "model", "parts": [{"text": "..."}]}]}``."""
    _chat(draft, record, record["contents"])


def _request(record: Record) -> Mapping[str, Any] | None:
    inner = (record.get(key) for key in ("body", "request"))
    found = (i for i in inner if isinstance(i, Mapping) and isinstance(i.get("messages"), list))
    return next(found, None)


@shape(
    "request",
    "a request to a chat server, with its answer",
    looks=lambda record: _request(record) is not None,
)
def request(draft: Draft, record: Record) -> None:
    """``{"body": {"messages": [...]}}``, as batches and logs of servers have it."""
    answer = record.get("response")
    answer = answer.get("body", answer) if isinstance(answer, Mapping) else None
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    choices = choices if isinstance(choices, list) else []
    said = [choice.get("message") for choice in choices if isinstance(choice, Mapping)]
    _chat(draft, record, [*(_request(record) or {})["messages"], *said[:1]])


@shape(
    "responses",
    "a request in the Responses shape",
    looks=lambda record: (
        isinstance(items := record.get("input"), list) and any(map(is_message, items))
    ),
)
def responses(draft: Draft, record: Record) -> None:
    """``{"input": [{"role": "user", "content": "..."}], "output": [{"type": "message", ...}]}``."""
    output = record.get("output")
    _chat(draft, record, [*record["input"], *(output if isinstance(output, list) else ())])


def _chat(draft: Draft, record: Record, items: Any) -> None:
    """Put down a list of messages, whatever its keys are called."""
    for id, title, time in (
        ("id", "title", "created_at"),
        ("conversation_id", "name", "create_time"),
        ("uuid", "name", "timestamp"),
        ("custom_id", "title", "created"),
        ("conversationId", "title", "createdAt"),
    ):
        found = Draft(draft.place)
        found.named(record, id, title, time)
        draft.id = draft.id or found.id
        draft.title = draft.title or found.title
        draft.began = draft.began or found.began
    if isinstance(record.get("system"), str) and record["system"].strip():
        draft.say("system", record["system"])
    for message in draft.each(items):
        message_of(draft, message)


def message_of(draft: Draft, message: Mapping[str, Any]) -> None:
    """Put down one message, and name what it holds beside its words."""
    role = next((message[key] for key in SPEAKER if message.get(key) is not None), None)
    if isinstance(message.get("isCreatedByUser"), bool):
        role = "user" if message["isCreatedByUser"] else "assistant"
    if any(message.get(key) for key in ("reasoning_content", "reasoning", "thinking")):
        draft.leave(THOUGHT)
    content = next((message[key] for key in WORDS if message.get(key) is not None), None)
    if message.get("tool_calls") or message.get("function_call"):
        draft.leave(TOOL)
        if content is None or (isinstance(content, str) and not content.strip()):
            return
    if message.get("type") in ("reasoning", "function_call", "function_call_output"):
        draft.leave(THOUGHT if message["type"] == "reasoning" else TOOL)
        return
    for key in ("attachments", "files", "images"):
        for item in message[key] if isinstance(message.get(key), list) else ():
            attached(draft, item)
    time = next(
        (message[k] for k in ("timestamp", "created_at", "createdAt") if k in message), None
    )
    draft.say(role, content, time=time, weight=message.get("weight"))


def attached(draft: Draft, item: Any) -> None:
    """Name a file that was attached; what is in it was not said."""
    name: Any = None
    if isinstance(item, Mapping):
        name = next((item[k] for k in ("file_name", "name", "filename", "id") if item.get(k)), None)
    draft.leave(f"a file was attached and is not read: {ascii(name)[1:60]}" if name else FILE)


FILE = "a file was attached and is not read"
