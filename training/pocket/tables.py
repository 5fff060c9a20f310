"""Training tables: owners, attributes and verb relations (disjoint from the held-out ones)."""

from __future__ import annotations

import random

from engrain.data.facts import Attribute, Owner, parse_attributes, parse_verbs

_PEOPLE = """
her = sister, mother, aunt, niece, grandmother, wife, daughter, stepmother, girlfriend, twin sister
  older sister, younger sister, great-grandmother, mother-in-law, sister-in-law, little sister
his = brother, father, uncle, nephew, grandfather, husband, son, stepfather, boyfriend, twin brother
  older brother, younger brother, father-in-law, brother-in-law, little brother, grandson
 = boss, neighbor, friend, best friend, cousin, colleague, teacher, doctor, coach, manager, baker
  pen pal, flatmate, classmate, teammate, oldest friend, piano teacher, driver, butcher, assistant
  downstairs neighbor, upstairs neighbor, old boss, new boss, new colleague, partner, cleaner
  business partner, childhood friend, team leader, study partner, tennis partner, chess partner
  secretary, nurse, guest, client, student, captain, dance teacher, math teacher, ex, cook, vet
  carpenter, tailor, librarian, banker, postman, electrician, mechanic, painter, professor
"""
_OUR = "our caretaker, our mayor, our guide, our trainee, our director, our host, our secretary"
_PETS = """
dog, cat, horse, rabbit, parrot, goldfish, turtle, pony, goat, puppy, kitten, canary, guinea pig
old dog, lizard, duck
"""
_THINGS = """
car, bicycle, house, boat, phone, camera, flat, garden, motorbike, van, computer, tent, kitchen
guitar, robot, tractor, piano, cabin, caravan, tablet, office
"""
_TRANSPORT = "train, bus, ferry, plane, tram, night train, school bus, taxi, shuttle"
_GROUPS = """
team, band, choir, company, class, book club, school, chess club, football team, orchestra, shop
favorite restaurant, family, department, gym, theater group, running group, startup, bakery, club
"""
_EVENTS = """
exam, wedding, concert, interview, party, birthday party, driving test, piano lesson, vacation
meeting, dance class, holiday, trip, conference, photo course, language course, operation
  moving day
"""


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]


def _owners() -> list[Owner]:
    owners: list[Owner] = []
    pronoun = ""
    for line in filter(None, map(str.strip, _PEOPLE.splitlines())):
        if "=" in line:
            pronoun, _, line = line.partition("=")
        owners += [Owner(n, "my", "person", pronoun.strip()) for n in _names(line)]
    owners += [Owner(n.removeprefix("our "), "our", "person") for n in _names(_OUR)]
    for text, cls, word in (
        (_PETS, "pet", ""),
        (_THINGS, "thing", "its"),
        (_EVENTS, "event", ""),
        (_TRANSPORT, "transport", "its"),
        (_GROUPS, "group", "its"),
    ):
        owners += [Owner(n, "my", cls, word) for n in _names(text)]
    owners += [Owner(n, "our", "group", "its") for n in ("street", "village", "town", "country")]
    return owners


OWNERS = _owners()
PEOPLE = [owner for owner in OWNERS if owner.cls == "person"]

_FAVORITES = parse_attributes("""
food = soup, fruit, vegetable, dessert, breakfast, dinner, lunch, drink, snack, salad, sauce, spice
  bread, cake, candy, ice cream flavor, juice, tea, pasta dish, sandwich, cookie, pie, fish dish
  nut, berry, dip, dressing, syrup, yogurt flavor, jam, beer, wine, coffee, milkshake, stew
  rice dish
  barbecue dish, picnic food, party food, comfort food, chocolate, pizza, pancake, dish, meal
  holiday meal, street food, appetizer, sausage, oil, honey, lemonade, cereal, herb, bean, grain
person = actor, singer, writer, poet, painter, teacher, cousin, comedian, chef, dancer, player
  composer, scientist, king, queen, hero, villain, detective, cartoonist, philosopher, aunt, uncle
  politician, guitarist, drummer, athlete, goalkeeper, journalist, photographer, neighbor
place = city, country, island, beach, park, village, street, lake, mountain, river, museum, cafe
  restaurant, library, holiday spot, bookshop, market, castle, valley, picnic spot, harbor, desert
  airport, station, theater, zoo, bridge, garden, bakery, cinema, square, viewpoint, forest, bay
color = color, wall color, paint color, ink color, tie color, sock color
object = toy, tool, gadget, piece of furniture, ornament, decoration, kitchen tool, gift
sport = sport, hobby, winter sport, water sport, game, exercise, weekend activity, school subject
animal = animal, bird, fish, insect, pet, wild animal, farm animal, sea creature, zoo animal, beast
instrument = instrument, orchestra instrument, sound
language = language, foreign language
plant = flower, tree, plant, houseplant, bush
material = material, fabric, metal, gemstone, stone
title = book, movie, song, album, show, series, magazine, newspaper, poem, play, opera, comic, fable
  board game, card game, video game, band, radio show, cartoon, ballad, symphony, painting, website
brand = brand, shop, app, soap, soda, clothing brand, car brand, phone brand, team, chocolate bar
  gum, cleaning product, glue, pen brand, cat food, airline, bank, supermarket, search engine
word = word, letter group, dance, fairy tale character, magic spell, yoga pose, font, emoji
number = number, lottery number, radio channel, bus line
weekday = day of the week, weekday, gym day
date = holiday, day of the year
time = time of day, walking time
phrase = saying, quote, toast, riddle, constellation
job = job as a child, disguise
""")
_FAVORITE_WORDS = (
    "favorite",
    "favorite",
    "favorite",
    "favorite",
    "favorite",
    "least favorite",
    "second favorite",
    "new favorite",
    "old favorite",
)

PERSON = parse_attributes("""
person = doctor, best friend, boss, coach, teacher, partner, lab partner, dance partner, neighbor
  piano teacher, math teacher, first teacher, chess opponent, business partner, manager, eye doctor
  travel companion, biggest fan, favorite cousin, emergency contact, team captain, wedding guest
  first love, oldest friend, tax adviser, vet, deputy, successor, predecessor, godson, pen pal
  room neighbor, swimming teacher, carpool partner, secret admirer, personal assistant, stylist
  bank adviser, art teacher, spanish teacher, driving teacher, choir leader, tennis opponent, hero
name = middle name, pet name, stage name, family name, maiden name, code name, dog's name
  cat's name
  horse's name, boat's name, full name, first name, old name, pen name, screen name, team name
  project name, baby's name, doll's name, teddy bear's name, robot's name, car's name, street name
  goldfish's name, parrot's name, account name, character name, ship's name, rabbit's name
word = secret word, magic word, safe word, wifi name, computer name, network name, first word
  recovery word, email address, chat name, favorite letter group, blood type, star sign, planet
  printer name, server name, radio call sign, player tag, domain, file name, folder name, hashtag
code = door code, locker code, bike lock code, safe code, alarm code, phone code, garage code
  bank code, gate code, access code, entry code, security code, booking code, library card code
  customer number, order number, flight number, room key, member number, tracking number, invoice
  parking permit, ticket code, wifi code, zip code, student number, insurance number, backup code
number = lucky number, house number, room number, seat number, shirt number, locker number, age
  shoe size, hat size, bus number, table number, floor, apartment number, parking spot, desk number
  tram number, lap record, chess rating, bowling record, race number, platform number, page number
  chapter number, ring size, jacket size, bib number, box number, aisle, lane number, fan count
  step goal, reading goal, book count, plant count, row number, waiting number, golf handicap
time = wake-up time, alarm time, lunch time, dinner time, coffee break, appointment time, gym time
  train time, flight time, arrival time, departure time, meeting time, reading time, prayer time
  doctor's appointment, lesson time, pickup time, breakfast time, morning call, nap time, race time
  tea time, running time, closing time, practice time, finishing time, checkup time, story time
weekday = day off, gym day, cleaning day, shopping day, washing day, meeting day, training day
  cooking day, rest day, market day, swimming day, choir day, study day, football day, yoga day
  office day, fasting day, game night, movie night, pizza night, date night, haircut day, bath day
date = birthday, wedding day, name day, exam date, moving date, travel date, first day of work
  vacation start, checkup date, contract end, court date, interview date, surgery date, race date
  departure date, arrival date, sailing date, test date, retirement date, baptism, concert date
place = home town, holiday home, favorite place, dream city, school, office location, meeting place
  place of birth, parking place, next trip, next stop, honeymoon place, street, village, district
  summer house, winter home, old school, new home, address, first home, favorite corner, base
  practice room, running route, lunch place, holiday plan, last trip, next vacation, dream country
  secret place, fishing spot, polling station, bus stop, train station, university, hospital
color = eye color, hair color, car color, coat color, bedroom color, door color, shirt color
  favorite color, bike color, house color, team color, phone color, hat color, scarf color
  lucky color
  sofa color, kitchen color, umbrella color, dress color, shoe color, backpack color, blanket color
  tie color, suitcase color, glove color, ribbon color, wedding color, curtain color, towel color
object = lucky charm, birthday present, wedding gift, first toy, christmas present
  oldest possession
  most precious thing, lost item, favorite thing, pocket tool, desk decoration, prize, last purchase
  travel gift, farewell gift, good luck item, childhood toy, garage treasure, stolen item, next gift
  secret hobby tool, kitchen gadget, piece of art, collection item, fishing prize, christmas wish
instrument = instrument, first instrument, main instrument, second instrument, school instrument
  band instrument, new instrument
sport = sport, hobby, new hobby, first sport, weekend hobby, old hobby, winter sport, summer sport
  evening activity, secret talent, best subject, worst subject, main sport, club sport
  morning sport
animal = lucky animal, dream pet, first pet, favorite animal, power animal, zodiac animal, pet
  family pet, farm animal, biggest fear, paper animal
job = job, dream job, first job, last job, summer job, new job, old job, weekend job, night job
  next job, student job, trade, occupation, role in the play, post in the company
brand = car, phone, bank, employer, company, soap, camera, bicycle, favorite brand, favorite app
  insurance company, phone company, airline, backpack, guitar, printer, computer, tablet
  cough syrup
  medicine, sunscreen, coffee brand, tea brand, washing powder, gym, supermarket, first car
  running shoe, tent, stove, vacuum cleaner, fridge, motorbike, hearing aid, game console
  face cream
phrase = password hint, team cry, battle cry, wifi password, secret phrase, favorite saying, horse
  life rule, farewell phrase, birthday wish, first sentence, voice command, door sign, story idea
  exhibition title, garden theme, party theme, painting subject, mask idea, science project
title = favorite book, favorite movie, favorite song, favorite show, current book, last movie
  first album, favorite game, favorite poem, book project, first film, wedding song, school play
  bachelor thesis, current project, favorite band, blog, band, newspaper, next concert, club
  favorite series, new song, dance piece, exam topic, first story, magazine, night book
language = native language, second language, favorite language, new language, mother tongue
  work language, first language, secret language
plant = favorite flower, favorite tree, balcony plant, favorite plant, wedding flower, birth flower
  desk plant, first tree
material = favorite material, favorite metal, roof material, table material, ring material
  allergy, favorite fabric, kitchen floor
food = allergy food, lunch, breakfast, last meal, birthday cake, favorite food, favorite drink
  lunch order, coffee order, dinner plan, forbidden food, midnight snack, wedding cake, pizza order
  next meal, secret ingredient, cooking specialty, ice cream flavor, morning drink, party dish
u:dollars = salary, phone bill, bus fare, bonus, debt, entrance fee, weekly pay, gym fee, tax bill
u:kilos = weight, suitcase weight, target weight, lifting record, catch of the day
u:years = age limit, work experience, contract length, time abroad, teaching experience
u:minutes = walk to work, drive to work, break length, best time, shower time, cooking time
u:hours = daily sleep, working day, flight length, screen time, practice goal, trip length
u:steps = daily goal, step record, morning walk
u:meters = height record, high jump record, swimming goal, diving depth, climbing height
u:kilometers = bike trip, way to school, marathon goal, running goal, hiking record
u:points = game record, test result, exam result, quiz result, darts record
""")

PET = parse_attributes("""
name = name, best friend, father's name, mother's name, old name, pet name
person = vet, walker, sitter, breeder, trainer, first owner
color = color, collar color, fur color, blanket color, eye color, bowl color, leash color
food = favorite food, favorite treat, breakfast, dinner, least favorite food, medicine food
object = favorite toy, bed, first toy, hiding thing
brand = food brand, medicine, brush brand, flea powder
number = age, chip number, tag number, cage number, show number
place = sleeping place, favorite spot, place of birth, walking place, favorite park
time = feeding time, walking time, nap time, wake-up time
date = birthday, vet appointment, first day at home
weekday = bath day, vet day, training day
word = breed, command word, trick, kennel
u:kilos = weight
u:dollars = price, vet bill
animal = enemy, playmate
""")
THING = parse_attributes("""
brand = brand, battery, maker, lock brand, oil brand
color = color, seat color, door color, roof color, old color, wall color, case color
number = age, number of rooms, size, parking spot, model number
code = code, serial number, key number, lock code, alarm code
name = name, designer's name, old name
person = first owner, builder, mechanic, buyer, previous owner
place = place of origin, usual place, location
date = delivery date, checkup date, cleaning date
material = material, frame material, cover material
phrase = sticker, window sticker
word = model, series, type
u:dollars = price, repair bill, value, insurance cost
u:kilos = weight
u:meters = length, height, width
""")
TRANSPORT = parse_attributes("""
time = departure time, arrival time, boarding time, last departure
number = number, platform, gate, seat, carriage, line number, fare zone
place = final station, first stop, last stop, home station
code = booking code, ticket number
color = color, line color
name = name, driver's name
u:dollars = ticket price, price
u:minutes = delay, travel time
person = driver, conductor
brand = company
""")
GROUP = parse_attributes("""
name = name, old name, drummer's name, founder's name
person = leader, boss, founder, captain, coach, oldest member, youngest member, president, manager
  treasurer, best player, new member, singer, star, head teacher
color = color, flag color, logo color, shirt color, uniform color
place = meeting place, home, location, next destination, address
weekday = meeting day, training day, day off, open day
time = meeting time, starting time, opening time, closing time
number = size, ranking, number of members, room number, house number
title = newest project, next project, song, hymn, newspaper, last book
phrase = logo, theme, cheer, team cry
word = code word, hashtag, team word
animal = lucky animal, flag animal
food = specialty, best dish, festival food
date = founding day, summer party, festival, next meeting
u:dollars = budget, monthly fee, entrance fee
brand = main sponsor, supplier, main rival, email program
sport = main activity
""")
EVENT = parse_attributes("""
date = date, final date, registration date
time = starting time, time, end
place = place, location, meeting point
person = guest of honor, organizer, examiner, host, speaker, photographer
weekday = weekday, day
number = room number, number of guests, group number
color = theme color, ticket color
food = main dish, menu
title = topic, first song, title
phrase = theme, subject
u:dollars = cost, ticket price, budget
u:minutes = length
code = registration code, ticket code
""")
PLACE = parse_attributes(
    """
place = capital, largest city, oldest town, port, northern region, biggest island, highest mountain
  longest river, national park, main square, southern border town, airport, deepest lake
person = king, queen, president, founder, national hero, prime minister, best painter, mayor
language = language, official language, second language, old language
food = national dish, main export, famous cake, typical drink, festival food, main crop
animal = national animal, royal animal
plant = national flower, holy tree
color = flag color, taxi color
date = national holiday, founding day, independence day
brand = currency, national airline, biggest company, train company, favorite soda
number = population in millions, number of islands, phone prefix, road number
sport = national sport, traditional game
title = anthem title, oldest newspaper, national poem
material = main resource, building material
instrument = national instrument
word = greeting, old name, largest tribe, traditional dance
weekday = market day
""",
    of=True,
)
PROJECT = parse_attributes(
    """
person = leader, manager, sponsor, designer, tester, inventor, editor, head, spokesperson
date = release date, end date, launch, starting day, review date
time = daily meeting, weekly call
place = location, test site, server location, head office
weekday = meeting day, release day, report day
code = code, ticket number, contract number, access code
number = version, team size, room, priority, error count, number of tests
color = logo color, status color, theme color
language = programming language, documentation language
phrase = goal, code phrase, title, theme
brand = main client, database, main supplier, cloud provider, main tool, license
word = code name, branch, repository, old name, file format
u:dollars = budget, cost, funding, daily rate
animal = logo animal, symbol
u:hours = workload
""",
    of=True,
)

# Compound nouns "garage code": every pair counts as an attribute of its own.
MODIFIERS = _names("""
garage, locker, office, kitchen, library, gym, school, hotel, bank, bike, gate, basement, attic, car
cabin, boat, garden, balcony, studio, workshop, bathroom, bedroom, hallway, cellar, barn, stable
  pool
museum, hospital, clinic, club, theater, cinema, market, bakery, pharmacy, airport, station, ferry
train, bus, tram, taxi, parking, warehouse, laboratory, factory, farm, greenhouse, chapel, church
camp, cottage, villa, tent, trailer, van, truck, scooter, motorbike, phone, tablet, computer
  printer
router, camera, drone, radio, television, oven, freezer, fridge, stove, heater, lamp, lock, mailbox
suitcase, backpack, wallet, passport, visa, ticket office, membership, insurance, pension, tax, loan
savings, credit card, library card, student card, health card, voting, jury, army, navy, choir, band
orchestra, dance, ballet, piano, guitar, violin, drum, football, tennis, hockey, golf, swimming
rowing, sailing, climbing, skiing, judo, yoga, chess, poker, bingo, lottery, quiz, puzzle, pottery
painting, photo, film, book, newspaper, poetry, drama, history, math, biology, chemistry, physics
music, art, language, cooking, baking, sewing, knitting, gardening, fishing, hunting, hiking
  camping
wedding, birthday, holiday, christmas, easter, new year, summer, winter, spring, autumn, weekend
morning, evening, night, emergency, backup, test, exam, training, travel, conference, meeting
""")
HEADS = {
    "code": "code",
    "number": "number",
    "color": "color",
    "name": "name",
    "time": "time",
    "day": "weekday",
    "date": "date",
    "place": "place",
    "brand": "brand",
    "teacher": "person",
    "manager": "person",
    "partner": "person",
    "word": "word",
    "guide": "person",
    "price": "u:dollars",
    "size": "number",
    "sign": "phrase",
    "address": "place",
    "snack": "food",
    "drink": "food",
    "tool": "object",
    "gift": "object",
    "symbol": "animal",
    "label": "word",
    "key": "code",
    "contact": "person",
    "supplier": "brand",
    "fee": "u:dollars",
    "bag": "brand",
    "song": "title",
    "rule": "phrase",
    "group": "word",
    "box": "color",
    "table": "number",
    "helper": "person",
    "plan": "phrase",
    "company": "brand",
    "magazine": "title",
    "poster": "phrase",
    "street": "place",
    "visitor": "person",
    "uniform": "color",
    "prize": "object",
    "theme": "phrase",
    "file": "word",
    "appointment": "time",
    "break": "time",
    "course": "title",
    "room": "number",
    "record": "number",
    "animal": "animal",
    "plant": "plant",
    "material": "material",
    "song title": "title",
    "buddy": "person",
    "director": "person",
    "owner": "person",
    "boss": "person",
    "bill": "u:dollars",
}
_HEADS = list(HEADS.items())


def compose(rng: random.Random) -> Attribute:
    """A further attribute: "least favorite soup", "garage code" or, rarely, "zolbin code"."""
    r = rng.random()
    if r < 0.45:
        base = _FAVORITES[int(rng.random() * len(_FAVORITES))]
        word = _FAVORITE_WORDS[int(rng.random() * len(_FAVORITE_WORDS))]
        return Attribute(f"{word} {base.noun}", base.kind)
    head, kind = _HEADS[int(rng.random() * len(_HEADS))]
    modifier = MODIFIERS[int(rng.random() * len(MODIFIERS))]
    return Attribute(f"{modifier} {head}", kind)


ATTRIBUTES: dict[str, list[Attribute]] = {
    "self": PERSON,
    "person": PERSON,
    "pet": PET,
    "thing": THING,
    "transport": TRANSPORT,
    "group": GROUP,
    "event": EVENT,
    "place": PLACE,
    "project": PROJECT,
}

PERSON_VERBS = parse_verbs("""
do|where|live/lives|in {v}||place
do|where|work/works|in {v}||place
do|where|sleep/sleeps|in {v}||place
do|where|swim/swims|in {v}||place
do|where|spend/spends|the summer in {v}|the summer|place
do|where|spend/spends|Christmas in {v}|Christmas|place
do|where|park/parks|the car at {v}|the car|place
do|where|buy/buys|bread at {v}|bread|brand
do|where|study/studies|at {v}||brand
do|where|shop/shops|at {v}||brand
do|where|walk/walks|the dog in {v}|the dog|place
do|where|go/goes|jogging in {v}|jogging|place
do|what|work/works|as {v}|as|job
do|who|work/works|for {v}|-|person
do|who|work/works|with {v}|-|person
do|what|play/plays|{v} on stage|-|instrument
do|what|practice/practices|{v} every day|-|instrument
do|what|play/plays|{v} in the band|-|instrument
do|what|eat/eats|{v} for breakfast|-|food
do|what|eat/eats|{v} for lunch|-|food
do|what|drink/drinks|{v} in the evening|-|food
do|what|hate/hates|{v} more than anything|-|food
do|what|cook/cooks|{v} on Sundays|-|food
do|what|put/puts|{v} in the coffee|in the coffee|food
do|when|get/gets|up at {v}|up|time
do|when|go/goes|to bed at {v}|to bed|time
do|when|leave/leaves|the house at {v}|the house|time
do|when|start/starts|work at {v}|work|time
do|when|have/has|lunch at {v}|lunch|time
do|when|come/comes|home at {v}|home|time
do|when|feed/feeds|the cat at {v}|the cat|time
do|when|call/calls|home at {v}|home|time
do|when|go/goes|shopping on {v}|shopping|weekday
do|when|play/plays|cards on {v}|cards|weekday
do|when|water/waters|the plants on {v}|the plants|weekday
do|when|clean/cleans|the kitchen on {v}|the kitchen|weekday
do|when|see/sees|the doctor on {v}|the doctor|date
do|when|move/moves|house on {v}|house|date
do|what|use/uses|{v} for cleaning|-|brand
do|what|keep/keeps|{v} in the garage|-|object
do|what|keep/keeps|{v} under the bed|-|object
do|what|need/needs|{v} for the trip|-|object
do|what|want/wants|{v} for Christmas|-|object
do|what|carry/carries|{v} in the pocket|-|object
do|what|wear/wears|{v} at parties|-|color
do|what|grow/grows|{v} on the balcony|-|plant
do|what|study/studies|{v} in the evening|-|language
do|what|speak/speaks|{v} at home|-|language
do|what|learn/learns|{v} at school|-|language
do|what|read/reads|{v} on the train|-|title
do|what|watch/watches|{v} every week|-|title
do|what|sing/sings|{v} in the shower|-|title
do|who|know/knows|{v} from school|-|person
do|who|miss/misses|{v} the most|-|person
do|who|trust/trusts|{v} completely|-|person
do|who|share/shares|an office with {v}|-|person
do|who|meet/meets|{v} every week|-|person
do|who|play/plays|chess with {v}|-|person
do|who|admire/admires|{v}|-|person
do|who|owe/owes|money to {v}|-|person
do|what|do/does|{v} on weekends|on weekends|sport
do|what|enjoy/enjoys|{v} after work|-|sport
do|what|build/builds|things from {v}|things from|material
do|what|use/uses|{v} against headaches|-|brand
do|what|take/takes|{v} before sleeping|-|brand
do|what|pay/pays|{v} for the room|for the room|u:dollars
be|what||allergic to {v}|-|food
be|what||afraid of {v}|-|animal
be|what||training for {v}|-|title
be|where||from {v}|-|place
be|who||married to {v}|-|person
be|who||in love with {v}|-|person
be|what||good at {v}|-|sport
be|what||bad at {v}|-|sport
be|what||proud of {v}|-|object
be|what||reading {v} right now|right now|title
be|what||writing about {v}|-|phrase
be|what||saving money for {v}|-|object
be|what||known as {v}|-|name
be|who||waiting for {v}|-|person
be|who||related to {v}|-|person
be|what||in charge of {v}|-|title
was|where||born in {v}|born|place
was|when||born on {v}|born|date
was|where||stuck in {v} last night|stuck last night|place
was|who||called by {v} this morning|called by this morning|person
was|who||hired by {v}|-|person
did|where|grow/grew|up in {v}|up|place
did|where|go/went|to school in {v}|to school|place
did|where|travel/traveled|to {v} last year|last year|place
did|where|meet/met|the partner in {v}|the partner|place
did|where|lose/lost|the keys in {v}|the keys|place
did|where|find/found|the wallet in {v}|the wallet|place
did|what|buy/bought|{v} at the market|-|food
did|what|buy/bought|{v} yesterday|-|object
did|what|find/found|{v} in the attic|-|object
did|what|lose/lost|{v} on the bus|-|object
did|what|break/broke|{v} last week|-|object
did|what|paint/painted|{v} last month|-|creature
did|what|see/saw|{v} in the garden|-|creature
did|what|dream/dreamed|of {v}|-|creature
did|what|eat/ate|{v} yesterday|-|food
did|what|order/ordered|{v} at the restaurant|-|food
did|what|plant/planted|{v} in spring|-|plant
did|what|win/won|{v} at the fair|-|object
did|what|call/called|the boat {v}|the boat|name
did|what|call/called|the baby {v}|the baby|name
did|who|visit/visited|{v} last weekend|-|person
did|who|call/called|{v} this morning|-|person
did|who|marry/married|{v}|-|person
did|who|invite/invited|{v} to the party|-|person
did|who|see/saw|{v} at the station|-|person
did|who|vote/voted|for {v}|-|person
did|who|borrow/borrowed|the car from {v}|-|person
did|what|watch/watched|{v} last night|-|title
did|what|get/got|{v} in the test|in the test|u:points
did|what|paint/painted|the door {v}|the door|color
did|when|arrive/arrived|at {v}||time
did|when|leave/left|the party at {v}|the party|time
will|where|travel|to {v} next month|next month|place
will|where|move|to {v}|to|place
will|what|cook|{v} tonight|-|food
will|who|meet|{v} tomorrow|-|person
will|when|visit|the museum on {v}|the museum|weekday
will|when|start|the new job on {v}|the new job|date
will|what|bring|{v} to the picnic|-|food
will|what|give|the neighbor {v}|the neighbor|object
""")
PET_VERBS = parse_verbs("""
be|what||called {v}|-|name
be|what||afraid of {v}|-|animal
do|where|sleep/sleeps|in {v}||place
do|what|eat/eats|{v} in the morning|-|food
do|what|like/likes|{v} best|best|food
do|what|chase/chases|{v} every night|-|creature
do|what|hide/hides|{v} in the garden|-|object
do|when|bark/barks|at {v} every day||time
did|what|break/broke|{v} yesterday|-|object
did|who|bite/bit|{v} last week|-|person
was|where||found in {v}|found|place
""")
THING_VERBS = parse_verbs("""
be|what||called {v}|-|name
be|what||made of {v}|-|material
be|where||parked at {v}|parked|place
be|what||painted {v}|-|color
do|what|cost/costs|{v}||u:dollars
do|who|belong/belongs|to {v}|-|person
do|what|weigh/weighs|{v}||u:kilos
was|where||made in {v}|made|place
was|who||built by {v}|-|person
was|who||repaired by {v}|-|person
did|where|come/came|from {v}|from|place
did|when|break/broke|down on {v}|down|date
""")
TRANSPORT_VERBS = parse_verbs("""
do|when|leave/leaves|at {v}||time
do|when|arrive/arrives|at {v}||time
do|where|go/goes|to {v}||place
do|where|stop/stops|in {v}||place
do|where|leave/leaves|from {v}|-|place
do|what|cost/costs|{v}||u:dollars
be|what||called {v}|-|name
did|where|break/broke|down in {v}|down|place
""")
GROUP_VERBS = parse_verbs("""
be|what||called {v}|-|name
do|when|meet/meets|at {v}||time
do|on which day|meet/meets|on {v}||weekday
do|where|meet/meets|in {v}||place
do|when|open/opens|at {v}||time
do|when|close/closes|at {v}||time
do|what|celebrate/celebrates|with {v}|with|food
be|who||led by {v}|-|person
was|who||founded by {v}|-|person
was|where||founded in {v}|founded|place
did|who|hire/hired|{v} last week|-|person
did|who|beat/beat|{v} last season|-|brand
""")
EVENT_VERBS = parse_verbs("""
be|when||on {v}||date
do|when|start/starts|at {v}||time
do|when|end/ends|at {v}||time
do|where|take/takes|place in {v}|place|place
do|what|cost/costs|{v}||u:dollars
do|how long|last/lasts|{v}||u:hours
was|who||planned by {v}|-|person
""")
PLACE_VERBS = parse_verbs("""
be|who||ruled by {v}|-|person
be|what||famous for {v}|-|food
do|what|export/exports|{v}|-|material
do|what|border/borders|on {v}|on|place
was|who||discovered by {v}|-|person
was|when||founded on {v}|founded|date
do|where|lie/lies|next to {v}|next to|place
""")
PROJECT_VERBS = parse_verbs("""
be|who||led by {v}|-|person
be|who||paid for by {v}|-|person
do|when|end/ends|on {v}||date
do|when|start/starts|on {v}||date
do|what|cost/costs|{v}||u:dollars
was|who||started by {v}|-|person
be|what||written in {v}|-|language
do|what|depend/depends|on {v}|-|brand
""")
VERBS = {
    "self": PERSON_VERBS,
    "person": PERSON_VERBS,
    "pet": PET_VERBS,
    "thing": THING_VERBS,
    "transport": TRANSPORT_VERBS,
    "group": GROUP_VERBS,
    "event": EVENT_VERBS,
    "place": PLACE_VERBS,
    "project": PROJECT_VERBS,
}
