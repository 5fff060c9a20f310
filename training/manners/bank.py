"""The bank of everyday talk: reading it, drawing values, checking it."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "bank"
SLOT = re.compile(r"\{([A-Z][A-Z0-9_]*)\}")
KINDS = "woman man last town street weekday month day hour year small number code version port word"
TRAPS = "hypothetical hearsay fiction retracted guess joke advert other"

VALUES: dict[str, dict[str, str]] = {
    "en": {
        "woman": "Amara Beth Chloe Dolores Esther Fiona Greta Hana Imogen Jess Keiko Leila Maud Nadia Olive Petra Ruth Sunita Thandi Ursula Vera Wanda Yasmin Zadie Carmen Ingrid Rosalind Maeve Philippa Xiu",
        "man": "Ade Bruno Callum Desmond Emeka Fergus Giles Hugo Ivor Jamal Kofi Lionel Magnus Nikhil Oscar Pavel Quentin Rashid Stellan Tariq Umberto Viktor Winston Yusuf Zoltan Angus Dominic Ravi Leopold Matteo",
        "last": "Abbott Bhatt Castellan Delaney Eriksen Fairweather Gupta Holloway Ibarra Jankowski Kimura Lindqvist Mbeki Novak Ojo Pemberton Quigley Rosario Silverman Tanaka Ulrich Vance Whitlock Yilmaz Zeller Okonkwo Marchetti Dragan",
        "town": "Aberdeen Bath Canterbury Derby Exeter Falmouth Galway Hull Inverness Kendal Lincoln Margate Norwich Oban Perth Ripon Stirling Truro Utrecht Verona Whitby York Ghent Lisbon Tartu Bergen Ljubljana",
        "street": "Alder Row|Beacon Street|Canal Walk|Dove Lane|Elm Terrace|Foundry Road|Garnet Close|Harbour View|Ivy Crescent|Juniper Way|Kestrel Avenue|Lock Street|Mill Rise|Nettle Hill|Orchard Grove|Potter's Yard|Rowan Drive|Saddler Street|Tanner's Lane|Wharf Road",
        "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "month": "January February March April May June July August September October November December",
    },
    "de": {
        "woman": "Anke Birgit Carla Dörte Elif Frauke Gesine Hanna Ilse Jule Katrin Lotte Mareike Nele Ottilie Paula Ronja Silke Theresa Ulla Viola Wiebke Yvonne Zeynep Marlene",
        "man": "Arne Bernd Cem Detlef Emil Falk Gregor Hauke Ingo Jannik Konrad Levin Mirko Norbert Olaf Pascal Roland Sven Thilo Uwe Volker Wenzel Yannick Zoran Matthis",
        "last": "Ahrens Becker Claußen Dombrowski Engel Fischer Göbel Hartwig Illner Jansen Kowalski Lorenz Möller Nowak Özdemir Petersen Quast Richter Schröder Thiele Unger Vogel Wittmann Yıldız Zander",
        "town": "Aachen Bamberg Celle Dessau Erfurt Flensburg Görlitz Hameln Ilmenau Jena Kassel Lübeck Münster Nürnberg Oldenburg Passau Rostock Schwerin Trier Ulm Weimar Würzburg Zwickau Graz Basel",
        "street": "Ahornweg|Bahnhofstraße|Drosselgasse|Eichenallee|Fährstraße|Gartenweg|Hafenstraße|Im Winkel|Kirchplatz|Lindenstraße|Marktgasse|Neuer Damm|Parkweg|Rosenstraße|Schulweg|Talstraße|Uferweg|Wiesengrund",
        "weekday": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
        "month": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    },
    "es": {
        "woman": "Alba Belén Carmen Dolores Elena Fátima Gloria Irene Julia Lucía Marta Nuria Olga Pilar Rocío Sonia Teresa Valeria Ximena Yolanda",
        "man": "Álvaro Bruno César Diego Emilio Fermín Gonzalo Hugo Iván Joaquín Luis Marcos Nicolás Óscar Pablo Raúl Sergio Tomás Víctor Zacarías",
        "last": "Alonso Benítez Castro Domínguez Escobar Fuentes Gálvez Herrera Iglesias Jiménez Lozano Medina Navarro Ortega Paredes Quiroga Rivas Serrano Trujillo Vargas",
        "town": "Ávila Burgos Cádiz Denia Elche Figueras Girona Huelva Jaén León Mérida Oviedo Pamplona Ronda Soria Toledo Úbeda Vigo Zamora Rosario",
        "street": "calle Mayor|calle del Sol|avenida de la Paz|plaza Nueva|calle Olmo|paseo del Río|calle Cervantes|ronda Norte|calle de la Luna|avenida Libertad|calle Molino|plaza del Pino",
        "weekday": "lunes martes miércoles jueves viernes sábado domingo",
        "month": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    },
    "fr": {
        "woman": "Adèle Brigitte Camille Delphine Élise Fanny Gisèle Hélène Inès Jeanne Karine Léa Margot Nadège Odile Pauline Rosalie Solène Thérèse Violette",
        "man": "Antoine Baptiste Cédric Didier Étienne Fabrice Gaël Hervé Ismaël Jérôme Karim Loïc Marius Nicolas Olivier Pascal Quentin Rémi Sylvain Thibault",
        "last": "Arnaud Besson Chevalier Dufour Estève Fabre Garnier Hubert Imbert Joly Lambert Mercier Noël Olivier Perrin Renaud Simon Tessier Vidal Weber",
        "town": "Annecy Bayonne Cahors Dijon Épinal Fougères Grenoble Honfleur Issoire Laval Mâcon Nîmes Orléans Pau Quimper Reims Sète Tours Valence Liège",
        "street": "rue des Lilas|rue du Moulin|avenue Foch|place du Marché|rue Pasteur|quai Nord|rue de la Gare|impasse des Pins|rue Victor-Hugo|chemin Vert|boulevard Carnot|rue du Puits",
        "weekday": "lundi mardi mercredi jeudi vendredi samedi dimanche",
        "month": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    },
}
_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s st t tr v w z".split()
_VOWELS = "a e i o u ai ea ou ie o a e".split()
_CODAS = "n r l s x m t ck nd th sh  ".split(" ")


def word(rng: random.Random) -> str:
    """An invented name."""
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2)))]
    return (
        "".join(parts) + rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
    ).capitalize()


def value(kind: str, lang: str, rng: random.Random) -> str:
    """A value of a kind."""
    if kind in VALUES[lang]:
        listed = VALUES[lang][kind]
        return rng.choice(listed.split("|") if "|" in listed else listed.split())
    if kind == "code":
        letters = "".join(rng.choice("ABCDEFGHKLMNPRSTVWXZ") for _ in range(2))
        return f"{letters}-{rng.randrange(100, 1000)}"
    draws = {
        "day": lambda: str(rng.randrange(1, 32)),
        "hour": lambda: (
            f"{rng.randrange(7, 21)}:{rng.choice(('00', '05', '15', '20', '30', '40', '45'))}"
        ),
        "year": lambda: str(rng.randrange(1935, 2032)),
        "small": lambda: str(rng.randrange(2, 13)),
        "number": lambda: str(rng.randrange(13, 991)),
        "version": lambda: f"{rng.randrange(1, 9)}.{rng.randrange(0, 20)}.{rng.randrange(0, 12)}",
        "port": lambda: str(rng.randrange(1025, 65000)),
        "word": lambda: word(rng),
    }
    return draws[kind]()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The situations of a file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise SystemExit(f"{path}:{number}: {error}") from error


def drawn(situation: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A situation with values in its slots, no two slots alike."""
    values: dict[str, str] = {}
    for name, kind in situation.get("slots", {}).items():
        for _ in range(50):
            found = (
                rng.choice(kind) if isinstance(kind, list) else value(kind, situation["lang"], rng)
            )
            if found not in values.values():
                break
        values[name] = found

    def fill(node: Any) -> Any:
        if isinstance(node, str):
            return SLOT.sub(lambda match: values[match.group(1)], node)
        if isinstance(node, list):
            return [fill(item) for item in node]
        if isinstance(node, dict):
            return {key: fill(item) for key, item in node.items()}
        return node

    return fill({key: part for key, part in situation.items() if key != "slots"})  # type: ignore[no-any-return]


def faults(situation: dict[str, Any], rng: random.Random) -> list[str]:
    """What is wrong with a situation, in words."""
    found: list[str] = []
    slots = situation.get("slots", {})
    for name, kind in slots.items():
        if isinstance(kind, list):
            if len(kind) < 6:
                found.append(f"slot {name} has only {len(kind)} values")
        elif kind not in KINDS.split():
            found.append(f"slot {name} is of the unknown kind {kind!r}")
    unknown = set(
        SLOT.findall(json.dumps({k: v for k, v in situation.items() if k != "slots"}))
    ) - set(slots)
    if unknown or found:
        return [*found, *(f"slot {name} is not declared" for name in unknown)]
    try:
        one = drawn(situation, rng)
        talk = one["talk"]
        if len(talk) % 2 or not 2 <= len(talk) <= 8:
            found.append(f"talk has {len(talk)} messages")

        def told(place: int, text: str, what: str) -> None:
            if place % 2 or place >= len(talk):
                found.append(f"{what}: message {place} is not the user's")
            elif text not in talk[place]:
                found.append(f"{what}: {text!r} is not in message {place}")

        for number, fact in enumerate(one["facts"]):
            here = f"fact {number}"
            told(fact["from"], fact["value"], here)
            low = fact["value"].casefold()
            for key in ("states", "tells"):
                if low not in fact[key].casefold():
                    found.append(f"{here}: {key} does not hold {fact['value']!r}")
            if len(fact["asks"]) < 8:
                found.append(f"{here}: {len(fact['asks'])} asks")
            for ask in fact["asks"]:
                if re.search(rf"(?<!\w){re.escape(low)}(?!\w)", ask.casefold()):
                    found.append(f"{here}: {ask!r} holds the value")
            if len(fact["near"]) < 3 or any(len(pair) != 2 for pair in fact["near"]):
                found.append(f"{here}: near needs 3 pairs")
            if "old" in fact and not any(fact["old"] in text for text in talk):
                found.append(f"{here}: old {fact['old']!r} is not in talk")
        for wish in one.get("instructions", ()):
            told(wish["from"], "", "instruction")
            if len(wish["follow"]) < 5 or len(wish["against"]) != 2:
                found.append("instruction: follow needs 5 pairs, against one")
            wish["wish"], wish["ask"], wish["tells"]
        for trap in one.get("traps", ()):
            if trap["kind"] not in TRAPS.split():
                found.append(f"trap of the unknown kind {trap['kind']!r}")
            if not any(trap["value"] in text for text in talk):
                found.append(f"trap: {trap['value']!r} is not in talk")
            trap["states"], trap["ask"], trap["untold"], trap["from"]
    except (KeyError, TypeError) as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def main() -> None:
    """Check files, and show what comes out of the first situations."""
    rng, bad, ids, count, facts = random.Random(0), 0, set(), 0, 0
    for name in sys.argv[1:]:
        for situation in read(Path(name)):
            count += 1
            facts += len(situation.get("facts", ()))
            wrong = faults(situation, rng)
            if situation["id"] in ids:
                wrong.append("id is used twice")
            ids.add(situation["id"])
            bad += bool(wrong)
            for fault in wrong:
                print(f"{name}: {situation['id']}: {fault}")
    print(f"{count} situations, {facts} facts, {bad} situations with faults")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
