// What can be done to a whole group: more or fewer replicas, and other processes for all of its calls or, on trial, for some.

import { h } from "./dom.js";
import { asked } from "./actions.js";

const backends = ["cpu", "int8", "ref"];

// onTrial reports whether a trial runs on a group.
export const onTrial = (trial, group) => trial?.state === "running" && trial.group === group;

// trialText says how a trial goes.
export function trialText(trial) {
  const share = trial.kind === "canary" ? `${+(100 * trial.share).toFixed(2)} % of the requests, ` : "";
  return `${trial.kind} of ${trial.to}: ${share}${trial.calls} calls${trial.state === "running" ? "" : `, ${trial.state}${trial.why ? `: ${trial.why}` : ""}`}`;
}

// groupActions are the forms for the group of a process; one that may have a single replica is not scaled. group is what the last
// state says of it, trial the trial of the host.
export function groupActions(p, group, trial) {
  return [swap(p), group?.max > 1 && scale(p, group), onTrial(trial, p.group) ? end(p, trial) : begin(p)];
}

const form = (label, id, submit, ...fields) => h("form", { class: "change", onsubmit: (e) => { e.preventDefault(); submit(); } },
  h("label", { for: id }, label), h("div", { class: "row" }, fields.flat()));

// backendField is a field with the backends that are known; name is for one that the form's label does not name.
const backendField = (id, p, name) => [
  h("input", { id, list: `${id}-known`, value: p.backend, autocomplete: "off", spellcheck: "false", required: true, "aria-label": name }),
  h("datalist", { id: `${id}-known` }, backends.map((b) => h("option", { value: b }))),
];

function swap(p) {
  const fields = backendField("swap-backend", p);
  const run = () => asked(`Swap ${p.group} to ${fields[0].value}?`, "New processes start, pass their tests and take over; requests under way end on the old ones.", "Swap", p.group, "swap", { backend: fields[0].value });
  return form(`Swap the whole group ${p.group} to backend`, "swap-backend", run, fields, h("button", {}, "Swap"));
}

function scale(p, group) {
  const number = h("input", { id: "scale-replicas", type: "number", min: 1, max: group.max, step: 1, value: group.wanted, required: true });
  const run = () => asked(`Scale ${p.group} to ${number.value}?`, "More replicas start and pass their tests; those too many finish their calls and end. The number stays until it is changed.", "Scale", p.group, "scale", { replicas: Number(number.value) });
  const free = () => asked(`Scale ${p.group} by load?`, "The host chooses the number from now on, within what the configuration allows.", "Scale", p.group, "scale", { auto: true });
  return form(`Replicas of ${p.group}`, "scale-replicas", run, number, h("button", {}, "Scale"), h("button", { type: "button", onclick: free }, "By load"));
}

const kinds = {
  canary: "New processes start and answer this share of the new requests. It is rolled back by itself when one of them fails.",
  shadow: "New processes start and compute this share of the calls again; their results are compared, and nobody gets them.",
};

function begin(p) {
  const kind = h("select", { id: "trial-kind" }, Object.keys(kinds).map((k) => h("option", {}, k)));
  const fields = backendField("trial-backend", p, "Backend on trial");
  const percent = h("input", { type: "number", min: 0.1, max: 100, step: "any", value: 10, required: true, "aria-label": "Share in percent" });
  const run = () => asked(`Begin a ${kind.value} of ${fields[0].value} on ${p.group}?`, kinds[kind.value], `Begin ${kind.value}`, p.group, kind.value, { backend: fields[0].value, percent: Number(percent.value) });
  return form(`Try another backend in ${p.group}, for a share in percent`, "trial-kind", run, kind, fields, percent, h("button", {}, "Begin"));
}

function end(p, trial) {
  const button = (verb, action, text) => h("button", { type: "button", onclick: () => asked(`${verb} the ${trial.kind} of ${trial.to}?`, text, verb, p.group, action, {}) }, verb);
  return h("div", { class: "change" }, h("p", {}, `A ${trial.kind} of ${trial.to} runs on ${p.group}`), h("div", { class: "row" },
    button("Promote", "promote", "Its processes answer all calls of the group from now on; the old ones end."),
    button("Roll back", "rollback", "Its processes end; the group goes on as before.")));
}
