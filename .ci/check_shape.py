"""Check the shape of the code: no circle of imports, and modules and functions of a size to read.

Circles, and imports of names that aren't there, are looked for in programs, library, tests and
scripts. Imports inside functions count too, those for type checkers alone make no circle. Sizes are
those of programs and library. A module that one other alone imports, be it for types, is a part of
that one unless a newcomer would look for it by its name: docs/contributing.md lists which these
are. Their number has a limit, and so has that of those beside the seams, where one file a format, a
grader or a stage is how the code is cut.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("routoo", "producer", "worker")
FOLDERS = (*PROGRAMS, "tests", "examples", "benchmarks")
LONGEST_MODULE_LINES = 400
MEDIAN_FUNCTION_LINES = 10
P95_FUNCTION_LINES = 25
SINGLE_IMPORTERS = 50
SINGLE_IMPORTERS_BESIDE_SEAMS = 32
"""None of these is reached, but by a module's lines."""
SEAMS = (
    "producer.rows.*",
    "routoo.client.formats.*",
    "routoo.evaluation.graders.*",
    "routoo.pipeline.*.channel",
    "routoo.pipeline.*.shard",
    "routoo.predictor.views.*",
    "routoo.selector.solvers.*",
    "producer.client.*",
    "routoo.router",
)
"""Where one registry or entry imports what has a file of its own: formats, graders, views, solvers,
stages, and what people import.
"""


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its file, its syntax tree, and its length in lines."""

    path: Path
    tree: ast.Module
    lines: int

    @property
    def is_measured(self) -> bool:
        """Whether it is part of a program or the library; tests and scripts have no limits."""
        return self.path.relative_to(ROOT).parts[0] in PROGRAMS


def main() -> int:
    """Print what is wrong and the figures; return 1 if anything is wrong."""
    modules = {_name(path): _read(path) for folder in FOLDERS for path in _files(folder)}
    graph = {
        name: set(_imported(_at_run_time(one.tree), modules)) - {name}
        for name, one in modules.items()
    }
    measured = {name: one for name, one in modules.items() if one.is_measured}
    singles = _singles(measured)
    beside = [name for name in singles if not any(fnmatch(name, seam) for seam in SEAMS)]
    lengths = [length for one in measured.values() for length in _function_lines(one.tree)]
    middle, p95 = median(lengths), quantiles(lengths, n=20)[-1]
    problems = [
        *_circle(graph),
        *_missing(modules),
        *_too_long(measured),
        *_functions(middle, p95),
        *_too_many(singles, beside),
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(
        f"{len(modules)} modules, {len(measured)} of them of programs and library, of which"
        f" {len(singles)} have one importer ({len(beside)} beside seams);"
        f" lines of functions: median {middle:g}, p95 {p95:g}"
    )
    return 1 if problems else 0


def _circle(graph: Mapping[str, set[str]]) -> Iterator[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"modules import each other: {' <- '.join(error.args[1])}"


def _missing(modules: Mapping[str, Module]) -> Iterator[str]:
    """Yield what is imported from a module of ours that doesn't define it: types check less."""
    for name, one in modules.items():
        for node in ast.walk(one.tree):
            if isinstance(node, ast.ImportFrom) and node.module in modules and not node.level:
                known = _defined(modules[node.module].tree)
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    if alias.name not in known and inner not in modules:
                        yield f"{name} imports {alias.name}, which {node.module} doesn't define"


def _defined(tree: ast.AST) -> set[str]:
    """Return the names that a module binds, those of its functions and classes left out."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Import() | ast.ImportFrom():
                found |= {(one.asname or one.name).partition(".")[0] for one in node.names}
            case ast.Name(ctx=ast.Store()):
                found.add(node.id)
            case _:
                found |= _defined(node)
    return found


def _too_long(modules: Mapping[str, Module]) -> Iterator[str]:
    for name, one in modules.items():
        if one.lines > LONGEST_MODULE_LINES:
            yield f"{name} has {one.lines} lines, more than {LONGEST_MODULE_LINES}"


def _functions(middle: float, p95: float) -> Iterator[str]:
    if middle >= MEDIAN_FUNCTION_LINES:
        yield f"the median function has {middle:g} lines, not under {MEDIAN_FUNCTION_LINES}"
    if p95 >= P95_FUNCTION_LINES:
        yield f"one function of twenty has {p95:g} lines or more, not under {P95_FUNCTION_LINES}"


def _too_many(singles: Mapping[str, str], beside: Sequence[str]) -> Iterator[str]:
    found = ((list(singles), SINGLE_IMPORTERS), (beside, SINGLE_IMPORTERS_BESIDE_SEAMS))
    for names, limit in found:
        if len(names) >= limit:
            yield f"{len(names)} modules have one importer, not under {limit}:"
            yield from (f"  {name} <- {singles[name]}" for name in names)


def _singles(modules: Mapping[str, Module]) -> dict[str, str]:
    """Return the modules that one module of programs and library names, and which one it is."""
    pairs = [
        (found, name)
        for name, one in modules.items()
        for found in set(_imported(ast.walk(one.tree), modules)) - {name}
    ]
    counts = Counter(found for found, _ in pairs)
    return {
        found: name
        for found, name in sorted(pairs)
        if counts[found] == 1 and modules[found].path.name != "__init__.py"
    }


def _function_lines(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of each function and method, with its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def _files(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def _read(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(path, ast.parse(text), len(text.splitlines()))


def _name(path: Path) -> str:
    """Return the name by which a module is imported; benchmarks import each other as scripts."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    inner = parts[1:] if parts[0] == "benchmarks" else parts
    return ".".join(inner).removesuffix(".__init__")


def _imported(nodes: Iterable[ast.AST], modules: Mapping[str, Module]) -> Iterator[str]:
    """Yield the modules of ours that import statements name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                inner = f"{node.module}.{one.name}"
                if inner in modules or node.module in modules:
                    yield inner if inner in modules else node.module


def _at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those below `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _at_run_time(node)


if __name__ == "__main__":
    sys.exit(main())
