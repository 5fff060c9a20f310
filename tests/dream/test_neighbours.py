import random

from engrain.data.facts import HELDOUT
from engrain.dream.frames import split_thing
from engrain.dream.neighbours import FIRST_NAMES, PEOPLE, WHAT, WHO, beside, neighbours


def test_neighbours_differ_and_are_both_mine_and_others() -> None:
    found = neighbours(200, random.Random(1))
    assert len({part.thing for part in found}) == 200
    mine = [part for part in found if "'s " not in part.thing]
    assert 40 < len(mine) < 120
    assert all(part.direct == f"{part.direct.split()[0]} is {part.thing}" for part in found)
    assert {part.direct.split()[0] for part in found} == {"what", "who"}
    assert neighbours(200, random.Random(1)) == found


def test_no_neighbour_is_asked_in_exams() -> None:
    """An exam's relation or owner as contrast would be taught as unknown."""
    heads = {a.noun.split()[-1] for a in HELDOUT.attributes["self"]}
    assert not heads & {noun.split()[-1] for noun in (*WHAT, *WHO)}
    assert not {owner.name for owner in HELDOUT.owners} & set(PEOPLE)


def test_half_of_the_words_are_of_any_spelling() -> None:
    """With listed words alone any rare name would be taken for one that was told."""
    found = [split_thing(part.thing) for part in neighbours(400, random.Random(2))]
    rare = [noun for _, noun in found if noun not in {*WHAT, *WHO}]
    assert 130 < len(rare) < 270
    listed = {"my", *(f"my {person}" for person in PEOPLE), *FIRST_NAMES}
    strangers = [owner for owner, _ in found if owner not in listed]
    assert len(strangers) > 60 and len(set(strangers)) > 55
    heldout = {a.noun.split()[-1] for a in HELDOUT.attributes["self"]}
    assert not heldout & {noun.split()[-1] for noun in rare}


def test_beside_a_favorite_are_other_favorites() -> None:
    found = beside("my favorite tea", ["my favorite tea"], {}, random.Random(1))[:20]
    of_mine = [part.thing for part in found if split_thing(part.thing)[0] == "my"]
    assert sum(thing.startswith("my favorite ") for thing in of_mine) >= len(of_mine) // 2 > 2


def test_beside_a_thing_are_other_owners_and_other_things_in_turns() -> None:
    told = ["my aunt's cat", "my motto", "Vorn's car"]
    found = beside("my aunt's cat", told, {"cat": "which"}, random.Random(1))
    things = [part.thing for part in found]
    # What was told crosswise comes first: it is what is mixed up most easily.
    assert things[:4] == ["my cat", "my aunt's motto", "Vorn's cat", "my aunt's car"]
    assert len(things) == len(set(things)) and not set(things) & {told[0]}
    for first, second in zip(things[0:80:2], things[1:80:2], strict=True):
        assert split_thing(first)[1] == "cat" and split_thing(second)[0] == "my aunt"
    assert found[0].direct == "which is my cat"
    assert beside("the capital of Vorn", told, {}, random.Random(1)) == []
    assert beside("my motto", told, {}, random.Random(1)) != beside(
        "my motto", told, {}, random.Random(2)
    )
