from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from engrain.errors import HomeReadOnlyError, LedgerError
from engrain.ledger import migrations
from engrain.ledger.schema import Table
from tests.ledger.ledger_tools import fold_digest, learn, new_home, open_ledger


def shape(url: str) -> dict[str, object]:
    engine = create_engine(url)
    found = inspect(engine)
    tables = {
        name: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name)],
            found.get_pk_constraint(name)["constrained_columns"],
            sorted(
                (k["constrained_columns"], k["referred_table"], k["referred_columns"])
                for k in found.get_foreign_keys(name)
            ),
            sorted(u["column_names"] for u in found.get_unique_constraints(name)),
            sorted(str(i["column_names"]) for i in found.get_indexes(name)),
        )
        for name in found.get_table_names()
    }
    engine.dispose()
    return tables


def test_all_migrations_give_the_declared_tables(tmp_path: Path) -> None:
    new_home(tmp_path).close()
    declared = f"sqlite:///{tmp_path}/declared.db"
    engine = create_engine(declared)
    Table.metadata.create_all(engine)
    engine.dispose()
    assert shape(f"sqlite:///{tmp_path}/ledger.db") == shape(declared)


def test_a_missing_migration_is_applied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_home(tmp_path) as ledger:
        learn(ledger, 1)
    added: list[str] = []

    def m002_note(connection: migrations.Connection) -> None:
        connection.execute(text("CREATE TABLE note (line VARCHAR(10))"))
        added.append("note")

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, m002_note])
    with pytest.raises(HomeReadOnlyError):
        open_ledger(tmp_path, read_only=True)
    for _ in range(2):
        with open_ledger(tmp_path) as ledger:
            assert ledger.verify(fold_digest) == []
    assert added == ["note"]


def test_a_migration_that_fails_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_home(tmp_path).close()
    before = shape(f"sqlite:///{tmp_path}/ledger.db")

    def m002_broken(connection: migrations.Connection) -> None:
        connection.execute(text("CREATE TABLE note (line VARCHAR(10))"))
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, m002_broken])
        with pytest.raises(RuntimeError):
            open_ledger(tmp_path)
    assert shape(f"sqlite:///{tmp_path}/ledger.db") == before
    open_ledger(tmp_path).close()


def test_a_newer_ledger_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_home(tmp_path).close()
    monkeypatch.setattr(migrations, "MIGRATIONS", [])
    with pytest.raises(LedgerError, match="version 1") as caught:
        open_ledger(tmp_path)
    assert "Upgrade" in caught.value.remedy


def test_the_tables_can_be_made_in_postgresql() -> None:
    for table in Table.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))
