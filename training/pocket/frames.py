"""Frames without end: what people say around a fact, put together from parts.

With a closed list of wordings the model learns the list; a frame that it never saw ("We can agree
that ...") then draws its attention away from what is told. So half of all frames are grown here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engrain.data.facts import Relation, Verb, Wordings, pseudo
from engrain.data.general import nouns
from training.pocket.nouns import heldout_words

NOUNS = nouns()
_PIECES = (Path(__file__).parent / "pieces.txt").read_text(encoding="utf-8").split()
_STARTS = [piece[1:] for piece in _PIECES if piece.startswith("_")]
_REST = [piece for piece in _PIECES if not piece.startswith("_")]
_KEPT_OUT = heldout_words()
OPEN_SHARE = 0.6
PIECED_SHARE = 0.25


def parts(text: str) -> tuple[str, ...]:
    """The parts of a text between bars and line ends."""
    return tuple(part.strip() for part in text.replace("\n", "|").split("|") if part.strip())


def pick(rng: random.Random, options: Sequence[str]) -> str:
    """One of the options."""
    return options[int(rng.random() * len(options))]


def open_noun(rng: random.Random, invented: float = 0.3) -> str:
    """A noun of any spelling: with a closed list the model learns the list, not to copy."""
    if rng.random() < invented:
        return pseudo(rng, 2, 3)
    return pieced(rng) if rng.random() < PIECED_SHARE else pick(rng, NOUNS)


def pieced(rng: random.Random) -> str:
    """A word put together from tokens in an order that no text has."""
    while True:
        word = pick(rng, _STARTS) + "".join(pick(rng, _REST) for _ in range(rng.randint(1, 2)))
        if 4 <= len(word) <= 16 and word not in _KEPT_OUT and not word.endswith("s"):
            return word


_OPENINGS = parts("""
    Believe it or not | As it happens | Between you and me | For what it is worth | To be clear
    To be exact | In short | Long story short | Before I forget | While we are at it
    Speaking of it | Since we are talking | In case it matters | In case you need it
    As a matter of fact | Frankly | Honestly | Luckily | Sadly | Apparently | Obviously
    Naturally | Incidentally | As always | As usual | As of today | As of now | These days
    Nowadays | Lately | Recently | At the moment | Right now | To my surprise | To tell the truth
    You will laugh | You will see | Let me see | Now | Next | Finally | Besides | Moreover | Again
    Once more | First | Second | Anyway | Oh | Ah | Hm | Hey | Hi | Hello | Okay | Right | Fine
    Good | Great | Wow | Yes | No | True | Sure | Indeed | My friend | My dear | Dear assistant
    Computer | Dear machine | Attention | Important | Secret | A detail | A reminder | A note
    News | Update | Record | Entry | Item | Memo | Private | Public | As you can guess
    As people say | As everyone here says | From experience | In my family | In our house
    In this town | On my side | On a different note | On another subject | Just now | With pride
    With a smile | With regret | Without a doubt | No joke | No kidding | Seriously | At last
    After all | By chance | By the looks of it | All in all | Simply put | More precisely
    If you must know | If it helps | If you want to know | If you are interested
    Not many know it
""")
_TELLERS = parts("""
    I | We | I | I | They | My {x} | Our {x} | The {x} | Everyone | People | Some people
    The papers
""")
_TELL = parts("""
    say | said | believe | think | know | noticed | found out | heard | read | learned | guess
    suppose | discovered | decided | remember | wrote | announced | confirmed | admitted
    explained | insist | swear | told them | are sure | can confirm | can say | could swear
    must say | must add | have to say | have to admit | have to tell you | need to say
    need to tell you | want to say | want to add | want to tell everyone | would like to say
    would like to add | am going to tell you | am glad | am proud | am sad | was told
    was surprised | found | kept thinking | never hid | have always said | have known for years
    forgot to say | meant to say | meant to tell you | should have said | should tell you
    would say | like to say | often say | just found out
""")
_PLEAS = parts("""
    remember | keep | save | store | record | memorize | write down | note down | hold on to
    learn | take down | keep in memory | do not lose | never forget | mark down | file away | log
    register | make a note | be sure to remember | try to remember | always remember | think of it
""")
_ASIDES = parts("""
    by the way | you see | you know | believe me | I think | I guess | of course | for sure
    as always | if you ask me | as far as I know | in fact | to be exact | no doubt | oddly enough
    it seems | thank goodness | I must say | as I said | just like that | since last year
    for now | once again | and I like it | and that is fine | and I am glad | so remember it
    so keep it | so write it down | just that you know | and nobody else knows | strange as it is
    happily | sadly | naturally
""")
_THAT = parts("""
    It is true that | It is important that | It is useful to know that | It is good to know that
    It is funny that | It is strange that | It is no secret that | It is nice that
    It is a fact that | It is clear that | It is known that | It was decided that
    It happens that | It seems that | The point is that | The news is that | The story is that
    The rule is that | The reason is that | The good thing is that | The result is that
    What matters is that | What I mean is that | What you should learn is that
    All I know is that | One thing is sure: | My point is this: | This is new:
    This is what I know: | The facts are these: | You must learn that | You may hear that
    You might want to know that | You will want to know that | You need to know that
    You can see that | You could say that | There is no doubt that | There is this: | I have news:
    Rumor has it that
""")
_COPULAS = parts("""
    is | is | is | would be | will be | has to be | must be | can only be | has always been
    turned out to be | remains | is simply | is just | is really | is still | is definitely
    is surely | is now | is probably | is always | goes by | equals | is none other than
    is exactly | became | has become | is actually | is and stays | is known as | is said to be
    is clearly | is of course | is officially | has been
""")
_TOPICS = parts("""
    Regarding | Concerning | With regard to | On the subject of | Speaking of | On to | Now to
    Next comes | Talking about | Turning to | In the matter of | In the case of | Back to
    One word on | A word about | And then there is | Think of | Take | Look at | Consider
    Here is something on | Something about
""")
_ITS = parts("""
    it is {v} | that is {v} | the answer is {v} | {v} is right | it would be {v} | I have {v}
    say {v} | put down {v} | it must be {v} | you can write {v} | that is {v}, of course
    we settled on {v} | I went with {v} | the choice is {v} | it will be {v} | nothing but {v}
    simply {v} | only {v}
""")

_CALLS = parts("""
    Hey | Hi | Hello | Okay | Well | So | Now | Right | Hm | Um | Oh | Listen | Look | Say
    Dear friend | Come on | Think | Think hard | Be honest | Be quick | Quickly | Slowly
    One moment | Wait | Sorry | Pardon me | Excuse me | Please | Tell me | Answer me | Help me
    Remind me | Explain | Buddy | My friend | Computer | Assistant | Good evening | Good morning
    Last question | First question | Next | Again | Once more | Honestly | Seriously | For fun
    Just checking | A little test | Easy one | Hard one | Check | Test | Question | Pop question
    Out of curiosity | Between us | For my records | For the form | For my diary | For the letter
    For the list | To finish | To begin | In one sentence | If you can | If I may ask
    If you still know | Without looking | As a test | In your own words | After all I said
    Going by what I said | As I told you | From memory | Back to business
""")
_CAN = parts("""
    Can you | Could you | Will you | Would you | Can you please | Could you kindly
    May I ask you to
""")
_GIVE = parts("""
    tell me | say | remind me | repeat | let me know | find out | check | confirm | explain
    write | show me | work out | think of | bring back | recall | share | read out | recite | type
    spell out | tell us | tell my {x} | give the answer to | help me with | put in words
    say out loud | say once more
""")
_ENDS = parts("""
    please | for me | again | once more | now | today | if you can | one more time | quickly
    in short | right away | in one sentence | by any chance | for us | for my {x} | this time
    before I go
""")
_WISH = parts("""
    I need to know | I want to hear | I wish to know | I would love to know | I was hoping to hear
    I am trying to remember | I am trying to think of | I have to know | I must know
    I should know | I have no clue | I am not sure | I am unsure | I do not remember
    I do not know any more | I was wondering | I am wondering | I keep wondering
    I am asking myself | I want you to say | I would like to hear | I am looking for
    I am here to learn | I bet you know | I hope you know | I think you know
    I believe I told you | I told you before | I already said | I once said | You know
    You should know | You must know | You learned | You heard | You were told | You wrote down
    It would help to know | It is time to say | It is important to know | Nobody here knows
    Tell the {x} | Show the {x} | Teach my {x} | Explain to us | Now tell everyone | Let us hear
""")
_OTHERS = parts("""
    My {x} asks | My {x} wants to know | The {x} asked me | A {x} would like to know | They ask
    They want to know | We all want to know | Everybody asks | The form asks | The letter asks
    My boss wants to know | A friend is asking | My family asks me | The {x} needs to know
    We wonder
""")
_SITUATIONS = parts("""
    I am filling in a form. | I am writing a letter. | I am making a list.
    I have to tell my {x}. | I am on the phone. | I am in a hurry. | I lost my notes.
    My head is empty. | I am getting old. | I have a question. | This one is easy.
    This one is hard. | It matters to me. | Do not guess. | Do you have a moment?
    I was asked something. | The {x} is here. | I saw a {x} today. | Good. | I need your help.
    You are good at this. | You have a good memory. | We spoke about it. | Fine.
    I told you this already. | I said it a while ago. | It was a while ago. | Thanks for that.
    Okay. | Let us go on. | Let us continue. | Let me think. | Here it comes. | Are you ready?
    One more.
""")
_OF_NOUN = parts("""
    What is {n} {z}? | Which is {n}? | What would {n} be? | What could {n} be?
    What should {n} be? | What exactly is {n}? | {N}, what is it? | {N}, what was that?
    {N}, do you know it? | Say {n}. | What about {n}, do you know? | Do you have {n} on file?
    Do you keep {n} somewhere? | Spell out {n}. | Is {n} known to you? | I am looking for {n}.
    Where did you write {n}? | What is stored as {n}? | What do you have for {n}? | Fetch {n}.
    Show {n} {z}. | Read me {n}. | Bring up {n}. | List {n}. | Let me hear {n}. | Let me have {n}.
    I would like to have {n}. | Can I have {n}? | Mention {n}. | May I have {n}?
    Answer with {n}. | Fill in: {n} is ... | {N} is ... | {N} = ? | {N}: ? | {N} ...
    Somewhere you noted {n}. | I told you {n}. What was it?
    We talked about {n}. What was it again? | What did I tell you {n} was?
    How did I describe {n}? | What do we call {n}? | About {n}: what is it?
    Regarding {n}, what is it? | Concerning {n}, what did I say? | Think of {n}. What is it?
    Recall {n}. | You have heard of {n}. What is it? | The {x} asks about {n}.
    My {x} asks what {n} is. | Supply {n}. | What is the answer for {n}? | {CALL}, {n}?
    {CALL}, {n}, please. | Try to remember {n}. | Look up {n}.
""")
_SORRY = parts("""
    Sorry | My mistake | Oops | Oh no | Hold on | Wait | One moment | Stop | Careful
    I was mistaken | I was confused | I got that wrong | I mixed that up | That was wrong
    That was not right | Not so | That is old news | That is over | Small change | Big change
    Slight correction | News | It changed | A change | Changed my mind | I changed my mind
    We changed that | Things changed | Please change that | Please fix that | Let me fix that
    Let me take that back | I take it back | I have to take that back | Strike that | Delete that
    Forget that | Ignore that | Cancel that | Undo that | Not any more | Look again
    I checked again | I looked again | On second thought | After all | In the end | Well no
    I was told otherwise | It turns out I was wrong | I gave you the wrong answer | Bad news
    Good news
""")
_AGAINST = parts("""
    {o} was wrong | {o} was a mistake | {o} is not right | {o} is out | {o} is over
    {o} is history | {o} is gone | {o} is old | {o} no longer counts | {o} does not count
    {o} was last year | forget {o} | ignore {o} | delete {o} | cross out {o} | remove {o}
    strike {o} | never mind {o} | do not say {o} any more | it is not {o} | it was {o}
    it used to be {o} | I said {o} by mistake | I should not have said {o} | earlier I said {o}
    before that it was {o} | I wrongly said {o}
""")
_REPLACE = parts("""
    {s} instead of {o} | {s} rather than {o} | {s}, not {o} | {s} and not {o} | {s}, no longer {o}
    {s} and no longer {o} | {s} now, not {o} | {s}, never {o} | {s}, no more {o}
    {s}, {o} is wrong
""")
_REPLACE_NOUN = parts("""
    {n} is {v} now | {n} is {v} these days | {n} became {v} | {n} went from {o} to {v}
    {n} will be {v} | {n} is not {o} but {v} | {n} isn't {o}, it's {v}
    {n} used to be {o}, now it is {v} | {n} was never {o}, it is {v} | make {n} {v}
    set {n} to {v} | put {v} for {n}, not {o} | replace {o} with {v} for {n}
    {v} is {n} now, {o} is not | {v}, not {o}, is {n} | say {v} for {n}
    {n} has to be {v}, not {o} | for {n} write {v} | {n} is called {v} now | {n} turned into {v}
    I meant {v} when I said {o} for {n} | instead of {o}, {n} is {v} | read {v} for {n}
""")


def _capital(text: str) -> str:
    """The template with a capital first letter, be that a slot."""
    if text[:1] == "{":
        return "{" + text[1].upper() + text[2:]
    return text[:1].upper() + text[1:]


def _finish(text: str, rng: random.Random) -> str:
    while "{x}" in text:
        text = text.replace("{x}", open_noun(rng, 0.2), 1)
    text = text.replace("{z}", pick(rng, _ENDS)).replace("{CALL}", pick(rng, _CALLS))
    while "{x}" in text:
        text = text.replace("{x}", open_noun(rng, 0.2), 1)
    return text


def statement(rng: random.Random, with_noun: bool) -> str:
    """A template that states a fact; with {n} only where the relation is a noun."""
    r = rng.random()
    if with_noun and r < 0.3:
        r = rng.random()
        if r < 0.4:
            text = "{N} " + pick(rng, _COPULAS) + " {v}."
        elif r < 0.75:
            text = pick(rng, _TOPICS) + " {n}" + pick(rng, (", ", ": ", ". ", " - "))
            its = pick(rng, _ITS)
            text += (_capital(its) if text.endswith(". ") else its) + "."
        else:
            text = pick(rng, (*_OPENINGS, *_TELLERS)) + ", {n} " + pick(rng, _COPULAS) + " {v}."
    elif r < 0.45:
        text = pick(rng, _OPENINGS) + pick(rng, (", ", ", ", ": ", " - ")) + "{s}."
    elif r < 0.62:
        text = f"{pick(rng, _TELLERS)} {pick(rng, _TELL)} {pick(rng, ('that ', ''))}" + "{s}."
        text = text.replace("was told {s}", "was told that {s}")
    elif r < 0.74:
        text = pick(rng, _THAT) + " {s}."
    elif r < 0.84:
        ask = pick(
            rng, ("Please ", "", "Kindly ", "Now ", "You should ", "Could you ", "Will you ")
        )
        text = ask + pick(rng, _PLEAS) + pick(rng, (": ", " that ", " this: ")) + "{s}."
    elif r < 0.94:
        text = "{S}, " + pick(rng, _ASIDES) + "."
    else:
        text = pick(rng, _SITUATIONS) + " {S}."
    return _finish(_capital(text), rng)


def question(rng: random.Random, with_noun: bool, others: bool = True) -> str:
    """A template that asks for a fact; without ``others`` none that brings in another thing."""
    text = _question(rng, with_noun)
    while not others and "{x}" in text:
        text = _question(rng, with_noun)
    return _finish(text, rng)


def _question(rng: random.Random, with_noun: bool) -> str:
    r = rng.random()
    if with_noun and r < 0.3:
        text = pick(rng, _OF_NOUN)
    elif r < 0.5:
        text = pick(rng, _CALLS) + pick(rng, (", ", ", ", ": ", " - ")) + "{q}?"
    elif r < 0.65:
        text = f"{pick(rng, _CAN)} {pick(rng, _GIVE)}" + " {e}"
        text += (f" {pick(rng, _ENDS)}" if rng.random() < 0.4 else "") + "?"
    elif r < 0.72:
        text = pick(rng, _GIVE) + " {e}" + (f", {pick(rng, _ENDS)}." if rng.random() < 0.4 else ".")
    elif r < 0.84:
        text = pick(rng, _WISH) + " {e}."
    elif r < 0.89:
        text = pick(rng, _OTHERS) + pick(rng, (" {e}.", ": {q}?"))
    elif r < 0.96:
        text = pick(rng, _SITUATIONS) + " {Q}?"
    else:
        text = "{Q}, " + pick(rng, _ENDS) + "?"
    return _capital(text)


def correction(rng: random.Random, with_noun: bool) -> str:
    """A template that replaces the old value."""
    r = rng.random()
    sorry = pick(rng, _SORRY)
    start = sorry + pick(rng, (", ", ": ", " - "))
    if with_noun and r < 0.4:
        new = pick(rng, _REPLACE_NOUN)
        text = start + new + "." if rng.random() < 0.5 else _capital(new) + "."
    elif r < 0.6:
        new = pick(rng, _REPLACE)
        text = start + new + "." if rng.random() < 0.7 else _capital(new) + "."
    elif r < 0.85:
        against = pick(rng, _AGAINST)
        old = _capital(against) if rng.random() < 0.6 else start + against
        join = pick(
            rng, (". {S}.", ": {s}.", ", {s}.", ", now {s}.", ". Now {s}.", ", because {s}.")
        )
        text = old + join
    elif r < 0.93:
        text = start + "{s}."
    else:
        text = "{S}" + pick(rng, (", and ", "; ", ", so ")) + pick(rng, _AGAINST) + "."
    return _finish(_capital(text), rng)


_GROW = {"statements": statement, "questions": question, "corrections": correction}


@dataclass(frozen=True)
class OpenWordings(Wordings):
    """Listed wordings, and as many again that are grown on the spot."""

    def choose(self, group: str, relation: Relation, rng: random.Random) -> str:
        """A template of the group that suits the relation, listed or grown."""
        if rng.random() < OPEN_SHARE:
            return _GROW[group](rng, not isinstance(relation, Verb))
        return super().choose(group, relation, rng)


_VERB_STEMS = parts("""
    admire | assemble | avoid | bake | balance | bless | boil | borrow | brush | carry | carve
    celebrate | chase | check | clean | climb | compare | complain about | cook | copy | count
    cover | decorate | defend | deliver | deserve | design | discover | discuss | dislike | doubt
    dream of | dust | enjoy | examine | expect | explore | fancy | fear | fetch | fix | follow
    gather | greet | guard | handle | help with | hunt | ignore | imagine | improve | invent
    join | juggle | kiss | laugh about | learn about | lift | listen to | look after | look for
    mention | mend | miss | mix | move | need | notice | observe | offer | open | order | organize
    own | pack | paint | phone | photograph | pick | plan | plant | polish | praise | prefer
    prepare | protect | pull | push | recommend | refuse | regret | remember | rent | repair
    rescue | respect | review | save | search for | serve | share | shave | sketch | smell
    smile about | sort | stack | stitch | support | talk about | taste | tease | thank | tidy
    touch | train | travel to | treat | trust | try | visit | vote for | wait for | walk to | wash
    watch | water | whisper about | wonder about | work on | worry about | wrap
""")


def _inflect(stem: str, ending: str) -> str:
    """A regular verb with "s" or "ed"; what follows the first word stays."""
    word, _, rest = stem.partition(" ")
    if word[-1] == "y" and word[-2] not in "aeiou":
        word = word[:-1] + "ie"
    elif ending == "s" and word.endswith(("s", "x", "sh", "ch", "z")):
        word += "e"
    word += "d" if ending == "ed" and word.endswith("e") else ending
    return f"{word} {rest}".strip()


def open_verb(rng: random.Random, verb: Verb) -> Verb:
    """The relation with another verb, listed or invented; values stay of its kind."""
    stem = pseudo(rng, 1, 3) if rng.random() < 0.5 else pick(rng, _VERB_STEMS)
    if len(stem) < 3:
        stem += "ick"
    _, _, rest = stem.partition(" ")
    stem = stem.partition(" ")[0]
    tail = f"{rest} {{v}}".strip()
    wh = "who" if verb.kind == "person" else "what"
    if verb.aux in ("be", "was"):
        base = _inflect(stem, "ed")
        tail = f"{rest or pick(rng, ('by', 'with', 'for', 'from', 'after'))} {{v}}"
        return Verb(verb.aux, wh, base, base, tail, tail.replace("{v}", "").strip(), verb.kind)
    form = {"do": _inflect(stem, "s"), "did": _inflect(stem, "ed")}.get(verb.aux, stem)
    if rng.random() < 0.3:
        tail += f" {pick(rng, ('at home', 'every day', 'in spring', 'with the ' + open_noun(rng)))}"
    asked = " ".join(tail.replace("{v}", "").split())
    return Verb(verb.aux, wh, stem, form, tail, asked, verb.kind)
