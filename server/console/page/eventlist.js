// What has happened, newest first; the list is bounded.

import { $, h } from "./dom.js";
import { clock } from "./format.js";
import { on } from "./store.js";

const most = 100;

const words = {
  "process.died": ["bad", (e) => ["process ", e.why || "ended"]],
  "process.ready": ["good", () => ["process is ready"]],
  "process.changed": ["info", (e) => ["computes with ", e.why]],
  "replica.quarantined": ["bad", (e) => ["quarantined: it ", e.why]],
  "replica.released": ["good", () => ["released from quarantine"]],
  "replica.added": ["info", () => ["replica added"]],
  "replica.removed": ["info", () => ["replica removed"]],
  "trial.began": ["info", (e) => ["trial began: ", e.why]],
  "trial.ended": ["info", (e) => ["trial ended: ", e.why]],
  "experts.chaos": ["warn", (e) => ["hurt on purpose", by(e)]],
  "experts.restart": ["info", (e) => ["restarted", by(e)]],
  "experts.drain": ["info", (e) => ["replica drained", by(e)]],
  "experts.swap": ["info", (e) => ["swapped", by(e)]],
};

const by = (e) => (e.who ? ` by ${e.who}` : "");

export function eventList() {
  const list = $("events");
  const empty = h("li", { class: "empty" }, "Nothing has happened while somebody watched.");
  list.append(empty);
  const add = (e) => {
    const [kind, say] = words[e.what] ?? ["info", (other) => [other.what, other.why ? `: ${other.why}` : "", by(other)]];
    empty.remove();
    list.prepend(h("li", { class: kind }, h("time", { datetime: new Date(e.t).toISOString() }, clock(e.t)), h("span", { class: "object" }, e.object), h("span", { class: "what" }, say(e).join(""))));
    while (list.childElementCount > most) list.lastElementChild.remove();
  };
  on("hello", (m) => {
    list.replaceChildren(empty);
    for (const e of m.events) add(e);
  });
  on("event", add);
}
