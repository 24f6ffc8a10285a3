"""The structure of the code: imports point one way and in no circle, files are short, public names have docstrings."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "happy_light"
LINES_MAX = 400
# A module imports only from the rows below its own, or from its own package. The longest prefix of its name counts.
# Modules of the last row may import each other.
ROWS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli", "pytest_plugin"),
    ("commands", "testing"),
    ("importing",),
    ("server",),
    ("app",),
    ("admin", "ui"),
    ("domains",),
    ("openapi",),
    ("live",),
    ("http",),
    ("context",),
    # The state that a domain keeps in the context.
    (
        "domains.backup_state",
        "domains.client_log",
        "domains.docs.documents",
        "domains.docs.page",
        "domains.doctor_state",
        "domains.health_check",
        "domains.presence.operations",
        "domains.presence.tracker",
        "domains.probes",
        "domains.rpc.registry",
        "domains.upload_rate",
        "http.limits",
        "http.recent_answers",
        "http_client",
        "ui.compressed_files",
        "ui.web_app_config",
    ),
    ("cluster",),
    ("auth", "http.addresses", "http.forwarded", "ui.look"),
    ("clients",),
    ("stack",),
    ("store",),
    ("bus", "blobs", "data_dir", "images"),
    ("config",),
    ("pending_moves",),
    (
        "wire",
        "json_codec",
        "ids",
        "clock",
        "content_types",
        "compression",
        "errors",
        "counters",
        "log_setup",
        "atomic_write",
        "certificates",
        "ownership",
        "sequencer",
        "threads",
        "pace",
    ),
)
LEVELS = {prefix: index for index, row in enumerate(ROWS) for prefix in row}
ONLY = {
    "hypercorn": {"stack/hypercorn_protocol.py", "stack/hypercorn_server.py", "stack/hypercorn_stream.py"},
    "h11": {
        "stack/http1.py",
        "stack/hypercorn_protocol.py",
        "stack/httptools_connection.py",
        "stack/httptools_parser.py",
    },
    "httptools": {"stack/httptools_parser.py"},
    "boto3": {"blobs/s3_client.py"},
    "botocore": {"blobs/s3_client.py"},
    "engineio": set(),
    "socketio": {"live/binary_packets.py"},
    "redis": {"admin/doctor_redis.py", "cluster/redis_link.py", "cluster/redis_node.py"},
    "aiosqlite": {"store/sqlite/connection.py"},
}
# Modules that hold nothing but a docstring, so that importing a module below them runs no code.
EMPTY = ("domains", "domains.docs", "domains.presence", "domains.rpc", "http", "ui")


@cache
def trees() -> dict[str, ast.Module]:
    """Every module's syntax tree by its name without the leading `happy_light.`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


@cache
def imported(tree: ast.Module) -> list[str]:
    """Return the full names of what a module imports anywhere in it, in functions and for type checking too."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def module_of(full: str) -> str | None:
    """Return the module of this project that an imported name lies in; None for other libraries and for the root."""
    name = full.removeprefix("happy_light.")
    if name == full:
        return None
    while name and name not in trees():
        name = name.rpartition(".")[0]
    return name or None


@cache
def graph() -> dict[str, set[str]]:
    """Which modules of the project each module imports, the packages around them included."""
    edges: dict[str, set[str]] = {}
    for name, tree in trees().items():
        edges[name] = set()
        for full in imported(tree):
            target = module_of(full)
            while target:
                # A package that is being imported already runs no second time.
                if target != name and not name.startswith(f"{target}."):
                    edges[name].add(target)
                target = target.rpartition(".")[0]
    return edges


def level(name: str) -> int:
    """Return the row of a module: that of its longest prefix."""
    prefix = name
    while prefix not in LEVELS:
        prefix = prefix.rpartition(".")[0]
        assert prefix, f"{name} stands in no row"
    return LEVELS[prefix]


def test_imports_point_downwards() -> None:
    wrong = []
    for name, targets in graph().items():
        for target in targets - set(EMPTY):
            near = name.partition(".")[0] == target.partition(".")[0] or level(name) == len(ROWS) - 1
            below = level(target) > level(name) or (near and level(target) == level(name))
            if not below:
                wrong.append(f"{name} -> {target}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {name: targets - set(EMPTY) for name, targets in graph().items()}

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for target in edges[waiting.pop()] - found:
                found.add(target)
                waiting.append(target)
        return found

    assert {name for name in edges if name in reachable(name)} == set()


def test_packages_above_the_context_run_no_code_when_their_state_is_imported() -> None:
    for name in EMPTY:
        body = trees()[name].body
        assert len(body) <= 1 and all(isinstance(node, ast.Expr) for node in body), f"{name} is more than a docstring"


def test_only_named_files_know_the_large_libraries() -> None:
    for name, tree in trees().items():
        file = f"{name.replace('.', '/')}.py"
        for full in imported(tree):
            library = full.split(".")[0]
            assert library not in ONLY or file in ONLY[library], f"{name} imports {full}"


def test_files_can_be_read_in_one_sitting() -> None:
    for root in (PACKAGE, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            count = len(path.read_text("utf-8").splitlines())
            assert count <= LINES_MAX, f"{path} has {count} lines"


def test_public_names_have_docstrings() -> None:
    silent = []
    for name, tree in trees().items():
        if tree.body and not ast.get_docstring(tree):
            silent.append(name)
        handlers = set()  # endpoints and handlers: their row and the struct that they take say what they do
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                handlers |= {argument.id for argument in node.args if isinstance(argument, ast.Name)}
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if not node.name.startswith("_") and node.name not in handlers and not ast.get_docstring(node):
                silent.append(f"{name}: {node.name}")
    assert silent == []


def test_no_module_has_a_meaningless_name() -> None:
    for name in trees():
        assert not {"utils", "helpers", "common", "misc", "manager", "service", "base"} & set(name.split(".")), name
