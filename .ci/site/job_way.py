"""Draw a job's way through the programs, for docs/architecture.md: `python .ci/site/job_way.py`."""

from html import escape
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "docs" / "job-way.svg"
LANES = ("routoo-producer", "PostgreSQL", "Broker", "Scorer", "Dispatcher", "Model endpoint")
STEPS = (
    (0, 1, "jobs and shards, at once"),
    (0, 2, "a message for each score shard"),
    (2, 3, "score shard"),
    (3, 1, "claim: owner, expiry, epoch"),
    (3, 1, "predictions; the last shard readies select"),
    (3, 2, "a message: select"),
    (2, 4, "select shard"),
    (4, 1, "reads predictions, writes assignments"),
    (4, 2, "a message for each dispatch shard"),
    (2, 4, "dispatch shard"),
    (4, 1, "reserves each call's worst case"),
    (4, 5, "the call, within limits"),
    (5, 4, "answer and usage"),
    (4, 1, "attempt, cost and result, in one transaction"),
    (1, 0, "results, one a job"),
)
_LANE, _ROW, _TOP, _MARGIN = 176, 34, 62, 92


def main() -> None:
    """Write the picture."""
    height = _TOP + _ROW * (len(STEPS) + 1)
    width = 2 * _MARGIN + _LANE * (len(LANES) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<style>text { font: 13px system-ui, sans-serif }</style>",
        "<title>A job's way from its submission to its result</title>",
        '<marker id="tip" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">',
        '<path d="M0 0 L9 4 L0 8 z" fill="#1c6e8c"/></marker>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(_lane(number, name, height) for number, name in enumerate(LANES)),
        *(_step(number, *step) for number, step in enumerate(STEPS)),
        "</svg>",
    ]
    OUT.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _lane(number: int, name: str, height: int) -> str:
    x = _MARGIN + _LANE * number
    return (
        f'<line x1="{x}" y1="44" x2="{x}" y2="{height - 8}" stroke="#c3ccd3"/>'
        f'<rect x="{x - 70}" y="12" width="140" height="32" rx="6" fill="#12323f"/>'
        f'<text x="{x}" y="33" fill="#ffffff" text-anchor="middle">{name}</text>'
    )


def _step(number: int, start: int, end: int, text: str) -> str:
    y = _TOP + _ROW * (number + 1) - 6
    begin, tip = _MARGIN + _LANE * start, _MARGIN + _LANE * end
    label = f"{number + 1}. {escape(text, quote=False)}"
    return (
        f'<line x1="{begin}" y1="{y}" x2="{tip}" y2="{y}" stroke="#1c6e8c" stroke-width="1.6" '
        'marker-end="url(#tip)"/>'
        f'<text x="{(begin + tip) / 2}" y="{y - 7}" fill="#1d2a30" text-anchor="middle" '
        f'stroke="#ffffff" stroke-width="4" paint-order="stroke">{label}</text>'
    )


if __name__ == "__main__":
    main()
