"""Python snippets: what do they print? The references come from running them."""

import contextlib
import io
import re
from random import Random

from examples.questions.question import Question

_WORDS = (
    "planet", "coffee", "winter", "garden", "signal", "bottle", "yellow", "monkey", "silver",
    "tunnel", "castle", "pepper", "rocket", "banner", "cotton", "letter", "summer", "kettle",
)  # fmt: skip
_NUMBERS = (2, 3, 4, 5, 6, 7, 8, 9)

_SNIPPETS = (
    "print({a} + {b} * {c})",
    "print(({a} + {b}) % {c})",
    "print({a}{b} // {c})",
    "print({a} ** 2 - {b})",
    "print(len('{w}'))",
    "print('{w}'[{i}])",
    "print('{w}'[{i}:])",
    "print('{w}'[:{c2}])",
    "print('{w}'[::-1])",
    "print('{w}'.upper())",
    "print('{w}'.capitalize())",
    "print('{w}' + '{v}')",
    "print('{w}'.count('e'))",
    "print('{w}'.index('{w0}'))",
    "print('{w}'.startswith('{v0}'))",
    "print('{v}' in '{w}')",
    "print([{a}, {b}, {c}][{i2}])",
    "print(sum([{a}, {b}, {c}]))",
    "print(max({a}, {b}, {c}) - min({a}, {b}, {c}))",
    "print(sorted([{a}, {b}, {c}]))",
    "print(list(range({a})))",
    "print(len(range({i}, 1{a}, 2)))",
    "print([n * {c} for n in range({i2} + 2)])",
    "print([n for n in [{a}, {b}, {c}, 10] if n > 5])",
    "print({{'x': {a}, 'y': {b}}}['y'])",
    "print(len(set('{w}')))",
    "print(len('{w} {v}'.split()))",
    "print('+'.join(['{a}', '{b}', '{c}']))",
    "print('{w}'.replace('{w0}', 'z'))",
    "print(int('{a}') + int('{b}'))",
    "print('{a}' + '{b}')",
    "print({a} > {b} or {c} > 5)",
    "print(not {a} == {b})",
    "print(bin({a}))",
    "print(list(zip([1, 2], ['{w0}', '{v0}'])))",
    "x = {a}\nx *= {b}\nx -= {c}\nprint(x)",
    "a, b = {a}, {b}\na = a + b\nb = a - b\nprint(a, b)",
    "total = 0\nfor n in [{a}, {b}, {c}]:\n    if n % 2 == 0:\n        total += n\nprint(total)",
    "count = 0\nfor c in '{w}':\n    if c in 'aeiou':\n        count += 1\nprint(count)",
    "n = {a}{b}\nsteps = 0\nwhile n > 1:\n    n //= 2\n    steps += 1\nprint(steps)",
    "def f(x, y={c}):\n    return x + y\nprint(f({a}))",
    "def f(n):\n    if n == 0:\n        return 0\n    return n + f(n - 1)\nprint(f({a}))",
    "xs = [{a}, {b}]\nxs.append({c})\nxs.pop(0)\nprint(xs)",
    "xs = [{a}, {b}, {c}]\nxs.reverse()\nprint(xs[0])",
    "d = {{'{w}': {a}}}\nd['{v}'] = {b}\nprint(len(d))",
    "d = {{'k': {a}}}\nprint(d.get('m', {b}))",
    "s = ''\nfor c in '{w}':\n    s = c + s\nprint(s)",
    "x = {a}\nif x > {b}:\n    print('big')\nelse:\n    print('small')",
    "try:\n    print({a} // 0)\nexcept ZeroDivisionError:\n    print('oops')",
    "f = lambda x: x * {a}\nprint(f({b}) + f(1))",
)
_FORMS = (
    "What does this Python code print?",
    "Read this Python program. What is its output?",
    "What is printed when this Python code runs?",
)


def code_reading(rng: Random, count: int) -> list[Question]:
    """Return code questions, the snippets taken in turn with fresh names and numbers."""
    snippets = [_fill(_SNIPPETS[number % len(_SNIPPETS)], rng) for number in range(count)]
    return [
        Question(
            "code", grader_of(snippet), printed(snippet), f"{rng.choice(_FORMS)}\n{fenced(snippet)}"
        )
        for snippet in snippets
    ]


def fenced(code: str) -> str:
    """Return code as a Markdown block, the form in which all prompts carry it."""
    return f"```python\n{code}\n```"


def printed(code: str) -> str:
    """Run a snippet and return what it prints, without the last line end."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})  # noqa: S102 - our own snippets; running them is how references are made
    return out.getvalue().strip()


def grader_of(code: str) -> str:
    """Return the grader that fits what a snippet prints."""
    if re.fullmatch(r"-?\d+(\.\d+)?", printed(code)):
        return "numeric"
    # Letters whose case is the point of the question must be compared to the letter.
    return "exact" if re.search(r"upper|lower|capitalize|swapcase", code) else "normalized"


def _fill(snippet: str, rng: Random) -> str:
    word, other = rng.sample(_WORDS, 2)
    a, b, c = rng.sample(_NUMBERS, 3)
    return snippet.format(
        a=a, b=b, c=c, c2=rng.randint(2, 4), i=rng.randint(1, 4), i2=rng.randint(0, 2),
        w=word, v=other, w0=word[rng.randint(0, 5)], v0=other[0],
    )  # fmt: skip
