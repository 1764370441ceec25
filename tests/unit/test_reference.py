"""The reference that the site is built with: complete, and made from the code alone."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from routoo import errors
from routoo.settings import REPOSITORY, Settings
from worker.metrics import described_families


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    folder = str(REPOSITORY / ".ci" / "site")
    sys.path.insert(0, folder)
    try:
        yield __import__("reference")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    return reference.pages()


def rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_setting_has_a_meaning(pages: dict[str, str]) -> None:
    found = {row[0].strip("`"): row[1] for row in rows(pages["reference/settings.md"])}
    assert {f"ROUTOO_{name.upper()}" for name in Settings.model_fields} <= set(found)
    assert all(found.values())


def test_every_command_says_what_it_does_and_every_option_what_it_means(
    pages: dict[str, str],
) -> None:
    for name in ("routoo", "routoo-producer", "routoo-worker"):
        page = pages[f"reference/{name}.md"]
        sections = page.split("\n## ")[1:]
        assert len(sections) > 3
        for section in sections:
            title, _, text = section.partition("\n")
            assert text.strip(), title
            assert all(row[1] for row in rows(section)), title


def test_every_column_has_a_comment_and_every_metric_a_meaning(pages: dict[str, str]) -> None:
    for row in rows(pages["reference/tables.md"]):
        assert row[2], row
    names = {sample.name for family in described_families() for sample in family.samples}
    assert names == {row[0].strip("`") for row in rows(pages["reference/prometheus.md"])[1:]}


def test_every_error_stands_in_the_reference(pages: dict[str, str]) -> None:
    known = {one.__name__ for one in vars(errors).values() if isinstance(one, type)}
    known = {name for name in known if name.endswith("Error")} - {"RoutooError"}
    assert all(f"`{name}`" in pages["reference/errors.md"] for name in known)


def test_every_path_of_the_api_is_described(pages: dict[str, str]) -> None:
    page = pages["reference/http-api.md"]
    assert "## `POST /v1/batches`" in page
    for section in page.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        assert text.strip(), title


def test_every_page_stands_in_the_navigation() -> None:
    """MkDocs says so too, where `make docs` is run."""
    nav = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = {line.rpartition(": ")[2].strip() for line in nav.splitlines() if line.strip()}
    docs = REPOSITORY / "docs"
    written = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    assert written == {name for name in named if name.endswith(".md")} - {
        name for name in named if name.startswith("reference/")
    }
