"""Every SQL text of the package: SQL that both engines understand, and in the domains none that reads a whole table."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from happy_light.store.sqlite import schema
from happy_light.store.sqlite.dialect import DIALECT

PACKAGE = Path(__file__).parent.parent / "happy_light"
RUNS = {"fetch_one", "fetch_all", "execute", "executemany"}
BOUNDED = {
    "SELECT count(*) FROM (SELECT 1 FROM accounts LIMIT 1) AS found",  # /health: whether the database answers
    "SELECT 1 FROM accounts LIMIT 1",  # whether this server has an account
    "DELETE FROM auth_requests WHERE created_at < ? OR picked_up_at < ? OR created_at < "
    "(SELECT created_at FROM auth_requests ORDER BY created_at DESC LIMIT 1 OFFSET ?)",  # steps over what it keeps
}


def queries() -> Iterator[tuple[str, str]]:
    """(place, SQL) of every query in the domains; names inside are replaced by all that they can stand for."""
    for path in sorted((PACKAGE / "domains").rglob("*.py")):
        module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in RUNS
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id in ("tx", "rx")
                    and node.args
                ):
                    for sql in texts(node.args[0], function, vars(module)):
                        yield f"{path.relative_to(PACKAGE)}:{node.lineno}", sql


def texts(node: ast.expr, function: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, object]) -> list[str]:
    """Everything that an expression in a query can be."""
    match node:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.JoinedStr(values=values):
            return ["".join(parts) for parts in itertools.product(*(texts(v, function, names) for v in values))]
        case ast.FormattedValue(value=value):
            return texts(value, function, names)
        case ast.BinOp(left=left, right=right):
            return ["".join(p) for p in itertools.product(texts(left, function, names), texts(right, function, names))]
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body, function, names) + texts(orelse, function, names)
        case ast.Name(id=name) if isinstance(names.get(name), str):
            return [str(names[name])]
        case ast.Subscript(value=ast.Name(id=name)) if isinstance(names.get(name), dict):
            return [str(value) for value in names[name].values()]  # type: ignore[attr-defined]
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as joiner), attr="join"),
            args=[ast.BinOp(left=ast.List(elts=[ast.Constant(value=str() as place)]))],
        ):
            return [joiner.join([place] * 3)]  # a list of placeholders
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as joiner), attr="join")):
            return [joiner.join(["?"] * 3)]
        case ast.Call(func=ast.Attribute(attr="size_of")):
            return [DIALECT.size_of("1")]  # the columns are in the SELECT's own table
        case ast.Name(id=name):
            found = assigned(name, function, names)
            assert found, f"what is {name} in the SQL of {function.name}?"
            return found
    raise AssertionError(f"cannot tell what {ast.unparse(node)} is in the SQL of {function.name}")


def assigned(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, object]) -> list[str]:
    """Return the texts that a local name is given in a function."""
    found: list[str] = []
    for node in ast.walk(function):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Tuple):
            for index, target in enumerate(node.target.elts):
                if isinstance(target, ast.Name) and target.id == name:
                    table = next(n for n in ast.walk(node.iter) if isinstance(n, ast.Name))
                    pairs = names[table.id]
                    assert isinstance(pairs, dict)
                    found += [str(pair[index]) for pair in pairs.items()]
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                found += texts(node.value, function, names)
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple | ast.IfExp):
                values = [node.value] if isinstance(node.value, ast.Tuple) else [node.value.body, node.value.orelse]
                for value in values:
                    assert isinstance(value, ast.Tuple)
                    for element, given in zip(target.elts, value.elts, strict=True):
                        if isinstance(element, ast.Name) and element.id == name:
                            found += texts(given, function, names)
    return found


def test_every_query_finds_its_rows_by_an_index() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(schema.schema_sql())
    found = sorted(set(queries()))
    assert len(found) > 60
    for place, sql in found:
        if not re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH)", sql):
            continue
        numbers = [int(number) if number else 0 for number in re.findall(r"\?(\d*)", re.sub(r"'[^']*'", "", sql))]
        count = max(numbers, default=0) or len(numbers)
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * count)]
        for step in plan:
            # `wanted` are the values of the query itself.
            whole = re.match(r"SCAN (?!CONSTANT|\d+ CONSTANT|wanted)\w+", step)
            assert not whole or sql in BOUNDED, (place, sql, plan)
    database.close()


SQLITE_ONLY = re.compile(
    r"\?\d|\bifnull\b|\biif\b|\bNOCASE\b|\bINDEXED BY\b|\bLIMIT -1\b|\b(INSERT|UPDATE) OR \w+\b|\bREPLACE INTO\b"
    r"|\browid\b|\bPRAGMA\b|\bsqlite_\w+|\bGLOB\b|\bCROSS JOIN \w+ \w+ ON\b|\bjson_\w+|\bgroup_concat\b|\bstrftime\b"
    r"|\b(max|min)\([^()]*,|\bzeroblob\b|\btypeof\b|\btotal\(",
    re.I,
)
STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|PRAGMA)\s", re.I)
ABOUT_THE_FILE = {  # commands that a SQLite file has and PostgreSQL does not, or does with its own tools
    "admin/backup_archive.py",
    "admin/doctor_local.py",
    "admin/prune.py",
    "commands/import_.py",
}


def statements() -> Iterator[tuple[str, str]]:
    """Yield (file, text) of every SQL text outside of the SQLite engine and of what reads other servers' files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if name.startswith(("store/sqlite/", "importing/")):
            continue
        tree = ast.parse(path.read_text())
        parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(v.value if isinstance(v, ast.Constant) else "x" for v in node.values)  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
                text = node.value
            else:
                continue
            if STATEMENT.match(text):
                yield name, text


def without_name(sql: str) -> bool:
    """Return whether there is a subquery in FROM that has no name: PostgreSQL before 16 refuses it."""
    for match in re.finditer(r"\b(?:FROM|JOIN)\s*\(\s*SELECT\b", sql, re.I):
        depth = 1
        end = match.start() + match[0].index("(") + 1
        while depth:
            depth += {"(": 1, ")": -1}.get(sql[end], 0)
            end += 1
        if not re.match(r"\s*AS\s+\w+", sql[end:], re.I):
            return True
    return False


def test_sql_is_what_both_engines_understand() -> None:
    found = sorted({*statements(), *queries()})
    assert len(found) > 150
    wrong = [
        (name, sql)
        for name, sql in found
        if without_name(sql) or (SQLITE_ONLY.search(sql) and not (name in ABOUT_THE_FILE and "PRAGMA" in sql))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ?1", "SELECT ifnull(a, b) FROM t", "SELECT iif(a, b, c) FROM t", "SELECT a COLLATE NOCASE FROM t",
        "SELECT a FROM t INDEXED BY i", "SELECT a FROM t LIMIT -1 OFFSET ?", "INSERT OR IGNORE INTO t (a) VALUES (?)",
        "UPDATE t SET a = max(a, ?)", "DELETE FROM t WHERE rowid = ?", "PRAGMA page_count",
    ],
)  # fmt: skip
def test_sql_of_sqlite_alone_is_noticed(sql: str) -> None:
    assert STATEMENT.match(sql)
    assert SQLITE_ONLY.search(sql)


def test_a_subquery_without_a_name_is_noticed() -> None:
    assert without_name("SELECT count(*) FROM (SELECT (1) FROM t LIMIT 1)")
    assert not without_name("SELECT count(*) FROM (SELECT (1) FROM t LIMIT 1) AS found WHERE a IN (SELECT 1)")
