// The map of experts: a row for each layer, a column for each expert, and heat that fades. Where the process changes from one unit
// to the next there is an outline; a group without a process is struck out.

import { $, calm, cssVariable, setText } from "./dom.js";
import { count } from "./format.js";
import { emit, on } from "./store.js";

const fade = 600; // ms until a third is left
const flashFor = 1600; // ms
const label = 34; // px for the numbers of layers
const top = 18; // px for the numbers of experts

let layout = { layers: [], experts: 0, groups: [], units: [] };
let heat = new Float32Array(0);
let totals = new Float64Array(0);
let total = 0;
let scale = 1;
let groups = new Map(); // by name, of the last state
let flashes = new Map(); // group's place -> time of its death
let cursor = -1; // unit
let chosen = ""; // group
let size = { width: 0, cell: 0, row: 0 };
let frame = 0;
let before = 0;
let pulsed = false; // since the last state
let colours = {};

export function map() {
  const box = $("map");
  on("hello", begin);
  on("pulse", pulse);
  on("state", (s) => {
    groups = new Map((s.groups ?? []).map((g) => [g.group, g]));
    if (calm.matches && !pulsed) heat.fill(0);
    pulsed = false;
    draw();
  });
  on("event", (e) => {
    const at = layout.groups.indexOf(e.object.split("/")[0]);
    if (e.what !== "process.died" || at < 0) return;
    flashes.set(at, performance.now());
    wake();
  });
  on("selected", (group) => { chosen = group; draw(); });
  on("theme", () => { paint(); draw(); });
  new ResizeObserver(measure).observe(box);
  box.addEventListener("pointermove", (e) => point(e.offsetX, e.offsetY));
  box.addEventListener("pointerleave", () => { if (document.activeElement !== box) move(-1); });
  box.addEventListener("click", (e) => { point(e.offsetX, e.offsetY); select(); });
  box.addEventListener("keydown", keys);
  box.addEventListener("focus", () => { if (cursor < 0 && layout.units.length) move(0); });
  box.addEventListener("blur", () => move(-1));
}

function begin(hello) {
  const same = layout.units.length === hello.layout.units?.length;
  layout = { layers: hello.layout.layers ?? [], experts: hello.layout.experts, groups: hello.layout.groups ?? [], units: hello.layout.units ?? [] };
  if (!same) {
    heat = new Float32Array(layout.units.length);
    totals = new Float64Array(layout.units.length);
    total = 0;
  }
  $("map").setAttribute("aria-label", `Experts: ${layout.layers.length} layers of ${layout.experts} experts in ${layout.groups.length} groups`);
  if (!layout.units.length) setText($("map-details"), "The experts run in the host's own process: there is no map of processes.");
  measure();
}

function pulse(p) {
  pulsed = true;
  if (calm.matches) for (let i = 0; i < heat.length; i++) heat[i] *= 0.5; // steps instead of a fading
  for (let i = 0; i < p.units.length; i += 2) {
    const unit = p.units[i];
    if (unit >= heat.length) continue;
    heat[unit] += p.units[i + 1];
    totals[unit] += p.units[i + 1];
    total += p.units[i + 1];
  }
  describe();
  wake();
}

function measure() {
  const box = $("map");
  const width = box.clientWidth;
  if (!width || !layout.experts) return;
  const cell = Math.max(3, (width - label) / layout.experts);
  const row = layout.layers.length <= 8 ? 34 : layout.layers.length <= 16 ? 24 : layout.layers.length <= 32 ? 14 : 9;
  size = { width, cell, row };
  const canvas = $("map-canvas");
  const ratio = window.devicePixelRatio || 1;
  const height = top + row * layout.layers.length + 2;
  canvas.width = Math.round(Math.max(width, label + cell * layout.experts) * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${canvas.width / ratio}px`;
  canvas.style.height = `${height}px`;
  draw();
}

function paint() {
  const stops = ["--heat-0", "--heat-1", "--heat-2", "--heat-3"].map((v) => rgb(cssVariable(v)));
  const ramp = [];
  for (let i = 0; i <= 64; i++) {
    const x = (i / 64) * (stops.length - 1);
    const at = Math.min(Math.floor(x), stops.length - 2);
    ramp.push(`rgb(${stops[at].map((c, k) => Math.round(c + (stops[at + 1][k] - c) * (x - at))).join(" ")})`);
  }
  colours = { ramp, text: cssVariable("--muted"), edge: cssVariable("--edge"), bad: cssVariable("--bad"), focus: cssVariable("--focus") };
}

function rgb(hex) {
  const n = Number.parseInt(hex.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}

function wake() {
  if (frame) return;
  before = performance.now();
  frame = requestAnimationFrame(tick);
}

function tick(now) {
  frame = 0;
  const keep = calm.matches ? 1 : Math.exp(-Math.min(now - before, 200) / fade);
  before = now;
  let most = 0;
  for (let i = 0; i < heat.length; i++) {
    heat[i] *= keep;
    if (heat[i] < 0.02) heat[i] = 0;
    if (heat[i] > most) most = heat[i];
  }
  scale = Math.max(most, scale * 0.985, 1);
  for (const [at, since] of flashes) if (now - since > flashFor) flashes.delete(at);
  draw(now);
  if (!calm.matches && (most > 0 || flashes.size)) frame = requestAnimationFrame(tick);
  else if (flashes.size) setTimeout(wake, flashFor);
}

function draw(now = performance.now()) {
  const context = $("map-canvas").getContext("2d");
  if (!size.cell || !context) return;
  if (!colours.ramp) paint();
  const ratio = window.devicePixelRatio || 1;
  const { cell, row } = size;
  const gap = cell > 12 ? 2 : cell > 6 ? 1 : 0;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.font = "11px ui-monospace, monospace";
  context.textBaseline = "middle";
  context.fillStyle = colours.text;
  context.textAlign = "right";
  const every = row >= 12 ? 1 : 4;
  for (let l = 0; l < layout.layers.length; l += every) context.fillText(`L${layout.layers[l]}`, label - 8, top + row * (l + 0.5));
  context.textAlign = "center";
  const step = cell >= 24 ? 1 : Math.ceil(24 / cell);
  for (let e = 0; e < layout.experts; e += step) context.fillText(`${e}`, label + cell * (e + 0.5), top / 2);
  for (let u = 0; u < layout.units.length; u++) {
    const x = label + cell * (u % layout.experts);
    const y = top + row * Math.floor(u / layout.experts);
    const at = Math.round(64 * Math.min(heat[u] / scale, 1) ** 0.8);
    context.fillStyle = colours.ramp[at];
    box(context, x + gap, y + gap, cell - 2 * gap, row - 2 * gap, gap ? 3 : 0);
    const group = layout.units[u];
    const flash = flashes.get(group);
    if (flash !== undefined) {
      context.globalAlpha = Math.max(0, 0.75 * (1 - (now - flash) / flashFor));
      context.fillStyle = colours.bad;
      box(context, x + gap, y + gap, cell - 2 * gap, row - 2 * gap, gap ? 3 : 0);
      context.globalAlpha = 1;
    }
    if (groups.get(layout.groups[group])?.ready === 0) strike(context, x + gap, y + gap, cell - 2 * gap, row - 2 * gap);
  }
  outlines(context);
  if (cursor >= 0) {
    context.strokeStyle = colours.focus;
    context.lineWidth = 2;
    context.strokeRect(label + cell * (cursor % layout.experts) + 1, top + row * Math.floor(cursor / layout.experts) + 1, cell - 2, row - 2);
  }
}

function box(context, x, y, width, height, radius) {
  context.beginPath();
  context.roundRect(x, y, width, height, radius);
  context.fill();
}

function strike(context, x, y, width, height) {
  context.strokeStyle = colours.bad;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x, y + height);
  context.lineTo(x + width, y);
  context.stroke();
}

// outlines draws a line where the next unit is another group's, and a strong one around the chosen group.
function outlines(context) {
  const { cell, row } = size;
  const rows = layout.layers.length;
  const group = (l, e) => (l < 0 || e < 0 || l >= rows || e >= layout.experts ? -1 : layout.units[l * layout.experts + e]);
  const strong = layout.groups.indexOf(chosen);
  for (const pass of [0, 1]) {
    if (pass === 1 && strong < 0) break;
    context.strokeStyle = pass ? colours.focus : colours.edge;
    context.lineWidth = pass ? 2 : 1;
    context.beginPath();
    for (let l = 0; l <= rows; l++) {
      for (let e = 0; e <= layout.experts; e++) {
        const here = group(l, e);
        const x = label + cell * e;
        const y = top + row * l;
        const differs = (other) => (pass ? (here === strong) !== (other === strong) : here !== other);
        if (l < rows && differs(group(l, e - 1))) { context.moveTo(x, y); context.lineTo(x, y + row); }
        if (e < layout.experts && differs(group(l - 1, e))) { context.moveTo(x, y); context.lineTo(x + cell, y); }
      }
    }
    context.stroke();
  }
}

function point(x, y) {
  const e = Math.floor((x - label) / size.cell);
  const l = Math.floor((y - top) / size.row);
  move(e < 0 || l < 0 || e >= layout.experts || l >= layout.layers.length ? -1 : l * layout.experts + e);
}

function move(to) {
  if (to === cursor) return;
  cursor = to;
  describe(true);
  draw();
}

function keys(event) {
  const across = layout.experts;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, Home: -(cursor % across), End: across - 1 - (cursor % across) };
  if (event.key === "Enter" || event.key === " ") select();
  else if (event.key in steps) {
    const to = cursor + steps[event.key];
    if (to >= 0 && to < layout.units.length) move(to);
  } else return;
  event.preventDefault();
}

function select() {
  if (cursor >= 0 && layout.units[cursor] >= 0) emit("select", layout.groups[layout.units[cursor]]);
}

let described = 0;

// describe says what is under the cursor, else which unit has done most. It changes at most once a second, unless one moves.
function describe(atOnce = false) {
  const now = Date.now();
  if (!atOnce && now - described < 1000) return;
  if (cursor >= 0) {
    const name = layout.groups[layout.units[cursor]] ?? "none";
    const g = groups.get(name);
    const share = total ? ` \u00b7 ${count(totals[cursor])} rows, ${((100 * totals[cursor]) / total).toFixed(1)} % of all` : "";
    setText($("map-details"), `Layer ${layout.layers[Math.floor(cursor / layout.experts)]}, expert ${cursor % layout.experts} \u00b7 group ${name}${g ? `, ${g.ready} of ${g.wanted} ready` : ""}${share}`);
    return;
  }
  if (document.activeElement === $("map") || !total) return;
  described = now;
  let best = 0;
  for (let i = 1; i < totals.length; i++) if (totals[i] > totals[best]) best = i;
  setText($("map-details"), `${count(total)} rows since the page was opened; most at layer ${layout.layers[Math.floor(best / layout.experts)]}, expert ${best % layout.experts} (${((100 * totals[best]) / total).toFixed(1)} %).`);
}
