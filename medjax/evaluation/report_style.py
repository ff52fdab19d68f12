"""The style sheet of an evaluation's page: system fonts, light and dark, desktop, phone and paper; nothing is fetched."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #fff; --ink: #1d2328; --quiet: #566069; --rule: #dcdfe1;
  --grid: #e7e9ea; --warn: #fdf3dc; --warn-edge: #c98a12; --alarm: #fdeae6; --alarm-edge: #bf3418;
  --c0: #1a68ad; --c1: #c04c12; --c2: #3c7d3c; --c3: #8a4fb0; --c4: #8c6a00; --c5: #b03a6b; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181b; --card: #1b2024; --ink: #e4e7e9; --quiet: #a3adb5; --rule: #343b41; --grid: #2a3035;
    --warn: #2e2716; --warn-edge: #d9a441; --alarm: #371d18; --alarm-edge: #f0795b;
    --c0: #6fb3f0; --c1: #f59a62; --c2: #82c882; --c3: #c79be6; --c4: #d8b64a; --c5: #ef8fb5; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; }
.subtitle { margin: 8px 0 0; color: var(--quiet); font-size: 18px; }
section { margin-top: 48px; }
h2 { margin: 0 0 12px; font-size: 21px; line-height: 1.3; font-weight: 650; }
p { margin: 0 0 12px; max-width: 72ch; }
.box { margin-top: 28px; padding: 16px 20px; border-left: 4px solid; border-radius: 4px; }
.box h2 { margin: 0 0 6px; font-size: 18px; }
.box p:last-child, .box ul { margin: 0; }
.box ul { padding-left: 20px; max-width: 90ch; }
.notes { background: var(--warn); border-color: var(--warn-edge); }
.copies { background: var(--alarm); border-color: var(--alarm-edge); }
.copies h2 { font-size: 22px; }

table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 14px 20px 0 0; text-align: left; vertical-align: top; font-weight: 400; }
thead th { padding-bottom: 8px; color: var(--quiet); font-size: 14px; vertical-align: bottom; }
tbody { border-top: 1px solid var(--rule); break-inside: avoid; }
tbody th { width: 22%; font-weight: 650; }
tbody td { width: 22%; }
tbody .how { padding: 4px 20px 14px 0; color: var(--quiet); font-size: 14px; line-height: 1.45; }
tbody .how p { margin: 0; max-width: 100ch; }
td.n { width: auto; white-space: nowrap; }
td.scale, td.how { width: auto; }
.direction, .small { display: block; color: var(--quiet); font-size: 14px; font-weight: 400; line-height: 1.4; }
.value { font-size: 19px; font-weight: 650; line-height: 1.3; white-space: nowrap; }
.baseline { font-size: 19px; line-height: 1.3; white-space: nowrap; }
.flagged th, .flagged .value { color: var(--alarm-edge); }

figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; }
.plots { display: grid; gap: 32px 32px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
.plots > figure { max-width: 420px; min-width: 0; }
.legend, .note, .key { margin: 0; color: var(--quiet); font-size: 14px; }
.name { margin-right: 16px; white-space: nowrap; }
.swatch { display: inline-block; width: 16px; height: 4px; margin-right: 6px; vertical-align: 4px; border-radius: 2px; }
.swatch { background: var(--c); }
.swatch.dot { width: 10px; height: 10px; vertical-align: -1px; border-radius: 50%; }
.swatch.diamond { width: 9px; height: 9px; vertical-align: 0; border-radius: 0; transform: rotate(45deg); }
svg { display: block; width: 100%; height: auto; }
svg.score { max-width: 240px; }
svg text { fill: var(--quiet); font-size: 12px; }
.axis { fill: none; stroke: var(--quiet); stroke-width: 1; }
.grid { fill: none; stroke: var(--grid); stroke-width: 1; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.raw { stroke-width: 1; opacity: 0.3; }
.area { fill: var(--c); fill-opacity: 0.22; stroke-width: 1.2; }
.mark { fill: var(--c); }
.score .mark { stroke: var(--paper); stroke-width: 1; }
.series-0 { --c: var(--c0); } .series-1 { --c: var(--c1); } .series-2 { --c: var(--c2); }
.series-3 { --c: var(--c3); } .series-4 { --c: var(--c4); } .series-5 { --c: var(--c5); }

.picture { margin-bottom: 28px; }
.picture img { display: block; max-width: 100%; height: auto; margin-top: 8px; background: #000; border-radius: 4px; }
dl { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 6px 24px; margin: 0; font-size: 15px; }
dt { color: var(--quiet); } dd { margin: 0; min-width: 0; }

@media screen and (max-width: 900px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 25px; } .subtitle { font-size: 16px; } section { margin-top: 36px; }
  table, tbody, tr, th, td { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody { margin-top: 12px; padding: 14px 16px; background: var(--card); border: 1px solid var(--rule); border-radius: 6px; }
  tbody th, tbody td, tbody .how { padding: 0; }
  tbody td { margin-top: 8px; }
  tbody tr:first-child { display: grid; grid-template-columns: 1fr 1fr; column-gap: 16px; }
  tbody th, td.scale { grid-column: 1 / -1; }
  tbody td[data-label]::before { content: attr(data-label); display: block; color: var(--quiet); font-size: 13px; }
  tbody th, tbody td { width: auto; }
  td.scale:empty { display: none; }
  tbody td.n { display: flex; grid-column: 1 / -1; gap: 12px; align-items: baseline; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --rule: #bbb; --grid: #ddd;
    --warn: #fff; --alarm: #fff; --warn-edge: #a06a00; --alarm-edge: #a02a10;
    --c0: #1a68ad; --c1: #c04c12; --c2: #3c7d3c; --c3: #8a4fb0; --c4: #8c6a00; --c5: #b03a6b; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 20pt; } .subtitle { font-size: 12pt; } section { margin-top: 24px; }
  h2, h2 + p { break-after: avoid; }
  th, td { padding: 8px 12px 0 0; } tbody th, tbody td { width: 20%; } tbody td.n, tbody td.how { width: auto; }
  tbody .how { padding-bottom: 8px; }
  .value, .baseline { font-size: 12pt; } .direction, .small, tbody .how { font-size: 9pt; }
  .plots { grid-template-columns: repeat(3, 1fr); gap: 16px; }
  .picture img, .swatch, .mark { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
