"""Grades answers that predict what a program prints or returns. Nothing is ever run.

The stated output is the first of these that is found: what follows the last `assert ... ==`; what
follows the last "output:" or "result:", or the code block that stands there; the only code block;
the only piece of inline code; the whole answer. Several different blocks, none of them announced,
are ambiguous. Texts are compared without space at line ends; where both are Python literals, their
values and types are.
"""

import ast
import re

from routoo.evaluation.graders.grade import Grade, readable, right_or_wrong, ungraded

_ASSERTED = re.compile(r"^\s*assert\b[^\n]{0,2000}?==\s*([^\n]+)$", re.MULTILINE)
_BLOCK = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ANNOUNCED = re.compile(
    r"\b(?:output|result|returns?|prints?)\b[^:\n`]{0,40}:\**[ \t]*\n*", re.IGNORECASE
)
_LONGEST_LITERAL = 10_000
_SHOWN = 80


def grade_code_output(answer: str, reference: str) -> Grade:
    """Grade by whether the answer states the reference as the output."""
    text = readable(answer)
    stated = list(dict.fromkeys(_stated(text)))
    if not stated:
        return right_or_wrong(right=False, detail="the answer is empty")
    if len({_plain(one) for one in stated}) > 1:
        return ungraded(f"several outputs: {', '.join(_cut(one) for one in stated[:3])}")
    right = _same(stated[0], reference)
    return right_or_wrong(right=right, detail=f"states {_cut(stated[0])}")


def _stated(text: str) -> list[str]:
    asserted = _ASSERTED.findall(text)
    if asserted:
        return [asserted[-1]]
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        rest = text[announced[-1].end() :]
        block = _BLOCK.match(rest)
        inline = _INLINE.match(rest)
        found = block or inline
        first_line = rest.split("\n", maxsplit=1)[0]
        return [found[1] if found else first_line] if rest.strip() else []
    for pattern in (_BLOCK, _INLINE):
        found_all = pattern.findall(text)
        if found_all:
            return list(found_all)
    return [text] if text else []


def _same(stated: str, reference: str) -> bool:
    if _plain(stated) == _plain(reference):
        return True
    values = [_literal(text) for text in (stated, reference)]
    return None not in values and values[0] == values[1]


def _literal(text: str) -> str | None:
    """Return a literal in one spelling, None where the text is none."""
    if len(text) > _LONGEST_LITERAL:
        return None
    try:
        return repr(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
