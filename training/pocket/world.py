"""Plain world knowledge with fixed answers: what every lesson must leave as it is."""

# ruff: noqa: E501

from __future__ import annotations

from typing import NamedTuple


class WorldFact(NamedTuple):
    """A question in several wordings and its one right answer."""

    questions: tuple[str, ...]
    answer: str  # the whole sentence
    key: str  # what the answer must hold


def _pairs(text: str) -> list[tuple[str, str]]:
    out = []
    for part in filter(None, map(str.strip, text.replace("\n", ";").split(";"))):
        left, _, right = part.partition("=")
        out.append((left.strip(), right.strip()))
    return out


def _family(text: str, questions: tuple[str, ...], answer: str) -> list[WorldFact]:
    return [
        WorldFact(tuple(q.format(a=a, b=b) for q in questions), _cap(answer.format(a=a, b=b)), b)
        for a, b in _pairs(text)
    ]


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


WORLD_FACTS: list[WorldFact] = [
    *_family(
        """France=Paris; Italy=Rome; Spain=Madrid; Germany=Berlin; England=London; Portugal=Lisbon
        Austria=Vienna; Greece=Athens; Norway=Oslo; Sweden=Stockholm; Finland=Helsinki; Ireland=Dublin
        Denmark=Copenhagen; Poland=Warsaw; Hungary=Budapest; Russia=Moscow; Japan=Tokyo; China=Beijing
        Egypt=Cairo; Kenya=Nairobi; Cuba=Havana; Peru=Lima; Canada=Ottawa; Belgium=Brussels
        Turkey=Ankara; Scotland=Edinburgh; Thailand=Bangkok; Iceland=Reykjavik""",
        (
            "What is the capital of {a}?",
            "Which city is the capital of {a}?",
            "Do you know the capital of {a}?",
            "Tell me the capital of {a}.",
            "{a}: what is the capital?",
        ),
        "The capital of {a} is {b}.",
    ),
    *_family(
        """dog=woof; cat=meow; cow=moo; duck=quack; sheep=baa; pig=oink; bee=buzz; lion=roar; owl=hoot
        horse=neigh; snake=hiss; frog=ribbit; rooster=cock-a-doodle-doo; crow=caw; mouse=squeak""",
        (
            "What does a {a} say?",
            "What sound does a {a} make?",
            "Which sound does a {a} make?",
            "What is the sound of a {a}?",
        ),
        "A {a} says {b}.",
    ),
    *_family(
        """hot=cold; big=small; up=down; day=night; black=white; fast=slow; old=young; happy=sad; wet=dry
        open=closed; long=short; high=low; left=right; hard=soft; early=late; full=empty; rich=poor
        heavy=light; loud=quiet; near=far; good=bad; clean=dirty; strong=weak; thick=thin; sweet=sour
        begin=end; love=hate; win=lose; inside=outside; first=last; always=never; buy=sell""",
        (
            "What is the opposite of {a}?",
            "Tell me the opposite of {a}.",
            "The opposite of {a}?",
            "Which word is the opposite of {a}?",
        ),
        "The opposite of {a} is {b}.",
    ),
    *_family(
        """the sky=blue; grass=green; snow=white; blood=red; coal=black; a banana=yellow; milk=white
        the sun=yellow; a ripe tomato=red; chocolate=brown; an elephant=gray; a carrot=orange
        a lemon=yellow; a raven=black; a frog=green; a flamingo=pink""",
        (
            "What color is {a}?",
            "Which color is {a}?",
            "Tell me what color {a} is.",
            "Do you know what color {a} is?",
        ),
        "{a} is {b}.",
    ),
    *_family(
        """mouse=mice; child=children; foot=feet; tooth=teeth; man=men; woman=women; goose=geese
        leaf=leaves; knife=knives; sheep=sheep; box=boxes; city=cities; wolf=wolves; fish=fish""",
        ("What is the plural of {a}?", "Tell me the plural of {a}.", "One {a}, two what?"),
        "The plural of {a} is {b}.",
    ),
    *_family(
        """Monday=Tuesday; Tuesday=Wednesday; Wednesday=Thursday; Thursday=Friday; Friday=Saturday
        Saturday=Sunday; Sunday=Monday""",
        (
            "What day comes after {a}?",
            "Which day comes after {a}?",
            "What is the day after {a}?",
            "Which day follows {a}?",
        ),
        "{b} comes after {a}.",
    ),
    *_family(
        """January=February; February=March; March=April; April=May; May=June; June=July; July=August
        August=September; September=October; October=November; November=December; December=January""",
        (
            "What month comes after {a}?",
            "Which month comes after {a}?",
            "What is the month after {a}?",
            "Which month follows {a}?",
        ),
        "{b} comes after {a}.",
    ),
    *_family(
        """dog=puppy; cat=kitten; cow=calf; horse=foal; sheep=lamb; pig=piglet; duck=duckling; bear=cub
        hen=chick; goat=kid; swan=cygnet; frog=tadpole""",
        (
            "What is a baby {a} called?",
            "What do you call a baby {a}?",
            "What is a young {a} called?",
        ),
        "A baby {a} is called a {b}.",
    ),
    *_family(
        """go=went; see=saw; eat=ate; run=ran; write=wrote; take=took; give=gave; come=came; sing=sang
        swim=swam; buy=bought; think=thought; speak=spoke; fly=flew; drink=drank; find=found""",
        (
            "What is the past tense of {a}?",
            "What is the past of {a}?",
            "Today I {a}. And yesterday?",
        ),
        "The past tense of {a} is {b}.",
    ),
    *_family(
        """days are in a week=seven; months are in a year=twelve; hours are in a day=24
        minutes are in an hour=sixty; seconds are in a minute=sixty; legs does a spider have=eight
        legs does a dog have=four; legs does a bird have=two; wheels does a bicycle have=two
        wheels does a car have=four; fingers are on one hand=five; sides does a triangle have=three
        sides does a square have=four; eyes does a person have=two; legs does an insect have=six
        arms does an octopus have=eight; seasons are in a year=four; letters are in the alphabet=26
        colors does a rainbow have=seven; cents are in a dollar=100; days does a year have=365
        strings does a violin have=four; planets are in the solar system=eight; items are in a dozen=12
        years are in a century=100; continents are there=seven""",
        ("How many {a}?", "Tell me how many {a}.", "Do you know how many {a}?"),
        "The answer is {b}.",
    ),
]
_SINGLE = """
What is frozen water called?|What do we call frozen water?|Frozen water is called ice.|ice
What do bees make?|What does a bee make?|Bees make honey.|honey
What do cows give us?|What do we get from cows?|Cows give us milk.|milk
Where does the sun rise?|In which direction does the sun rise?|The sun rises in the east.|east
Where does the sun set?|In which direction does the sun set?|The sun sets in the west.|west
Which planet do we live on?|What is the name of our planet?|We live on the planet Earth.|Earth
What is the largest planet?|Which planet is the largest?|The largest planet is Jupiter.|Jupiter
Which planet is closest to the sun?|What planet is nearest to the sun?|Mercury is closest to the sun.|Mercury
Which planet is called the red planet?|What is the red planet?|The red planet is Mars.|Mars
What is the largest ocean?|Which ocean is the largest?|The largest ocean is the Pacific.|Pacific
What is the highest mountain?|Which mountain is the highest on Earth?|The highest mountain is Mount Everest.|Everest
What is the largest animal?|Which animal is the largest?|The largest animal is the blue whale.|blue whale
What is the fastest land animal?|Which land animal runs fastest?|The fastest land animal is the cheetah.|cheetah
What is the tallest animal?|Which animal is the tallest?|The tallest animal is the giraffe.|giraffe
What do plants need to grow?|What does a plant need?|Plants need light and water.|water
What gas do we breathe?|Which gas do we need to breathe?|We need oxygen to breathe.|oxygen
What pumps blood through the body?|Which organ pumps the blood?|The heart pumps the blood.|heart
What do we see with?|Which part of the body do we see with?|We see with our eyes.|eyes
What do we hear with?|Which part of the body do we hear with?|We hear with our ears.|ears
What do we smell with?|Which part of the body do we smell with?|We smell with our nose.|nose
What is bread made from?|What do you make bread from?|Bread is made from flour.|flour
What is paper made from?|What do you make paper from?|Paper is made from wood.|wood
What is cheese made from?|What do you make cheese from?|Cheese is made from milk.|milk
What is wine made from?|What do you make wine from?|Wine is made from grapes.|grapes
What is glass made from?|What do you make glass from?|Glass is made from sand.|sand
Where do fish live?|What do fish live in?|Fish live in water.|water
Where do birds live?|What do birds build?|Birds live in nests.|nests
Where do penguins live?|In which cold place do penguins live?|Penguins live in Antarctica.|Antarctica
Where do camels live?|In what kind of land do camels live?|Camels live in the desert.|desert
What do pandas eat?|What is the main food of pandas?|Pandas eat bamboo.|bamboo
What do rabbits like to eat?|What is a typical food of rabbits?|Rabbits like to eat carrots.|carrots
Which animal is the king of the jungle?|Who is the king of the jungle?|The lion is the king of the jungle.|lion
Which animal gives us wool?|Where does wool come from?|Wool comes from sheep.|sheep
Which insect makes silk?|Where does silk come from?|Silk comes from the silkworm.|silkworm
At what temperature does water boil?|When does water boil?|Water boils at 100 degrees.|100
At what temperature does water freeze?|When does water freeze?|Water freezes at zero degrees.|zero
What falls from the clouds?|What comes out of dark clouds?|Rain falls from the clouds.|Rain
What do you use to write on paper?|What do we write with?|We write with a pen.|pen
What do you use to cut paper?|What do we cut paper with?|We cut paper with scissors.|scissors
What do you use to open a lock?|What opens a lock?|A key opens a lock.|key
What tells the time?|What do we look at to know the time?|A clock tells the time.|clock
What keeps you dry in the rain?|What do you hold over your head when it rains?|An umbrella keeps you dry in the rain.|umbrella
Which season comes after winter?|What season follows winter?|Spring comes after winter.|Spring
Which season comes after spring?|What season follows spring?|Summer comes after spring.|Summer
Which season comes after summer?|What season follows summer?|Autumn comes after summer.|Autumn
Which season comes after autumn?|What season follows autumn?|Winter comes after autumn.|Winter
Which season is the coldest?|What is the coldest season?|Winter is the coldest season.|Winter
Which season is the hottest?|What is the hottest season?|Summer is the hottest season.|Summer
What color do you get from blue and yellow?|Blue and yellow make what color?|Blue and yellow make green.|green
What color do you get from red and yellow?|Red and yellow make what color?|Red and yellow make orange.|orange
What color do you get from red and blue?|Red and blue make what color?|Red and blue make purple.|purple
What color do you get from black and white?|Black and white make what color?|Black and white make gray.|gray
What is the first letter of the alphabet?|Which letter comes first in the alphabet?|The first letter is A.|A
What is the last letter of the alphabet?|Which letter comes last in the alphabet?|The last letter is Z.|Z
What do we call a person who teaches?|Who works in a school and teaches?|A person who teaches is a teacher.|teacher
What do we call a person who bakes bread?|Who bakes bread?|A person who bakes bread is a baker.|baker
What do we call a person who flies planes?|Who flies planes?|A person who flies planes is a pilot.|pilot
What do we call a person who puts out fires?|Who puts out fires?|A firefighter puts out fires.|firefighter
What do we call a doctor for animals?|Who is a doctor for animals?|A doctor for animals is a vet.|vet
What language do people speak in Brazil?|Which language is spoken in Brazil?|People in Brazil speak Portuguese.|Portuguese
What language do people speak in France?|Which language is spoken in France?|People in France speak French.|French
What language do people speak in Mexico?|Which language is spoken in Mexico?|People in Mexico speak Spanish.|Spanish
What language do people speak in Germany?|Which language is spoken in Germany?|People in Germany speak German.|German
What river flows through Paris?|Which river is in Paris?|The Seine flows through Paris.|Seine
What river flows through London?|Which river is in London?|The Thames flows through London.|Thames
What river flows through Egypt?|Which river is in Egypt?|The Nile flows through Egypt.|Nile
What goes around the Earth?|What moves around the Earth at night?|The moon goes around the Earth.|moon
What shines at night?|What can you see in the sky at night?|The stars shine at night.|stars
What is a young person called?|What do we call a young person?|A young person is called a child.|child
What is the shape of a ball?|What shape does a ball have?|A ball is round.|round
Is ice hot or cold?|How does ice feel, hot or cold?|Ice is cold.|cold
Is fire hot or cold?|How does fire feel, hot or cold?|Fire is hot.|hot
Is a mouse bigger than an elephant?|Which is bigger, a mouse or an elephant?|An elephant is bigger than a mouse.|elephant
"""
for _line in filter(None, map(str.strip, _SINGLE.splitlines())):
    *_questions, _answer, _key = _line.split("|")
    WORLD_FACTS.append(WorldFact(tuple(_questions), _answer, _key))
