// Light or dark: as the system says, or as chosen with the switch. The choice is kept for the next visit.

import { $ } from "./dom.js";
import { emit } from "./store.js";

const storageKey = "pimoe-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const order = ["system", "light", "dark"];
const signs = { system: "\u25d0", light: "\u2600", dark: "\u263e" };

let chosen = order.includes(localStorage.getItem(storageKey)) ? localStorage.getItem(storageKey) : "system";

function show() {
  const now = chosen === "system" ? (dark.matches ? "dark" : "light") : chosen;
  document.documentElement.dataset.theme = now;
  const button = $("theme");
  button.textContent = signs[chosen];
  button.setAttribute("aria-label", `Theme: ${chosen}`);
  button.title = `Theme: ${chosen}`;
  emit("theme", now);
}

export function themes() {
  $("theme").addEventListener("click", () => {
    chosen = order[(order.indexOf(chosen) + 1) % order.length];
    localStorage.setItem(storageKey, chosen);
    show();
  });
  dark.addEventListener("change", show);
  show();
}
