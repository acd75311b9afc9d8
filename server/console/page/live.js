// The connection to /api/v1/live: it comes again after every end, with growing pauses, and says so.

import { emit } from "./store.js";
import { call, events, failure, session } from "./session.js";

const firstPause = 500; // ms
const longestPause = 15000;
const silence = 8000; // a state comes every second: nothing for so long is a broken connection
const hiddenFor = 30000; // a page that nobody sees need not be served

let running = null; // AbortController of the present connection
let wanted = false;
let pause = firstPause;
let timer = 0;
let hidden = 0;

export function start() {
  if (wanted) return;
  wanted = true;
  connect();
}

export function stop() {
  wanted = false;
  clearTimeout(timer);
  running?.abort();
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(() => { if (wanted) { stop(); emit("link", { state: "paused" }); hidden = -1; } }, hiddenFor);
  else if (hidden === -1) { hidden = 0; pause = firstPause; if (session.me) start(); }
});

async function connect() {
  clearTimeout(timer);
  const control = new AbortController();
  running = control;
  let watchdog = 0;
  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => control.abort(), silence);
  };
  heard();
  let why = "the connection has ended";
  let again = false;
  try {
    const answer = await call("/api/v1/live", { signal: control.signal });
    if (answer.status === 401 || answer.status === 403) {
      wanted = false;
      emit("link", { state: "refused", why: (await failure(answer)).message });
      return;
    }
    if (!answer.ok) throw await failure(answer);
    for await (const [kind, data] of events(answer)) {
      heard();
      const value = JSON.parse(data);
      if (kind === "hello") {
        pause = firstPause;
        emit("link", { state: "live" });
      }
      if (kind === "bye") {
        again = value.why === "again";
        if (value.why === "stopping") why = "the server is stopping";
      }
      emit(kind, value);
    }
  } catch (err) {
    why = control.signal.aborted ? "the server does not answer" : err.message;
  } finally {
    clearTimeout(watchdog);
    control.abort();
  }
  if (!wanted || running !== control) return;
  if (again) return connect();
  const wait = pause * (0.75 + Math.random() / 2);
  pause = Math.min(pause * 2, longestPause);
  emit("link", { state: "lost", why, again: Date.now() + wait });
  timer = setTimeout(connect, wait);
}
