// Asking before something is changed, changing it, and saying what came of it.

import { $, h } from "./dom.js";
import { call, failure } from "./session.js";

// confirmed asks in a dialog; the answer is true or false.
export function confirmed(title, text, verb, dangerous = false) {
  const dialog = $("confirm");
  return new Promise((resolve) => {
    const ok = h("button", { type: "button", class: dangerous ? "danger solid" : "primary", onclick: () => dialog.close("yes") }, verb);
    const cancel = h("button", { type: "button", onclick: () => dialog.close("no") }, "Cancel");
    dialog.returnValue = "no"; // Escape leaves it
    dialog.replaceChildren(h("h2", { id: "confirm-title" }, title), h("p", {}, text), h("div", { class: "row end" }, cancel, ok));
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
    ok.focus();
  });
}

const box = $("toast"); // it moves between dialogs, which are filled anew
let hide = 0;

function toast(text, kind) {
  box.textContent = text;
  box.className = `toast shown ${kind}`;
  clearTimeout(hide);
  hide = setTimeout(() => { box.className = "toast"; box.textContent = ""; }, kind === "bad" ? 9000 : 4000);
  const open = [...document.querySelectorAll("dialog[open]")].at(-1);
  (open ?? document.body).append(box); // above a dialog, else it is behind
}

// change does something to a group and says what has come of it.
export async function change(what, group, action, body) {
  try {
    const answer = await call(`/admin/experts/${encodeURIComponent(group)}/${action}`, { method: "POST", body });
    if (!answer.ok) throw await failure(answer);
    toast(`${what}: done`, "good");
  } catch (err) {
    failedAction(`${what}: ${err.message}`);
  }
}

// asked makes a change after a yes.
export async function asked(title, text, verb, group, action, body) {
  if (await confirmed(title, text, verb)) await change(`${verb} ${group}${body.replica === undefined ? "" : `/${body.replica}`}`, group, action, body);
}

export const failedAction = (text) => toast(text, "bad");
