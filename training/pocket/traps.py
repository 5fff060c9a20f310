"""What is said and not told: supposed, heard, doubted, dreamed, denied, asked, taken back.

A reader that lists what it was told must leave these out, and say that it does not know. The frames
that tell ("I think that ...", "Rumor has it that ...") are those of `frames`; a trap says in its
own sentence that it is none of them.
"""

from __future__ import annotations

import random
from dataclasses import replace

from engrain.data.facts import SECOND, Fact
from training.pocket.frames import parts, pick
from training.pocket.tables import PEOPLE
from training.pocket.talk import Talk

_WHO = parts("""
    somebody | someone | a friend | a neighbor | a stranger | a child | an old man | a lady
    a colleague | a man at the bus stop | my {kin} | my {kin} | my {kin} | my {kin} | my {kin}
""")
_DO = parts("""
    be glad | be sad | laugh | cry | be surprised | tell everyone | tell nobody | move away
    celebrate | call you at once | write a book about it | not sleep | need some rest | be rich
    not mind | dance all night | be the first to know | have a party | stay at home | be worried
""")
_HOW = parts("fine | nice | funny | strange | terrible | great | odd | useful | a pity | sad")
_BUT = parts("""
    I doubt it | that is wrong | it is not so | nobody knows | I do not believe it
    that is only talk | it is not true | I never said so | that is nonsense | it was a joke
    nobody believes it | that cannot be | it is not known | I am not sure at all | that was a lie
""")
_SAID = parts("""
    claimed | said | told me | believed | thought | heard | wrote | was told | guessed | swore
    dreamed | hoped
""")
_SUPPOSED = parts("""
    If {s}, I would {do}. | I would {do} if {s}. | What if {s}? | What if {s}? I would {do}.
    Suppose {s}. | Suppose that {s}. | Suppose that {s}. Then I would {do}. | Imagine that {s}.
    Just imagine that {s}. I would {do}. | Let us imagine that {s}. | Let us pretend that {s}.
    Let us pretend for a moment that {s}. | It would be {how} if {s}.
    Would it not be {how} if {s}? | I wonder how it would be if {s}. | Only if {s}, I would {do}.
    I would only {do} if {s}. | Picture this: {s}. It would be {how}.
""")
_OPEN = parts("""
    I have not decided whether {s}. | I do not know yet whether {s}. | Nobody knows whether {s}.
    I hope that one day {s}. | Maybe one day {s}, but nothing is decided.
    Perhaps {s}, perhaps not.
    I am not sure whether {s}. | It is not clear whether {s}. | We will see whether {s}.
    Maybe {s}, maybe not. | Some day I want to say that {s}.
    I am still thinking about whether {s}.
""")
_HEARD = parts("""
    {Who} {said} that {s}, but {but}. | {Who} {said} that {s}. But {but}.
    {Who} {said} that {s}, and {but}. | People talk and say that {s}, but {but}.
    There is a rumor that {s}, but {but}. | I read somewhere that {s}, but {but}.
    I heard that {s}, but {but}. | {Who} wants to hear that {s}, but {but}.
    {Who} asked me whether {s}. | {Who} wanted to know whether {s}. | {Who} wonders whether {s}.
""")
_DENIED = parts("""
    It is not true that {s}. | It is a lie that {s}. | It is wrong that {s}.
    Do not believe that {s}. | Nobody should think that {s}. | I never said that {s}.
    You might think that {s}, but {but}. | I would never say that {s}.
    I almost said that {s}, but {but}.
""")
_MADE_UP = parts("""
    I dreamed that {s}. | Last night I dreamed that {s}. | In my dream, {s}.
    In a funny dream, {s}. | In the story that I am writing, {s}. | In a story that I read, {s}.
    In a game that I play, {s}.
    In the game we said that {s}. | For fun I told {who} that {s}, but {but}.
    I said as a joke that {s}. | As a joke, {who} wrote that {s}. | In the movie, {s}.
    I made up that {s}. | The children pretended that {s}.
""")
FRAMES = (*_SUPPOSED, *_OPEN, *_HEARD, *_DENIED, *_MADE_UP)
_KINDS = (_SUPPOSED, _SUPPOSED, _OPEN, _HEARD, _HEARD, _DENIED, _MADE_UP)
_TAKEN_BACK = parts("""
    I take back that {s}. I do not know it yet. | Please forget that {s}. That was wrong.
    I was wrong to say that {s}. | It is not true any more that {s}.
    I should not have said that {s}. It is not so. | It is no longer so that {s}.
    I lied when I said that {s}. | I only made up that {s}. | It was a joke that {s}.
""")
_GUESS = parts("Guess: {q}? | Just guess: {q}? | What would you guess, {q}? | Take a guess: {q}?")
_GUESSED = parts("Maybe {s}? | Perhaps {s}. | I guess that {s}. | Is it possible that {s}?")
_WRONG = parts("No. | No, that is wrong. | Wrong. | No, not at all. | Not really. | You are wrong.")
HEARD_IT = parts("I see. | Okay. | All right. | Understood. | Oh, I see. | Very well. | Really?")


def sentence(fact: Fact, rng: random.Random) -> str:
    """A sentence that says the fact and does not tell it."""
    text = pick(rng, pick(rng, _KINDS))
    who = pick(rng, _WHO).replace("{kin}", pick(rng, PEOPLE).name)
    for slot, word in (
        ("{who}", who),
        ("{Who}", who[:1].upper() + who[1:]),
        ("{do}", pick(rng, _DO)),
        ("{how}", pick(rng, _HOW)),
        ("{said}", pick(rng, _SAID)),
        ("{but}", pick(rng, _BUT)),
    ):
        text = text.replace(slot, word)
    return fact.fill(text)


def of_new(talk: Talk) -> Fact:
    """A fact that is never told, to be said in a trap; often it is near to one that is."""
    near = talk.near(pick(talk.rng, list(talk.told.values()))) if talk.told else None
    fact = near or talk.plan(1)[0]
    fact = replace(fact, value=talk.value(fact.relation))
    talk.planned[fact.key] = fact
    talk.untold.append(fact)
    return fact


def of_told(talk: Talk) -> Fact:
    """Another value of a told fact, to be said in a trap."""
    fact = pick(talk.rng, list(talk.told.values()))
    fact = replace(fact, value=talk.value(fact.relation))
    talk.untold.append(fact)
    return fact


def take_back(talk: Talk) -> None:
    """The user takes a told fact back and tells nothing in its place."""
    fact = pick(talk.rng, list(talk.told.values()))
    talk.user(fact.fill(pick(talk.rng, _TAKEN_BACK)))
    talk.bot(pick(talk.rng, HEARD_IT))
    del talk.told[fact.key]
    talk.old.pop(fact.key, None)
    talk.untold.append(fact)


def guess(talk: Talk) -> None:
    """The assistant guesses, which is not learned, and the user says that it is wrong."""
    rng, fact = talk.rng, of_new(talk)
    talk.user(fact.fill(pick(rng, _GUESS)))
    talk.say("assistant", fact.fill(pick(rng, _GUESSED), SECOND), False)
    talk.user(pick(rng, _WRONG))
    talk.bot(pick(rng, HEARD_IT))
