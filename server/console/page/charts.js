// Four small charts over the last minute: tokens a second, the queue, and how long first and further tokens take. Each says the
// same in words.

import { $, h, setText, svg } from "./dom.js";
import { count, rate, seconds } from "./format.js";
import { on } from "./store.js";

const span = 60; // seconds, and points
const width = 240;
const height = 56;

let tokens = 0;
let peak = { running: 0, queued: 0 };
let bounds = [];
const views = {};
const series = { rate: [], running: [], queued: [], first: [], inter: [] };

export function charts() {
  views.rate = view("chart-rate", "Tokens a second", 1);
  views.queue = view("chart-queue", "Requests", 2);
  views.first = view("chart-first", "Time to first token");
  views.inter = view("chart-inter", "Time between tokens");
  on("hello", (m) => { bounds = m.bounds ?? []; });
  on("pulse", (p) => {
    tokens += p.tokens;
    peak = { running: Math.max(peak.running, p.running), queued: Math.max(peak.queued, p.queued) };
  });
  on("state", state);
  on("link", (l) => { if (l.state !== "live") lastState = 0; });
}

function view(id, title, lines = 0) {
  const value = h("p", { class: "value" }, "-");
  const note = h("p", { class: "sub" }, "");
  const paths = Array.from({ length: lines }, (_, i) => svg("path", { class: `line line-${i}` }));
  const areas = lines ? [svg("path", { class: "area" })] : [];
  const bars = svg("g", { class: "bars" });
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: nothing yet` }, areas, paths, bars);
  const low = h("span", {}, "");
  const high = h("span", {}, "");
  const foot = h("p", { class: "sub" });
  $(id).append(h("h2", {}, title), h("div", { class: "figures" }, value, note), picture, h("p", { class: "axis", "aria-hidden": "true" }, low, high), foot);
  return { title, foot, value, note, paths, areas, bars, picture, low, high };
}

let lastState = 0;

function push(name, value) {
  const list = series[name];
  list.push(value);
  if (list.length > span) list.shift();
}

function state(s) {
  const passed = lastState ? (s.t - lastState) / 1000 : 0;
  if (lastState && passed < 0.9) { // one that came early
    addTimes(s);
    return;
  }
  lastState = s.t;
  if (passed) push("rate", tokens / passed);
  push("running", Math.max(peak.running, s.running));
  push("queued", Math.max(peak.queued, s.queued));
  tokens = 0;
  peak = { running: s.running, queued: s.queued };
  push("first", []);
  push("inter", []);
  addTimes(s);
  show(s);
}

// addTimes adds the counts of a state to the present second.
function addTimes(s) {
  for (const [name, list] of [["first", s.first_token], ["inter", s.inter_token]]) {
    const now = series[name].at(-1);
    if (!now) continue;
    for (let i = 0; i < (list?.length ?? 0); i++) now[i] = (now[i] ?? 0) + list[i];
  }
}

function show(s) {
  const now = series.rate.at(-1) ?? 0;
  lines(views.rate, [series.rate]);
  setText(views.rate.value, rate(now));
  setText(views.rate.note, `peak ${rate(Math.max(0, ...series.rate))}`);
  label(views.rate, `now ${rate(now)}, at most ${rate(Math.max(0, ...series.rate))} in the last minute`);
  lines(views.queue, [series.running, series.queued]);
  setText(views.queue.value, count(s.running));
  setText(views.queue.note, `running \u00b7 ${count(s.queued)} waiting`);
  label(views.queue, `${s.running} running, ${s.queued} waiting; at most ${Math.max(0, ...series.running)} and ${Math.max(0, ...series.queued)} in the last minute`);
  const { exact = 0, fallback = 0, degraded = 0 } = s.answers;
  setText(views.queue.foot, `${count(exact + fallback + degraded)} answered${fallback ? `, ${count(fallback)} by fallback` : ""}, ${count(degraded)} degraded`);
  views.queue.foot.classList.toggle("bad", degraded > 0);
  histogram(views.first, series.first);
  histogram(views.inter, series.inter);
}

function label(view, text) {
  view.picture.setAttribute("aria-label", `${view.title}: ${text}`);
}

function lines(view, lists) {
  const most = Math.max(1, ...lists.flat());
  lists.forEach((list, i) => {
    const points = list.map((v, k) => `${(((span - list.length + k) / (span - 1)) * width).toFixed(1)} ${(height - 2 - (v / most) * (height - 6)).toFixed(1)}`);
    const d = points.length ? `M${points.join("L")}` : "";
    view.paths[i].setAttribute("d", d);
    if (i === 0) view.areas[0].setAttribute("d", d && `${d}L${width} ${height}L${(((span - list.length) / (span - 1)) * width).toFixed(1)} ${height}Z`);
  });
  setText(view.low, "1 min ago");
  setText(view.high, "now");
}

// histogram shows how many times fell into each bucket in the last minute.
function histogram(view, list) {
  const sums = [];
  for (const one of list) one.forEach((n, i) => { sums[i] = (sums[i] ?? 0) + n; });
  const all = sums.reduce((a, b) => a + b, 0);
  if (!all) {
    view.bars.replaceChildren();
    setText(view.value, "-");
    setText(view.note, "none in the last minute");
    setText(view.low, "");
    setText(view.high, "");
    label(view, "none in the last minute");
    return;
  }
  const first = sums.findIndex((n) => n > 0);
  const last = sums.findLastIndex((n) => n > 0);
  const from = Math.max(0, first - 1);
  const to = Math.min(sums.length - 1, Math.max(last + 1, from + 5));
  const most = Math.max(...sums);
  const each = width / (to - from + 1);
  const p50 = quantile(sums, all, 0.5);
  const p95 = quantile(sums, all, 0.95);
  view.bars.replaceChildren(...sums.slice(from, to + 1).map((n, i) => {
    const high = n ? Math.max(2, (n / most) * (height - 4)) : 0;
    return svg("rect", { x: (i * each + 1).toFixed(1), y: (height - high).toFixed(1), width: (each - 2).toFixed(1), height: high.toFixed(1), rx: 2 });
  }));
  setText(view.value, seconds(p50));
  setText(view.note, `median \u00b7 p95 ${seconds(p95)}`);
  setText(view.low, from > 0 ? seconds(bounds[from - 1]) : "0");
  setText(view.high, to < bounds.length ? seconds(bounds[to]) : `over ${seconds(bounds.at(-1))}`);
  label(view, `median ${seconds(p50)}, 95 % within ${seconds(p95)}, of ${count(all)} in the last minute`);
}

// quantile is where a share of the values lies, as if they were even within a bucket.
function quantile(sums, all, share) {
  let left = all * share;
  for (let i = 0; i < sums.length; i++) {
    if (sums[i] >= left && sums[i] > 0) {
      const low = i > 0 ? bounds[i - 1] : 0;
      const high = i < bounds.length ? bounds[i] : bounds.at(-1);
      return low + (high - low) * (left / sums[i]);
    }
    left -= sums[i];
  }
  return bounds.at(-1);
}
