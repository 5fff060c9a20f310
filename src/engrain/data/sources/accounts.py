"""Exports of a whole account: ChatGPT, Claude, Open WebUI.

Their conversations are trees: of each message that was edited or answered again, all versions are
in the file. The conversation is the branch that the person saw last; the others are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engrain.data.sources.chats import attached, message_of
from engrain.data.sources.draft import NO_TEXT, THOUGHT, TOOL, Draft
from engrain.data.sources.found import moment
from engrain.data.sources.registry import Record, shape

SPOKEN_PARTS = ("text", "audio_transcription")
"""Parts of ChatGPT's messages that hold what was said."""
HIDDEN = "the platform put it there and did not show it"


def branch(draft: Draft, parents: Mapping[str, Any], leaf: Any) -> list[str]:
    """The names from the root to a leaf, by the parents; what is broken is told."""
    path: list[str] = []
    seen: set[str] = set()
    while isinstance(leaf, str) and leaf in parents and leaf not in seen:
        path.append(leaf)
        seen.add(leaf)
        leaf = parents[leaf]
    if isinstance(leaf, str) and leaf in seen:
        draft.leave("its messages answer each other in a circle: it is read up to there")
    return path[::-1]


def newest(times: Mapping[str, Any], parents: Mapping[str, Any]) -> str | None:
    """The last leaf: of the messages that nothing answers the latest, else the last in the file."""
    answered = {parent for parent in parents.values() if isinstance(parent, str)}
    leaves = [name for name in parents if name not in answered] or list(parents)
    dated = [(moment(times.get(name)), place) for place, name in enumerate(leaves)]
    known = [(time, place) for time, place in dated if time is not None]
    return leaves[max(known)[1]] if known else (leaves[-1] if leaves else None)


def _others(draft: Draft, count: int) -> None:
    if count > 0:
        draft.leave(
            f"{count} {'message is' if count == 1 else 'messages are'} on branches that were left"
        )


# ---------------------------------------------------------------------------- ChatGPT


@shape(
    "chatgpt",
    "ChatGPT's account export",
    looks=lambda record: isinstance(record.get("mapping"), Mapping),
    account=True,
)
def chatgpt(draft: Draft, record: Record) -> None:
    """``{"mapping": {node: {"message", "parent"}}, "current_node": node}``."""
    draft.named(record, "conversation_id", "title", "create_time")
    draft.id = draft.id or record.get("id")
    nodes = {key: node for key, node in record["mapping"].items() if isinstance(node, Mapping)}
    parents = {key: node.get("parent") for key, node in nodes.items()}
    talk = {key: m for key, n in nodes.items() if isinstance(m := n.get("message"), Mapping)}
    leaf = record.get("current_node")
    if not isinstance(leaf, str) or leaf not in nodes:
        if leaf is not None:
            draft.leave("its current message is not in the file: the newest branch is read")
        leaf = newest({key: m.get("create_time") for key, m in talk.items()}, parents)
    path = branch(draft, parents, leaf)
    if path and isinstance(parents[path[0]], str) and parents[path[0]] not in nodes:
        draft.leave("what came before its first message is not in the file")
    _others(draft, len(_spoken(talk, set(talk) - set(path))))
    for message in draft.each([talk[key] for key in path if key in talk]):
        _chatgpt_message(draft, message)


def _spoken(talk: Mapping[str, Any], names: set[str]) -> list[str]:
    authors = ((name, talk[name].get("author")) for name in names)
    return [
        n for n, a in authors if isinstance(a, Mapping) and a.get("role") in ("user", "assistant")
    ]


def _chatgpt_message(draft: Draft, message: Mapping[str, Any]) -> None:
    author, content, about = (_object(message.get(k)) for k in ("author", "content", "metadata"))
    role, kind = author.get("role"), content.get("content_type")
    for item in about["attachments"] if isinstance(about.get("attachments"), list) else ():
        attached(draft, item)
    if role in ("tool", "system"):
        if any(isinstance(part, str) and part.strip() for part in _list(content.get("parts"))):
            draft.leave(TOOL if role == "tool" else "a note of the platform to the model")
    elif kind in ("thoughts", "reasoning_recap") or message.get("channel") == "analysis":
        draft.leave(THOUGHT)
    elif about.get("is_visually_hidden_from_conversation") or about.get("is_user_system_message"):
        draft.leave(HIDDEN)
    elif message.get("recipient", "all") not in ("all", None) or kind in (
        "code",
        "execution_output",
    ):
        draft.leave(TOOL)
    elif message.get("weight") == 0 and not isinstance(message.get("weight"), bool):
        draft.leave("the platform took it out of the conversation")
    elif kind not in ("text", "multimodal_text", None):
        draft.leave(f"it is not text ({ascii(kind)[:40]})")
    else:
        # Old files have the text by itself.
        parts = content.get("parts", content.get("text"))
        said = list(_chatgpt_parts(draft, parts)) if isinstance(parts, list) else parts
        if said == []:
            if parts == [] or all(part is None or part == "" for part in parts):
                draft.leave(NO_TEXT)
            return
        said = "\n".join(said) if isinstance(said, list) else said
        draft.say(role, said, time=message.get("create_time"))


def _chatgpt_parts(draft: Draft, parts: list[Any]) -> Iterator[str]:
    for part in parts:
        spoken = isinstance(part, Mapping) and part.get("content_type") in SPOKEN_PARTS
        text = part.get("text") if spoken else part
        if isinstance(text, str):
            if text:
                yield text
        elif isinstance(part, Mapping):
            draft.leave(f"a part of it is not text ({ascii(part.get('content_type'))[:60]})")
        elif part is not None:
            draft.leave(f"a part of it is a {type(part).__name__}, not text")


# ---------------------------------------------------------------------------- Claude


@shape(
    "claude",
    "Claude's account export",
    looks=lambda record: isinstance(record.get("chat_messages"), list),
    account=True,
)
def claude(draft: Draft, record: Record) -> None:
    """``{"chat_messages": [{"sender": "human", "text": "...", "content": [...]}]}``."""
    draft.named(record, "uuid", "name", "created_at")
    items = list(draft.each(record["chat_messages"]))
    by_id = {m["uuid"]: m for m in items if isinstance(m.get("uuid"), str)}
    parents = {key: m.get("parent_message_uuid") for key, m in by_id.items()}
    linked = any(isinstance(parent, str) and parent in by_id for parent in parents.values())
    if linked and len(by_id) == len(items):
        leaf = record.get("current_leaf_message_uuid")
        if not isinstance(leaf, str) or leaf not in by_id:
            leaf = newest({key: m.get("created_at") for key, m in by_id.items()}, parents)
        path = branch(draft, parents, leaf)
        _others(draft, len(by_id) - len(path))
        items = [by_id[key] for key in path]
    if isinstance(record.get("summary"), str) and record["summary"].strip():
        draft.leave("a summary by the platform: nobody said it")
    for message in draft.each(items):
        for key in ("attachments", "files"):
            for item in _list(message.get(key)):
                attached(draft, item)
        # The text by itself has marks of the platform where a tool was called.
        blocks = [_claude_block(draft, block) for block in _list(message.get("content"))]
        said: Any = "\n\n".join(text for text in blocks if text)
        if not blocks:
            said = message.get("text")
        if said == "" and (blocks or message.get("attachments") or message.get("files")):
            continue
        draft.say(message.get("sender"), said, time=message.get("created_at"))


def _claude_block(draft: Draft, block: Any) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind in ("thinking", "redacted_thinking"):
        draft.leave(THOUGHT)
    elif isinstance(kind, str) and "tool_" in kind:
        draft.leave(TOOL)
    elif kind != "token_budget":
        return draft.text([block]) or ""
    return ""


# ---------------------------------------------------------------------------- Open WebUI


def _open_webui_chat(record: Record) -> Mapping[str, Any] | None:
    for chat in (record.get("chat"), record):
        if isinstance(chat, Mapping):
            history = chat.get("history")
            if isinstance(history, Mapping) and isinstance(history.get("messages"), Mapping):
                return chat
            if chat is not record and isinstance(chat.get("messages"), list):
                return chat
    return None


@shape(
    "open-webui",
    "Open WebUI's export",
    looks=lambda record: _open_webui_chat(record) is not None,
    account=True,
)
def open_webui(draft: Draft, record: Record) -> None:
    """``{"chat": {"history": {"messages": {id: {...}}, "currentId": id}}}``."""
    chat = _open_webui_chat(record) or {}
    draft.named(record, "id", "title", "created_at")
    draft.title = draft.title or chat.get("title")
    draft.began = draft.began or moment(chat.get("timestamp"))
    history = _object(chat.get("history"))
    nodes = {k: m for k, m in _object(history.get("messages")).items() if isinstance(m, Mapping)}
    items = _list(chat.get("messages"))
    if nodes:
        parents = {key: m.get("parentId") for key, m in nodes.items()}
        leaf = history.get("currentId", history.get("current_id"))
        if not isinstance(leaf, str) or leaf not in nodes:
            leaf = newest({key: m.get("timestamp") for key, m in nodes.items()}, parents)
        path = branch(draft, parents, leaf)
        _others(draft, len(nodes) - len(path))
        items = [nodes[key] for key in path]
    for message in draft.each(items):
        message_of(draft, message)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
