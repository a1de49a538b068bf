"""The style sheet of a report: light, dark, and on paper."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f6f7f9; --ink: #15191f; --soft: #59636f; --rule: #dfe3e8;
  --grid: #e9ecf0; --band: #f3f5f8; --disks: #2f6fde; --memory: #12a594; --rest: #7a5af0;
  --blackout: #d9480f; --busy: #93a1b3; --good: #177245; --bad: #b42318; --warn: #9a6700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101317; --panel: #191d23; --ink: #e9ecef; --soft: #9aa5b1; --rule: #2b313a;
    --grid: #232931; --band: #171b21; --disks: #5c94f5; --memory: #2cc5b2; --rest: #a08bff;
    --blackout: #ff8547; --busy: #66727f; --good: #5cc98b; --bad: #ff8a80; --warn: #e5b454;
  }
}
* { box-sizing: border-box; }
html { background: var(--page); }
body {
  margin: 0 auto; max-width: 944px; padding: 40px 32px 56px; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 16px; }
h1 { flex: 1 1 60%; margin: 0; font-size: 32px; line-height: 1.2; letter-spacing: -0.015em;
  overflow-wrap: anywhere; }
h1.long { font-size: 21px; }
h1 small { display: inline-block; font-size: 19px; font-weight: 400; letter-spacing: 0;
  color: var(--soft); }
.state { padding: 2px 12px; border: 1.5px solid; border-radius: 99px; font-size: 14px;
  font-weight: 600; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.about { margin: 6px 0 0; color: var(--soft); overflow-wrap: anywhere; }
.problem { margin: 24px 0 0; padding: 14px 20px; border-left: 4px solid; border-radius: 4px;
  background: var(--panel); overflow-wrap: anywhere; }
.problem p { margin: 0; color: var(--ink); } .problem p + p { margin-top: 6px; color: var(--soft); }
.problem strong { color: inherit; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px;
  margin: 28px 0 0; padding: 0; }
.tiles div { padding: 14px 18px 15px; border-radius: 8px; background: var(--panel); }
.tiles dt { font-size: 13px; color: var(--soft); }
.tiles dd { margin: 0; font-size: 27px; font-weight: 600; line-height: 1.25; white-space: nowrap;
  letter-spacing: -0.01em; }
.tiles dd + dd { font-size: 13px; font-weight: 400; line-height: 1.4; letter-spacing: 0;
  color: var(--soft); white-space: normal; }
.tiles span { white-space: nowrap; }
.tiles .dark { color: var(--blackout); }
section { margin-top: 44px; break-inside: avoid; }
h2 { margin: 0; font-size: 18px; line-height: 1.3; letter-spacing: -0.005em; }
section > p { margin: 2px 0 0; max-width: 92ch; font-size: 14px; color: var(--soft); }
.keys { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 0; padding: 0;
  list-style: none; font-size: 13px; color: var(--soft); }
.keys li::before { content: ""; display: inline-block; width: 11px; height: 11px;
  margin-right: 7px; border-radius: 2px; background: var(--key); vertical-align: -1px; }
.keys li.stroke::before { height: 0; border-top: 2px dashed var(--soft); background: none;
  border-radius: 0; vertical-align: 4px; width: 16px; }
.keys .k-disks { --key: var(--disks); } .keys .k-memory { --key: var(--memory); }
.keys .k-dark { --key: var(--blackout); } .keys .k-rest { --key: var(--rest); }
.keys .k-examined { --key: color-mix(in srgb, var(--rest) 22%, var(--page)); }
.scroll { overflow-x: auto; }
svg.plot { display: block; width: 100%; min-width: 620px; height: auto; margin-top: 10px; }
svg text { fill: var(--ink); font-size: 12px; }
svg .tick, svg .note { fill: var(--soft); font-size: 11.5px; }
svg .strong { fill: var(--ink); }
svg .value { font-weight: 600; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .axis { stroke: var(--busy); stroke-width: 1; }
svg .average { stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 5 4; }
svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .band { fill: var(--band); }
svg .shadow { fill: var(--blackout); fill-opacity: 0.15; }
svg polygon.disks { fill: var(--disks); fill-opacity: 0.22; }
svg .disks-line { stroke: var(--disks); }
svg polygon.memory { fill: var(--memory); fill-opacity: 0.3; }
svg .memory-line { stroke: var(--memory); }
svg polygon.left { fill: var(--rest); fill-opacity: 0.18; }
svg .left-line { stroke: var(--rest); }
svg rect.busy { fill: var(--busy); } svg rect.dark, svg rect.final { fill: var(--blackout); }
svg rect.dirty { fill: var(--rest); }
svg rect.examined { fill: var(--rest); fill-opacity: 0.2; }
table { width: 100%; margin-top: 12px; border-collapse: collapse; font-size: 13.5px; }
th, td { padding: 5px 0 5px 18px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
thead th { font-weight: 500; color: var(--soft); border-bottom: 1px solid var(--rule); }
tbody td { border-bottom: 1px solid var(--grid); }
tbody th { padding-top: 16px; padding-bottom: 4px; font-weight: 600; white-space: normal;
  overflow-wrap: anywhere; }
tbody th span { font-weight: 400; color: var(--soft); }
tbody { break-inside: avoid; }
footer { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--rule); font-size: 13px;
  color: var(--soft); }
.scroll::before { display: none; position: sticky; left: 0; margin-top: 8px; font-size: 13px;
  color: var(--soft); content: "\\2194\\00a0 wider than this screen: scroll it sideways"; }
@media screen and (max-width: 683px) { .scroll::before { display: block; } }
@media screen and (max-width: 790px) {
  .scroll.rows::before { display: block; }
  tbody th div { position: sticky; left: 0; width: fit-content; max-width: calc(100vw - 64px); }
}
@media (max-width: 640px) { body { padding: 24px 16px 40px; } h1 { font-size: 26px; } }
@media screen and (max-width: 640px) { tbody th div { max-width: calc(100vw - 32px); } }
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --panel: #f4f5f7; --ink: #000000; --soft: #4d5560; --rule: #c9ced6;
    --grid: #e4e7eb; --band: #f3f5f8; --disks: #2459b8; --memory: #7fd6c6; --rest: #a493f5;
    --blackout: #4a1600; --busy: #b9c3cf; --good: #177245; --bad: #b42318; --warn: #9a6700;
  }
  body { max-width: none; padding: 0; -webkit-print-color-adjust: exact;
    print-color-adjust: exact; }
  section { margin-top: 28px; } svg.plot { min-width: 0; } .scroll { overflow: visible; }
  svg .shadow { fill-opacity: 0.08; stroke: var(--blackout); stroke-dasharray: 2 3; }
  svg polygon.disks { fill-opacity: 0.4; } svg polygon.memory { fill-opacity: 0.7; }
  svg .memory-line { stroke: #0b6b60; stroke-dasharray: 7 2; }
  table { font-size: 11px; } th, td { padding-left: 8px; } thead th { white-space: normal; }
  .tiles { grid-auto-flow: column; grid-template-columns: none; grid-auto-columns: 1fr; }
  .tiles div { padding: 10px 12px; } .tiles dd { font-size: 20px; }
}
"""
