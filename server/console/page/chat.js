// The chat: one conversation, streamed, with what the server says of each answer.

import { $, h, setText } from "./dom.js";
import { count, rate, seconds } from "./format.js";
import { markdown } from "./markdown.js";
import { on } from "./store.js";
import { call, events, failure, may } from "./session.js";

const mostMessages = 200; // on the page; older ones are taken away
const leastSpan = 50; // ms: a rate over less says how the network delivers, and that since the question counts
const mostEntered = 100000; // characters of one answer that are shown

let conversation = []; // what is sent
let running = null; // AbortController
let skew = 0; // ms that this machine's clock is ahead of the server's, and what the quickest of the last messages took
const delays = [];
const mostDelays = 30;

export function chat() {
  $("ask").addEventListener("submit", (e) => { e.preventDefault(); send(); });
  $("chat-input").addEventListener("keydown", (e) => {
    if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
    e.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("chat-clear").addEventListener("click", clear);
  on("identity", (me) => {
    $("send").disabled = $("chat-input").disabled = !may("user", "generate");
    if (me && !may("user", "generate")) setText($("chat-status"), "Your role may not run the model.");
    if (!me) clear();
    else models();
  });
  on("state", (s) => {
    delays.push(Date.now() - s.t);
    if (delays.length > mostDelays) delays.shift();
    skew = Math.min(...delays);
  });
  clear();
}

// models fills the choice of models.
async function models() {
  const select = $("chat-model");
  const answer = await call("/v1/models").catch(() => null);
  if (!answer?.ok) return;
  const before = select.value;
  select.replaceChildren(...(await answer.json()).data.map((m) => h("option", { value: m.id }, m.id)));
  if (before && [...select.options].some((o) => o.value === before)) select.value = before;
  setText($("model"), select.value);
}

function clear() {
  running?.abort();
  conversation = [];
  $("chat-clear").disabled = true;
  const suggestions = ["Tell me a story about a fox and a lamp.", "Tell me a story about a brave little boat.", "Tell me a story about the moon."];
  $("messages").replaceChildren(h("div", { class: "empty" },
    h("p", {}, "Ask something, and watch which experts answer."),
    suggestions.map((s) => h("button", { type: "button", class: "suggestion", onclick: () => { $("chat-input").value = s; send(); } }, s))));
}

function request(messages) {
  const body = { model: $("chat-model").value, messages, stream: true, stream_options: { include_usage: true } };
  const temperature = Number.parseFloat($("temperature").value);
  const most = Number.parseInt($("max-tokens").value, 10);
  if (temperature >= 0) body.temperature = temperature;
  if (most > 0) body.max_tokens = most;
  return body;
}

async function send() {
  const input = $("chat-input");
  const text = input.value.trim();
  if (!text || running || !may("user", "generate")) return;
  input.value = "";
  const list = $("messages");
  list.querySelector(".empty")?.remove();
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...conversation, { role: "user", content: text }];
  list.append(h("article", { class: "message user", "aria-label": "You" }, h("p", {}, text)));
  const shown = answerView();
  list.append(shown.element);
  while (list.childElementCount > mostMessages) list.firstElementChild.remove();
  list.scrollTop = list.scrollHeight;
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  $("stop").focus({ preventScroll: true });
  $("chat-clear").disabled = false;
  setText($("chat-status"), "The answer is coming.");
  try {
    await stream(messages, shown, running.signal);
    setText($("chat-status"), "The answer is complete.");
  } catch (err) {
    const stopped = running.signal.aborted;
    shown.fail(stopped ? "stopped" : err.message, stopped);
    setText($("chat-status"), stopped ? "Stopped." : "The answer has failed.");
  }
  running = null;
  const hadFocus = document.activeElement === $("stop");
  $("stop").hidden = true;
  $("send").hidden = false;
  if (hadFocus) input.focus({ preventScroll: true });
  if (shown.text()) conversation.push({ role: "user", content: text }, { role: "assistant", content: shown.text() });
}

async function stream(messages, shown, signal) {
  const began = performance.now();
  const answer = await call("/v1/chat/completions", { method: "POST", body: request(messages), signal });
  if (!answer.ok) throw await failure(answer);
  shown.quality(answer.headers.get("pimoe-status"));
  let first = 0;
  let tokens = 0;
  let finished = false;
  for await (const [, data] of events(answer)) {
    if (data === "[DONE]") break;
    const value = JSON.parse(data);
    if (value.error) throw new Error(value.error.message);
    if (value.meta) shown.quality(value.meta.status, value.meta);
    const choice = value.choices?.[0];
    if (choice?.delta?.content) {
      if (!first) first = performance.now();
      tokens++;
      shown.add(choice.delta.content);
    }
    if (choice?.finish_reason) finished = choice.finish_reason;
    if (value.usage) tokens = value.usage.completion_tokens;
    const now = performance.now();
    shown.times({ first: first && (first - began) / 1000, tokens, rate: now > first + leastSpan ? ((tokens - 1) * 1000) / (now - first) : (tokens * 1000) / (now - began) });
  }
  if (!finished) throw new Error("the connection ended before the answer did");
  shown.end(finished);
}

// answerView is the element of an answer that is coming.
function answerView() {
  const body = h("div", { class: "text", "aria-busy": "true" });
  const numbers = h("span", { class: "numbers" });
  const badge = h("span", { class: "badge" });
  const notes = h("span", { class: "notes" });
  const element = h("article", { class: "message answer", "aria-label": "Answer" }, body, h("footer", {}, badge, numbers, notes));
  let text = "";
  let frame = 0;
  let over = false;
  let parts = [];
  const draw = () => {
    frame = 0;
    const list = $("messages");
    const following = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    body.replaceChildren(...markdown(text), over ? "" : h("span", { class: "caret", "aria-hidden": "true" }));
    numbers.textContent = parts.join(" \u00b7 ");
    if (following) list.scrollTop = list.scrollHeight;
  };
  const soon = () => { if (!frame) frame = requestAnimationFrame(draw); };
  const began = Date.now();
  let ended = Infinity;
  const off = on("event", (event) => {
    const at = event.t + skew;
    if (event.what !== "process.died" || at < began || at > ended || notes.childElementCount >= 4) return;
    notes.append(h("span", { class: "note", title: "The answer went on: the call was repeated on its successor." }, `${event.object} died meanwhile`));
  });
  const finish = () => {
    over = true;
    ended = Date.now();
    setTimeout(off, 2000); // the news of a death takes a moment
    body.removeAttribute("aria-busy");
    soon();
  };
  soon();
  return {
    element,
    text: () => text,
    add(piece) { if (text.length < mostEntered) text += piece; soon(); },
    quality(status, meta) {
      if (!status || status === "streamed") return;
      badge.className = `badge ${status}`;
      badge.textContent = status;
      if (meta?.layers) badge.title = `${meta.policy}: ${meta.layers} layers${meta.max_dropped_mass ? `, at most ${Math.round(100 * meta.max_dropped_mass)} % of a token's weight missing` : ""}`;
    },
    times(t) {
      parts = [];
      if (t.first) parts.push(`first token ${seconds(t.first)}`);
      if (t.first && t.rate > 0) parts.push(`${rate(t.rate)} tokens/s`);
      if (t.tokens) parts.push(`${count(t.tokens)} tokens`);
      soon();
    },
    end(reason) {
      if (reason === "length") parts.push("cut at max tokens");
      finish();
    },
    fail(why, calm) {
      finish();
      notes.append(h("span", { class: calm ? "note" : "note bad" }, why));
    },
  };
}
