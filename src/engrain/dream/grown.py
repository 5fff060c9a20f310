"""Frames without end: ways to ask, put together from what comes before, the asking and the end.

A lesson in few frames is recalled in those frames only. The list of neutral frames
(:mod:`engrain.dream.frames`) is long enough to check a fact; to learn it, each text gets a frame
of its own. What stands in such a frame is not read again by the model: the thing has passed in
the neutral frames, and people wrote the parts. English, and none of it from the exams.
"""

from __future__ import annotations

import random
from collections.abc import Iterator


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.replace("\n", " | ").split("|") if line.strip())


LEADS = _lines("""
By the way, | From memory, | Excuse me, | Just so I have it, | One more time, | If you can, | Now,
So, | And | Okay, | Well, | Hm, | Honestly, | To be sure, | For my letter, | For the form,
Quick question: | Think hard: | Next question: | A small test: | My question is this: | Listen:
Hello! | Hi. | I lost my notes. | I am filling in a form. | I had it a moment ago.
I am not sure any more. | I am on the phone. | My head is empty today. | It was a while ago.
I have a question. | We talked about it. | I said it once. | Do not guess. | I need your help.
Good morning. | Thanks for that. | I am making a list. | A friend is here with me.
""")
ASKS = _lines("""
{q}? | {q}? | {q}? | {q}? | {q}, if you can say? | {q}, do you know? | {q}, again?
do you remember {e}? | do you know {e}? | do you still know {e}? | can you tell me {e}?
could you repeat {e}? | will you say {e}? | would you remind me {e}? | can you say {e} once more?
tell me {e}. | please tell me {e}. | say {e}. | remind me {e}. | let me know {e}. | write {e}.
I wonder {e}. | I do not remember {e}. | I am not sure {e}. | I have to know {e}.
I want to know {e}. | I would like to hear {e}. | I hope you know {e}. | I should know {e}.
I am asking you {e}. | my boss wants to know {e}. | a friend is asking {e}. | they ask me {e}.
we all want to know {e}. | my family asks {e}. | is it written down {e}? | is it known {e}?
I told you {e}. Say it. | you heard {e}. Which was it? | I keep thinking about {e}.
do you remember {n}? | do you know {n}? | can you tell me {n}? | could I have {n}?
tell me {n}. | please remind me of {n}. | say {n}. | please look up {n}. | give me {n}.
let me hear {n}. | show me {n}. | write {n}. | I need {n}. | I am looking for {n}.
I am thinking of {n}. | I would like to have {n}. | do you have {n} on file? | bring back {n}.
is {n} known to you? | we talked about {n}. | I need {n} for a letter. | they want {n}.
""")
ENDS = _lines("""
Thanks. | Please. | Say it. | Tell me, please. | I want to be certain. | Just the answer.
Take your time. | It matters to me. | I can't recall it. | Do you know it? | One word will do.
I wrote it nowhere else. | You were told. | I need it today.
""")
LEAD_SHARE = 0.5
END_SHARE = 0.3


def grown_frames(rng: random.Random) -> Iterator[str]:
    """Frames with one slot each, as :func:`engrain.dream.frames.fill` takes them, without end.

    Example:
        >>> next(grown_frames(random.Random(4)))
        'Now, say {n}.'
    """
    while True:
        lead = rng.choice(LEADS) if rng.random() < LEAD_SHARE else ""
        ask = rng.choice(ASKS)
        end = rng.choice(ENDS) if rng.random() < END_SHARE else ""
        if not lead or lead[-1] in ".!":
            ask = _capital(ask)
        yield " ".join(part for part in (lead, ask, end) if part)


def _capital(ask: str) -> str:
    """The asking at the start of a sentence; a slot there is filled with a capital."""
    return f"{{{ask[1].upper()}{ask[2:]}" if ask.startswith("{") else ask[0].upper() + ask[1:]
