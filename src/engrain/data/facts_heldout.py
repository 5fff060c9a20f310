"""Held-out tables: owners, attributes, verbs and wordings that the pocket model never trains on."""

from __future__ import annotations

OWNERS = """
stepson, stepsister, stepdaughter, son-in-law, great-aunt, granddaughter, godfather, half-brother
coworker, bandmate, schoolmate, ex-husband, handyman, chaplain, chiropodist, bookkeeper
receptionist, nutritionist, psychologist, caregiver
"""

# "kind = noun phrases"; no head noun of these occurs in the training tables
ATTRIBUTES = """
food = favorite entree, favorite starter, favorite brunch, favorite delicacy, favorite beverage
  favorite indulgence, favorite burger, favorite stir-fry, favorite pudding, usual takeout
  late-night craving
person = pediatrician, physiotherapist, dermatologist, driving instructor, wedding planner, nanny
  veterinarian, realtor, orthodontist, seamstress, archenemy
name = gamertag, moniker, stage persona, codename, email login
code = locker combo, postcode, student ID, garage keycode, Wi-Fi passkey, office extension
  booking reference
number = email backlog, wedding headcount, bench press, cholesterol, IQ
time = hotel checkout, soccer kickoff, flight takeoff, daily stand-up, daycare drop-off, dinnertime
weekday = late shift, choir rehearsal, evening seminar, math tutoring, toddler playgroup, weigh-in
date = christening, housewarming, family reunion, senior prom, lease renewal, flu vaccination
  theater audition
place = favorite hangout, weekend getaway, wedding venue, current residence, next layover
  homeland, alma mater, preschool
color = raincoat, winter beanie, bathroom rug, swimsuit, duvet, hoodie, handbag, eyeliner, yoga mat
object = favorite trinket, travel memento, latest splurge, favorite collectible, charity donation
  stocking stuffer
word = phone hotspot, watchword, favorite typeface, favorite buzzword
sport = forte, school elective, main extracurricular, favorite distraction, latest craze
animal = biggest phobia, profile avatar, family crest, favorite critter
job = vocation, weekend gig, career aspiration
brand = deodorant, mouthwash, moisturizer, smartphone, blender, toaster, dishwasher, motorcycle
  health insurer, web browser
phrase = favorite proverb, favorite idiom, profile tagline, team chant, yearbook caption
title = favorite thriller, favorite documentary, favorite audiobook, favorite memoir
  favorite cookbook
material = kitchen countertop, headboard, bathtub, bookshelf
u:dollars = monthly mortgage, hourly wage, college tuition
u:minutes = morning jog, daily meditation, afternoon siesta
"""

# "auxiliary|question word|verb/its form|with the value|as asked|kind"
VERBS = """
be|what||frightened of {v}|-|animal
be|what||hopeless at {v}|-|sport
be|what||hooked on {v}|-|title
be|who||engaged to {v}|-|person
was|where||stationed in {v}|stationed|place
was|who||named after {v}|-|person
was|who||coached by {v}|-|person
was|what||bitten by {v}|-|creature
do|who|confide/confides|in {v}|-|person
do|who|resemble/resembles|{v}|-|person
do|what|detest/detests|{v}|-|food
did|where|relocate/relocated|to {v}|-|place
did|what|donate/donated|{v}|-|object
did|what|binge-watch/binge-watched|{v}|-|title
did|what|devour/devoured|{v} for breakfast|for breakfast|food
"""

STATEMENTS = (
    "Quick heads-up, {s}.",
    "I keep forgetting to tell you that {s}.",
    "So that you have the full picture: {s}.",
    "You might want to jot this down: {s}.",
    "Not sure it matters, but {s}.",
    "While I think of it, {s}.",
    "You may find this useful later: {s}.",
    "Here is a small detail for you. {S}.",
    "{S}, if I have not said so already.",
    "I was just telling my neighbor that {s}.",
    "In case it ever comes up, {s}.",
    "I am not sure you heard this yet: {s}.",
    "You can put down {v} as {n}.",
    "If anyone asks about {n}, say {v}.",
)

QUESTIONS = (
    "I have completely blanked on {e}.",
    "Quick question for you. {Q}?",
    "Someone just asked me {e}. What should I say?",
    "It is on the tip of my tongue. {Q}?",
    "Sorry to ask again, but {q}?",
    "I should know this, but {q}?",
    "Before I leave, I need to know {e}.",
    "Going by what I said earlier, {q}?",
    "Can you check your notes and tell me {e}?",
    "What would you say if somebody asked you {e}?",
    "Let me see if you were paying attention: {q}?",
    "Do you have a record of {e}?",
    "I was trying to work out {e}. Can you help?",
    "What do you have written down for {n}?",
    "{N}, what was that again?",
    "Before I forget to ask, {q}?",
)

CORRECTIONS = (
    "Oops, I gave you the wrong answer: {s}, not {o}.",
    "I got mixed up earlier when I said {o}. In fact, {s}.",
    "You can cross out {o}. The truth is that {s}.",
    "If you wrote down {o}, please change that, because {s}.",
    "Sorry, it was wrong to say {o}. What I meant is that {s}.",
    "I checked again, and {s}. Saying {o} was a mistake on my part.",
)

# What the assistant says when it was not told (shared with training: it is the product's voice).
UNKNOWN_VERB = (
    "I don't know {e}. You have not told me.",
    "I don't know {e}.",
    "You have not told me {e}, so I don't know.",
    "I do not know {e}. You never told me.",
    "I'm sorry, I don't know {e}.",
    "I don't know that. You have not told me {e}.",
    "I don't know {e} yet.",
    "Sorry, I do not know {e}. You have not mentioned it.",
    "I don't know, because you have not told me {e}.",
)
UNKNOWN = (
    "I don't know {n}. You have not told me.",
    "I don't know {n}. You have not told me.",
    "I don't know {n}.",
    "I do not know {n}. You never told me.",
    "I'm sorry, I don't know {n}.",
    "You have not told me {n}, so I don't know.",
    "I don't know {n} yet.",
    *UNKNOWN_VERB,
)

OPENERS = (
    ("Good to see you again.", "Likewise! What is new?"),
    ("Let us chat for a moment.", "Gladly."),
    ("I am back from my walk.", "Welcome back!"),
    ("I have a minute to spare.", "I am all ears."),
    ("It has been a strange week.", "I hope it gets better."),
)
ACKNOWLEDGEMENTS = (
    "Understood, I wrote that down.",
    "Thanks for letting me know.",
    "I have taken note of it.",
    "Good, I will bear it in mind.",
    "All right, that is stored.",
    "That is helpful to know.",
)
