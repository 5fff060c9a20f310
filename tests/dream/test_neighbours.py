import random

from engrain.data.facts import HELDOUT
from engrain.dream.clauses import Clause
from engrain.dream.frames import split_thing
from engrain.dream.neighbours import (
    DEEDS,
    FIRST_NAMES,
    PEOPLE,
    WHAT,
    WHO,
    beside,
    beside_clause,
    neighbours,
)


def test_neighbours_differ_and_are_both_mine_and_others() -> None:
    found = neighbours(200, random.Random(1))
    assert len({part.name for part in found}) == 200
    things = [part for part in found if part.thing]
    mine = [part for part in things if "'s " not in part.thing]
    assert 40 < len(mine) < 120
    assert all(part.direct == f"{part.direct.split()[0]} is {part.thing}" for part in things)
    assert {part.direct.split()[0] for part in things} == {"what", "who"}
    deeds = [part.clause for part in found if part.clause]
    assert 10 < len(deeds) < 60 and {clause.subject == "I" for clause in deeds} == {True, False}
    assert neighbours(200, random.Random(1)) == found


def test_no_neighbour_is_asked_in_exams() -> None:
    """An exam's relation or owner as contrast would be taught as unknown."""
    heads = {a.noun.split()[-1] for a in HELDOUT.attributes["self"]}
    assert not heads & {noun.split()[-1] for noun in (*WHAT, *WHO)}
    assert not {owner.name for owner in HELDOUT.owners} & set(PEOPLE)
    told = {(verb.base or verb.tail).split()[0] for verb in HELDOUT.verbs["self"]}
    done = {
        clause.rest.split()[0] if clause.verb in ("am", "was") else clause.verb
        for clause, _ in DEEDS
    }
    assert not told & done


def test_half_of_the_words_are_of_any_spelling() -> None:
    """With listed words alone any rare name would be taken for one that was told."""
    things = [part.thing for part in neighbours(450, random.Random(2)) if part.thing]
    found = [split_thing(thing) for thing in things]
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


def test_beside_a_deed_is_that_of_others_of_whom_something_was_told() -> None:
    adores = Clause("my aunt", "adores")
    found = beside_clause(adores, "what", ["my aunt", "Vorn", "I"], random.Random(1))
    assert [part.inside for part in found[:2]] == ["what Vorn adores", "what I adore"]
    assert not any(part.clause and part.clause.subject == "my aunt" for part in found)
    born = Clause("I", "was", "born in")
    assert (
        beside_clause(born, "where", ["Vorn"], random.Random(1))[0].direct == "where was Vorn born"
    )
    # An owner of a deed is asked for things as well.
    car = beside("my car", ["my car"], {}, random.Random(1), ["Vorn"])
    assert car[0].thing == "Vorn's car"
