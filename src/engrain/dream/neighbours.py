"""Things that people have and owners that have them: what contrast asks for beside the told.

A small model that makes up neighbouring questions by itself makes up the same few, half of them
garbled ("my first LOL"); contrast needs many, and clean ones. The lists are those of the pocket
model's training half, never those of the exams. With lists alone a lesson teaches that those are
unknown, and any rare name is taken for one that was told: half of the words are of any spelling.
English, as the frames are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from engrain.data.facts import pseudo
from engrain.data.facts_values import NAMES, cap, is_heldout
from engrain.data.general import nouns
from engrain.dream.clauses import Clause
from engrain.dream.frames import Parts, joined, split_thing


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(",") if part.strip())


PEOPLE = _words("""
assistant, aunt, banker, best friend, boss, boyfriend, brother, brother-in-law, business
partner, captain, carpenter, chess partner, childhood friend, classmate, cleaner, client, coach,
colleague, cook, cousin, dance teacher, daughter, doctor, downstairs neighbor, driver,
electrician, ex, father, father-in-law, flatmate, friend, girlfriend, grandfather, grandmother,
grandson, great-grandmother, guest, husband, librarian, little brother, little sister, manager,
math teacher, mechanic, mother, mother-in-law, neighbor, nephew, new boss, new colleague, niece,
nurse, old boss, older brother, older sister, oldest friend, painter, partner, pen pal, piano
teacher, postman, professor, secretary, sister, sister-in-law, son, stepfather, stepmother,
student, study partner, tailor, teacher, team leader, teammate, tennis partner, twin brother,
twin sister, uncle, upstairs neighbor, vet, wife, younger brother, younger sister
""")
WHAT = _words("""
address, age, age limit, airline, allergy, allergy food, appointment time, bachelor thesis,
balcony plant, band, bank, bank code, baptism, base, best subject, best time, biggest fear, bike
color, birthday, birthday cake, blanket color, blood type, book count, book project, booking
code, bowling record, box number, break length, bus number, camera, car's name, cat's name,
character name, childhood toy, christmas wish, climbing height, club sport, coat color, code
name, coffee break, contract end, cough syrup, court date, current project, daily goal, darts
record, date night, day off, debt, departure date, dinner plan, dinner time, district, doctor's
appointment, dog's name, door code, door color, door sign, dream city, dream job, email address,
employer, exam result, exam topic, exhibition title, face cream, family name, farewell gift,
favorite animal, favorite app, favorite book, favorite brand, favorite color, favorite drink,
favorite fabric, favorite flower, favorite language, favorite letter group, favorite movie,
favorite poem, favorite saying, favorite series, favorite show, favorite song, file name,
finishing time, first car, first day of work, first film, first job, first name, first pet,
first sentence, first story, first toy, first word, fishing prize, flight time, floor, forbidden
food, fridge, full name, game console, game record, garage code, goldfish's name, golf handicap,
good luck item, gym, gym fee, gym time, hat color, hearing aid, high jump record, hiking record,
holiday plan, horse, house number, insurance company, insurance number, invoice, kitchen gadget,
lap record, last meal, last movie, last trip, library card code, locker number, lost item, lucky
charm, lunch, lunch time, marathon goal, medicine, meeting day, meeting time, member number,
morning drink, morning sport, mother tongue, motorbike, moving date, nap time, native language,
new instrument, next gift, next meal, next stop, occupation, office location, old hobby, old
name, painting subject, paper animal, parking permit, parking place, parking spot, parrot's
name, pet name, phone code, phone color, phone company, pizza order, plant count, platform
number, polling station, power animal, practice goal, practice room, prayer time, printer,
prize, race time, radio call sign, reading goal, retirement date, ribbon color, ring size, roof
material, running time, sailing date, scarf color, school instrument, science project, secret
hobby tool, secret phrase, secret talent, secret word, security code, shoe color, soap, stage
name, step record, stolen item, stove, street, student job, student number, study day, tea
brand, tea time, team color, tent, towel color, tracking number, training day, travel gift,
village, waiting number, walk to work, washing powder, way to school, wedding cake, wedding day,
wedding song, weekly pay, weight, wifi code, wifi password, work experience, work language,
working day, worst subject, zip code, zodiac animal
""")
WHO = _words("""
art teacher, business partner, doctor, emergency contact, first love, first teacher, manager,
math teacher, personal assistant, secret admirer, spanish teacher, tax adviser, team captain,
travel companion, wedding guest
""")
DEEDS = tuple(
    (Clause("I", verb, rest, tail), wh)
    for wh, verb, rest, tail in (
        line.split("/")
        for line in _words("""
where/live/in/, where/work/in/, where/sleep/in/, where/study/at/, where/shop/at/,
where/buy/bread at/, where/park/the car at/, where/spend/the summer in/, who/work/for/,
who/work/with/, what/work/as/, what/eat//for breakfast, what/eat//for lunch, what/wear//at parties,
what/drink//in the evening, what/cook//on Sundays, what/hate//more than anything,
what/keep//under the bed, what/keep//in the garage, what/need//for the trip,
what/want//for Christmas, what/carry//in the pocket, what/play//in the band, what/am/afraid of/,
what/am/allergic to/, where/was/born in/, who/was/taught by/, what/use//for cleaning
""")
    )
)
FIRST_NAMES = tuple(name for name in NAMES if not is_heldout(name))
OWN_SHARE = 0.35
"""Share of neighbours that are the speaker's own things."""
OPEN_SHARE = 0.5
"""Share of nouns and owners that are of any spelling, not from the lists above."""
FAVORITE = "favorite "
DEED_SHARE = 0.15
"""Share of neighbours that are what somebody does, not what somebody has."""
NEAR = 40
"""Owners, and nouns, that are tried beside a told thing."""


def neighbours(count: int, rng: random.Random) -> list[Parts]:
    """So many different things and deeds, each of the speaker or of somebody near."""
    made: dict[str, Parts] = {}
    while len(made) < count:
        owner = "my" if rng.random() < OWN_SHARE else _person(rng)
        if rng.random() < DEED_SHARE:
            clause, wh = rng.choice(DEEDS)
            part = Parts.of_clause(clause if owner == "my" else clause.of(owner), wh)
        else:
            noun, wh = _noun(rng)
            part = Parts.of_thing(joined(owner, noun), wh)
        made.setdefault(part.name, part)
    return list(made.values())


def _noun(rng: random.Random) -> tuple[str, str]:
    """Something that somebody has, and the question word for it."""
    if rng.random() < OPEN_SHARE:
        word, r = rng.choice(nouns()), rng.random()
        if r < 0.4:
            return word, "what"
        if r < 0.7:
            return f"{word} {rng.choice(WHAT).rpartition(' ')[2]}", "what"
        return (f"{FAVORITE}{word}" if r < 0.85 else f"{rng.choice(nouns())} {word}"), "what"
    who = rng.random() < len(WHO) / (len(WHO) + len(WHAT))
    return (rng.choice(WHO), "who") if who else (rng.choice(WHAT), "what")


def _person(rng: random.Random) -> str:
    """Somebody near the speaker, by role or by name."""
    r = rng.random()
    if r < OPEN_SHARE:
        return f"my {rng.choice(nouns())}" if r < OPEN_SHARE / 3 else _coined(rng)
    return f"my {rng.choice(PEOPLE)}" if r < 0.8 else rng.choice(FIRST_NAMES)


def _coined(rng: random.Random) -> str:
    """An invented name, of the half that is not held out."""
    while True:
        name = cap(pseudo(rng, 2, 3))
        if not is_heldout(name) and not name.endswith("s"):
            return name


def beside(
    thing: str,
    told: Sequence[str],
    asked_with: Mapping[str, str],
    rng: random.Random,
    people: Sequence[str] = (),
) -> list[Parts]:
    """Things one step from a told one, in turns: the same of somebody else, else of the same owner.

    What else was told comes first (the aunt's cat and my motto: my cat, the aunt's motto), then the
    speaker's own, then the lists, each in a new order. `asked_with` maps nouns to question words,
    `people` are further owners that something was said of.
    """
    owner, noun = split_thing(thing)
    if not owner:
        return []
    split = [pair for pair in map(split_thing, told) if pair[0]]
    asked = dict(_noun(rng) for _ in range(NEAR)) | dict(asked_with)
    strangers = (_person(rng) for _ in range(NEAR))
    others = dict.fromkeys([*(o for o, _ in split), *people, "my", *strangers])
    things = dict.fromkeys([*(n for _, n in split), *asked])
    if noun.startswith(FAVORITE):
        # Of all that somebody has, what else is their favorite lies nearest.
        favorites = [f"{FAVORITE}{rng.choice(nouns())}" for _ in range(NEAR)]
        turns_of = zip_longest(favorites, things)
        things = dict.fromkeys(one for both in turns_of for one in both if one)
    of_others = [(other, noun) for other in others if other.lower() != owner.lower()]
    of_owner = [(owner, other) for other in things if other.lower() != noun.lower()]
    turns = [pair for both in zip_longest(of_others, of_owner) for pair in both if pair]
    return [Parts.of_thing(joined(*pair), asked.get(pair[1], "what")) for pair in turns]


def beside_clause(
    clause: Clause, wh: str, people: Sequence[str], rng: random.Random
) -> list[Parts]:
    """The same deed of others: first of ``people``, of whom something else was told, then of me."""
    strangers = (_person(rng) for _ in range(NEAR))
    subjects = dict.fromkeys([*people, "I", *strangers])
    return [
        Parts.of_clause(clause.of(subject), wh)
        for subject in subjects
        if subject not in ("we", clause.subject) and (clause.subject, subject) != ("we", "I")
    ]
