"""Dialogues that end with the requests of self-study (`engrain.study.requests`), and their answers.

Someone tells things as in all dialogues; more often than there, something is said that is not told
(`traps`). Then come the requests, in the very words that self-study sends: nothing stands before
the talk, no worked example, and each request is the one turn after it, so the dialogue branches
there. Among them are questions, since the same reader answers them.
"""

from __future__ import annotations

from dataclasses import replace

from engrain.data.facts import SECOND, Attribute, Fact, make_value
from engrain.exam.probes import holds
from engrain.study import requests
from training.pocket import traps
from training.pocket.frames import pick, question
from training.pocket.halves import STUDY_WORDINGS
from training.pocket.talk import Talk, chunks

PLAIN_SHARE = 0.65
"""Claims whose question is the plain one: a list of them is read as one language, not as many."""
TRAP_SHARE = 0.5
"""Dialogues in which something is said and not told."""
GROWN_SHARE = 0.35
"""Wordings whose frame is grown instead of listed."""
CLAIMS_FIRST = 0.65
"""How often the next request is one for claims, while there are messages left."""
SHARES = (0.5, 0.25, 0.25)
"""Of the other requests: verdicts, wordings, plain questions."""
_COUNTS = (1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8)


def tell(talk: Talk) -> None:
    """The talk before the requests."""
    rng = talk.rng
    if rng.random() < 0.35:
        talk.small_talk()
    trapped = rng.random() < TRAP_SHARE
    fix = rng.random() < 0.35
    most = max(1, int(talk.budget / 38))
    for chunk in chunks(rng, talk.plan(min(pick(rng, _COUNTS), most))):
        r = rng.random()
        if talk.told and r < 0.1:
            talk.ask()
        elif r < 0.25:
            talk.small_talk()
        trap = _trap(talk) if trapped and rng.random() < 0.55 else ""
        if trap and rng.random() < 0.4:
            talk.user(trap)
            talk.bot(pick(rng, traps.HEARD_IT))
            trap = ""
        first = rng.random() < 0.5
        talk.tell(chunk, trap if first else "", "" if first else trap)
        if fix and rng.random() < 0.4:
            talk.correct()
    if trapped and rng.random() < 0.2:
        traps.guess(talk)
    if trapped and rng.random() < 0.2 and len(talk.told) > 1:
        traps.take_back(talk)


def _trap(talk: Talk) -> str:
    """A sentence that tells nothing: mostly of something that is never told."""
    other = talk.told and talk.rng.random() < 0.2
    return traps.sentence(traps.of_told(talk) if other else traps.of_new(talk), talk.rng)


def nothing(talk: Talk) -> None:
    """A talk in which nothing is told, but things may be supposed or asked."""
    rng = talk.rng
    for _ in range(rng.randint(1, 4)):
        r = rng.random()
        if r < 0.5:
            talk.small_talk()
        elif r < 0.65:
            talk.world()
        elif r < 0.8:
            talk.ask_unknown()
        else:
            talk.user(traps.sentence(traps.of_new(talk), rng))
            talk.bot(pick(rng, traps.HEARD_IT))


# ---------------------------------------------------------------------------- requests
def ask_for(talk: Talk) -> None:
    """Requests and questions until the budget is used, each a branch of its own after the talk.

    In one row behind one another an answer could be read from the one before.
    """
    rng = talk.rng
    places = [i for i, m in enumerate(talk.messages) if m["role"] == "user"]
    left = [i for i in rng.sample(places, len(places)) if i in talk.tells or rng.random() < 0.35]
    asked = 0
    while asked < 2 or talk.room > 40:
        begun = len(talk.messages)
        if left and rng.random() < CLAIMS_FIRST:
            claims(talk, left.pop())
        elif talk.told:
            rng.choices((verdict, wordings, _question), SHARES)[0](talk)
        elif asked < 3:
            verdict(talk)
        else:
            break
        if len(talk.messages) > begun:
            talk.messages[begun]["branch"] = True
            asked += 1


def claims(talk: Talk, place: int) -> None:
    """What one message tells, in its order; what was corrected or taken back later is left out."""
    said = talk.messages[place]["content"]
    lines = []
    for fact in talk.tells.get(place, ()):
        plain = talk.rng.random() < PLAIN_SHARE
        ask = fact.fill("{Q}?") if plain else _wording(talk, fact, grown=False)
        stands = talk.told.get(fact.key) == fact and holds(said, fact.value)
        if stands and not holds(ask, fact.value):
            lines.append(f"{fact.value} | {ask}")
    talk.user(requests.claims_of(said).content)
    talk.bot("\n".join(lines) or requests.NONE)


def wordings(talk: Talk) -> None:
    """A told fact's question in other words."""
    rng = talk.rng
    fact = pick(rng, list(talk.told.values()))
    first = fact.fill("{Q}?") if rng.random() < 0.5 else _wording(talk, fact)
    lines: list[str] = []
    for _ in range(40):
        line = _wording(talk, fact)
        known = [text.casefold() for text in (first, *lines)]
        if line.casefold() not in known and not holds(line, fact.value):
            lines.append(line)
        if len(lines) == 8 or (len(lines) > 4 and talk.room < 45 + 14 * len(lines)):
            break
    talk.user(requests.WORDINGS.format(question=first, answer=fact.value))
    talk.bot("\n".join(lines))


def verdict(talk: Talk) -> None:
    """Whether an answer to a question is so, as often yes as no; none twice where it can be."""
    rng = talk.rng
    told = list(talk.told.values())
    asked = {message["content"] for message in talk.messages}
    word = "yes" if told and rng.random() < 0.55 else "no"
    for _ in range(6):
        fact = pick(rng, told) if word == "yes" else _wrong(talk, told)
        plain = rng.random() < PLAIN_SHARE
        ask = fact.fill("{Q}?") if plain else _wording(talk, fact, grown=False)
        text = requests.VERDICT.format(question=ask, answer=fact.value)
        if text not in asked:
            break
    talk.user(text)
    talk.bot(word)


def _wrong(talk: Talk, told: list[Fact]) -> Fact:
    """A fact that is not so: said and not told, corrected, of another question, or of nobody."""
    rng = talk.rng
    tempting = [*talk.untold, *talk.old.values()]
    if tempting and (rng.random() < 0.6 or not told):
        return pick(rng, tempting)
    fact = pick(rng, told) if told else talk.plan(1)[0]
    r = rng.random()
    others = [other for other in told if other.key != fact.key]
    same = [other for other in others if other.kind == fact.kind] or others
    if same and r < 0.45:
        return replace(fact, value=pick(rng, same).value)
    other = talk.near(fact)
    if other is not None and r < 0.85:
        return replace(other, value=fact.value)
    while True:
        value = make_value(fact.kind, rng, False)
        if value != fact.value:
            return replace(fact, value=value)


def _question(talk: Talk) -> None:
    """A question as self-study asks it: what was told, and now and then what was not."""
    rng = talk.rng
    untold = [fact for fact in talk.untold if fact.key not in talk.told]
    if untold and rng.random() < 0.3:
        fact = pick(rng, untold)
        talk.user(_wording(talk, fact), True)
        taken_back = any(fact in facts for facts in talk.tells.values())
        talk.bot(fact.fill("I don't know {e}.", SECOND) if taken_back else fact.denial(rng))
    elif talk.told:
        fact = pick(rng, list(talk.told.values()))
        talk.asked.add(fact.key)
        talk.user(_wording(talk, fact), True)
        talk.bot(talk.reply(fact))
    else:
        talk.ask_unknown()


def _form(talk: Talk, fact: Fact, grown: bool = True) -> str:
    """A frame of a question that stands well on its own and suits the fact."""
    rng = talk.rng
    if grown and rng.random() < GROWN_SHARE:
        return question(rng, False, others=False)
    return STUDY_WORDINGS.choose("questions", fact.relation, rng)


def _wording(talk: Talk, fact: Fact, grown: bool = True) -> str:
    """A question for the fact; "the owner of my boat" now and then for "my boat's owner"."""
    relation = fact.relation
    if isinstance(relation, Attribute) and talk.rng.random() < (0.3 if relation.of else 0.08):
        fact = replace(fact, relation=replace(relation, of=not relation.of))
    return fact.fill(_form(talk, fact, grown))
