"""Plain transcripts: lines that begin with who speaks.

A label is a word before a colon, or a heading. Which of the two speakers is the user is told by
what tools call them; where one of them is known, the other may have any name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from engrain.data.sources.draft import Draft, NotRead
from engrain.data.sources.registry import Record, shape

SPEAKERS: Mapping[str, str] = {
    **dict.fromkeys(
        "user human you me ich benutzer nutzer mensch utilisateur usuario utente usuário prompt "
        "用户 ユーザー пользователь".split(),
        "user",
    ),
    **dict.fromkeys(
        "assistant ai bot chatbot chatgpt gpt claude gemini copilot llama mistral qwen deepseek "
        "model assistent ki asistente assistente response 助手 アシスタント ассистент".split(),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        "tool function observation thought thoughts thinking reasoning".split(), "tool"
    ),
}
"""Names of speakers as tools write them, in lower case."""

LABEL_LENGTH = 120
"""Characters at the beginning of a line in which a label must end, with its time and marks."""

_LABEL = re.compile(
    r"(?:\[[^\]\n]{4,40}\]|\d[\d\-/.:T ,]{4,30}(?:[AP]M)?)?[ \t\-–]*"
    r"(?P<mark>#{1,6}[ \t]+|>{1,3}[ \t]*)?[*_]{0,2}(?:[^\w\s#*_:]+[ \t]+)?"
    r"(?P<name>[^\W\d_](?:[\w .'-]{0,28}[\w.)])?)"
    r"[*_]{0,2}[ \t]*(?P<colon>[:：])?[*_]{0,2}",
)
_FENCE = re.compile(r"^\s*(```|~~~)")


class Line:
    """A line of a transcript, with the label that it may begin with."""

    __slots__ = ("label", "text", "whole")

    def __init__(self, whole: str, fenced: bool) -> None:
        self.whole, self.label, self.text = whole, "", whole
        own = whole.lstrip()
        found = None if fenced else _LABEL.match(own[:LABEL_LENGTH])
        if found is None:
            return
        rest = own[found.end() :].strip()
        heading = "#" in (found["mark"] or "") and not rest
        if found["colon"] or heading:
            self.label = " ".join(found["name"].lower().split()).removesuffix(" said")
            self.text = rest


def lines_of(text: str) -> list[Line]:
    """The lines of a text; within a fence of code no line has a label."""
    lines, fenced = [], False
    for whole in text.splitlines():
        lines.append(Line(whole, fenced))
        if _FENCE.match(whole):
            fenced = not fenced
    return lines


def speakers_of(lines: list[Line]) -> dict[str, str]:
    """Who of the labels is user, assistant, system or tool; empty if it is no transcript."""
    counts = Counter(line.label for line in lines if line.label)
    found = {label: SPEAKERS[label] for label in counts if label in SPEAKERS}
    sides = [side for side in ("user", "assistant") if side in found.values()]
    if len(sides) == 1:
        # The other one may have a name: the one that speaks about as often.
        known = sum(counts[label] for label, side in found.items() if side == sides[0])
        other, times = next(((c, n) for c, n in counts.most_common() if c not in found), ("", 0))
        if other and 2 * times >= known - 1 and times <= 2 * known:
            found[other] = "assistant" if sides[0] == "user" else "user"
    return found if "user" in found.values() else {}


def is_transcript(text: str) -> bool:
    """Whether a text is the transcript of a conversation with an assistant."""
    return {"user", "assistant"} <= set(speakers_of(lines_of(text)).values())


@shape("transcript", "a plain transcript", looks=lambda r: isinstance(r.get("transcript"), str))
def transcript(draft: Draft, record: Record) -> None:
    """``User: ...`` and ``Assistant: ...``, each at the beginning of a line."""
    lines = lines_of(record["transcript"])
    speakers = speakers_of(lines)
    if not speakers:
        raise NotRead("no line of it begins with who speaks, such as 'User:'")
    turns: list[tuple[str, list[str]]] = []
    before: list[str] = []
    for line in lines:
        if line.label in speakers:
            turns.append((speakers[line.label], [line.text]))
        elif turns:
            turns[-1][1].append(line.whole)
        else:
            before.append(line.whole)
    if any(text.strip() for text in before):
        draft.leave("what comes before the first speaker is not read")
    for draft.number, (side, words) in enumerate(turns, 1):
        draft.say(side, "\n".join(words).strip(" \n-"))
