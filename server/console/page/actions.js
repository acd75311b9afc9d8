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

export async function post(path, body) {
  const answer = await call(path, { method: "POST", body });
  if (!answer.ok) throw await failure(answer);
  return answer.json();
}

let hide = 0;

function toast(text, kind) {
  const box = $("toast");
  box.textContent = text;
  box.className = `toast shown ${kind}`;
  clearTimeout(hide);
  hide = setTimeout(() => { box.className = "toast"; box.textContent = ""; }, kind === "bad" ? 9000 : 4000);
  const open = [...document.querySelectorAll("dialog[open]")].at(-1);
  (open ?? document.body).append(box); // above a dialog, else it is behind
}

export const done = (text) => toast(text, "good");
export const failedAction = (text) => toast(text, "bad");
