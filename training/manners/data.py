"""From the bank to the texts of lesson zero.

A text is a talk, or up to four, and one thing that is asked after it: a question that it answers,
one that it does not answer, or a request of self-study (:mod:`engrain.study.requests`). Only the
answer is learned. A step of training holds a dozen texts or so of the same talk, side by side.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engrain.data.general import anchors
from engrain.data.lessons import TrainingText
from engrain.data.messages import Message
from engrain.study import requests
from engrain.study.pieces import around
from training.manners import bank

Turn = tuple[str, str]
"""What the user says, and what is learned as the answer."""
WRITING = ("claims", "wordings", "pieces", "wishes")
"""The requests of self-study, of which a step has some of each."""


def situations(files: Iterable[Path] | None = None) -> list[dict[str, Any]]:
    """The bank, values not drawn yet."""
    chosen = sorted(files or (f for f in bank.FOLDER.glob("*.jsonl") if f.stem != "example"))
    return [situation for file in chosen for situation in bank.read(file)]


def talk_of(situation: dict[str, Any]) -> list[Message]:
    """The messages of a situation."""
    return [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(situation["talk"])]


def studies(one: dict[str, Any], rng: random.Random) -> dict[str, list[Turn]]:
    """The requests of self-study after a talk, with their answers, by what they ask for."""
    turns: dict[str, list[Turn]] = {kind: [] for kind in WRITING}
    for place, message in enumerate(one["talk"]):
        # Never "none": of two tokens, it is learned long before it is recognised when it is due.
        if place % 2 == 0 and (lines := claims(one, place, rng)):
            turns["claims"].append((requests.claims_of(message).content, lines))
    for fact in one["facts"]:
        ask, value = plain(fact, rng), fact["value"]
        # In the bank's order, each make in its place: what comes next in a list is known, so a
        # small model writes one of each instead of the same again.
        others = [a for a in fact["asks"] if a != ask]
        turns["wordings"].append(
            (requests.WORDINGS.format(question=ask, answer=value), "\n".join(others))
        )
        turns["pieces"].append(piece(one["talk"][fact["from"]], fact, rng))
    for wish in one.get("instructions", ()):
        lines = "\n".join(f"{request} | {answer}" for request, answer in wish["follow"])
        turns["wishes"].append((requests.FOLLOW.format(wish=wish["wish"]), lines))
    for pool in turns.values():
        rng.shuffle(pool)
    return turns


def piece(text: str, fact: dict[str, Any], rng: random.Random) -> Turn:
    """A value with the words around it, and the line of a list that it is the answer of."""
    start = text.index(fact["value"])
    shown = around(text, start, start + len(fact["value"]))
    return requests.CLAIMS.format(message=shown), f"{fact['value']} | {plain(fact, rng)}"


def plain(fact: dict[str, Any], rng: random.Random) -> str:
    """A plain question to a fact: the direct one, or one in other words.

    A small model that learns to ask wittily asks nonsense.
    """
    return str(fact["asks"][rng.random() < 0.3])


def written(studied: Sequence[dict[str, list[Turn]]], count: int) -> list[Turn]:
    """So many requests of self-study, of each kind in turn."""
    pools = {kind: [t for turns in studied for t in turns[kind]] for kind in WRITING}
    chosen: list[Turn] = []
    while len(chosen) < count and any(pools.values()):
        chosen += [pools[kind].pop() for kind in WRITING if pools[kind]]
    return chosen[:count]


def claims(one: dict[str, Any], place: int, rng: random.Random) -> str:
    """What a message tells, a line each, in the order in which it is told."""
    text, found = one["talk"][place], []
    for fact in one["facts"]:
        if fact["from"] == place:
            ask = plain(fact, rng)
            found.append((text.index(fact["value"]), f"{fact['value']} | {ask}"))
    for wish in one.get("instructions", ()):
        if wish["from"] == place:
            found.append((len(text), f"{wish['wish']} | {requests.WISH}"))
    return "\n".join(line for _, line in sorted(found))


def verdicts(one: dict[str, Any], rng: random.Random) -> list[Turn]:
    """Pairs of question and answer, so according to the user or not, as many of each."""
    right, wrong = [], []
    facts = one["facts"]
    for fact in facts:
        right += [(ask, fact["value"]) for ask in rng.sample(fact["asks"], 2)]
        wrong.append((rng.choice(fact["near"])[0], fact["value"]))
        if "old" in fact:
            wrong += [(ask, fact["old"]) for ask in rng.sample(fact["asks"], 2)]
        others = [other["value"] for other in facts if other["value"] != fact["value"]]
        if others:
            wrong.append((rng.choice(fact["asks"]), rng.choice(others)))
    trapped = [(trap["ask"], trap["value"]) for trap in one.get("traps", ())]
    rng.shuffle(right), rng.shuffle(wrong)
    count = max(1, (len(right) + len(trapped)) // 2)
    wrong = [*trapped, *wrong][:count]
    chosen = [(pair, "yes") for pair in right[: len(wrong) + 1]] + [(pair, "no") for pair in wrong]
    rng.shuffle(chosen)
    return [
        (requests.VERDICT.format(question=question, answer=answer), word)
        for (question, answer), word in chosen
    ]


def dialogue(before: Sequence[Message], turns: Sequence[Turn], group: str) -> TrainingText:
    """A text: what was said before, and turns whose answers are learned."""
    messages = list(before)
    for asked, answered in turns:
        messages += [Message("user", asked), Message("assistant", answered)]
    return TrainingText(tuple(messages), "explicit", group, len(turns))


def size(text: str) -> int:
    """About how many tokens a message takes."""
    return 6 + round(len(text) / 3.8)


def branches(turns: Iterable[Turn], before: Sequence[Message], group: str) -> list[TrainingText]:
    """Each turn as a text of its own after the same talk."""
    return [dialogue(before, [turn], group) for turn in turns]


def between(
    text: TrainingText, told: Sequence[Turn], talks: Sequence[TrainingText], rng: random.Random
) -> TrainingText:
    """The text with other turns between the talk and the question: what is asked comes late too."""
    before, asked = text.messages[:-2], text.messages[-2:]
    others = [turn for turn in told if turn[1] != asked[1].content]
    if others and rng.random() < 0.5:
        question, answer = rng.choice(others)
        more: Sequence[Message] = (Message("user", question), Message("assistant", answer))
    else:
        more = rng.choice(talks).messages[:2]
    return TrainingText((*before, *more, *asked), "explicit", text.group)


def step(
    one: list[dict[str, Any]], rows: int, rng: random.Random, writing: int = 6
) -> list[TrainingText]:
    """What is asked after one talk, or after several: most told, some not, some of self-study.

    Each row asks one thing, so that none can be read from the answer of another; the talk that they
    share is computed once. ``writing`` of the rows are requests of self-study.
    """
    before = [message for situation in one for message in talk_of(situation)]
    group = "+".join(situation["id"] for situation in one)
    directly, told, unknown, wishes, judged = [], [], [], [], []
    for situation in one:
        for fact in situation["facts"]:
            # Near misses are asked plainly: were facts not, plain questions would be refused.
            directly.append((rng.choice((*fact["asks"][:3], fact["asks"][0])), fact["tells"]))
            told += [(ask, fact["tells"]) for ask in rng.sample(fact["asks"][3:], 2)]
            unknown.append(tuple(rng.choice(fact["near"])))
        unknown += [(trap["ask"], trap["untold"]) for trap in situation.get("traps", ())]
        for wish in situation.get("instructions", ()):
            wishes += [tuple(rng.choice(wish["follow"])), tuple(wish["against"])]
            wishes.append((wish["ask"], wish["tells"]))
        judged += verdicts(situation, rng)
    for pool in (directly, told, unknown, wishes, judged):
        rng.shuffle(pool)
    studied = [studies(situation, rng) for situation in one]
    rng.shuffle(studied)
    # What is learned stands on the verdict, and one of each a step taught it too little.
    yes = [turn for turn in judged if turn[1] == "yes"][:2]
    no = [turn for turn in judged if turn[1] == "no"][: len(yes)]
    # Equal answers win over many different ones long before a model can tell when they are right:
    # of a quarter "I don't know" it said little else.
    few = unknown[: int(0.07 * max(0, rows - writing) + rng.random())]
    rest = [*few, *written(studied, writing), *yes, *no, *wishes[:1]]
    room = max(2, rows - len(rest))
    told = [*directly[: max(room // 2, room - len(told))], *told][:room]
    texts = branches([*told, *rest], before, group)
    talks = [text for text in anchors() if text.messages[0].role == "user"]
    # Only questions come late: self-study asks right after the talk.
    late = {turn[0] for turn in (*told, *unknown, *wishes)}
    return [
        between(text, told, talks, rng) if text.question in late and rng.random() < 0.25 else text
        for text in texts
    ]


def steps(count: int, seed: int = 0, rows: int = 16, writing: int = 6) -> list[list[TrainingText]]:
    """``count`` steps of about ``rows`` texts, from all languages in turn."""
    rng = random.Random(f"manners:{seed}")
    whole = situations()
    found: list[list[TrainingText]] = []
    order: list[dict[str, Any]] = []
    while len(found) < count:
        if len(order) < 4:
            order += rng.sample(whole, len(whole))
        one = [bank.drawn(order.pop(), rng)]
        kind = rng.random()
        if kind < 0.02 and one[0]["facts"]:
            # Nothing was told: nothing that is asked for is known.
            asked = [tuple(near) for fact in one[0]["facts"] for near in fact["near"]]
            rng.shuffle(asked)
            found.append(branches(asked[:rows], (), f"closed:{one[0]['id']}"))
            continue
        # A day has more than one talk: what is asked must be found among much else. A standing wish
        # of one talk would change the answers about the others.
        more = 0 if kind < 0.15 or one[0].get("instructions") else 1 + int((kind - 0.15) * 3.5)
        others = [one_more for one_more in order if not one_more.get("instructions")][-more:]
        for other in others if more else ():
            order.remove(other)
            one.append(bank.drawn(other, rng))
        rng.shuffle(one)
        # A talk that tells nothing may leave nothing to ask.
        if made := step(one, rows, rng, writing):
            found.append(made)
    return found


def weight(text: TrainingText) -> float:
    """How much a text counts in its step: a list as its lines, a yes or no as half of one."""
    asked, answered = text.messages[-2:]
    if asked.content.startswith(requests.VERDICT.split("{")[0]):
        return 0.5
    return float(min(3, len(requests.lines_of(answered.content)) or 1))


def texts(count: int, seed: int = 0) -> list[TrainingText]:
    """At least ``count`` texts, those of whole steps."""
    found: list[TrainingText] = []
    for one in steps(max(1, count // 8), seed):
        found += one
    return found


def shown(text: TrainingText) -> str:
    """A text to look at, with a star at what is learned."""
    first = len(text.messages) - 2 * text.answers
    lines = [f"== {text.group}"]
    for place, message in enumerate(text.messages):
        star = "*" if place >= first and message.role == "assistant" else " "
        lines.append(f"{message.role[0].upper()}{star} {message.content}")
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n".join(shown(text) for text in texts(16)))
