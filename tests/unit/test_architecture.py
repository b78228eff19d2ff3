"""The house: which module may know of which (design.md, chapter 6)."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.sources import nodes, parsed

ROOT = Path(__file__).parents[2] / "uploader"
# each module's row in the table of chapter 6, a package as a whole
ROWS = {
    "cli": 9,
    "serve": 8,
    "run": 7,
    "sandbox": 6,
    "status": 6,
    "engine": 6,
    "attempt": 5,
    "flow": 4,
    "worker": 4,
    "jobs": 4,
    "insights": 4,
    "webhook": 4,
    "notify": 4,
    "client": 3,
    "ledger": 3,
    "manifest": 3,
    "results": 3,
    "audio": 2,
    "http_server": 1,
    "pace": 3,
    "policy": 2,
    "parameters": 2,
    "settings": 1,
    "logs": 1,
    "certificates": 1,
    "model": 0,
    "errors": 0,
    "events": 0,
    "secrets": 0,
    "text": 0,
    "toml": 0,
    "urls": 0,
    "pipes": -1,
    "deferred": -1,
    "early_signals": -1,
}

# the package itself, its version and `python -m uploader`: no parts of the house
DOORS = {"__init__": -1, "__version__": -1, "__main__": 10}

SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s.+\sSET|DELETE\s+FROM|CREATE\s+TABLE|PRAGMA|BEGIN IMMEDIATE)\b",
    re.DOTALL,
)


def part(path: Path) -> str:
    """Return the module of the house that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [path for path in sorted(ROOT.rglob("*.py")) if part(path) != "__init__"]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a file imports, wherever in it."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every module of the house that a file imports."""
    for line, name in imports(path):
        house, _, rest = name.partition(".")
        if house == "uploader" and rest:
            yield line, rest.split(".", maxsplit=1)[0]


def files(module: str) -> list[Path]:
    """Return the files of one module of the house."""
    found = [path for path in FILES if part(path) == module]
    assert found, f"no such module: {module}"
    return found


def where(path: Path, node: ast.expr | ast.ExceptHandler) -> str:
    """Return file and line of a finding."""
    return f"{path.relative_to(ROOT)}, line {node.lineno}"


def test_every_module_has_its_row() -> None:
    """A new module is given its place in the house first, and a row that lost its module goes."""
    assert {part(path) for path in FILES} == {*ROWS, "__main__"}


@pytest.mark.parametrize("module", [*ROWS, "__main__"])
def test_a_module_imports_only_from_lower_rows(module: str) -> None:
    """Arrows point down: a module knows the rows below its own, and the inside of its own package."""
    rows = ROWS | DOORS
    wrong = [
        f"{path.relative_to(ROOT)}, line {line}: row {rows[module]} imports {other} of row {rows[other]}"
        for path in files(module)
        for line, other in imported_parts(path)
        if other != module and rows[other] >= rows[module]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is_for() -> None:
    """A module's docstring is its sentence; `__main__` and the packages' doors have one too."""
    for path in [*FILES, ROOT / "__init__.py"]:
        docstring = ast.get_docstring(parsed(path))
        assert docstring, path
        assert docstring.splitlines()[0].endswith("."), path


@pytest.mark.parametrize("module", ["model", "policy"])
def test_model_and_policy_know_no_clock_no_chance_and_no_loop(module: str) -> None:
    """Decide, then do: time and jitter come in as arguments, and nothing is opened."""
    forbidden = {"asyncio", "time", "random", "secrets", "threading", "os", "socket", "sqlalchemy", "aiohttp"}
    for path in files(module):
        assert not forbidden & {name.split(".")[0] for _, name in imports(path)}, path
        asked = {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
        assert not {"now", "utcnow", "today"} & asked, path


def test_the_sandbox_shares_no_code_with_the_client() -> None:
    """The judge of a client must not make its mistakes: beside itself it knows the errors alone."""
    known = {other for path in files("sandbox") for _, other in imported_parts(path)}
    assert known == {"sandbox", "errors"}


def test_nothing_below_a_run_knows_the_sandbox() -> None:
    """Engine and client do not know the sandbox, so that a rehearsal is the real thing."""
    knowing = {part(path) for path in FILES for _, other in imported_parts(path) if other == "sandbox"}
    assert knowing == {"sandbox", "run", "cli"}


@pytest.mark.parametrize("module", [module for module in ROWS if module != "ledger"])
def test_sql_lives_in_the_ledger_alone(module: str) -> None:
    """SQLAlchemy, drivers and statements are nowhere else."""
    for path in files(module):
        imported = {name.split(".")[0] for _, name in imports(path)}
        assert not {"sqlalchemy", "sqlite3", "psycopg", "asyncpg"} & imported, path
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not SQL.search(node.value), where(path, node)


def test_the_ledger_is_seen_to_use_sql() -> None:
    """The search that finds no SQL elsewhere finds it where it is."""
    assert any(name.startswith("sqlalchemy") for path in files("ledger") for _, name in imports(path))
    assert SQL.search("SELECT id FROM items")
    assert SQL.search("PRAGMA journal_mode=WAL")
    assert not SQL.search("the items that were selected from the manifest")


def task_starts(module: str) -> list[str]:
    """List the places where a module creates asyncio tasks."""
    found = []
    for path in files(module):
        for node in nodes(path):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if isinstance(node, ast.expr) and name in ("create_task", "ensure_future", "TaskGroup"):
                found.append(f"{where(path, node)}: {name}")
    return found


@pytest.mark.parametrize("module", [module for module in ROWS if module not in ("engine", "sandbox")])
def test_only_the_engine_creates_tasks(module: str) -> None:
    """The engine is the only place that creates tasks; the sandbox plays another program."""
    assert not task_starts(module)


def test_the_engine_is_seen_to_create_tasks() -> None:
    """The search that finds no tasks elsewhere finds those that there are."""
    assert task_starts("engine")


def test_the_project_names_the_libraries_that_it_imports_and_no_other() -> None:
    """An import without a dependency breaks the next install; a dependency without an import is dead weight."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    used = [*project["dependencies"], *(name for extra in extras.keys() - {"test", "dev"} for name in extras[extra])]
    named = {re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0].replace("-", "_") for requirement in used}
    imported = {name.split(".")[0] for path in FILES for _, name in imports(path)} - {"uploader"}
    assert imported - sys.stdlib_module_names == named | {"yarl"}  # a part of aiohttp's own interface


def test_an_exception_is_never_swallowed_whole() -> None:
    """No bare `except:`; whoever catches BaseException raises it again."""
    for path in FILES:
        for node in nodes(path):
            if not isinstance(node, ast.ExceptHandler):
                continue
            assert node.type is not None, where(path, node)
            if isinstance(node.type, ast.Name) and node.type.id == "BaseException":
                assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), where(path, node)
