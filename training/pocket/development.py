"""The development set: never trained on, but read while the training data was made.

It was the held-out set until 2026-11-22 (docs/LOG.md). Curves are drawn on it; figures that are
claimed come from `engrain.data.facts_heldout`.
"""

from __future__ import annotations

OWNERS = """
godmother, roommate, landlady, mentor, barber, plumber, gardener, goddaughter, penfriend, supervisor
intern, lawyer, housemate, apprentice, accountant, tenant, therapist, hostess
"""

# "kind = noun phrases"; no head noun of these occurs in the training tables
ATTRIBUTES = """
food = favorite cheese, favorite dumpling, favorite porridge, favorite pastry, favorite casserole
  favorite curry, favorite cocktail, favorite smoothie, favorite biscuit, favorite marmalade
  favorite chutney, pizza topping, signature recipe
person = dentist, hairdresser, babysitter, chiropractor, optician, chauffeur, nemesis, sidekick
  idol, soulmate, bodyguard
name = nickname, alias, surname, pseudonym, username, callsign
code = passcode, voicemail PIN, padlock combination, license plate, gift voucher
number = jersey, queue position, high score, raffle bet, monthly quota, archery average
time = bedtime, curfew, dinner reservation, submission deadline
weekday = payday, laundry slot, karaoke session
date = wedding anniversary, graduation, stage debut, expiry
place = birthplace, hideout, honeymoon resort, workplace, campsite, hometown, jogging trail
color = bedroom wallpaper, nail polish, lipstick, hair dye, bathrobe
object = talisman, souvenir, heirloom, keepsake, Halloween costume, chess trophy
word = ringtone, screensaver, lullaby, safeword
sport = pastime, workout, guilty pleasure
animal = college mascot, forearm tattoo, family emblem
job = profession, side hustle, dream career
brand = toothpaste, shampoo, perfume, laptop, wristwatch, headset, detergent, skateboard, lawnmower
phrase = motto, catchphrase, mantra, campaign slogan
title = favorite novel, favorite sitcom, favorite musical, favorite podcast
material = mattress, staircase
u:dollars = weekly allowance, monthly rent
u:minutes = daily commute
"""

# "auxiliary|question word|verb/its form|with the value|as asked|kind"
VERBS = """
be|what||terrified of {v}|-|animal
be|what||obsessed with {v}|-|sport
was|where||raised in {v}|raised|place
was|who||inspired by {v}|-|person
do|what|collect/collects|pictures of {v}|-|creature
do|where|volunteer/volunteers|in {v}||place
do|who|adore/adores|{v}|-|person
do|what|crave/craves|{v} at midnight|-|food
do|what|subscribe/subscribes|to {v}|-|title
did|where|graduate/graduated|from {v}|-|place
did|what|inherit/inherited|{v}|-|object
did|what|adopt/adopted|{v} at the shelter|-|creature
did|what|misplace/misplaced|{v}|-|object
did|who|befriend/befriended|{v} in college|-|person
"""

STATEMENTS = (
    "Just so you are aware, {s}.",
    "Fun fact: {s}.",
    "Please note: {s}.",
    "Let me mention that {s}.",
    "For the record, {s}.",
    "It turns out that {s}.",
    "Put this in your notes: {s}.",
    "It may help you to know that {s}.",
    "Did I mention that {s}?",
    "People hardly believe it, but {s}.",
    "I should add that {s}.",
    "As for {n}, that would be {v}.",
    "When it comes to {n}, it is {v}.",
    "We can agree that {n} is nothing other than {v}.",
)

QUESTIONS = (
    "I forgot {n}, what was it?",
    "Name {n}, please.",
    "Any idea {e}?",
    "It slipped my mind {e}.",
    "Would you happen to know {e}?",
    "Could you look up {e} for me?",
    "I cannot recall {e}.",
    "Quiz time: {q}?",
    "Have you noted {e}?",
    "Prove that you listened: {q}?",
    "Hey, help me out here, {q}?",
    "Please state {e}.",
    "What might {n} be?",
    "My memory fails me. {Q}?",
    "Someone wants to hear {e}.",
)

CORRECTIONS = (
    "Scratch what you heard before: {s}, not {o}.",
    "I misspoke about this. In truth, {s}, not {o}.",
    "An update, please forget {o}: {s}.",
    "Things are different: {s}. Drop {o} from your notes.",
    "I no longer stand by {o}: {s}.",
)

# Said and not told (see `traps`): supposed, heard, dreamed, denied, asked.
TRAPS = (
    "Were it so that {s}, what would change?",
    "For the sake of argument, assume {s}.",
    "My horoscope insists that {s}, which is rubbish.",
    "My cousin made a bet that {s} and lost it.",
    "In a parallel universe, {s}.",
    "A quiz show had it that {s}, but they got it wrong.",
    "I was tempted to answer that {s}, yet it is false.",
    "Hypothetically speaking, {s}.",
    "Some gossip has it that {s}, and none of it is right.",
    "I might say next year that {s}, but that is up in the air.",
    "Can you believe that the paper printed that {s}? They had to withdraw it.",
    "Contrary to what you may think, it is untrue that {s}.",
)
