"""Hooks of MkDocs: adds the generated reference, and shows links to files of the repository."""

import re

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
"""A link to what is no page: the site shows its text, the repository's viewer links it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links that leave the site into their text."""
    if "/" in page.file.src_uri:
        return markdown
    return _OUTSIDE.sub(r"\1", markdown)
