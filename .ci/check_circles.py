"""Check that no modules import each other in a circle: programs, library, tests and scripts.

Imports inside functions count too, those for type checkers alone don't.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("routoo", "producer", "worker", "tests", "examples", "benchmarks")


def main() -> int:
    """Print a circle if there is one, and return 1 then."""
    modules = {_name(path): path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    graph = {name: set(_imported(path, modules)) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        print("modules import each other:", " <- ".join(error.args[1]), file=sys.stderr)
        return 1
    print(f"{len(modules)} modules, no circle")
    return 0


def _name(path: Path) -> str:
    """Return the name by which a module is imported; benchmarks import each other as scripts."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    inner = parts[1:] if parts[0] == "benchmarks" else parts
    return ".".join(inner).removesuffix(".__init__")


def _imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in _at_run_time(ast.parse(path.read_text(encoding="utf-8"))):
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
