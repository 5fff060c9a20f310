"""The engine: same call, same answer; a batch, a cache or a stream changes nothing."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from engrain.data.messages import Message
from engrain.errors import UsageError
from engrain.model import kernels
from engrain.model.engine import Engine
from engrain.model.testing import tiny_model
from tests.model.shapes import SHAPES, random_prompts

LONG = "this beginning is the same for all of the prompts: "


@pytest.fixture(params=SHAPES)
def engine(request: pytest.FixtureRequest) -> Engine:
    architecture, options = SHAPES[request.param]
    return Engine(tiny_model(architecture, **options))


class Counter:
    """Counts the tokens that go through a model."""

    def __init__(self, engine: Engine) -> None:
        self.tokens = 0
        embedding = engine.loaded.model.get_input_embeddings()
        self._handle = embedding.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.tokens += inputs[0].numel()

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def plain_greedy(engine: Engine, messages: list[Message], count: int) -> str:
    """The definition: run the whole sequence again for every token, without any cache."""
    ids = engine.encode_chat(messages)
    new: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            logits = engine.loaded.model(torch.tensor([ids + new]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token in engine.loaded.stop_ids:
            break
        new.append(token)
    return str(engine.loaded.tokenizer.decode(new, skip_special_tokens=True)).strip()


# Generation


@pytest.mark.parametrize(("begin", "count"), [("", 32), (LONG, 10)])
def test_a_batch_changes_no_answer(engine: Engine, begin: str, count: int) -> None:
    prompts = random_prompts(count, begin=begin)
    alone = [engine.generate([prompt], max_new_tokens=10)[0] for prompt in prompts]
    assert engine.generate(prompts, max_new_tokens=10) == alone
    assert engine.generate(prompts[::-1], max_new_tokens=10, batch_size=5) == alone[::-1]


def test_cached_answers_are_those_of_full_recomputation(engine: Engine) -> None:
    for messages in random_prompts(3, seed=5):
        expected = plain_greedy(engine, messages, 20)
        assert engine.generate([messages], max_new_tokens=20) == [expected]
        assert "".join(engine.stream(messages, max_new_tokens=20)).strip() == expected


def new_tokens(engine: Engine, prompts: list[list[Message]], count: int) -> list[list[int]]:
    rows = [
        engine._row(i, engine.encode_chat(prompt), count, 0.0, 0)
        for i, prompt in enumerate(prompts)
    ]
    engine._run(rows, temperature=0.0, top_p=1.0, batch_size=32)
    return [row.new for row in rows]


def test_rows_stop_by_themselves() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    engine.loaded.stop_ids = ()
    prompts = random_prompts(24)
    whole = new_tokens(engine, prompts, 12)
    # Now the tokens that some of the answers contain end them, each at another step.
    engine.loaded.stop_ids = (*whole[0][3:5], whole[1][6], whole[2][9])
    for before, after in zip(whole, new_tokens(engine, prompts, 12), strict=True):
        ends = [i for i, token in enumerate(before) if token in engine.loaded.stop_ids]
        assert after == before[: min(ends, default=12)]


def test_finished_rows_leave_the_batch() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    prompts = random_prompts(8)
    with Counter(engine) as all_rows:
        engine.loaded.stop_ids = ()
        engine.generate(prompts, max_new_tokens=20)
    texts = [f"{i}" for i in range(8)]
    with Counter(engine) as fewer:
        rows = [
            engine._row(i, engine.encode_text(text), 2 if i else 20, 0.0, 0)
            for i, text in enumerate(texts)
        ]
        engine._run(rows, temperature=0.0, top_p=1.0, batch_size=8)
    assert [len(row.new) for row in rows] == [20] + [2] * 7
    # The prompts, one step of all rows, then 18 steps of the one that goes on.
    assert fewer.tokens == 8 + 8 + 18
    assert all_rows.tokens > 8 * 19


@pytest.mark.parametrize(("lists", "expected"), [(True, "one\ntwo\none"), (False, None)])
def test_a_list_ends_where_a_line_comes_again(
    lists: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model("llama"))
    engine.loaded.stop_ids = ()
    text = "one\ntwo\none\nthree\ntwo"
    script = iter(engine.encode_text(text)[-len(text) :])
    monkeypatch.setattr(
        engine, "_choose", lambda rows, *_, **__: torch.tensor([next(script)] * len(rows))
    )
    found = engine.generate([[Message("user", "List.")]], max_new_tokens=len(text), lists=lists)
    assert found == [expected or text]


def test_prefixes_are_continued() -> None:
    engine = Engine(tiny_model("qwen3"))
    prompts = random_prompts(4)
    whole = ["".join(engine.stream(messages, max_new_tokens=12)) for messages in prompts]
    begun = [text[:3] if text[:3].isascii() else "" for text in whole]
    rest = engine.generate(prompts, max_new_tokens=12 - 3, prefixes=begun)
    for text, prefix, tail in zip(whole, begun, rest, strict=True):
        if prefix:
            assert text == prefix + tail
    with pytest.raises(UsageError):
        engine.generate(prompts, prefixes=["one"])


def test_same_call_same_answer() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    prompts = random_prompts(9)
    for options in ({}, {"temperature": 0.8, "seed": 3}, {"temperature": 1.0, "top_p": 0.8}):
        assert engine.generate(prompts, **options) == engine.generate(prompts, **options)  # type: ignore[arg-type]


def test_samples_do_not_depend_on_batch_mates() -> None:
    engine = Engine(tiny_model("gemma3", tied=False, sliding_window=8))
    prompts = random_prompts(12)
    one = engine.generate(prompts, temperature=1.0, seed=4, batch_size=1, max_new_tokens=12)
    assert engine.generate(prompts, temperature=1.0, seed=4, max_new_tokens=12) == one
    assert engine.generate(prompts, temperature=1.0, seed=5, max_new_tokens=12) != one
    same = engine.generate([prompts[0]] * 6, temperature=1.0, max_new_tokens=12)
    assert len(set(same)) > 1


def test_sampled_stream_is_the_sampled_answer() -> None:
    engine = Engine(tiny_model("qwen3", tied=False))
    [messages] = random_prompts(1)
    options = {"temperature": 0.9, "seed": 7, "max_new_tokens": 30}
    [answer] = engine.generate([messages], **options)  # type: ignore[arg-type]
    assert "".join(engine.stream(messages, **options)).strip() == answer  # type: ignore[arg-type]


def test_nothing_to_do() -> None:
    engine = Engine(tiny_model())
    [messages] = random_prompts(1)
    assert engine.generate([]) == [] and engine.complete([]) == []
    assert engine.log_likelihood([]) == []
    assert engine.generate([messages], max_new_tokens=0) == [""]
    assert list(engine.stream(messages, max_new_tokens=0)) == []
    assert math.isnan(engine.loss([]))


def test_prompts_longer_than_the_window_keep_their_end() -> None:
    engine = Engine(tiny_model("gpt2", max_length=64))
    long = [[Message("user", "x" * 500 + tail)] for tail in ("", "abc")]
    answers = engine.generate([*long, *random_prompts(2)], max_new_tokens=40)
    assert len(answers) == 4
    assert engine.generate([long[0]], max_new_tokens=500)
    assert "".join(engine.stream(long[1], max_new_tokens=40)).strip() == answers[1]
    assert len(engine.log_likelihood([("y" * 500, "z"), ("y", "z" * 500)])) == 2
    assert engine.loss(["y" * 500], max_length=4096) > 0


def test_complete_and_stop_texts() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    texts = ["Once upon", "The", "A much longer beginning of a text"]
    whole = engine.complete(texts, max_new_tokens=20)
    marks = [text[5:7] for text in whole if text[5:7].isascii() and len(text) > 8]
    assert marks
    cut = engine.complete(texts, max_new_tokens=20, stop=marks)
    for text, short in zip(whole, cut, strict=True):
        ends = [text.find(mark) for mark in marks if mark in text]
        assert short == (text[: min(ends)] if ends else text)
    with Counter(engine) as counted:
        engine.complete([texts[0]], max_new_tokens=20, stop=[marks[0]])
    with Counter(engine) as all_tokens:
        engine.complete([texts[0]], max_new_tokens=20)
    assert counted.tokens <= all_tokens.tokens


def test_shared_beginnings_are_computed_once() -> None:
    engine = Engine(tiny_model("llama"))
    prompts = random_prompts(8, begin=LONG * 3)
    with Counter(engine) as counted:
        engine.generate(prompts, max_new_tokens=1)
    longest = max(len(engine.encode_chat(prompt)) for prompt in prompts)
    assert counted.tokens < 8 * longest - 6 * len(LONG * 3)


def test_identical_prompts() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    [prompt] = random_prompts(1, begin=LONG)
    assert len(set(engine.generate([prompt] * 5))) == 1


# The cache of the last conversation


def chat(engine: Engine, *, turns: int = 3) -> Iterator[tuple[list[Message], str]]:
    messages: list[Message] = []
    for question in random_prompts(turns, seed=9):
        messages = [*messages, *question]
        answer = "".join(engine.stream(messages, max_new_tokens=10))
        yield messages, answer.strip()
        messages = [*messages, Message("assistant", answer or "-")]


def test_turns_on_the_cache_are_those_without(engine: Engine) -> None:
    for messages, answer in chat(engine):
        assert answer == plain_greedy(engine, messages, 10)


def test_the_cache_saves_earlier_turns() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    messages = list(chat(engine, turns=2))[-1][0]
    follow = [*messages, Message("assistant", "ok"), Message("user", "and?")]
    with Counter(engine) as counted:
        list(engine.stream(follow, max_new_tokens=1))
    shared = len(engine.encode_chat(messages))
    assert counted.tokens <= len(engine.encode_chat(follow)) - shared
    # The very same conversation again needs one token.
    with Counter(engine) as counted:
        list(engine.stream(follow, max_new_tokens=1))
    assert counted.tokens == 1


def test_another_conversation_shares_only_what_is_equal(engine: Engine) -> None:
    for messages in random_prompts(6, seed=11):
        expected = plain_greedy(engine, messages, 8)
        assert "".join(engine.stream(messages, max_new_tokens=8)).strip() == expected


def changed(engine: Engine) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in engine.loaded.base_weights().items()
    }


def test_announced_weights_drop_the_cache() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    [messages] = random_prompts(1)
    list(engine.stream(messages))
    assert len(engine.cache) > 0
    engine.loaded.set_weights(changed(engine))
    engine.set_state("other")
    assert len(engine.cache) == 0
    assert "".join(engine.stream(messages, max_new_tokens=10)).strip() == plain_greedy(
        engine, messages, 10
    )


def test_untaught_for_a_while() -> None:
    """The base answers inside, and what was learned is back to the bit, after an error too."""
    prompts = random_prompts(3)
    engine = Engine(tiny_model("llama"))
    first = engine.generate(prompts)
    state = {n: t + 0.05 * torch.randn_like(t) for n, t in engine.loaded.base_weights().items()}
    engine.loaded.set_weights(state)
    engine.set_state("taught")
    taught = engine.generate(prompts)
    assert taught != first
    with engine.untaught():
        assert engine.generate(prompts) == first
        assert engine.state_digest == engine.loaded.base_digest
    with pytest.raises(RuntimeError, match="inside"), engine.untaught():
        raise RuntimeError("inside")
    assert engine.state_digest == "taught"
    assert engine.loaded.changed_since(state) == []
    assert engine.generate(prompts) == taught


def test_the_same_state_keeps_the_cache() -> None:
    engine = Engine(tiny_model(), state_digest="one")
    list(engine.stream(random_prompts(1)[0]))
    engine.set_state("one")
    assert len(engine.cache) > 0


def test_another_digest_alone_drops_the_cache() -> None:
    engine = Engine(tiny_model(), state_digest="one")
    list(engine.stream(random_prompts(1)[0]))
    engine.set_state("two")
    engine.set_state("one")
    assert len(engine.cache) == 0


def test_unannounced_weights_can_not_meet_the_cache() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    [messages] = random_prompts(1)

    def check() -> None:
        with Counter(engine) as counted:
            answer = "".join(engine.stream(messages, max_new_tokens=10)).strip()
        assert counted.tokens >= len(engine.encode_chat(messages))
        assert answer == plain_greedy(engine, messages, 10)

    check()
    engine.loaded.set_weights(changed(engine))
    check()
    with torch.no_grad():
        engine.loaded.model.model.layers[0].mlp.up_proj.weight.mul_(-1)
    check()


def test_weights_that_change_during_a_stream_leave_no_cache_behind() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    engine.loaded.stop_ids = ()
    [messages] = random_prompts(1)
    stream = engine.stream(messages, max_new_tokens=10)
    next(stream)
    engine.loaded.set_weights(changed(engine))
    engine.set_state("other")
    list(stream)
    assert "".join(engine.stream(messages, max_new_tokens=10)).strip() == plain_greedy(
        engine, messages, 10
    )


def test_a_reader_who_goes_away_leaves_a_sound_cache() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    engine.loaded.stop_ids = ()
    [messages] = random_prompts(1)
    stream = engine.stream(messages, max_new_tokens=20)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    expected = plain_greedy(engine, messages, 20)
    assert "".join(engine.stream(messages, max_new_tokens=20)).strip() == expected


def test_an_error_midway_drops_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model("llama", tied=False))
    [messages] = random_prompts(1)
    list(engine.stream(messages, max_new_tokens=4))
    layer = engine.loaded.model.model.layers[1].mlp

    def fail(*_: object) -> None:
        raise MemoryError

    handle = layer.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        list(engine.stream([*messages, Message("assistant", "a"), *messages]))
    handle.remove()
    assert "".join(engine.stream(messages, max_new_tokens=10)).strip() == plain_greedy(
        engine, messages, 10
    )


@pytest.mark.parametrize("compiled", [True, False])
def test_in_bf16_a_batch_changes_no_answer(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one length go on together where kernels compute each alike; nothing is made again."""
    loaded = tiny_model("qwen3", tied=False)
    loaded.model.to(torch.bfloat16)
    loaded.stop_ids = ()
    engine = Engine(loaded)
    sizes: list[int] = []
    whole = Engine._run_batch

    def watched(self: Engine, rows: list[Any], **more: Any) -> None:
        sizes.append(len(rows))
        whole(self, rows, **more)

    monkeypatch.setattr(Engine, "_run_batch", watched)
    monkeypatch.setattr(Engine, "_definition", lambda *_: pytest.fail("a choice was made again"))
    words = ["one", "two", "six", "ten", "seven", "eight", "three", "eleven"]
    prompts = [(Message("user", f"Say {word}."),) for word in words]
    with nullcontext() if compiled else kernels.without():
        alone = [
            engine.generate([prompt], max_new_tokens=24, batch_size=1)[0] for prompt in prompts
        ]
        sizes.clear()
        assert engine.generate(prompts, max_new_tokens=24, batch_size=8) == alone
    assert len(set(alone)) > 1
    together = compiled and kernels.library() is not None
    assert max(sizes) == (4 if together else 1)


def test_two_streams_at_once_do_not_mix() -> None:
    engine = Engine(tiny_model("llama", tied=False))
    engine.loaded.stop_ids = ()
    one, two = random_prompts(2, seed=3)
    expected = [plain_greedy(engine, messages, 10) for messages in (one, two)]
    streams = [engine.stream(messages, max_new_tokens=10) for messages in (one, two)]
    texts = ["", ""]
    alive = [0, 1]
    while alive:
        for i in list(alive):
            piece = next(streams[i], None)
            if piece is None:
                alive.remove(i)
            else:
                texts[i] += piece
    assert [text.strip() for text in texts] == expected


# Scoring


def test_log_likelihood_is_the_sum_of_log_probabilities(engine: Engine) -> None:
    pairs = [
        ("The capital of France is", " Paris"),
        ("The capital of France is ", "Rome and more"),
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello"),
        ("", "abc"),
        ("a", ""),
    ]
    results = engine.log_likelihood(pairs)
    tokenizer = engine.loaded.tokenizer
    for (prompt, continuation), (total, count) in zip(pairs, results, strict=True):
        whole = prompt + continuation
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        target = len(continuation) + (len(prompt) - len(prompt.rstrip(" ")))
        assert count == target
        if not count:
            assert total == 0.0
            continue
        ids = ids if prompt else [0, *ids]
        with torch.no_grad():
            logits = engine.loaded.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = sum(float(logits[i - 1, ids[i]]) for i in range(len(ids) - target, len(ids)))
        assert total == pytest.approx(expected, abs=1e-4)


def test_what_is_expected_is_what_likelihood_says_token_by_token(engine: Engine) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>user\n"
    texts = ["The boat Grête lies at quay 17.", "Where?", "", " and more"]
    found = engine.expected(prompt, texts, most=4)
    likely = engine.log_likelihood([(prompt, text) for text in texts])
    for text, places, (total, count) in zip(texts, found, likely, strict=True):
        assert len(places) == count
        assert sum(nats for _, _, nats, _ in places) == pytest.approx(-total, abs=1e-3)
        assert not text or (places[0][0], places[-1][1]) == (0, len(text))
        ids = engine.loaded.tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = engine.loaded.model(torch.tensor([ids])).logits[0]
        for place, (_, _, _, others) in enumerate(places):
            before = len(ids) - count + place - 1
            best = [int(token) for token in logits[before].topk(4).indices]
            stem = engine.loaded.tokenizer.decode([ids[before]])
            words = [engine.loaded.tokenizer.decode([ids[before], t])[len(stem) :] for t in best]
            assert sorted(others) == sorted(words)


def test_loss_is_the_mean_over_tokens(engine: Engine) -> None:
    texts = ["The cat sat on the mat.", "x" * 90, "Hi", "", "a"]
    total, count = 0.0, 0
    for text in texts:
        ids = engine.loaded.tokenizer(text, add_special_tokens=False)["input_ids"][:40]
        if len(ids) < 2:
            continue
        with torch.no_grad():
            logits = engine.loaded.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(float(logits[i - 1, ids[i]]) for i in range(1, len(ids)))
        count += len(ids) - 1
    assert engine.loss(texts, max_length=40) == pytest.approx(total / count, abs=1e-5)


# Bit for bit

SCRIPT = """
from engrain.model.engine import Engine
from engrain.model.testing import tiny_model
from engrain.data.messages import Message
engine = Engine(tiny_model("qwen3", tied=False))
prompts = [[Message("user", "word " * n)] for n in range(1, 12)]
print(engine.generate(prompts), engine.generate(prompts, temperature=1.0))
print([value.hex() for value, _ in engine.log_likelihood([("a b", " c"), ("d", " e f")])])
print(engine.loss(["one two three", "four"]).hex(), engine.loaded.base_digest)
"""


def test_two_processes_agree_to_the_bit() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout and runs[0].stdout.count("\n") == 3


def test_what_is_scored_shares_one_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model("llama", max_length=512))
    told = "a conversation that is longer than what is asked about it: "
    pairs = [(told + "one? ", "first"), (told + "two? ", "second answer"), (told, "x")]
    alone = [engine.log_likelihood([pair])[0] for pair in pairs]
    embedding, widths = engine.loaded.model.get_input_embeddings(), list[tuple[int, ...]]()
    counting = embedding.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape))
    together = engine.log_likelihood(pairs)
    counting.remove()
    assert [count for _, count in together] == [count for _, count in alone]
    assert [total for total, _ in together] == pytest.approx([t for t, _ in alone], abs=1e-3)
    (one, prefix), (rows, rest) = widths
    assert one == 1 and rows == 3 and prefix > rest, "the conversation is read once, by one row"


def test_continuations_that_end_apart_are_computed_once(engine: Engine) -> None:
    pairs = [("is it so? ", "yea"), ("is it so? ", "yeb"), ("is it? ", "y"), ("is it so? ", "no")]
    alone = [engine.log_likelihood([pair])[0] for pair in pairs]
    with Counter(engine) as whole:
        engine.log_likelihood([pairs[0], pairs[2], pairs[3]])
    with Counter(engine) as counted:
        together = engine.log_likelihood(pairs)
    assert counted.tokens == whole.tokens, "the fourth costs nothing"
    assert [count for _, count in together] == [count for _, count in alone]
    assert [total for total, _ in together] == pytest.approx([t for t, _ in alone], abs=1e-4)


TOLD = "a conversation that is longer than all that is asked about it; "
ASKED = [
    [(TOLD + "one? ", "first"), (TOLD + "two? ", "second answer")],
    [(TOLD + "is it so? a", "yes"), (TOLD + "is it so? b", "no")],
    [("something short and alike: a", "x"), ("something short and alike: b", "y")],
    [(TOLD + "one? ", "another"), (TOLD + "two? ", "answer")],
    [("a conversation that is left early: a", "x"), ("a conversation that is left early: b", "y")],
]


def test_what_calls_begin_with_is_kept_from_one_to_the_next(engine: Engine) -> None:
    apart = [engine.log_likelihood(pairs) for pairs in ASKED]
    with Counter(engine) as exact:
        assert [engine.log_likelihood(pairs) for pairs in ASKED] == apart, "to the bit"
    with Counter(engine) as counted:
        kept = [engine.log_likelihood(pairs, exact=False) for pairs in ASKED]
    for own, known in zip(kept, apart, strict=True):
        assert [total for total, _ in own] == pytest.approx([t for t, _ in known], abs=1e-3)
    profile = engine.loaded.profile
    if profile.cache_kind == "kv" and not any(profile.sliding_windows):
        assert counted.tokens < exact.tokens - 2 * len(TOLD), "the conversation is read once"
    else:
        assert counted.tokens == exact.tokens


def test_what_calls_begin_with_is_not_kept_for_other_weights() -> None:
    engine = Engine(tiny_model("llama", max_length=512))
    before = engine.log_likelihood(ASKED[0], exact=False)
    with torch.no_grad():
        for parameter in engine.loaded.model.parameters():
            parameter.mul_(1.3)
    engine.set_state("other weights")
    after = engine.log_likelihood(ASKED[0], exact=False)
    fresh = engine.log_likelihood(ASKED[0])
    assert [total for total, _ in after] == pytest.approx([t for t, _ in fresh], abs=1e-3)
    assert [total for total, _ in after] != pytest.approx([t for t, _ in before], abs=1e-3)


def test_answers_on_a_kept_beginning_are_those_without() -> None:
    engine = Engine(tiny_model("llama", max_length=512))
    calls = [random_prompts(3, begin=LONG * 3, seed=seed) for seed in (1, 2, 3)]
    apart = [engine.generate(prompts, max_new_tokens=6) for prompts in calls]
    with Counter(engine) as exact:
        engine.generate(calls[1], max_new_tokens=1)
    kept = [engine.generate(prompts, max_new_tokens=6, exact=False) for prompts in calls]
    assert kept == apart
    with Counter(engine) as counted:
        engine.generate(calls[1], max_new_tokens=1, exact=False)
    assert counted.tokens < exact.tokens - len(LONG)
