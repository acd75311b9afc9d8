// Background requests: stories that nobody reads, so that there is something to watch. Each is counted; a failed one would show.
// There are three at most: browsers open six connections to a server, and chat, events and actions need theirs.

import { $, setText } from "./dom.js";
import { count } from "./format.js";
import { on } from "./store.js";
import { call, events, failure, may } from "./session.js";

const subjects = ["a fox", "a lamp", "a boat", "the moon", "a bear", "a kite", "a small house", "a cloud", "a red ball", "two cats"];

let wanted = 0;
let answered = 0;
let failed = 0;
let last = "";
const running = new Set(); // AbortControllers

export function load() {
  const select = $("load-count");
  select.addEventListener("change", () => {
    wanted = Number(select.value);
    while (running.size > wanted) end();
    while (running.size < wanted) worker();
    show();
  });
  on("identity", () => {
    $("load").hidden = !may("user", "generate");
    if (may("user", "generate")) return;
    wanted = 0;
    select.value = "0";
    while (running.size > 0) end();
  });
}

function end() {
  const [control] = running;
  running.delete(control);
  control.abort();
}

async function worker() {
  const control = new AbortController();
  running.add(control);
  let number = Math.floor(Math.random() * subjects.length);
  while (!control.signal.aborted) {
    const about = subjects[number++ % subjects.length];
    try {
      const answer = await call("/v1/chat/completions", { method: "POST", signal: control.signal, body: {
        model: $("chat-model").value, messages: [{ role: "user", content: `Tell me a story about ${about}.` }], stream: true, max_tokens: 300, temperature: 0.8,
      } });
      if (!answer.ok) throw await failure(answer);
      let finished = false;
      for await (const [, data] of events(answer)) {
        if (data === "[DONE]") break;
        const value = JSON.parse(data);
        if (value.error) throw new Error(value.error.message);
        if (value.choices?.[0]?.finish_reason) finished = true;
      }
      if (!finished) throw new Error("cut off");
      answered++;
    } catch (err) {
      if (control.signal.aborted) break;
      failed++;
      last = err.message;
      await new Promise((done) => setTimeout(done, 1000)); // a server that refuses is not asked at once again
    }
    show();
  }
}

function show() {
  const text = answered + failed === 0 ? "" : `${count(answered)} answered, ${count(failed)} failed${failed ? `: ${last}` : ""}`;
  setText($("load-text"), text);
  $("load-text").classList.toggle("bad", failed > 0);
}
