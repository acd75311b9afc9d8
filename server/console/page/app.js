// The console: finds out who looks at it, then connects its parts.

import { $, setText } from "./dom.js";
import { alerts } from "./alerts.js";
import { charts } from "./charts.js";
import { chat } from "./chat.js";
import { eventList } from "./eventlist.js";
import { failedAction } from "./actions.js";
import { load } from "./load.js";
import { map } from "./map.js";
import { on } from "./store.js";
import { processes } from "./processes.js";
import { begin, may, session, signOut, useKey } from "./session.js";
import { start, stop } from "./live.js";
import { themes } from "./theme.js";

function identity(me) {
  $("console").hidden = !me;
  $("welcome").hidden = Boolean(me);
  $("link").hidden = !me;
  $("sign-out").hidden = !me || me.kind === "anonymous";
  setText($("who"), me ? `${me.id} \u00b7 ${me.role}` : "");
  stop();
  if (me) {
    if (may("viewer", "live")) start();
    else link({ state: "refused", why: "your credential has no right to watch" });
    return;
  }
  setText($("model"), "");
  $("login-oidc").hidden = !session.setup.login;
  if (session.setup.login) $("login-oidc").href = session.setup.login_path;
}

function link(l) {
  $("link").className = `link ${l.state}`;
  if (l.state === "live") setText($("link-text"), "live");
  else if (l.state === "paused") setText($("link-text"), "paused while hidden");
  else if (l.state === "refused") setText($("link-text"), `not live: ${l.why}`);
  else {
    setText($("link-text"), `reconnecting: ${l.why}`);
    $("link").title = `next try at ${new Date(l.again).toLocaleTimeString()}`;
  }
}

function login() {
  $("key-form").addEventListener("submit", async (e) => {
    e.preventDefault();
    const key = $("key").value.trim();
    setText($("key-error"), "");
    try {
      if (!(await useKey(key))) setText($("key-error"), "The server does not take this key.");
    } catch (err) {
      setText($("key-error"), err.message);
    }
    $("key").value = "";
  });
  $("sign-out").addEventListener("click", () => signOut().catch((err) => failedAction(err.message)));
}

on("identity", identity);
on("link", link);
on("hello", (m) => { setText($("model"), m.model); document.title = `${m.model} \u00b7 PiMoE`; });
themes();
login();
chat();
load();
map();
charts();
alerts();
processes();
eventList();
begin().catch((err) => {
  $("welcome").hidden = false;
  setText($("key-error"), `The server can't be reached: ${err.message}`);
});
