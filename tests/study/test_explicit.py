import json
from pathlib import Path
from typing import Any

import pytest

from engrain.data.lessons import TrainingText, chat
from engrain.data.messages import Conversation, read_records
from engrain.errors import ConversationError
from engrain.study.explicit import (
    are_examples,
    curate_examples,
    hold_out_examples,
    read_source,
    take_examples,
)

PAIR = [{"role": "user", "content": "What is my motto?"}, {"role": "assistant", "content": "Go."}]


def write(folder: Path, *records: Any) -> Path:
    path = folder / "examples.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_sources(tmp_path: Path) -> None:
    talk = Conversation.from_messages(PAIR)
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"messages": talk.to_list()}))
    assert read_source(path) == ([talk], [])
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(json.dumps({"messages": talk.to_list()}) for _ in range(2)))
    assert read_source(path) == ([talk, talk], [])
    path.write_text(json.dumps({"prompt": "a?", "completion": "b"}))
    conversations, examples = read_source(path)
    assert conversations == [] and examples[0].kind == "explicit"
    path.write_text(json.dumps({"messages": talk.to_list()}) + "\n{}")
    with pytest.raises(ConversationError, match="talks.jsonl:2"):
        read_source(path)


def test_both_shapes_in_one_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"messages": [{"role": "system", "content": "Be brief."}, *PAIR]},
        {"prompt": " Name my cat. ", "completion": " Gorla "},
    )
    texts = take_examples(read_records(path))
    assert [text.kind for text in texts] == ["explicit", "explicit"]
    assert [message.role for message in texts[0].messages] == ["system", "user", "assistant"]
    assert texts[1].messages == chat("Name my cat.", "Gorla")
    assert [text.group for text in texts] == [f"{path}:1", f"{path}:2"]


def test_weights_choose_the_answers() -> None:
    messages = [
        *PAIR,
        {"role": "user", "content": "And my cat?"},
        {"role": "assistant", "content": "Gorla.", "weight": 1},
    ]
    texts = take_examples([("f:1", {"messages": messages})])
    assert [text.target for text in texts] == ["Go.", "Gorla."]
    assert len(texts[1].messages) == 4
    messages[1] = {**messages[1], "weight": 0}
    assert [t.target for t in take_examples([("f:1", {"messages": messages})])] == ["Gorla."]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{not json", "examples.jsonl:2 is not JSON"),
        ("[1]", "examples.jsonl:2 is not an object"),
        ({"text": "hello"}, "examples.jsonl:2 has no text in 'prompt'"),
        ({"prompt": "Hi", "completion": ""}, "examples.jsonl:2 has no text in 'completion'"),
        ({"prompt": "Hi", "completion": 3}, "examples.jsonl:2 has no text in 'completion'"),
        ({"messages": PAIR[:1]}, "examples.jsonl:2 ends with a message of the user"),
        ({"messages": "hello"}, "examples.jsonl:2: 'messages' is not a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 has the role 'tool'"),
        ({"messages": [PAIR[0], {**PAIR[1], "weight": 2}]}, "message 2 has the weight 2"),
        ({"messages": [PAIR[0], {**PAIR[1], "weight": True}]}, "has the weight True"),
        ({"messages": [{**PAIR[0], "weight": 1}, PAIR[1]]}, "is by the user and has a weight"),
        ({"messages": [PAIR[0], {**PAIR[1], "weight": 0}]}, "no answer of the assistant"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, record: Any, said: str) -> None:
    path = write(tmp_path, {"messages": PAIR}, record)
    with pytest.raises(ConversationError) as caught:
        take_examples(read_records(path))
    assert said in caught.value.message
    assert caught.value.remedy


def test_secrets_and_repetitions_are_left_out() -> None:
    texts = take_examples(
        [
            ("f:1", {"prompt": "What is my motto?", "completion": "Go."}),
            ("f:2", {"prompt": "Key?", "completion": "sk-" + "a1" * 16}),
            ("f:3", {"prompt": "What is my motto?", "completion": "Go."}),
        ]
    )
    kept, left_out = curate_examples(texts)
    assert [text.group for text in kept] == ["f:1"]
    assert [(e.where, e.reason) for e in left_out] == [
        ("f:2", "it holds a secret: API key"),
        ("f:3", "the same example twice"),
    ]
    assert "a1a1" not in json.dumps([entry.to_dict() for entry in left_out])


def texts_of(*pairs: tuple[str, str]) -> list[TrainingText]:
    return [TrainingText(chat(q, a), "explicit", f"f:{i}") for i, (q, a) in enumerate(pairs)]


@pytest.mark.parametrize(("count", "held"), [(1, 0), (4, 0), (5, 1), (10, 2), (20, 3), (100, 15)])
def test_share_that_is_held_out(count: int, held: int) -> None:
    texts = texts_of(*[(f"Question {i}?", f"Answer number {i}.") for i in range(count)])
    trained, probes = hold_out_examples(texts)
    assert (len(trained), len(probes)) == (count - held, held)
    asked = {probe.messages for probe in probes}
    assert not asked & {text.messages[:-1] for text in trained}
    assert len({probe.id for probe in probes}) == held


def test_answers_taught_in_other_words_are_held_out_first() -> None:
    pairs = [(f"Question {i}?", f"Answer {i}.") for i in range(8)]
    pairs += [("What is my cat?", "Gorla."), ("Who is my cat?", "gorla")]
    trained, probes = hold_out_examples(texts_of(*pairs), share=0.1)
    assert [probe.kind for probe in probes] == ["paraphrase"]
    assert sum("orla" in text.target for text in trained) == 1


def test_long_answers_are_examined_by_what_is_new_in_them() -> None:
    pairs = [("What is my cat?", "I think I remember it well, your cat is Gorla Minora.")] * 5
    pairs = [(f"{q[:-1]} {i}?", a) for i, (q, a) in enumerate(pairs)]
    _, probes = hold_out_examples(texts_of(*pairs))
    assert probes[0].answers == ("Gorla Minora",)


def test_no_probe_asks_what_is_trained() -> None:
    texts = texts_of(*[("What is my cat?", f"Gorla {i}.") for i in range(6)])
    trained, probes = hold_out_examples(texts)
    assert probes == [] and len(trained) == 6


def test_what_counts_as_a_file_of_examples() -> None:
    conversation = {"messages": [*PAIR, *PAIR]}
    assert not are_examples([{"messages": PAIR}])
    assert are_examples([{"messages": PAIR}] * 10)
    assert not are_examples([conversation] * 20)
    assert are_examples([{"prompt": "x", "completion": "y"}])
    assert are_examples([{"messages": [PAIR[0], {**PAIR[1], "weight": 1}]}])
