import json
import os
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engrain import config
from engrain.config import Config, home_folder, json_schema, keys, resolve, to_toml
from engrain.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path


def found(place: Path, overrides=None, **variables: str) -> config.Resolved:
    return resolve(place / "home", overrides, environ=variables, folder=place)


def write(place: Path, *, home: str = "", project: str = "") -> None:
    (place / "home" / "config.toml").write_text(home)
    (place / "engrain.toml").write_text(project)


def test_defaults_when_nothing_is_given(place: Path) -> None:
    result = found(place)
    assert result.config == Config()
    assert {str(origin) for _, _, origin in result.rows()} == {"default"}


def test_the_default_model_is_the_default_of_the_catalogue() -> None:
    from engrain.model import catalogue

    assert Config().model.source == catalogue.everyday().name


def test_each_source_beats_the_next_one(place: Path) -> None:
    names = ["one", "two", "three", "four"]
    write(place, home='[learn]\nrecipe = "one"', project='[learn]\nrecipe = "two"')
    seen = []
    for flag, variable, project, home in (
        ("four", "three", "two", "one"),
        (None, "three", "two", "one"),
        (None, None, "two", "one"),
        (None, None, None, "one"),
    ):
        write(
            place,
            home=f'[learn]\nrecipe = "{home}"',
            project=f'[learn]\nrecipe = "{project}"' if project else "",
        )
        variables = {"ENGRAIN_LEARN__RECIPE": variable} if variable else {}
        result = found(place, {"learn.recipe": flag}, **variables)
        seen.append((result.config.learn.recipe, result.origins["learn.recipe"].kind))
    assert [value for value, _ in seen] == names[::-1]
    assert [kind for _, kind in seen] == ["flag", "environment", "project file", "home file"]


def test_origin_names_the_file_and_the_variable(place: Path) -> None:
    write(place, home="[learn]\nseed = 3")
    result = found(place, ENGRAIN_GATE__MIN_RECALL="0.5")
    assert str(result.origins["learn.seed"]) == f"home file {place / 'home' / 'config.toml'}"
    assert str(result.origins["gate.min_recall"]) == "environment ENGRAIN_GATE__MIN_RECALL"


def test_sources_are_merged_by_key_not_by_section(place: Path) -> None:
    write(place, home='[learn]\nseed = 3\neffort = "low"', project="[learn]\nseed = 4")
    learn = found(place).config.learn
    assert (learn.seed, learn.effort) == (4, "low")


def test_recipe_settings_are_a_free_table_by_dotted_name(place: Path) -> None:
    write(
        place,
        home='[learn.settings]\nepochs = 4\n"optimization.learning_rate" = 1e-4',
        project="[learn.settings.optimization]\nlearning_rate = 2e-4",
    )
    result = found(place, ENGRAIN_LEARN__SETTINGS__REPLAY__RESERVOIR__SHARE="0.5")
    assert result.config.learn.settings == {
        "epochs": 4,
        "optimization.learning_rate": 2e-4,
        "replay.reservoir.share": 0.5,
    }
    assert result.origins["learn.settings.optimization.learning_rate"].kind == "project file"


def test_flags_may_give_the_table_whole(place: Path) -> None:
    result = found(place, {"learn.settings": {"optimization.learning_rate": "1e-3"}})
    assert result.config.learn.settings == {"optimization.learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learn.seed", "7", 7),
        ("gate.min_recall", "1", 1.0),
        ("gate.enabled", "off", False),
        ("gate.enabled", "true", True),
        ("model.source", "123", "123"),
        ("learn.effort", "high", "high"),
        ("chat.temperature", "0.7", 0.7),
    ],
)
def test_text_is_read_as_the_type_of_the_setting(place: Path, key: str, text: str, value) -> None:
    section, name = key.split(".")
    variable = f"ENGRAIN_{section.upper()}__{name.upper()}"
    for result in (found(place, {key: text}), found(place, **{variable: text})):
        got = getattr(getattr(result.config, section), name)
        assert got == value
        assert type(got) is type(value)


@pytest.mark.parametrize(
    ("toml", "said", "remedy"),
    [
        ("[learn]\nefort = 'low'", "learn.efort", "learn.effort"),
        ("[lern]\neffort = 'low'", "lern.effort", "learn.effort"),
        ("[zzz]\nqqq = 1", "zzz.qqq", "Sections: model, learn"),
        ("[learn]\nqqqqqqqqqqqq = 1", "learn.qqqqqqqqqqqq", "recipe"),
        ("learn = 3", "'learn'", ""),
        ("[learn]\nsettings = 3", "learn.settings", "table"),
        ("[learn.seed]\nx = 3", "learn.seed.x", "learn.seed"),
        ("[learn]\neffort = 'huge'", "learn.effort is 'huge'", "'low' or 'normal' or 'high'"),
        ("[learn]\nseed = '3'", "learn.seed is '3'", "a whole number"),
        ("[learn]\nseed = true", "learn.seed is True", "a whole number"),
        ("[learn]\nseed = 1.5", "learn.seed is 1.5", "a whole number"),
        ("[learn]\nseed = -1", "learn.seed is -1", ""),
        ("[gate]\nmin_recall = nan", "gate.min_recall is nan", "a number"),
        ("[gate]\nmin_recall = 2", "outside 0 to 1", ""),
        ("[gate]\nenabled = 1", "gate.enabled is 1", "true or false"),
        ("[model]\nsource = ['a']", "model.source is ['a']", "text"),
        ("[learn.settings]\nx = [1]", "learn.settings.x is [1]", "number"),
        ("[learn", "is not TOML", ""),
    ],
)
def test_mistakes_in_a_file_are_named_with_place_and_remedy(
    place: Path, toml: str, said: str, remedy: str
) -> None:
    write(place, project=toml)
    with pytest.raises(ConfigError) as error:
        found(place)
    assert str(place / "engrain.toml") in error.value.message
    assert said in error.value.message
    assert error.value.remedy
    assert remedy in error.value.remedy


def test_mistakes_in_variables_and_flags_are_named(place: Path) -> None:
    with pytest.raises(ConfigError, match="ENGRAIN_LEARN__SEDE.*learn.seed"):
        found(place, ENGRAIN_LEARN__SEDE="1")
    with pytest.raises(ConfigError, match="learn.seed is 'many'"):
        found(place, {"learn.seed": "many"})


def test_variables_without_section_are_not_settings(place: Path) -> None:
    assert found(place, ENGRAIN_HOME="/x", ENGRAIN_OTHER="1").config == Config()


def test_files_that_cannot_be_read_are_named(place: Path) -> None:
    (place / "engrain.toml").write_bytes(b"[learn]\nrecipe = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        found(place)
    (place / "engrain.toml").unlink()
    (place / "engrain.toml").mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        found(place)


def test_digest_follows_values_not_origins(place: Path) -> None:
    default = found(place).digest
    assert found(place, {"learn.seed": 0}).digest == default
    assert found(place, {"learn.seed": 1}).digest != default
    assert found(place, {"learn.settings": {"epochs": 2}}).digest != default


def test_rows_hide_passwords(place: Path) -> None:
    rows = {k: v for k, v, _ in found(place, {"ledger.url": "postgresql://me:pw@host/db"}).rows()}
    assert rows["ledger.url"] == "postgresql://me:***@host/db"


def test_home_is_flag_then_variable_then_platform_folder(tmp_path: Path) -> None:
    assert home_folder(tmp_path, environ={"ENGRAIN_HOME": "/else"}) == tmp_path
    assert home_folder(environ={"ENGRAIN_HOME": "~/mine"}) == Path.home() / "mine"
    assert home_folder(environ={}).name == "engrain"


def test_resolve_reads_the_home_of_the_environment(own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "config.toml").write_text("[learn]\nseed = 9")
    result = resolve(environ=os.environ, folder=own_home)
    assert (result.home, result.config.learn.seed) == (own_home, 9)


def test_schema_describes_every_setting() -> None:
    schema = json_schema()
    described = {
        f"{section}.{name}": spec
        for section, body in schema["properties"].items()
        for name, spec in body["properties"].items()
    }
    assert list(described) == keys()
    assert all(spec["description"] and "default" in spec for spec in described.values())
    assert described["learn.effort"]["enum"] == ["low", "normal", "high"]
    assert described["gate.min_recall"]["maximum"] == 1
    assert json.loads(json.dumps(schema)) == schema


def test_the_gate_is_configured_by_its_own_names_and_defaults() -> None:
    from engrain.exam.decision import GateThresholds

    names = [field.name for field in fields(config.GateConfig)]
    assert names == ["enabled", *(field.name for field in fields(GateThresholds))]
    assert GateThresholds.from_config(config.GateConfig()) == GateThresholds()
    assert GateThresholds.from_config(config.GateConfig(alpha=0.2)) == GateThresholds(alpha=0.2)


def test_defaults_lie_in_their_own_ranges(place: Path) -> None:
    defaults = {
        f"{section.name}.{name}": value
        for section in fields(Config)
        for name, value in Config().to_dict()[section.name].items()
        if not isinstance(value, dict)
    }
    assert found(place, defaults).config == Config()


@given(
    text=st.text(st.characters(codec="utf-8")),
    number=st.floats(allow_nan=False, allow_infinity=False),
    count=st.integers(0, 2**31 - 1),
    flag=st.booleans(),
    inner=st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_written_files_read_back_the_same(
    text: str, number: float, count: int, flag: bool, inner: str
) -> None:
    wanted = {
        "model.source": text,
        "model.local_only": flag,
        "learn.seed": count,
        f"learn.settings.{inner}": number,
    }
    tree = tomllib.loads(to_toml(wanted))
    assert tree["model"] == {"source": text, "local_only": flag}
    assert tree["learn"] == {"seed": count, "settings": {inner: number}}
