"""The frame and the style of a page that is one file."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

# The policy makes a browser refuse whatever is not inside the file.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{subtitle}</header>
<main>
{body}
</main>
</body>
</html>
"""


def section(title: str, content: str) -> str:
    """A part of the page under a heading; nothing where there is no content."""
    return f"<section><h2>{title}</h2>\n{content}\n</section>" if content else ""


def write_page(
    out: str | Path, title: str, subtitle: str, sections: Sequence[str], style: str = ""
) -> Path:
    """Write a page, whole or not at all.

    Args:
        out: The HTML file; folders are made.
        title: Plain text.
        subtitle: Plain text; none when empty.
        sections: HTML, from top to bottom; empty ones are left out.
        style: CSS that this page needs beside ``STYLE``.

    Returns:
        ``out`` as a path.
    """
    page = PAGE.format(
        title=escape(title),
        subtitle=f"<p class=lead>{escape(subtitle)}</p>" if subtitle else "",
        style=STYLE + style,
        body="\n".join(part for part in sections if part),
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(out)
    return out


STYLE = """
:root { --page: #f6f7f9; --card: #ffffff; --ink: #1a1f2b; --quiet: #5b6472; --line: #dfe3e9;
  --accent: #2f5fd0; --soft: #a9bdf0; --good: #14713a; --bad: #b02a1f; --mark: #b26a00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12151b; --card: #1b2029; --ink: #e8ebf0; --quiet: #9aa4b2; --line: #2d3440;
    --accent: #86a8ff; --soft: #3f5490; --good: #5fcf8b; --bad: #ff8f84; --mark: #f0b357; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 36px; }
main { padding-bottom: 56px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.15rem; margin: 40px 0 12px; }
p { margin: 0; }
.lead { color: var(--quiet); margin-top: 6px; max-width: 46em; }
.quiet { color: var(--quiet); font-size: .875rem; }
section > .quiet { margin-top: 10px; max-width: 60em; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 10px 14px; text-align: right; border-top: 1px solid var(--line);
  vertical-align: middle; }
thead th { border: 0; color: var(--quiet); font-size: .8rem; font-weight: 500; line-height: 1.25; }
th:first-child { text-align: left; }
tbody th { font-weight: 600; }
th small { display: block; color: var(--quiet); font-weight: 400; }
.score { width: 38%; }
.score b { display: block; line-height: 1.4; }
.bar { display: block; position: relative; height: 8px; border-radius: 4px;
  background: var(--line); min-width: 70px; }
.bar i { display: block; height: 100%; border-radius: 4px; background: var(--accent); }
.bar s { position: absolute; top: -4px; width: 2px; height: 16px; background: var(--ink); }
.charts { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.charts figure { padding: 14px 16px; }
figcaption { display: flex; justify-content: space-between; align-items: baseline; gap: 12px; }
svg { display: block; width: 100%; height: auto; margin: 8px 0; }
svg text { fill: var(--quiet); font-size: 13px; font-family: inherit; }
svg .grid { stroke: var(--line); }
svg .raw { fill: none; stroke: var(--soft); stroke-width: 1.2; }
svg .smooth { fill: none; stroke: var(--accent); stroke-width: 2.4; stroke-linejoin: round; }
svg .mark { stroke: var(--mark); stroke-width: 1.6; stroke-dasharray: 5 4; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; color: var(--quiet); font-size: .8rem; }
.legend i { display: inline-block; width: 18px; margin-right: 6px; vertical-align: middle;
  border-top: 2px solid var(--soft); }
.legend .smooth { border-top: 3px solid var(--accent); }
.legend .dash { border-top: 2px dashed var(--mark); }
.examples { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
article { display: flex; flex-direction: column; overflow: hidden; }
.media { display: grid; gap: 2px; background: #8883; aspect-ratio: 1; align-items: center; }
.media.n2 { grid-template-columns: 1fr 1fr; }
.media.n3 { grid-template-columns: 1fr 1fr 1fr; }
.media img, .media video { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  image-rendering: pixelated; }
.missing { padding: 24px 12px; color: var(--quiet); font-size: .8rem; overflow-wrap: anywhere; }
.text { padding: 10px 14px 14px; display: flex; flex-direction: column; gap: 6px;
  font-size: .9rem; }
.tag { display: flex; justify-content: space-between; gap: 8px; color: var(--quiet);
  font-size: .8rem; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.right, .wrong { white-space: nowrap; }
.text dl { display: grid; grid-template-columns: auto 1fr; gap: 0 10px; margin: 0; }
dt { color: var(--quiet); } dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(135px, 1fr));
  gap: 14px 20px; padding: 16px; }
.facts dt { font-size: .8rem; }
.next { padding-left: 1.3em; margin: 0; }
.next li { margin-bottom: 12px; }
pre { margin: 6px 0 0; padding: 10px 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
@media (max-width: 520px) {
  header, main { padding-left: 14px; padding-right: 14px; }
  th, td { padding: 9px 6px; font-size: .82rem; }
  th:first-child { padding-left: 12px; } td:last-child, th:last-child { padding-right: 12px; }
  thead th { font-size: .7rem; vertical-align: bottom; }
  th small { font-size: .72rem; }
  .score { width: 24%; } .bar { min-width: 48px; }
  .examples { grid-template-columns: 1fr 1fr; gap: 10px; }
  .text { padding: 8px 10px 12px; } .tag { flex-wrap: wrap; gap: 0 8px; }
  .text dl { gap: 0 8px; } }
@media (prefers-reduced-motion: reduce) { * { animation: none; } }
"""
