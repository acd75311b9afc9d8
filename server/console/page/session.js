// Who one is, and requests with that identity. A key lives in this tab's sessionStorage; a login's cookie is out of reach of
// scripts. The server decides what is allowed: what is hidden here is only what would be refused.

import { emit } from "./store.js";

const storageKey = "pimoe-key";
const roles = ["viewer", "user", "operator", "admin"];

export const session = { setup: {}, me: null, key: sessionStorage.getItem(storageKey) ?? "" };

export async function begin() {
  session.setup = await (await fetch("/console/setup.json", { credentials: "omit" })).json();
  return identify();
}

// identify asks the server who one is; false = it wants a credential.
export async function identify() {
  const answer = await call("/auth/session", {}, true);
  if (answer.status === 401 || answer.status === 403) {
    session.me = null;
    emit("identity", null);
    return false;
  }
  if (!answer.ok) throw await failure(answer);
  session.me = await answer.json();
  emit("identity", session.me);
  return true;
}

// useKey tries a key; false = it isn't taken.
export async function useKey(key) {
  session.key = key;
  if (await identify()) {
    sessionStorage.setItem(storageKey, key);
    return true;
  }
  session.key = "";
  sessionStorage.removeItem(storageKey);
  return false;
}

export async function signOut() {
  if (session.me?.kind === "session") await call("/auth/logout", { method: "POST", body: {} });
  session.key = "";
  sessionStorage.removeItem(storageKey);
  await identify();
}

// may reports whether one has a role, and the scope where one has only some.
export function may(role, scope) {
  const me = session.me;
  return Boolean(me) && roles.indexOf(me.role) >= roles.indexOf(role) && (me.scopes.length === 0 || me.scopes.includes(scope));
}

export const mayChange = () => session.setup.changes && may("operator", "experts");
export const mayHurt = () => session.setup.changes && session.setup.chaos && may("admin", "chaos");

// call makes a request. On the admin listener no cookie goes along: it belongs to the public one of the same machine. With quiet
// an answer 401 is not taken for the end of the session.
export async function call(path, { method = "GET", body, signal } = {}, quiet = false) {
  const headers = {};
  if (session.key) headers.Authorization = `Bearer ${session.key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && session.me?.csrf_token) headers["X-CSRF-Token"] = session.me.csrf_token;
  const answer = await fetch(path, {
    method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
    credentials: session.setup.admin_listener ? "omit" : "same-origin",
  });
  if (answer.status === 401 && !quiet && session.me) {
    session.me = null;
    emit("identity", null);
  }
  return answer;
}

// failure is an answer as an error with what it says.
export async function failure(answer) {
  let text = `${answer.status} ${answer.statusText}`;
  try {
    const body = await answer.json();
    text = body.error?.message ?? body.detail ?? body.title ?? text;
  } catch {
    // no JSON: the status says it
  }
  return new Error(text);
}

// events reads server-sent events of an answer: [kind, data] pairs.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
        let kind = "message";
        let data = "";
        for (const line of rest.slice(0, end).split("\n")) {
          if (line.startsWith("event: ")) kind = line.slice(7);
          else if (line.startsWith("data: ")) data += line.slice(6);
        }
        if (data) yield [kind, data];
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
