// The alerts: what fires and what may soon, each with what to do about it, and what was resolved lately. A badge in the bar says
// how many fire. Only those see them whom the server tells of them.

import { $, h, setText } from "./dom.js";
import { age, clock, count } from "./format.js";
import { on } from "./store.js";
import { may } from "./session.js";

const worst = ["critical", "warning", "info"]; // first

let told = null; // the last list; null = none has come
let held = true; // the server holds rules
const rows = new Map(); // key -> {row, ...parts}

export function alerts() {
  on("identity", () => { told = null; show(); });
  on("hello", (m) => { held = m.alerts; if (!held) told = null; show(); });
  on("alerts", (list) => {
    announce(told?.alerts ?? [], list.alerts);
    told = list;
    show();
  });
  on("state", () => { for (const entry of rows.values()) since(entry); });
}

const firing = (list) => list.filter((a) => a.state === "firing");
const keyOf = (a) => `${a.rule} ${JSON.stringify(a.labels)}`;
const rank = (a) => (a.state === "firing" ? 0 : worst.length) + worst.indexOf(a.severity);

// announce tells those who do not look at the list what has begun or ended.
function announce(before, now) {
  const was = new Set(firing(before).map(keyOf));
  const is = new Set(firing(now).map(keyOf));
  const begun = firing(now).filter((a) => !was.has(keyOf(a))).map((a) => `${a.severity} alert: ${a.summary}`);
  const ended = firing(before).filter((a) => !is.has(keyOf(a))).map((a) => `${a.rule} is resolved`);
  if (begun.length + ended.length) setText($("alerts-news"), [...begun, ...ended].join(". "));
}

function show() {
  const sees = may("viewer", "alerts");
  $("alerts").hidden = !sees;
  const list = sees && told ? [...told.alerts].sort((a, b) => rank(a) - rank(b)) : [];
  if (!sees) setText($("alerts-news"), "");
  badge(firing(list));
  setText($("alerts-sum"), told ? `${count(told.rules)} rules, looked at ${clock(Date.parse(told.looked))}` : "");
  fill(list);
  $("alerts-none").hidden = list.length > 0;
  setText($("alerts-none"), !held ? "No rules are held here: alerts.enabled is false." : told ? "Nothing fires." : "Nothing is known yet.");
  over(sees && told ? told.over : []);
}

function badge(list) {
  const link = $("alarm");
  link.hidden = list.length === 0;
  link.className = `alarm ${list[0]?.severity ?? ""}`; // the worst one is the first
  setText(link, `${list.length} ${list.length === 1 ? "alert" : "alerts"}`);
}

// fill keeps the rows of alerts that stay, so that the focus stays in them.
function fill(list) {
  const box = $("alerts-list");
  const seen = new Set(list.map(keyOf));
  for (const [key, entry] of rows) {
    if (seen.has(key)) continue;
    entry.row.remove();
    rows.delete(key);
  }
  list.forEach((a, i) => {
    const key = keyOf(a);
    if (!rows.has(key)) rows.set(key, view(a));
    const entry = rows.get(key);
    entry.alert = a;
    update(entry);
    if (box.children[i] !== entry.row) box.insertBefore(entry.row, box.children[i] ?? null);
  });
}

function view(a) {
  const parts = { severity: h("span", { class: "severity" }), summary: h("p", { class: "summary" }), facts: h("p", { class: "facts" }) };
  parts.row = h("li", {}, h("div", { class: "title" }, parts.severity, h("span", { class: "rule" }, a.rule), guide(a)), parts.summary, parts.facts);
  return parts;
}

// guide is the link to what to do; none for an address that is not of the web.
function guide(a) {
  if (!/^https:\/\//.test(a.runbook)) return null;
  return h("a", { href: a.runbook, target: "_blank", rel: "noreferrer" }, "What to do", h("span", { class: "sr" }, ` about ${a.rule}, in a new tab`));
}

function update(entry) {
  const a = entry.alert;
  entry.row.className = `${a.state} ${a.severity}`;
  setText(entry.severity, a.severity);
  setText(entry.summary, a.summary);
  since(entry);
}

function since(entry) {
  const { state, since: begun, reading, limit } = entry.alert;
  setText(entry.facts, `${state} \u00b7 since ${clock(Date.parse(begun))}, ${age(Date.now() - Date.parse(begun))} \u00b7 value ${reading}, fires ${limit}`);
}

let newest = "";

// over lists what was resolved; the list is made anew only when there is something new in it.
function over(list) {
  $("alerts-over").hidden = list.length === 0;
  const key = list.length ? `${list.length} ${list[0].resolved} ${keyOf(list[0])}` : "";
  if (key === newest) return;
  newest = key;
  setText($("alerts-over-sum"), `Resolved lately: ${count(list.length)}`);
  $("alerts-over-list").replaceChildren(...list.map((a) => h("li", {},
    h("time", { datetime: a.resolved }, clock(Date.parse(a.resolved))), h("span", { class: "rule" }, a.rule),
    h("span", {}, `${a.summary}, for ${age(Date.parse(a.resolved) - Date.parse(a.since))}`))));
}
