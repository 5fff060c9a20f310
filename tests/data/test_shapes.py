"""Each shape: who said what, and that nothing else counts as said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engrain.data.sources import Brought, Skip, read, shapes
from tests.data import exports
from tests.data.exports import chatgpt, claude, claude_message, node, open_webui, words

Turns = list[tuple[str, str]]
BRING = Callable[..., tuple[list[Brought], list[Skip]]]


@pytest.fixture
def bring(tmp_path: Path) -> BRING:
    """Write values as files, or give a path, and read it."""

    def take(value: Any, name: str = "brought") -> tuple[list[Brought], list[Skip]]:
        path = tmp_path / name
        if isinstance(value, Path):
            path = value
        elif isinstance(value, bytes):
            path.write_bytes(value)
        else:
            path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
        found = list(read(path))
        talks = [one for one in found if isinstance(one, Brought)]
        return talks, [one for one in found if isinstance(one, Skip)]

    return take


def turns(found: Brought) -> Turns:
    return [(message.role, message.content) for message in found.conversation.messages]


def reasons(found: Brought) -> str:
    return "\n".join(f"{skip.place.message} {skip.reason}" for skip in found.left)


RED: Turns = [("user", "My boat is red."), ("assistant", "Noted.")]
RED_MESSAGES = [{"role": role, "content": content} for role, content in RED]


# ---------------------------------------------------------------------------- lists of messages


@pytest.mark.parametrize(
    "value",
    [
        {"messages": RED_MESSAGES},
        RED_MESSAGES,
        [{"messages": RED_MESSAGES}],
        [RED_MESSAGES],
        {"conversations": [{"messages": RED_MESSAGES}]},
        {
            "conversations": [
                {"from": "human", "value": RED[0][1]},
                {"from": "gpt", "value": RED[1][1]},
            ]
        },
        {"conversations": RED_MESSAGES},
        {
            "contents": [
                {"role": r, "parts": [{"text": c}]} for r, c in (RED[0], ("model", RED[1][1]))
            ]
        },
        {
            "body": {"messages": RED_MESSAGES[:1]},
            "response": {"choices": [{"message": RED_MESSAGES[1]}]},
        },
        "\n".join(json.dumps(message) for message in RED_MESSAGES),
        json.dumps({"messages": RED_MESSAGES}, indent=2),
        json.dumps({"messages": RED_MESSAGES}).encode("utf-8-sig"),
        json.dumps({"messages": RED_MESSAGES}).encode("utf-16"),
        json.dumps({"messages": RED_MESSAGES}).encode("utf-16-le"),
        json.dumps({"messages": RED_MESSAGES}).encode("utf-32"),
    ],
)
def test_lists_of_messages_in_all_wrappings(value: Any, bring: BRING) -> None:
    (found,), skips = bring(value)
    assert turns(found) == RED and not skips and not found.left


def test_tools_thoughts_and_attachments_are_not_said(bring: BRING) -> None:
    (found,), _ = bring(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "My boat is red.", "attachments": [{"name": "a.pdf"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": "My dentist is Dr. Tool."},
                {"role": "function", "content": "My dentist is Dr. Function."},
                {"role": "assistant", "reasoning_content": "A boat!", "content": "Noted."},
                {"role": "assistant", "content": "<think>The user lies.</think>\n\nReally."},
                {"role": "assistant", "content": "The user lies.</think>Yes."},
                {"role": "assistant", "content": "<think>The user"},
                {"role": "user", "content": [{"type": "tool_result", "content": "Dr. Result"}]},
                {"role": "user", "content": [{"type": "image_url", "image_url": {}}, words("So?")]},
                {"role": "user", "content": "See <think>my dog is dead</think> this."},
            ]
        }
    )
    assert turns(found) == [
        ("system", "Be brief."),
        *RED,
        ("assistant", "Really."),
        ("assistant", "Yes."),
        ("user", "So?"),
        ("user", "See  this."),
    ]
    assert "a.pdf" in reasons(found) and "10 a part of it is not text ('tool_result')" in reasons(
        found
    )
    assert {skip.place.message for skip in found.left} == {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}


@pytest.mark.parametrize("nothing", [None, 7, True, "", " \n", [], {}, [None], [7], {"text": 1}])
def test_what_is_no_text_is_named(nothing: Any, bring: BRING) -> None:
    (found,), _ = bring({"messages": [*RED_MESSAGES, {"role": "user", "content": nothing}]})
    assert turns(found) == RED
    assert [skip.place.message for skip in found.left] == [3]


def test_a_request_in_the_responses_shape(bring: BRING) -> None:
    said = [{"type": "output_text", "text": "Noted."}]
    record = {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": RED[0][1]}]}],
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "name": "f", "arguments": "{}"},
            {"type": "message", "role": "assistant", "content": said},
        ],
    }
    (found,), _ = bring(record)
    assert turns(found) == RED and [s.place.message for s in found.left] == [2, 3]


def test_harmony_channels_are_thoughts(bring: BRING) -> None:
    raw = (
        "<|channel|>analysis<|message|>The user lies.<|end|><|start|>assistant"
        "<|channel|>commentary to=f<|message|>{}<|call|><|start|>assistant"
        "<|channel|>final<|message|>final answer<|return|>"
    )
    (found,), _ = bring({"messages": [RED_MESSAGES[0], {"role": "assistant", "content": raw}]})
    assert turns(found)[1] == ("assistant", "final answer")


def test_null_in_sharegpt_is_not_the_word_none(bring: BRING) -> None:
    record = {
        "conversations": [
            {"from": "human", "value": "My dog is Bruno."},
            {"from": "gpt", "value": None},
            {"from": "observation", "value": "My dog is Rex."},
            {"from": "human", "value": "My cat is Minka."},
        ]
    }
    (found,), _ = bring([record])
    assert turns(found) == [("user", "My dog is Bruno."), ("user", "My cat is Minka.")]


def test_weights_make_an_example(bring: BRING) -> None:
    weighted = [RED_MESSAGES[0], {**RED_MESSAGES[1], "weight": 0}, *RED_MESSAGES]
    (found,), _ = bring({"messages": weighted})
    assert found.answers == (3,)
    for bad, said in (
        ([RED_MESSAGES[0], {**RED_MESSAGES[1], "weight": 2}], "has the weight 2"),
        ([RED_MESSAGES[0], {**RED_MESSAGES[1], "weight": True}], "has the weight True"),
        ([{**RED_MESSAGES[0], "weight": 1}, RED_MESSAGES[1]], "is by the user and has a weight"),
        ([RED_MESSAGES[0], {**RED_MESSAGES[1], "weight": 0}], "no answer of the assistant"),
        ([*weighted, RED_MESSAGES[0]], "it ends with a message of the user"),
    ):
        talks, (skip,) = bring({"messages": bad})
        assert not talks and said in skip.reason


@pytest.mark.parametrize(
    ("record", "asked", "answer"),
    [
        ({"instruction": "Code?", "input": "", "output": "4471"}, "Code?", "4471"),
        ({"instruction": "Sum up.", "input": "A b.", "output": "B"}, "Sum up.\n\nA b.", "B"),
        ({"instruction": "Sum up.", "context": "A b.", "response": "B"}, "Sum up.\n\nA b.", "B"),
        ({"prompt": " a? ", "completion": " b "}, "a?", "b"),
        ({"question": "a?", "answer": "b"}, "a?", "b"),
    ],
)
def test_pairs_are_examples(record: Any, asked: str, answer: str, bring: BRING) -> None:
    (found,), _ = bring([record])
    assert turns(found) == [("user", asked), ("assistant", answer)] and found.answers == (1,)


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "x", "output": None},
        {"instruction": 3, "output": "y"},
        {"instruction": "x", "input": ["y"], "output": "z"},
        {"prompt": "x"},
        {"prompt": "x", "completion": " "},
    ],
)
def test_pairs_without_text_are_named(record: Any, bring: BRING) -> None:
    talks, (skip,) = bring([record])
    assert not talks and "it has no text in" in skip.reason


# ---------------------------------------------------------------------------- accounts


def test_chatgpt_follows_the_branch_of_its_current_node(bring: BRING) -> None:
    record = chatgpt(
        node("n1", "root", "user", "My boat is blue."),
        node("n2", "n1", "assistant", "Blue."),
        node("n3", "root", "user", "My boat is red."),
        node("n4", "n3", "assistant", "Noted.", create_time=exports.MARCH + 90_000),
        current="n4",
    )
    (found,), _ = bring([record])
    assert turns(found) == RED and "2 messages are on branches that were left" in reasons(found)
    assert found.place.id == "c1" and found.place.title == "chat c1" and found.place.index == 1
    assert found.place.time is not None
    assert found.place.time.isoformat() == "2024-03-05T01:00:00+00:00", "when it was last said"


def test_chatgpt_leaves_out_what_the_platform_put_there(bring: BRING) -> None:
    hidden = {"metadata": {"is_visually_hidden_from_conversation": True}}
    image = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
    voice = {"content_type": "audio_transcription", "text": "My boat is red.", "direction": "in"}
    chain = [
        node("1", "root", "system", "You are ChatGPT."),
        node("2", "1", "user", "My dog is dead.", **hidden),
        node("3", "2", "user", kind="user_editable_context"),
        node("4", "3", "user", image, voice, None, kind="multimodal_text"),
        node("5", "4", "assistant", "search('dog')", recipient="browser"),
        node("6", "5", "tool", "My dentist is Dr. Tool."),
        node("7", "6", "assistant", kind="thoughts"),
        node("8", "7", "assistant", "The user lies.", channel="analysis"),
        node("9", "8", "assistant", "Noted.", metadata={"attachments": [{"name": "b.png"}]}),
        node("10", "9", "user", "Dropped.", weight=0.0),
    ]
    (found,), _ = bring([chatgpt(*chain)])
    assert turns(found) == RED
    assert "image_asset_pointer" in reasons(found) and "b.png" in reasons(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"current_node": "gone"}, "its current message is not in the file"),
        ({"current_node": None}, ""),
        ({"current_node": 7}, "its current message is not in the file"),
        ({"title": None, "create_time": None, "conversation_id": None}, ""),
        ({"title": 7, "create_time": "soon", "conversation_id": {}}, ""),
        ({"create_time": float("1e400")}, ""),
    ],
)
def test_chatgpt_with_parts_missing(change: Any, said: str, bring: BRING) -> None:
    record = exports.told("My boat is red.") | change
    (found,), _ = bring([record])
    assert turns(found) == RED and said in reasons(found)


def test_chatgpt_in_a_circle_and_without_a_root(bring: BRING) -> None:
    a, b = node("a", "b", "user", "My boat is red."), node("b", "a", "assistant", "Noted.")
    (found,), _ = bring([chatgpt(a, b)])
    assert turns(found) == RED and "circle" in reasons(found)
    (found,), _ = bring([chatgpt(a | {"parent": "gone"}, b)])
    assert turns(found) == RED and "before its first message" in reasons(found)


def test_claude(bring: BRING) -> None:
    record = claude(
        claude_message(
            "human",
            words("My boat is red."),
            attachments=[{"file_name": "b.txt", "extracted_content": "My dentist is Dr. Paste."}],
        ),
        claude_message(
            "assistant",
            {"type": "thinking", "thinking": "A boat."},
            {"type": "tool_use", "name": "f", "input": {}},
            words("Noted."),
        ),
        {"sender": "human", "text": "It is fast.", "content": []},
        claude_message("human", {"type": "tool_result", "content": [words("Dr. Result")]}),
        {"sender": "human", "text": "", "content": [], "files": [{"file_name": "c.png"}]},
    ) | {"summary": "The user has a dentist."}
    (found,), _ = bring([record])
    assert turns(found) == [*RED, ("user", "It is fast.")]
    assert "b.txt" in reasons(found) and "c.png" in reasons(found) and "summary" in reasons(found)


def test_claude_follows_the_last_branch(bring: BRING) -> None:
    record = claude(
        claude_message("human", words("My boat is blue."), parent_message_uuid="0000"),
        claude_message("human", words("My boat is red."), parent_message_uuid="0000"),
        claude_message(
            "assistant", words("Blue."), parent_message_uuid="m0", created_at="2024-03-04T10:00:01Z"
        ),
        claude_message(
            "assistant",
            words("Noted."),
            parent_message_uuid="m1",
            created_at="2024-03-04T10:00:02Z",
        ),
    )
    (found,), _ = bring([record])
    assert turns(found) == RED and "2 messages are on branches" in reasons(found)


def test_open_webui(bring: BRING) -> None:
    thought = (
        '<details type="reasoning" done="true">\n<summary>Thought</summary>\n> a\n</details>\n'
    )
    messages = {
        "a": {
            "id": "a",
            "parentId": None,
            "role": "user",
            "content": "My boat is red.",
            "files": [{"name": "c.pdf"}],
        },
        "b": {"id": "b", "parentId": "a", "role": "assistant", "content": "Blue."},
        "c": {"id": "c", "parentId": "a", "role": "assistant", "content": f"{thought}Noted."},
    }
    (found,), _ = bring([open_webui(messages, "c")])
    assert turns(found) == RED and "c.pdf" in reasons(found) and found.shape == "open-webui"
    assert "1 message is on branches" in reasons(found)
    (found,), _ = bring([open_webui(messages, "gone")])
    assert turns(found) == RED, "the last leaf of the file"
    (found,), _ = bring(open_webui(messages, "c")["chat"])
    assert turns(found) == RED, "a chat by itself"


# ---------------------------------------------------------------------------- logs, transcripts


def test_the_log_of_llm(bring: BRING, tmp_path: Path) -> None:
    (boats, page), skips = bring(exports.write_log(tmp_path / "logs.db"))
    assert turns(boats) == [
        ("system", "Be brief."),
        ("user", "My boat is red."),
        ("assistant", "Fine."),
        ("user", "Does it float?"),
        ("assistant", "It floats."),
    ]
    assert turns(page) == [("user", "Sum this up."), ("assistant", "A page.")]
    assert "fragments" in reasons(page) and not skips
    assert boats.place.title == "Boats" and str(boats.place.time) == "2024-03-04 10:02:00+00:00"


def test_the_message_store_of_llm(bring: BRING, tmp_path: Path) -> None:
    (found,), _ = bring(exports.write_store(tmp_path / "logs.db"))
    assert turns(found) == [
        ("system", "Be brief."),
        ("user", "My boat is red."),
        ("assistant", "Fine."),
        ("user", "Sum this up: "),
    ]


def test_a_damaged_log_is_named(bring: BRING, tmp_path: Path) -> None:
    path = exports.write_log(tmp_path / "logs.db")
    path.write_bytes(path.read_bytes()[:5000])
    talks, skips = bring(path)
    assert not talks and "it can't be read" in skips[0].reason


@pytest.mark.parametrize(
    "text",
    [
        "User: My boat is red.\nAssistant: Noted.",
        "Human: My boat is red.\r\n\r\nAI: Noted.\r\n",
        "**User:** My boat is red.\n\n**Assistant:** Noted.\n",
        "## User\n\nMy boat is red.\n\n---\n\n## Assistant\n\nNoted.\n",
        "You said:\nMy boat is red.\nChatGPT said:\nNoted.\n",
        "[2024-03-04 10:00] user: My boat is red.\n[2024-03-04 10:01] assistant: Noted.",
        "Nutzer: My boat is red.\nAssistent: Noted.",
        "用户：My boat is red.\n助手：Noted.",
        "User: My boat is red.\nLlama 3.2: Noted.",
        "Anna: My boat is red.\nChatGPT: Noted.",
        "User: My boat is red.\nTool: Dr. Tool\nAssistant: Noted.",
    ],
)
def test_transcripts(text: str, bring: BRING) -> None:
    (found,), skips = bring(text)
    assert turns(found) == RED and not skips


def test_a_transcript_keeps_code_and_colons(bring: BRING) -> None:
    text = "Intro\nUser: Note this:\nAddress: 5 Elm St\n```\nAssistant: no\n```\nAssistant: Noted."
    (found,), _ = bring(text)
    assert turns(found)[0][1] == "Note this:\nAddress: 5 Elm St\n```\nAssistant: no\n```"
    assert "before the first speaker" in reasons(found)


@pytest.mark.parametrize(
    "text", ["Dear Anna,\nall is well.", "Anna: hi\nBen: hello\nAnna: so?", "a"]
)
def test_other_texts_are_no_transcripts(text: str, bring: BRING) -> None:
    talks, (skip,) = bring(text)
    assert not talks and "no transcript" in skip.reason


def test_every_shape_is_documented() -> None:
    names = [one.name for one in shapes()]
    assert len(names) == len(set(names)) and "chatgpt" in names
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "bring.md").read_text("utf-8")
    for one in shapes():
        assert one.title.split("'")[0].split(" ")[-1] in page, one.title
        assert (one.write.__doc__ or "").strip()
