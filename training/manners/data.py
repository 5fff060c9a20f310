"""From the bank to the texts of lesson zero.

A text is a talk, or two, and what is asked after it: questions that it answers, questions that it
does not answer, and the requests of self-study (:mod:`engrain.study.requests`). All answers after
the talk are learned, those inside it are not.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engrain.data.lessons import TrainingText
from engrain.data.messages import Message
from engrain.study import requests
from training.manners import bank

Turn = tuple[str, str]
"""What the user says, and what is learned as the answer."""


def situations(files: Iterable[Path] | None = None) -> list[dict[str, Any]]:
    """The bank, values not drawn yet."""
    chosen = sorted(files or (f for f in bank.FOLDER.glob("*.jsonl") if f.stem != "example"))
    return [situation for file in chosen for situation in bank.read(file)]


def talk_of(situation: dict[str, Any]) -> list[Message]:
    """The messages of a situation."""
    return [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(situation["talk"])]


def questions(one: dict[str, Any], rng: random.Random) -> list[Turn]:
    """What can be asked after a talk: told, not told, trapped, to be followed."""
    told = [(ask, fact["tells"]) for fact in one["facts"] for ask in rng.sample(fact["asks"], 3)]
    # "I don't know" is learned long before when to say it: of many it would become the only answer.
    few = rng.sample(one["facts"], len(one["facts"]) // 2)
    near = [tuple(rng.choice(fact["near"])) for fact in few]
    traps = [(trap["ask"], trap["untold"]) for trap in one.get("traps", ())]
    wishes: list[Turn] = []
    for wish in one.get("instructions", ()):
        wishes += [tuple(pair) for pair in rng.sample(wish["follow"], 2)]
        wishes += [tuple(wish["against"]), (wish["ask"], wish["tells"])]
    turns = [*told, *near, *traps, *wishes]
    rng.shuffle(turns)
    return list(dict.fromkeys(turns))


def studies(one: dict[str, Any], rng: random.Random) -> list[Turn]:
    """The requests of self-study after a talk, with their answers."""
    turns: list[Turn] = []
    for place, message in enumerate(one["talk"]):
        if place % 2 == 0:
            turns.append((requests.claims_of(message).content, claims(one, place, rng)))
    for fact in one["facts"]:
        ask, value = rng.choice(fact["asks"][:3]), fact["value"]
        others = [a for a in fact["asks"] if a != ask]
        rng.shuffle(others)
        turns.append((requests.WORDINGS.format(question=ask, answer=value), "\n".join(others)))
        near = [pair[0] for pair in fact["near"]]
        rng.shuffle(near)
        turns.append((requests.NEAR.format(question=ask, answer=value), "\n".join(near)))
    for wish in one.get("instructions", ()):
        lines = "\n".join(f"{request} | {answer}" for request, answer in wish["follow"])
        turns.append((requests.FOLLOW.format(wish=wish["wish"]), lines))
    rng.shuffle(turns)
    # Listing is what all else stands on.
    return sorted(turns, key=lambda turn: not turn[0].startswith("Notes") or rng.random() < 0.5)


def claims(one: dict[str, Any], place: int, rng: random.Random) -> str:
    """What a message tells, a line each, in the order in which it is told."""
    text, found = one["talk"][place], []
    for fact in one["facts"]:
        if fact["from"] == place:
            ask = fact["asks"][0] if rng.random() < 0.7 else rng.choice(fact["asks"][:3])
            found.append((text.index(fact["value"]), f"{ask} | {fact['value']}"))
    for wish in one.get("instructions", ()):
        if wish["from"] == place:
            found.append((len(text), f"{requests.WISH} | {wish['wish']}"))
    return "\n".join(line for _, line in sorted(found)) or requests.NONE


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


def texts(count: int, seed: int = 0, room: int = 440) -> list[TrainingText]:
    """``count`` texts of about ``room`` tokens at most, from all languages and kinds in turn."""
    rng = random.Random(f"manners:{seed}")
    whole = situations()
    found: list[TrainingText] = []
    order: list[dict[str, Any]] = []
    while len(found) < count:
        if len(order) < 3:
            order += rng.sample(whole, len(whole))
        kind = rng.choices(
            ("ask", "study", "verdict", "closed", "mixed"), (0.4, 0.26, 0.1, 0.04, 0.2)
        )[0]
        one = bank.drawn(order.pop(), rng)
        before = talk_of(one)
        if kind == "closed":
            turns = [
                tuple(rng.choice(fact["near"]))
                for other in (one, bank.drawn(order.pop(), rng))
                for fact in other["facts"]
            ]
            # Without the talk, or after another one.
            other = bank.drawn(order.pop(), rng)
            before = talk_of(other) if rng.random() < 0.4 else []
            rng.shuffle(turns)
        elif kind == "study":
            turns = studies(one, rng)
        elif kind == "verdict":
            turns = verdicts(one, rng)
        else:
            turns = questions(one, rng)
            if kind == "mixed":
                second = bank.drawn(order.pop(), rng)
                pair = [before, talk_of(second)]
                turns += questions(second, rng)
                if second.get("instructions") and not one.get("instructions"):
                    pair.reverse()
                before = [*pair[0], *pair[1]]
                rng.shuffle(turns)
                # A standing wish of one talk would change the answers about the other.
                if one.get("instructions") or second.get("instructions"):
                    continue
        used, chosen = sum(size(message.content) for message in before) + 30, []
        for turn in turns:
            cost = size(turn[0]) + size(turn[1])
            if used + cost <= room or not chosen:
                chosen.append(turn)
                used += cost
        if chosen and used <= room + 200:
            found.append(dialogue(before, chosen, f"{kind}:{one['id']}"))
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
    print("\n".join(shown(text) for text in texts(12)))
