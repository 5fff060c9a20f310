"""Values of facts: closed lists of plain ones, and invented words (the larger half)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence


def _split(text: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())
    )


NAMES = _split("""
Ada, Adele, Agnes, Alan, Alba, Albert, Alice, Alma, Amir, Amos, Anders, Anita, Anton, Arthur, Astrid
Aurora, Basil, Beatrice, Ben, Berta, Bianca, Boris, Bruno, Carla, Carlos, Cecil, Celia, Chen, Clara
Claude, Cora, Cyril, Dalia, Daniel, Daria, David, Delia, Diego, Dora, Edgar, Edith, Elena, Elias
Ella, Elmer, Elsa, Emil, Emma, Enzo, Erik, Esther, Eva, Farid, Felix, Fiona, Flora, Frank, Frida
Gemma, George, Gina, Gloria, Greta, Gustav, Hana, Hannah, Harold, Hector, Helen, Henry, Hugo, Ida
Igor, Ines, Ingrid, Irene, Isaac, Ivan, Jack, Jana, Jasper, Joan, Jonah, Julia, Karim, Karl, Kenji
Klara, Lars, Laura, Leah, Lena, Leo, Lena, Liam, Lila, Linus, Lola, Louis, Lucy, Luther, Mabel
Magda, Malik, Marco, Maria, Martin, Maya, Milan, Mina, Mira, Mona, Nadia, Naomi, Nina, Noah, Nora
Olga, Oliver, Omar, Oscar, Otto, Pablo, Paula, Pedro, Petra, Philip, Pia, Rachel, Ralph, Ramona
Raul, Rita, Robert, Rosa, Ruben, Ruth, Samuel, Sandra, Sara, Selma, Sergei, Silvia, Simon, Sonja
Stella, Sven, Tara, Theo, Thomas, Tilda, Tomas, Ursula, Vera, Victor, Viola, Walter, Wanda, Wilma
Xavier, Yara, Yuki, Yusuf, Zara, Zelda
""")
PLACES = _split("""
Paris, Lisbon, Oslo, Vienna, Prague, Dublin, Madrid, Rome, Athens, Cairo, Nairobi, Lagos, Tokyo
Kyoto, Seoul, Hanoi, Delhi, Mumbai, Lima, Bogota, Quito, Havana, Boston, Chicago, Denver, Austin
Seattle, Toronto, Montreal, Vancouver, Sydney, Perth, Auckland, Berlin, Hamburg, Munich, Cologne
Leipzig, Zurich, Geneva, Basel, Bern, Milan, Turin, Naples, Venice, Florence, Seville, Valencia
Porto, Lyon, Nice, Marseille, Bordeaux, Brussels, Ghent, Bruges, Rotterdam, Utrecht, Copenhagen
Aarhus, Malmo, Stockholm, Uppsala, Bergen, Helsinki, Tampere, Riga, Vilnius, Tallinn, Warsaw, Krakow
Gdansk, Budapest, Zagreb, Split, Sofia, Istanbul, Ankara, Beirut, Amman, Dubai, Muscat, Tehran
Tbilisi, Baku, Tashkent, Lahore, Karachi, Dhaka, Colombo, Bangkok, Manila, Jakarta, Singapore
  Taipei
Shanghai, Sapporo, Osaka, Darwin, Hobart, Dakar, Accra, Tunis, Rabat, Casablanca, Windhoek
Cape Town, Kampala, Lusaka, Maputo, Salvador, Recife, Santiago, Cordoba, Cusco, La Paz, Asuncion
Panama City, Merida, Oaxaca, Phoenix, Dallas, Memphis, Nashville, Atlanta, Miami, Tampa, Orlando
Portland, Oakland, Glasgow, Leeds, York, Bristol, Cardiff, Belfast, Galway, Cork, Reykjavik
""")
PLACE_HEADS = _split("""
Lake, Port, Mount, North, South, East, West, New, Old, Upper, Lower, Fort, Saint, Castle, Cape
""")
PLACE_TAILS = _split("""
Street, Road, Square, Park, Bay, Hill, Valley, Bridge, Lane, Island, Harbor, Falls, Forest, Beach
Avenue, Garden, Hall, Tower, Station, Village, Ridge, Point
""")
COLORS = _split("""
red, blue, green, yellow, orange, purple, pink, brown, black, white, gray, beige, teal, turquoise
crimson, scarlet, maroon, navy, indigo, violet, lavender, lilac, magenta, olive, lime, mint, ivory
cream, gold, silver, bronze, copper, coral, peach, salmon, amber, mustard, rust, plum, burgundy
khaki, azure, cyan, emerald, jade, ruby, sand, charcoal, chestnut, mauve, ochre, fuchsia, cobalt
""")
SHADES = _split("dark, light, pale, bright, deep, soft, dusty, warm")
FOODS = _split("""
apple pie, baked beans, bean stew, beetroot soup, black bread, blueberry cake, boiled eggs, broccoli
brown rice, cabbage rolls, carrot cake, cauliflower, celery salad, cherry tart, chestnut cream
chicken soup, chocolate cake, cinnamon rolls, clam soup, coconut rice, corn bread, cucumber salad
curry, dark chocolate, dates, egg salad, falafel, fennel, figs, fish pie, fish tacos, french toast
fried rice, garlic bread, ginger tea, goulash, granola, grapes, green beans, green tea, grilled fish
ham and eggs, hazelnut cream, honey cake, hot chocolate, hummus, ice cream, kale, kebab, kiwi
lamb stew, lasagna, leek soup, lemonade, lemon tart, lentil soup, mango, maple syrup, meatballs
melon, milk tea, minestrone, muffins, mushroom soup, mussels, oatmeal, olives, omelet, onion rings
onion soup, orange juice, paella, pancakes, papaya, pasta, pea soup, peanut butter, pears
pickles, pineapple, pistachios, plum cake, pomegranate, popcorn, potato salad, pumpkin pie, quiche
radish, raisins, ramen, raspberries, ravioli, red cabbage, rhubarb, rice pudding, risotto
roast beef, rye bread, salted almonds, sardines, scrambled eggs, shrimp, spinach, spring rolls
strawberries, sushi, sweet corn, sweet potatoes, tofu, tomato soup, tuna salad, vanilla pudding
vegetable soup, waffles, walnut bread, watermelon, yogurt, zucchini
""")
OBJECTS = _split("""
lamp, chair, table, kettle, blanket, pillow, mirror, clock, candle, basket, bottle, bucket, broom
camera, carpet, coin, comb, compass, cup, cushion, drum, fan, flag, flute, fork, globe, hammer, hat
helmet, kite, knife, ladder, lantern, magnet, map, marble, mask, mug, needle, notebook, paddle
paintbrush, pan, parrot feather, pebble, pen, pencil, piano stool, plank, pot, puppet, puzzle, radio
ribbon, ring, rope, ruler, saddle, scarf, scissors case, screwdriver, shell, shovel, sled, spoon
stamp, statue, stool, suitcase, sweater, sword, teapot, telescope, tent, thermos, toolbox, torch
  toy
train set, tray, tripod, trumpet, typewriter, vase, violin, wagon, wallet, watch, wheel, whistle
wooden box, wrench, yo-yo, backpack, bell, belt, bench, bicycle, book, bowl, bracelet, brooch
button, chess set, dagger, doll, easel, fountain pen, hammock, harp, jar, jug, music box, necklace
""")
ADJECTIVES = _split("""
red, blue, green, yellow, black, white, golden, silver, wooden, iron, glass, paper, tiny, huge, old
new, round, square, broken, shiny, rusty, striped, painted, heavy, hollow, quiet, bright, gentle
hidden, frozen, lucky, secret, brave, silent, purple, crooked, velvet, stone, copper, wild, hungry
sleepy, distant, empty, curious, patient, northern, winter, summer, midnight, crystal, clever, swift
""")
NOUNS = _split("""
river, mountain, garden, window, engine, harbor, lantern, forest, island, tiger, falcon, candle
meadow, storm, bridge, anchor, castle, rocket, pebble, feather, orchard, tunnel, mirror, comet
desert, valley, whale, rabbit, wolf, owl, turtle, horse, sparrow, beetle, cactus, maple, willow
thunder, shadow, ember, ladder, compass, puzzle, button, pillow, kettle, violin, hammer, wagon
planet, moon, star, cloud, snow, rain, wind, stone, sand, wave, clover, acorn, pumpkin, pepper
""")
ANIMALS = _split("""
otter, fox, wolf, bear, lynx, tiger, lion, leopard, panther, cheetah, elephant, rhino, hippo
  giraffe
zebra, camel, llama, alpaca, deer, moose, elk, reindeer, goat, sheep, donkey, horse, pony, pig, boar
cow, bison, buffalo, rabbit, hare, squirrel, beaver, badger, raccoon, skunk, hedgehog, mole, mouse
rat, bat, monkey, gorilla, lemur, sloth, koala, kangaroo, wombat, panda, whale, dolphin, seal
  walrus
shark, salmon, trout, eel, octopus, squid, crab, lobster, shrimp, snail, turtle, tortoise, lizard
gecko, iguana, crocodile, snake, python, frog, toad, newt, eagle, hawk, falcon, owl, raven, crow
magpie, sparrow, robin, finch, swan, goose, duck, heron, stork, crane, pelican, penguin, parrot
peacock, turkey, pigeon, woodpecker, ostrich, flamingo, bee, wasp, ant, beetle, butterfly, moth
dragonfly, cricket, spider, scorpion
""")
JOBS = _split("""
baker, butcher, carpenter, plumber, electrician, painter, mason, roofer, farmer, shepherd, fisher
hunter, forester, miner, welder, blacksmith, tailor, weaver, potter, jeweler, watchmaker, locksmith
mechanic, driver, pilot, sailor, captain, postman, courier, cook, waiter, barista, brewer, grocer
florist, librarian, teacher, professor, tutor, translator, writer, poet, editor, journalist
photographer, actor, singer, dancer, drummer, pianist, composer, conductor, sculptor, architect
engineer, surveyor, chemist, physicist, biologist, geologist, astronomer, mathematician
programmer, designer, accountant, banker, lawyer, judge, notary, detective, soldier, firefighter
nurse, surgeon, pharmacist, vet, midwife, therapist, barber, hairdresser, gardener, zookeeper
lifeguard, coach, referee, guide, clown, magician, cleaner, janitor, porter, secretary, cashier
beekeeper, diver, optician, dentist, printer, bookbinder, upholsterer, glazier, tiler, cobbler
""")
SPORTS = _split("""
tennis, badminton, squash, table tennis, golf, hockey, ice hockey, football, rugby, cricket
  baseball
softball, basketball, volleyball, handball, water polo, swimming, diving, rowing, sailing, surfing
kayaking, canoeing, rafting, fishing, running, hiking, climbing, bouldering, cycling, skating
ice skating, skiing, snowboarding, sledding, curling, archery, fencing, boxing, wrestling, judo
karate, yoga, pilates, gymnastics, dancing, ballet, riding, polo, bowling, darts, billiards, chess
checkers, gardening, knitting, sewing, pottery, painting, drawing, singing, juggling, birdwatching
stargazing, photography, woodwork, baking, orienteering, skydiving, gliding, parkour, triathlon
""")
INSTRUMENTS = _split("""
piano, violin, viola, cello, double bass, guitar, banjo, ukulele, mandolin, lute, harp, zither
  flute
piccolo, recorder, clarinet, oboe, bassoon, saxophone, trumpet, trombone, tuba, horn, cornet, bugle
accordion, harmonica, organ, harpsichord, drums, snare drum, bongo, tambourine, triangle, xylophone
marimba, vibraphone, bagpipe, sitar, tabla, koto, fiddle, kazoo, ocarina, pan flute, lyre, dulcimer
bass guitar, steel drum, castanets, gong, cymbals, timpani, concertina, balalaika, theremin
""")
LANGUAGES = _split("""
English, French, German, Spanish, Italian, Portuguese, Dutch, Danish, Swedish, Norwegian, Finnish
Icelandic, Irish, Welsh, Polish, Czech, Slovak, Hungarian, Romanian, Bulgarian, Greek, Turkish
Russian, Ukrainian, Latvian, Lithuanian, Estonian, Serbian, Croatian, Albanian, Arabic, Hebrew
Persian, Urdu, Hindi, Bengali, Tamil, Telugu, Nepali, Thai, Lao, Khmer, Malay, Vietnamese, Korean
Japanese, Mandarin, Cantonese, Mongolian, Tibetan, Swahili, Zulu, Xhosa, Yoruba, Hausa, Amharic
Somali, Basque, Catalan, Maltese, Latin, Esperanto, Quechua, Maori, Hawaiian, Georgian, Armenian
""")
PLANTS = _split("""
rose, tulip, lily, daisy, orchid, violet, sunflower, poppy, iris, peony, daffodil, crocus, lavender
jasmine, lilac, hydrangea, magnolia, azalea, camellia, geranium, begonia, marigold, dahlia, aster
carnation, fern, ivy, moss, cactus, aloe, bamboo, palm, oak, maple, birch, beech, ash tree, elm
willow, poplar, pine, spruce, fir, cedar, larch, yew, juniper, holly, apple tree, cherry tree
plum tree, fig tree, olive tree, lemon tree, basil, mint, thyme, sage, rosemary, parsley, dill
chives, clover, thistle, nettle, dandelion, snowdrop, bluebell, foxglove, heather, bonsai, yucca
""")
MATERIALS = _split("""
wood, oak wood, pine wood, bamboo, cork, paper, cardboard, leather, wool, cotton, linen, silk
  velvet
denim, felt, nylon, plastic, rubber, glass, crystal, porcelain, clay, brick, concrete, marble
granite, slate, sandstone, limestone, iron, steel, copper, brass, bronze, tin, aluminum, silver
  gold
titanium, carbon fiber, wax, straw, bone, horn, ivory, jade, amber, pearl, wicker, canvas, satin
fleece, suede, ceramic, gravel, tile, stainless steel, cast iron, plywood, sea shells, birch bark
""")
MONTHS = _split("""
January, February, March, April, May, June, July, August, September, October, November, December
""")
WEEKDAYS = _split("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
DAY_PARTS = _split("morning, afternoon, evening, night, noon")
TITLES = _split("Dr., Mr., Mrs., Ms., Professor, Captain, Aunt, Uncle, Sir, Lady, Coach, Father")


# ---------------------------------------------------------------------------- drawing
def is_heldout(value: str) -> bool:
    """The one rule that splits values: an eighth of them is held out."""
    return hashlib.sha256(value.lower().encode()).digest()[0] % 8 == 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words(
    "b c d f g h j k l m n p r s t v w y z br bl cl cr dr fl fr gl gr kl kr pl pr sl sk sm sn sp "
    "st sw tr tw th sh ch v z m n l t d k"
)
_NUCLEI = _words("a e i o u a e i o u a e i o ai ea ee ia io oo ou au y")
_CODAS = ["", "", "", "", "n", "l", "r", "m", "t", "k", "d", "nd", "lt", "rn", "sk", "x", "p", "v"]
_MIDDLE = ["", "", "", "", "n", "l", "r", "m", "s", "t"]


def pseudo(rng: random.Random, low: int = 2, high: int = 4) -> str:
    """A pronounceable invented word in lower case, of `low` to `high` syllables."""
    pick = rng.random
    count = low + int((high - low + 1) * pick() * pick())
    parts: list[str] = []
    for i in range(count):
        if i or pick() < 0.85:
            parts.append(_ONSETS[int(pick() * len(_ONSETS))])
        parts.append(_NUCLEI[int(pick() * len(_NUCLEI))])
        codas = _CODAS if i == count - 1 else _MIDDLE
        parts.append(codas[int(pick() * len(codas))])
    return "".join(parts)


def cap(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def _name(rng: random.Random) -> str:
    return cap(pseudo(rng, 2, 3)) if rng.random() < 0.7 else rng.choice(NAMES)


def _person(rng: random.Random) -> str:
    r, name = rng.random(), _name(rng)
    if r < 0.2:
        return f"{rng.choice(TITLES)} {name}"
    return f"{name} {cap(pseudo(rng, 2, 3))}" if r < 0.35 else name


def _brand(rng: random.Random) -> str:
    r, word = rng.random(), cap(pseudo(rng))
    if r < 0.15:
        return f"{word} {cap(pseudo(rng, 2, 3))}"
    return f"{word} {rng.randint(2, 99)}" if r < 0.25 else word


def _word(rng: random.Random) -> str:
    word = pseudo(rng)
    return word if rng.random() < 0.4 else cap(word)


def _place(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.35:
        return rng.choice(PLACES)
    word = cap(pseudo(rng, 2, 3))
    if r < 0.5:
        return f"{word} {rng.choice(PLACE_TAILS)}"
    return f"{rng.choice(PLACE_HEADS)} {word}" if r < 0.6 else word


def _color(rng: random.Random) -> str:
    r, color = rng.random(), rng.choice(COLORS)
    if r < 0.35:
        return color
    return f"{rng.choice(SHADES)} {color}" if r < 0.6 else pseudo(rng, 2, 3)


def _phrase(rng: random.Random) -> str:
    r = rng.random()
    first = rng.choice(ADJECTIVES) if r < 0.7 else pseudo(rng, 2, 3)
    return f"{first} {rng.choice(NOUNS) if r < 0.9 else pseudo(rng, 2, 3)}"


def _title(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.4:
        return f"The {cap(rng.choice(ADJECTIVES))} {cap(rng.choice(NOUNS))}"
    if r < 0.7:
        return f"The {cap(rng.choice(NOUNS))} of {cap(pseudo(rng, 2, 3))}"
    return cap(pseudo(rng)) if r < 0.9 else f"{cap(pseudo(rng))} {rng.randint(2, 9)}"


def _object(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.25:
        return rng.choice(OBJECTS)
    if r < 0.5:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(OBJECTS)}"
    if r < 0.75:
        return f"{rng.choice(ADJECTIVES)} {pseudo(rng, 2, 3)}"
    return pseudo(rng, 2, 3)


def _food(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.4:
        return rng.choice(FOODS)
    return f"{pseudo(rng, 2, 3)} {rng.choice(FOODS)}" if r < 0.5 else _word(rng)


def _code(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.75:
        return f"{rng.randint(0, 9999):04d}"
    letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    return f"{letters}{rng.randint(10, 999)}"


def _number(rng: random.Random) -> str:
    return str(rng.randint(2, 99) if rng.random() < 0.6 else rng.randint(100, 999))


def _time(rng: random.Random) -> str:
    return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"


def _weekday(rng: random.Random) -> str:
    day, r = rng.choice(WEEKDAYS), rng.random()
    return day if r < 0.4 else f"{day} {rng.choice(DAY_PARTS)}"


def _date(rng: random.Random) -> str:
    return f"{rng.choice(MONTHS)} {rng.randint(1, 31 if rng.random() < 0.2 else 28)}"


def _mixed(values: Sequence[str]) -> Callable[[random.Random], str]:
    def make(rng: random.Random) -> str:
        return pseudo(rng, 2, 3) if rng.random() < 0.55 else rng.choice(values)

    return make


def _language(rng: random.Random) -> str:
    return cap(pseudo(rng, 2, 3)) if rng.random() < 0.6 else rng.choice(LANGUAGES)


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "name": _name,
    "person": _person,
    "brand": _brand,
    "word": _word,
    "place": _place,
    "color": _color,
    "phrase": _phrase,
    "title": _title,
    "object": _object,
    "food": _food,
    "code": _code,
    "number": _number,
    "time": _time,
    "weekday": _weekday,
    "date": _date,
    "animal": _mixed(ANIMALS),
    "creature": _mixed(ANIMALS),
    "language": _language,
    "job": _mixed(JOBS),
    "sport": _mixed(SPORTS),
    "material": _mixed(MATERIALS),
    "instrument": _mixed(INSTRUMENTS),
    "plant": _mixed(PLANTS),
}
_FIXED_ARTICLE = {"animal": "the ", "instrument": "the "}
_A_KINDS = {"object", "creature", "job", "plant"}
_COUNTLESS_PLURALS = {"castanets", "cymbals", "timpani", "drums", "chives"}


def make_value(kind: str, rng: random.Random, heldout: bool) -> str:
    """Draw a value of `kind` from one half. A kind "u:kilos" is a number with that unit."""
    unit = kind[2:] if kind.startswith("u:") else ""
    make = _number if unit else MAKERS[kind]
    for _ in range(200):
        value = f"{make(rng)} {unit}" if unit else make(rng)
        if is_heldout(value) == heldout:
            return value
    raise RuntimeError(f"no value of kind {kind!r} found")  # the lists are far too long for this


def with_article(value: str, kind: str) -> str:
    """The value as it stands in a sentence: "a lamp", "the cello", "Brellin"."""
    if kind in _FIXED_ARTICLE:
        return _FIXED_ARTICLE[kind] + value
    if kind in _A_KINDS and value not in _COUNTLESS_PLURALS:
        return ("an " if value[0].lower() in "aeiou" else "a ") + value
    return value


def fits_beside(value: str, others: Iterable[str]) -> bool:
    """Whether a value can be told from `others` (in lower case) and from plain words in a reply."""
    low = value.lower()
    if low.isalpha() and len(low) < 4:
        return False
    return not any(low in used or used in low for used in others)
