"""What the inspect page adds to the style of ``report_page``; works without any script."""

INSPECT_STYLE = """
:root { --sup: #d7f2df; --sup-line: #2c8a50; --chip: #eef0f4; --special: #e4e0fa;
  --special-ink: #4a3aa8; --visual: #fdebd0; --visual-ink: #8a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --sup: #17402a; --sup-line: #5fcf8b; --chip: #262c37; --special: #332d57;
    --special-ink: #c3b8ff; --visual: #46351a; --visual-ink: #f0c27a; } }
h3 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
h3 a { color: inherit; text-decoration: none; }
a { color: var(--accent); }
code { font-size: .8rem; color: var(--quiet); overflow-wrap: anywhere; }
.sample { padding: 16px 18px; gap: 10px; overflow: visible; scroll-margin-top: 12px;
  margin-bottom: 16px; }
.sample:target { border-color: var(--accent); }
.badges, .filters, .key { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.badge { border: 1px solid var(--line); border-radius: 99px; padding: 1px 9px; font-size: .78rem;
  color: var(--quiet); }
.badge.warn { color: var(--mark); border-color: var(--mark); }
.error { color: var(--bad); border-left: 3px solid var(--bad); padding: 4px 10px;
  overflow-wrap: anywhere; }
.numbers { display: flex; flex-wrap: wrap; gap: 4px 26px; margin: 0; }
.numbers dt, .plain dt { font-size: .75rem; }
.numbers dd { font-variant-numeric: tabular-nums; }
.plain { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0; }
.plain dd { font-weight: 400; white-space: pre-wrap; }
.medium { border-top: 1px solid var(--line); padding-top: 10px; }
.medium-head { font-size: .85rem; margin-bottom: 8px; overflow-wrap: anywhere; }
.image { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.original, .whole { flex: 0 1 170px; min-width: 110px; }
.grid { display: grid; gap: 4px; flex: 1 1 300px;
  max-width: calc(var(--columns) * 190px); grid-template-columns: repeat(var(--columns), 1fr); }
.frames { display: grid; gap: 6px; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
figure { margin: 0; min-width: 0; }
.tile, .original { background: var(--visual); border-radius: 6px; overflow: hidden; }
.original { background: var(--chip); }
.tile img, .original img, .blank { display: block; width: 100%; image-rendering: pixelated; }
.blank { aspect-ratio: 1;
  background: repeating-linear-gradient(45deg, #8882 0 6px, #8884 6px 12px); }
.sample figcaption { display: block; padding: 3px 6px; font-size: .72rem; line-height: 1.3;
  color: var(--visual-ink); overflow-wrap: anywhere; }
.original figcaption { color: var(--quiet); }
.sample figcaption small { display: block; font-size: .95em; opacity: .9; }
.tokens { border-top: 1px solid var(--line); padding-top: 12px; line-height: 1.9;
  font: .82rem/1.95 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.t { background: var(--chip); border-radius: 3px; padding: 1px 2px; margin-right: 1px;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; cursor: help; }
.t.special, .t.visual { display: inline-block; max-width: 100%; line-height: 1.35; }
.t.special { background: var(--special); color: var(--special-ink); font-size: .9em; }
.t.visual { background: var(--visual); color: var(--visual-ink); font-weight: 600; }
.t.sup { background: var(--sup); box-shadow: inset 0 -2px var(--sup-line); }
.t:hover, .t:focus { outline: 2px solid var(--accent); }
.t:hover::after, .tokens:not(:has(.t:hover)) .t:focus::after { content: attr(data-d);
  position: fixed; left: 0; right: 0; bottom: 0; z-index: 9; padding: 10px 20px;
  background: var(--ink); color: var(--page); font-size: .9rem; font-weight: 400;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.filters { margin-bottom: 12px; font-size: .85rem; }
.filters label { border: 1px solid var(--line); border-radius: 99px; padding: 3px 11px;
  cursor: pointer; background: var(--card); }
.filters label:has(:checked) { border-color: var(--accent); color: var(--accent); }
.filters input { margin: 0 5px 0 0; vertical-align: -1px; accent-color: var(--accent); }
body:has(#only:checked) .t:not(.sup) { opacity: .3; }
main:has(#f-text:checked) .sample:not([data-modality="text"]),
main:has(#f-image:checked) .sample:not([data-modality="image"]),
main:has(#f-multi-image:checked) .sample:not([data-modality="multi-image"]),
main:has(#f-video:checked) .sample:not([data-modality="video"]) { display: none; }
.key { color: var(--quiet); font-size: .8rem; margin-bottom: 12px; gap: 6px 14px; }
td.left, th.left { text-align: left; overflow-wrap: anywhere; }
.index td, .index th, .ledger td, .ledger th, .subsets td, .subsets th { padding: 6px 10px;
  font-size: .85rem; }
.index a { overflow-wrap: anywhere; }
svg .bars { fill: var(--accent); }
svg .middle { stroke: var(--mark); stroke-width: 1.6; stroke-dasharray: 5 4; }
.mix { display: flex; height: 10px; min-width: 90px; border-radius: 4px; overflow: hidden; }
.mix i { display: block; height: 100%; }
.m-text { background: #7d8796; } .m-image { background: #3f7be0; }
.m-multi-image { background: #25a37a; } .m-video { background: #d98a1f; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.examples-of td { border-top: 0; padding-top: 0 !important; }
.example { color: var(--quiet); font-size: .8rem; }
@media (max-width: 520px) { .sample { padding: 12px; } .original, .whole { flex-basis: 46%; }
  .grid { flex-basis: 100%; } .numbers { gap: 4px 16px; }
  .frames { grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); } }
"""
