// The table of processes, or of groups for those who may not see processes, and a drawer with everything of one and what can be
// done to it.

import { $, h, setText } from "./dom.js";
import { age, bytes, clock, count } from "./format.js";
import { asked, change, confirmed } from "./actions.js";
import { groupActions, onTrial, trialText } from "./group.js";
import { emit, on } from "./store.js";
import { mayChange, mayHurt } from "./session.js";

let list = [];
let groups = [];
let trial = null; // the present or last one of the host
let seesProcesses = false;
let open = null; // {group, replica} in the drawer
let chosen = "";
let head = "";
const rows = new Map(); // key -> {row, cells}

export function processes() {
  on("hello", (m) => { seesProcesses = m.processes; rebuild(); });
  on("identity", () => rebuild());
  on("state", (s) => {
    list = s.processes ?? [];
    groups = s.groups ?? [];
    trial = s.trial ?? null;
    show();
    if (open) drawer();
  });
  on("select", (group) => {
    chosen = group;
    emit("selected", group);
    const first = list.find((p) => p.group === group);
    show();
    if (first) openDrawer(first);
    else rows.get(group)?.row.scrollIntoView({ block: "nearest" });
  });
  const dialog = $("drawer");
  dialog.addEventListener("close", () => { open = null; chosen = ""; emit("selected", ""); show(); });
  dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
}

const name = (p) => (p.group ? `${p.group}/${p.replica}` : "router");

const columns = {
  processes: ["Process", "PID", "State", "Backend", "Memory", "Calls", "Restarts", "Age", "Last death", ""],
  groups: ["Group", "Ready", "Busy", "Restarts"],
};

function rebuild() {
  rows.clear();
  head = "";
  $("processes").replaceChildren();
  show();
}

function show() {
  const table = $("processes");
  const kind = seesProcesses ? "processes" : "groups";
  if (head !== kind) {
    head = kind;
    table.className = kind;
    table.replaceChildren(h("thead", {}, h("tr", {}, columns[kind].map((c) => h("th", { scope: "col" }, c || h("span", { class: "sr" }, "Actions"))))), h("tbody"));
  }
  const body = table.tBodies[0];
  const entries = seesProcesses ? list.map((p) => [`${name(p)}${p.aside ? `@${p.pid}` : ""}`, processRow, p]) : groups.map((g) => [g.group, groupRow, g]);
  const seen = new Set();
  for (const [key, fill, value] of entries) {
    seen.add(key);
    if (!rows.has(key)) {
      const row = h("tr");
      const cells = columns[kind].map((c, i) => h(i === 0 ? "th" : "td", i === 0 ? { scope: "row" } : { "data-label": c }));
      row.append(...cells);
      rows.set(key, { row, cells, value });
    }
    const entry = rows.get(key);
    entry.value = value;
    fill(entry, value);
    body.append(entry.row); // in their order
  }
  for (const [key, entry] of rows) {
    if (seen.has(key)) continue;
    entry.row.remove();
    rows.delete(key);
  }
  const own = list.filter((p) => p.group && !p.aside);
  const ready = own.filter((p) => p.state === "ready").length;
  setText($("processes-sum"), seesProcesses && own.length ? `${ready} of ${own.length} ready \u00b7 ${bytes(own.reduce((sum, p) => sum + p.bytes, 0))}` : groups.length ? `${groups.length} groups` : "");
}

function processRow(entry, p) {
  const [title, pid, state, backend, memory, calls, restarts, since, death, actions] = entry.cells;
  if (!title.firstChild) {
    title.append(h("button", { type: "button", class: "name", onclick: () => openDrawer(entry.value) }));
    if (mayHurt() && p.group) {
      actions.append(h("button", { type: "button", class: "danger small", onclick: () => hurt(entry.value, "kill") }, "Kill", h("span", { class: "sr" }, ` ${name(p)}`)));
    }
  }
  setText(title.firstChild, name(p));
  setText(pid, p.pid ? String(p.pid) : "-");
  const [word, tone] = stateOf(p);
  if (state.dataset.word !== word) {
    state.dataset.word = word;
    state.replaceChildren(h("span", { class: `state ${tone}` }, word));
  }
  setText(backend, p.class ? `${p.backend} ${p.class}` : p.backend);
  setText(memory, bytes(p.bytes));
  setText(calls, count(p.calls));
  setText(restarts, count(p.restarts));
  setText(since, p.since ? age(Date.now() - p.since) : "-");
  setText(death, p.quarantine || (p.death ? p.death.cause : "-"));
  death.title = p.death ? `${p.death.cause}, pid ${p.death.pid}, ${clock(p.death.t)}` : "";
  entry.row.classList.toggle("chosen", p.group !== "" && p.group === chosen);
}

function stateOf(p) {
  if (p.quarantine) return ["quarantined", "bad"];
  if (p.aside) return ["leaving", "idle"];
  if (p.state === "ready") return p.health === "suspect" ? ["suspect", "warn"] : ["ready", "good"];
  return [p.state, p.state === "starting" ? "warn" : "bad"];
}

function groupRow(entry, g) {
  const [title, ready, busy, restarts] = entry.cells;
  setText(title, g.group);
  setText(ready, `${g.ready} of ${g.wanted}`);
  setText(busy, `${Math.round(100 * g.busy)} %`);
  setText(restarts, count(g.restarts));
  entry.row.classList.toggle("chosen", g.group === chosen);
}

function openDrawer(p) {
  open = { group: p.group, replica: p.replica };
  chosen = p.group;
  emit("selected", p.group);
  built = "";
  drawer();
  show();
  if (!$("drawer").open) $("drawer").showModal();
}

let built = "";

// drawer shows the process that is open. What can be done is built once; the facts follow each state.
function drawer() {
  const p = list.find((one) => one.group === open.group && one.replica === open.replica && !one.aside);
  const dialog = $("drawer");
  const key = `${open.group}/${open.replica}/${Boolean(p)}/${Boolean(p?.quarantine)}/${onTrial(trial, open.group)}`;
  if (built !== key) {
    built = key;
    const title = open.group ? `${open.group}/${open.replica}` : "router";
    $("drawer-content").replaceChildren( // not the dialog: a toast may be in it
      h("div", { class: "head" }, h("h2", { id: "drawer-title" }, title), h("button", { type: "button", class: "quiet icon", "aria-label": "Close", onclick: () => dialog.close() }, "\u2715")),
      h("dl", { id: "facts" }),
      p ? actions(p) : h("p", { class: "muted" }, "This replica is not there any more."));
  }
  if (!p) return;
  const facts = [
    ["State", stateOf(p)[0]], ["PID", p.pid || "none"], ["Backend", p.backend], ["Numeric class", p.class || "-"], ["Private memory", bytes(p.bytes)],
    ["Calls", count(p.calls)], ["Rows", count(p.rows)], ["Errors", count(p.errors)], ["Restarts", count(p.restarts)],
    ["Age", p.since ? age(Date.now() - p.since) : "-"], ["Last death", p.death ? `${p.death.cause} (pid ${p.death.pid}, ${clock(p.death.t)})` : "none"],
  ];
  const group = groups.find((g) => g.group === p.group);
  if (group) facts.push(["Replicas", `${group.ready} of ${group.wanted} ready${group.max ? `, at most ${group.max}` : ""}`]);
  if (trial?.group === p.group && p.group) facts.push(["Trial", trialText(trial)]);
  if (p.quarantine) facts.push(["Quarantine", p.quarantine]);
  const box = $("facts");
  if (box.childElementCount !== facts.length * 2) box.replaceChildren(...facts.flatMap(() => [h("dt"), h("dd")]));
  facts.flat().forEach((text, i) => setText(box.children[i], String(text)));
}

function actions(p) {
  if (!p.group || !mayChange()) return h("p", { class: "muted" }, p.group ? "Your role may not change processes here." : "The host restarts the router by itself.");
  const many = () => list.filter((o) => o.group === p.group && !o.aside).length > 1;
  const button = (text, kind, f) => h("button", { type: "button", class: kind, onclick: f }, text);
  return h("div", { class: "actions" },
    h("div", { class: "row" },
      p.quarantine && button("Release", "", () => asked(`Release ${name(p)} from quarantine?`, "It gets a fresh process and a clean record.", "Release", p.group, "release", { replica: p.replica })),
      !p.quarantine && button("Restart", "", () => asked(`Restart ${name(p)}?`, "Its calls end on the old process. Nobody waits for the new one.", "Restart", p.group, "restart", { replica: p.replica })),
      !p.quarantine && many() && button("Drain", "", () => asked(`Drain ${name(p)}?`, "It finishes its calls and ends. The group goes on with one replica fewer.", "Drain", p.group, "drain", { replica: p.replica }))),
    groupActions(p, groups.find((g) => g.group === p.group), trial),
    mayHurt() && h("div", { class: "chaos" }, h("p", { class: "muted" }, "Chaos: the host is not told, and has to notice."),
      h("div", { class: "row" }, button("Kill", "danger", () => hurt(p, "kill")), button("Stop (hang)", "danger", () => hurt(p, "stop")))));
}

async function hurt(p, fault) {
  const [verb, text] = fault === "kill"
    ? ["Kill", "The process gets SIGKILL. Answers under way wait for its successor and go on with the same text."]
    : ["Stop", "The process gets SIGSTOP and hangs. The host notices, replaces it, and answers go on."];
  if (!(await confirmed(`${verb} ${name(p)}, pid ${p.pid}?`, text, `${verb} it`, true))) return;
  await change(`${verb} ${name(p)}`, p.group, "chaos", { replica: p.replica, fault });
}
