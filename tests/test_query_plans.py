"""No query of a domain reads a whole table: every literal SQL is shown to SQLite, which says how it would run it."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from happy_light.store.sqlite import schema

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
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as joiner), attr="join")):
            return [joiner.join(["?"] * 3)]  # a list of placeholders
        case ast.Name(id=name):
            found = assigned(name, function, names)
            assert found, f"what is {name} in the SQL of {function.name}?"
            return found
    raise AssertionError(f"cannot tell what {ast.unparse(node)} is in the SQL of {function.name}")


def assigned(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, object]) -> list[str]:
    """The texts that a local name is given in a function."""
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
            whole = re.match(r"SCAN (?!CONSTANT)\w+", step)
            assert not whole or sql in BOUNDED, (place, sql, plan)
    database.close()
