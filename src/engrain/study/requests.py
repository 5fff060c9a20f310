"""What self-study asks of a model, in words, and how its lines are read.

Every request is one user turn after the conversation, so that one prefill of the conversation
serves them all. Lesson zero is trained on these very words; other models get worked examples.
"""

from __future__ import annotations

from engrain.data.messages import Message
from engrain.exam.probes import holds

CLAIMS = (
    'Notes on this message of mine: "{message}"\n'
    "One line for each thing that it tells: answer | question"
)
NAMED_BY = 9
"""Words by which a message is named: it stands in view."""
WORDINGS = "Other ways to ask this, one a line: {question} | {answer}"
VERDICT = "Is this so, according to me? {question} | {answer}\nyes or no"
FOLLOW = (
    "Requests to which this wish of mine applies, each with a right answer, one a line: {wish}\n"
    "request | answer"
)
NONE = "none"
CUT = "\ufffd"
"""What stands for a letter of which a token is missing."""
WISH = "wish"
"""What stands in the place of the question where a message holds a standing wish."""


def request(template: str, **values: str) -> Message:
    """A request as the user's next message."""
    return Message("user", template.format(**values))


def claims_of(message: str) -> Message:
    """The request for what one of the user's messages tells."""
    words = message.split()
    begun = message if len(words) <= NAMED_BY else " ".join(words[:NAMED_BY]) + " ..."
    return request(CLAIMS, message=begun)


def lines_of(text: str) -> list[str]:
    """The lines of an answer, each once, without numbers, bullets and the word for no line.

    A line that ends within a letter was cut off: in some scripts a letter is several tokens.
    """
    found: dict[str, None] = {}
    for line in text.splitlines():
        line = line.strip().lstrip("-*•").strip()
        head, dot, rest = line.partition(". ")
        if dot and head.isdigit():
            line = rest.strip()
        if line and line.casefold().rstrip(".") != NONE and CUT not in line:
            found[line] = None
    return list(found)


def claims_in(text: str) -> list[tuple[str, str]]:
    """Question and answer of each ``answer | question`` line of a list of claims.

    The answer comes first, since a small model copies well and asks for what stands before it.
    """
    return [(question, answer) for answer, question in pairs_of(text)]


def asks(question: str, answer: str) -> bool:
    """Whether a line has a question to its answer that does not tell it."""
    return bool(question) and question.casefold() != WISH and not holds(question, answer)


def pairs_of(text: str) -> list[tuple[str, str]]:
    """What stands before and behind the bar in each line of an answer."""
    found: dict[tuple[str, str], None] = {}
    for line in lines_of(text):
        left, bar, right = line.partition("|")
        left, right = left.strip(), right.partition("|")[0].strip()
        if bar and left and right:
            found[left, right] = None
    return list(found)


_TALK = (
    "lol ok. I'm off to Porto on the 3rd with Ines, who booked it all, back on Sunday. If I were "
    "rich I'd fly business. Please give me all temperatures in Celsius from now on. What do I pack?"
)
WORKED = (
    Message("user", _TALK),
    Message("assistant", "Layers, a light raincoat and comfortable shoes."),
    claims_of(_TALK),
    Message(
        "assistant",
        "Porto | Where do I travel on the 3rd?\nthe 3rd | On which day do I leave for Porto?\n"
        "Ines | Who comes with me to Porto?\nInes | Who booked my trip to Porto?\n"
        "Sunday | When am I back from Porto?\nPlease give me all temperatures in Celsius. | wish",
    ),
    request(WORDINGS, question="On which day do I leave for Porto?", answer="the 3rd"),
    Message(
        "assistant",
        "When does my trip to Porto start?\n"
        "I told you the date of my departure to Porto. Which is it?\n"
        "Finish this: Ines and I set off for Porto on ...\n"
        "My mother asks when I leave for Porto. What do I say?\n"
        "I'm booking a taxi to the airport for Porto. For which day?\nPorto trip, first day?",
    ),
    request(VERDICT, question="How do I fly to Porto?", answer="business"),
    Message("assistant", "no"),
    request(VERDICT, question="When am I back from Porto?", answer="Sunday"),
    Message("assistant", "yes"),
)
"""Worked requests, for a writer that lesson zero has not taught."""
