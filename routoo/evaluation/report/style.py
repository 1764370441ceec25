"""The report's style sheet."""

from routoo.evaluation.report.palette import DARK, LIGHT, MARKS, variables

_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .4rem;overflow-wrap:anywhere;text-wrap:balance}
h2{font-size:1.15rem;line-height:1.3;margin:0 0 .25rem}
h3{font-size:.82rem;font-weight:600;margin:0;overflow-wrap:anywhere}
p{margin:0 0 .75rem;max-width:46rem}
.lead,.facts,.key,figcaption,.note{color:var(--muted);font-size:.9rem}
.facts{display:flex;flex-wrap:wrap;gap:.15rem 1.25rem;margin:0 0 1.25rem;padding:0;list-style:none;
overflow-wrap:anywhere}
.facts b{font-weight:600;color:var(--ink)}
section{background:var(--card);border:1px solid var(--grid);border-radius:.75rem;
padding:1.1rem 1rem;margin:0 0 1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;
margin:0 0 1rem}
.tile{background:var(--card);border:1px solid var(--grid);border-radius:.75rem;padding:.8rem .9rem}
.tile .name{font-size:.82rem;color:var(--muted);line-height:1.3}
.tile .value{font-size:1.6rem;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.tile .under{font-size:.8rem;color:var(--muted);line-height:1.35;font-variant-numeric:tabular-nums}
figure{margin:.5rem 0 0}
p.note{margin:.75rem 0 0}
svg{display:block;width:100%;height:auto}
svg.swatch{display:inline-block;width:26px;height:12px;vertical-align:-1px;margin-right:.4rem}
.wide{display:none}
@media (min-width:46rem){.wide{display:block}.narrow{display:none}}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:1rem .75rem;
margin-top:.75rem}
.thirds{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1rem;
margin-top:.5rem}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.6rem 0 0;padding:0;list-style:none}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--muted);
font-variant-numeric:tabular-nums;stroke:var(--card);stroke-width:3px;paint-order:stroke;
stroke-linejoin:round}
text.strong{fill:var(--ink);font-weight:600}
.rule{stroke:var(--grid);stroke-width:1}
.axis{stroke:var(--frame);stroke-width:1}
.line{stroke:var(--c);fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.main{stroke-width:3}
.dashed{stroke-dasharray:7 5}
.dotted{stroke-dasharray:1.5 5}
.mixed{stroke-dasharray:9 4 2 4}
.short{stroke-dasharray:4 3}
.band{fill:var(--c);opacity:.16}
.dot{fill:var(--c);stroke:var(--card);stroke-width:1.5}
.open{fill:var(--card);stroke:var(--c);stroke-width:2}
.whisker{stroke:var(--c);stroke-width:2}
.ink{--c:var(--ink)}
.bar{fill:var(--c)}
.faint{stroke:var(--muted);stroke-width:1.5;stroke-dasharray:2 4;fill:none}
details{margin:.9rem 0 0}
summary{cursor:pointer;font-size:.9rem;font-weight:600;padding:.35rem 0}
summary:focus-visible{outline:2px solid var(--s0);outline-offset:2px;border-radius:.25rem}
.scroll{overflow-x:auto;max-width:100%}
.scroll:focus-visible{outline:2px solid var(--s0)}
table{border-collapse:collapse;font-size:.85rem;min-width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.35rem .6rem;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
th{color:var(--muted);font-weight:600}
tbody th{color:var(--ink);font-weight:500}
@media print{.wide{display:block}.narrow{display:none}details>*{display:block}}
"""


def style_sheet() -> str:
    """Return the page's CSS: light by default, dark where the reader's system asks for it."""
    series = "".join(f".{name}{{--c:var(--{name})}}" for name in MARKS)
    light, dark = variables(LIGHT), variables(DARK)
    modes = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return modes + series + _RULES
