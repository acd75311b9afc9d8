// Uses the console in a real browser. Each step says what it has seen; the last line is "done". The server is real, with the
// embedded model and a process for each expert. SHOTS=DIR writes pictures.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { PUBLIC, ADMIN, BROWSER, PIMOE_CLIENTS, VIEWER, OPERATOR, WATCHER, PIMOE_SHOTS } = process.env;
const require = createRequire(`${PIMOE_CLIENTS}/console.mjs`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const patience = Number(process.env.PATIENCE ?? 30000); // ms for one thing to happen; a machine may be busy
const browser = await chromium.launch({ executablePath: BROWSER, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const mistakes = []; // what a page has complained about
const expected = /the server responded with a status of 40[0-9]|ERR_FAILED|ERR_NAME_NOT_RESOLVED/; // the browser's own lines about refused requests, and a font that the provider's page would like

async function visit(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: "dark", ...options });
  context.setDefaultTimeout(patience);
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`));
  });
  const page = await context.newPage();
  page.on("console", (m) => { if (["error", "warning"].includes(m.type()) && !expected.test(m.text())) mistakes.push(`${m.text()} ${m.location().url}`); });
  page.on("pageerror", (e) => mistakes.push(e.stack));
  await page.goto(`${url}/console`);
  return page;
}

const live = (page) => page.waitForSelector("#link.live");
const began = Date.now();
const step = (text) => console.log(`${((Date.now() - began) / 1000).toFixed(1)} s ${text}`);

// ask sends a message and returns when the first text of the answer is there.
async function ask(page, text) {
  const before = await page.locator(".answer").count();
  await page.fill("#chat-input", text);
  await page.press("#chat-input", "Enter");
  await page.waitForFunction((n) => document.querySelectorAll(".answer").length > n && document.querySelectorAll(".answer")[n].querySelector(".text").textContent.length > 0, before);
  return page.locator(".answer").nth(before);
}

async function answered(page, answer) {
  await answer.locator(".text:not([aria-busy])").waitFor();
  await page.waitForSelector("#send:not([hidden])");
  return answer.locator(".text").innerText();
}

async function settings(page, temperature, most) {
  await page.locator(".settings").evaluate((d) => { d.open = true; });
  await page.fill("#temperature", String(temperature));
  await page.fill("#max-tokens", String(most));
}

async function accessible(page, what) {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const result = await axe.run(document, { resultTypes: ["violations"] });
    return result.violations.map((v) => `${v.impact} ${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.target} ${n.failureSummary}`).join(" | ")}`);
  });
  assert.deepEqual(found.filter((v) => /^(serious|critical)/.test(v)), [], what);
}

// crowd keeps so many requests running, on the public listener, since the admin one takes few connections; what it returns ends that and tells what failed.
function crowd(most) {
  let over = false;
  const failed = [];
  const body = JSON.stringify({ model: "pimoe-tiny", messages: [{ role: "user", content: "Tell me a story about the sea." }], max_tokens: 100 });
  const one = async () => {
    while (!over) {
      const r = await fetch(`${PUBLIC}/v1/chat/completions`, { method: "POST", body, headers: { "Content-Type": "application/json", Authorization: `Bearer ${OPERATOR}` } });
      if (!r.ok || !(await r.json()).choices[0].finish_reason) failed.push(r.status);
    }
  };
  const all = Promise.all(Array.from({ length: most }, one));
  return async () => {
    over = true;
    await all;
    return { failed };
  };
}

const shot = async (page, name) => {
  if (!PIMOE_SHOTS) return;
  mkdirSync(PIMOE_SHOTS, { recursive: true });
  await page.screenshot({ path: `${PIMOE_SHOTS}/${name}.png` });
};

// Chat, map, and an expert that dies in the middle of an answer.
const story = "Tell me a story about a fox and a lamp.";

async function demo() {
  const page = await visit(ADMIN);
  await live(page);
  assert.match(await page.locator("#who").innerText(), /local . admin/);
  await settings(page, 0, 600);
  await page.evaluate(() => {
    window.lengths = new Set();
    new MutationObserver(() => window.lengths.add(document.querySelector(".answer .text")?.textContent.length)).observe(document.querySelector("#messages"), { childList: true, subtree: true });
  });
  const first = await ask(page, story);
  const whole = await answered(page, first);
  assert.ok(whole.length > 200, whole);
  assert.equal(await first.locator(".badge").innerText(), "exact");
  assert.match(await first.locator(".numbers").innerText(), /first token .* tokens\/s .* tokens/);
  step(`the chat answers: ${await first.locator(".numbers").innerText()}`);

  await page.selectOption("#load-count", "2");
  await page.waitForFunction(() => /[1-9]\d* answered, 0 failed/.test(document.querySelector("#load-text").textContent));
  const lit = await page.waitForFunction(() => {
    const canvas = document.querySelector("#map-canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let warm = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i] > 150 && data[i + 2] < data[i] - 40) warm++;
    return warm > 2000 && warm;
  });
  step(`the map is lit: ${await lit.jsonValue()} warm points; ${await page.locator("#map-details").innerText()}`);

  const others = crowd(12); // so that answers take a while: the kill comes some time after the first words
  const row = page.locator("#processes tbody tr", { has: page.getByRole("button", { name: "e3/0", exact: true }) });
  const pid = await row.locator("td").nth(0).innerText();
  await page.click("#chat-clear");
  await row.getByRole("button", { name: "Kill e3/0" }).click();
  assert.match(await page.locator("#confirm-title").innerText(), new RegExp(`Kill e3/0, pid ${pid}`));
  // The dialog is open before the answer begins, so that the kill comes in its midst; what lies behind a dialog takes no real clicks.
  await page.evaluate((text) => {
    window.lengths.clear();
    document.querySelector("#chat-input").value = text;
    document.querySelector("#ask").requestSubmit();
    new MutationObserver((_, self) => {
      if (!document.querySelector(".answer .text")?.textContent) return;
      self.disconnect();
      document.querySelector("#confirm .danger").click();
    }).observe(document.querySelector("#messages"), { childList: true, subtree: true });
  }, story);
  const second = page.locator(".answer").first();
  const again = await answered(page, second);
  assert.equal(again, whole, "the answer during which an expert died");
  const lengths = await page.evaluate(() => window.lengths.size);
  assert.ok(lengths > 1, `it was shown in ${lengths} pieces`);
  await page.waitForFunction((old) => [...document.querySelectorAll("#processes tbody tr")].some((r) => r.cells[0].textContent === "e3/0" && r.cells[1].textContent !== old && r.cells[6].textContent === "1" && /SIGKILL/.test(r.cells[8].textContent)), pid);
  await page.waitForFunction(() => /e3\/0\s*process was killed by SIGKILL/.test(document.querySelector("#events").innerText) && /experts?.*hurt on purpose by local|hurt on purpose by local/s.test(document.querySelector("#events").innerText));
  await second.getByText("e3/0 died meanwhile").waitFor();
  assert.deepEqual(await others(), { failed: [] }, "requests of others meanwhile");
  step(`e3/0, pid ${pid}, was killed in the midst of an answer, which is the same: ${again.length} characters in ${lengths} pieces`);
  await shot(page, "dark-wide");

  await page.getByRole("button", { name: "e5/0", exact: true }).click();
  await page.locator("#drawer").getByRole("button", { name: "Restart" }).click();
  await page.locator("#confirm .primary").click();
  await page.getByText("Restart e5/0: done").waitFor();
  await shot(page, "drawer");
  await page.locator("#drawer").getByLabel(/Swap the whole group/).fill("int8");
  await page.locator("#drawer").getByRole("button", { name: "Swap" }).click();
  await page.locator("#confirm .primary").click();
  await page.getByText("Swap e5: done").waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll("#processes tbody tr")].some((r) => r.cells[0].textContent === "e5/0" && /int8g32/.test(r.cells[3].textContent)));
  step("e5 was restarted, and swapped to int8");
  assert.match(await page.locator("#load-text").innerText(), / 0 failed/);
  step(`meanwhile: ${await page.locator("#load-text").innerText()}`);
  await page.keyboard.press("Escape");
  await page.selectOption("#load-count", "0");
  await page.fill("#max-tokens", "900");
  const more = crowd(4);
  // The story may be over before the browser has shown any of it, on a machine that is busy.
  for (let tries = 1; ; tries++) {
    await page.evaluate((n) => new MutationObserver((_, self) => {
      if (!document.querySelectorAll(".answer .text")[n]?.textContent) return;
      self.disconnect();
      document.querySelector("#stop").click();
    }).observe(document.querySelector("#messages"), { childList: true, subtree: true }), await page.locator(".answer").count());
    const third = await ask(page, "Tell me a long story.");
    await answered(page, third);
    if (await third.getByText("stopped").count() > 0) break;
    assert.ok(tries < 5, "no answer could be stopped");
  }
  await more();
  await bounded(page);
  await page.context().close();
}

// A whole group: more replicas, and another backend on trial.
async function group() {
  const page = await visit(ADMIN);
  await live(page);
  await page.getByRole("button", { name: "e6/0", exact: true }).click();
  const drawer = page.locator("#drawer");
  const asked = async (button, says) => {
    await drawer.getByRole("button", { name: button, exact: true }).click();
    await page.locator("#confirm .primary").click();
    await page.getByText(`${says} e6: done`).waitFor();
  };
  await drawer.getByLabel("Replicas of e6").fill("2");
  await asked("Scale", "Scale");
  await drawer.getByText("2 of 2 ready").waitFor();
  await drawer.locator("#trial-kind").selectOption("canary");
  await drawer.getByLabel("Backend on trial").fill("int8");
  await drawer.getByRole("spinbutton", { name: "Share in percent" }).fill("50");
  await shot(page, "group");
  await asked("Begin", "Begin canary");
  await drawer.getByText(/^canary of int8.*: 50 % of the requests, \d+ calls$/).waitFor();
  await accessible(page, "a trial in the drawer");
  await asked("Roll back", "Roll back");
  await drawer.getByText(/^canary of int8.*rolled back/).waitFor();
  await drawer.getByLabel("Replicas of e6").fill("1");
  await asked("Scale", "Scale");
  await drawer.getByText("1 of 1 ready").waitFor();
  await asked("By load", "Scale");
  step("e6 was scaled, and tried with int8");
  await page.context().close();
}

// bounded floods the page's parts with hours of messages: nothing in it grows.
async function bounded(page) {
  const size = await page.evaluate(async () => {
    const { emit } = await import("/console/store.js");
    const many = (n) => {
      for (let i = 0; i < n; i++) {
        emit("pulse", { t: i, units: [0, 1], tokens: 1, prompt_tokens: 0, running: 1, queued: 0 });
        emit("event", { t: i, what: "process.ready", object: "e0/0" });
      }
      return document.querySelectorAll("*").length;
    };
    return [many(300), many(1500), document.querySelectorAll("#events li").length];
  });
  assert.equal(size[0], size[1], "elements after 300 and after 1,800 messages");
  assert.equal(size[2], 100);
  step(`${size[1]} elements after 300 and after 1,800 messages`);
}

// What a model or a name says is text, whatever it looks like.
async function hostile() {
  const page = await visit(ADMIN);
  const evil = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</scr" + "ipt> **bold <svg onload=window.hit=1>** [a](javascript:window.hit=1) [b](https://example.com/\"onmouseover=window.hit=1) `<b>` \n```\n<iframe srcdoc='<script>parent.hit=1</scr" + "ipt>'>\n```\n";
  const name = "<img src=x onerror=window.hit=1>";
  const events = [
    ["hello", { model: name, layout: { layers: [0], experts: 2, groups: [name, "b"], units: [0, 1] }, bounds: [1], processes: true, alerts: true, every_ms: 125, events: [{ t: 1, what: name, object: name, why: evil, who: name }] }],
    ["state", { t: 1, running: 0, queued: 0, groups: [{ group: name, ready: 0, wanted: 1, max: 1, busy: 0, queue_ms: 0, restarts: 0 }], answers: {}, first_token: [1, 0], inter_token: [0, 0], processes: [{ group: name, replica: 0, pid: 0, state: evil, health: "", backend: evil, class: evil, calls: 1, rows: 1, errors: 0, restarts: 1, bytes: 1, since: 1, death: { t: 1, pid: 1, cause: evil } }] }],
    ["alerts", { looked: past(0), rules: 1, alerts: [alert(name, evil, "firing", { summary: evil, reading: evil, limit: name, labels: { [name]: evil }, runbook: "javascript:window.hit=1" })], over: [alert(evil, name, "resolved", { summary: evil })] }],
  ];
  await page.route("**/api/v1/live", (r) => r.fulfill({ contentType: "text/event-stream", body: events.map(([k, v]) => `event: ${k}\ndata: ${JSON.stringify(v)}\n\n`).join("") }));
  await page.route("**/v1/chat/completions", (r) => r.fulfill({ contentType: "text/event-stream", headers: { "pimoe-status": "exact" }, body: `data: ${JSON.stringify({ choices: [{ delta: { content: evil }, finish_reason: "stop" }] })}\n\ndata: [DONE]\n\n` }));
  await page.reload();
  await page.waitForSelector("#link.lost"); // the stream has ended
  assert.match(await page.locator("#link-text").innerText(), /reconnecting/);
  const answer = await ask(page, evil);
  await answered(page, answer);
  await page.locator("#processes .name").first().click();
  const seen = await page.evaluate(() => ({
    hit: window.hit, made: document.querySelectorAll("main img, main script, main iframe, main :is(.answer, table, #events) svg, dialog img").length,
    links: [...document.querySelectorAll(":is(.answer, .alerts) a")].map((a) => a.protocol), text: document.querySelector(".answer .text").textContent,
  }));
  assert.equal(seen.hit, undefined);
  assert.equal(seen.made, 0);
  assert.deepEqual(seen.links, ["https:"]);
  assert.ok(seen.text.includes("<img src=x onerror") && seen.text.includes("javascript:window.hit=1"), seen.text);
  await page.keyboard.press("Escape");
  await page.unroute("**/api/v1/live");
  await live(page); // it comes again by itself
  step("hostile text stays text, and a lost connection comes again");
  await page.context().close();
}

const past = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();
const alert = (rule, severity, state, more = {}) => ({
  rule, severity, state, labels: {}, value: 1, reading: "1.2s", limit: "above 1s", summary: `what ${rule} says`, runbook: `https://example.com/alerts.md#${rule}`,
  since: past(240), fired: past(200), resolved: state === "resolved" ? past(60) : "0001-01-01T00:00:00Z", ...more,
});

// An alert of the real server is there when its cause was, for those who may see it; then lists of all kinds.
async function alarms() {
  const page = await visit(ADMIN);
  await live(page);
  for (let deaths = await restarts(page); deaths < 2; deaths++) { // the rule wants more than one
    await page.getByRole("button", { name: "Kill e3/0" }).click();
    await page.click("#confirm .danger");
    await page.waitForFunction((n) => [...document.querySelectorAll("#processes tbody tr")].some((r) => r.cells[0].textContent === "e3/0" && r.cells[2].textContent === "ready" && r.cells[6].textContent > n), String(deaths));
  }
  const row = page.locator("#alerts-list li", { hasText: "PimoeExpertCrashLoop" });
  await row.waitFor();
  assert.match(await row.innerText(), /critical\s+PimoeExpertCrashLoop\s+What to do[^]*e3\/0 was restarted .* times in ten minutes[^]*firing . since \d\d:\d\d:\d\d, \d+ s . value .*, fires above 1/);
  assert.match(await row.getByRole("link").getAttribute("href"), /docs\/alerts\.md#pimoeexpertcrashloop$/);
  assert.match(await page.locator("#alarm").innerText(), /^\d+ alerts?$/);
  assert.match(await page.locator("#alarm").getAttribute("class"), /critical/);
  assert.match(await page.locator("#alerts-news").innerText(), /critical alert: e3\/0 was restarted/);
  await page.focus("#alarm");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "alerts");
  step(`an alert of the server: ${(await row.innerText()).replaceAll(/\s+/g, " ")}`);
  await page.context().close();

  for (const [key, sees] of [[VIEWER, true], [WATCHER, false]]) {
    const other = await visit(PUBLIC);
    await other.fill("#key", key);
    await other.press("#key", "Enter");
    await live(other);
    if (sees) await other.locator("#alarm").waitFor();
    else await other.waitForSelector("#processes tbody tr"); // a state, with which alerts would have come
    assert.equal(await other.locator("#alerts").isVisible(), sees);
    assert.equal(await other.locator("#alerts-list li").count() > 0, sees);
    await other.context().close();
  }
  step("those see it who may ask for alerts, and nobody else");
  await told("light-narrow-alerts", { viewport: { width: 360, height: 780 }, colorScheme: "light" });
  if (PIMOE_SHOTS) await told("dark-alerts", {}); // else looks has seen such alerts as there are
}

// restarts is how often the process of e3 was started again.
const restarts = async (page) => {
  const row = page.locator("#processes tbody tr", { has: page.getByRole("button", { name: "e3/0", exact: true }) });
  return Number(await row.locator("td").nth(5).innerText());
};

// told gives the page lists that no server gives at once.
async function told(name, options) {
  const page = await visit(ADMIN, options);
  await live(page);
  const hello = { model: "pimoe-tiny", layout: { layers: [], experts: 0, groups: [], units: [] }, bounds: [1], processes: false, alerts: true, every_ms: 125, events: [] };
  let streams = 0;
  await page.route("**/api/v1/live", (r) => (streams++ ? r.abort() : r.fulfill({ contentType: "text/event-stream", body: `event: hello\ndata: ${JSON.stringify(hello)}\n\n` })));
  await page.reload();
  await page.waitForSelector("#link.lost");
  const give = (kind, value) => page.evaluate(async ([k, v]) => (await import("/console/store.js")).emit(k, v), [kind, value]);
  const list = (now, over = []) => give("alerts", { looked: past(0), rules: 14, alerts: now, over });
  const seen = () => page.locator("#alerts-list .rule").allInnerTexts();
  const badge = async () => ((await page.locator("#alarm").isVisible()) ? page.locator("#alarm").innerText() : "");
  assert.match(await page.locator("#alerts").innerText(), /Nothing is known yet/);
  await list([]);
  assert.match(await page.locator("#alerts").innerText(), /14 rules, looked at .*Nothing fires/s);
  assert.equal(await badge(), "");
  const memory = alert("PimoeMemoryHigh", "warning", "pending");
  await list([memory]);
  assert.deepEqual([await seen(), await badge()], [["PimoeMemoryHigh"], ""]);
  const all = [alert("PimoeQueueOld", "warning", "firing"), alert("PimoeErrorsHigh", "critical", "firing"), alert("PimoeAnswersDegraded", "info", "firing"), memory];
  await list(all, [alert("PimoeCPUHigh", "warning", "resolved")]);
  assert.deepEqual(await seen(), ["PimoeErrorsHigh", "PimoeQueueOld", "PimoeAnswersDegraded", "PimoeMemoryHigh"]);
  assert.equal(await badge(), "3 alerts");
  await page.locator("#alerts-over summary").focus();
  await page.keyboard.press("Enter");
  assert.match(await page.locator("#alerts-over-list").innerText(), /PimoeCPUHigh\s+what PimoeCPUHigh says, for 3 min/);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(overflow, 0, `${name}: the page is wider than the screen`);
  await accessible(page, name);
  await page.locator("#alerts").scrollIntoViewIfNeeded();
  await shot(page, name);
  const link = page.locator("#alerts-list li", { hasText: "PimoeQueueOld" }).getByRole("link");
  await link.focus();
  await list(all.filter((a) => a.rule !== "PimoeErrorsHigh"), [alert("PimoeErrorsHigh", "critical", "resolved")]);
  assert.ok(await link.evaluate((e) => e === document.activeElement), "the focus stays where it was");
  assert.equal(await badge(), "2 alerts");
  assert.equal(await page.locator("#alerts-news").innerText(), "PimoeErrorsHigh is resolved");
  await give("hello", { ...hello, alerts: false });
  assert.match(await page.locator("#alerts").innerText(), /alerts.enabled is false/);
  assert.equal(await badge(), "");
  step(`${name}: pending, firing and resolved alerts, the worst first`);
  await page.context().close();
}

// The page hides what a role may not do, and the server refuses it.
async function roles() {
  for (const [role, key] of [["viewer", VIEWER], ["operator", OPERATOR]]) {
    const page = await visit(PUBLIC);
    await page.waitForSelector("#key");
    if (role === "viewer") {
      await accessible(page, "login");
      await page.fill("#key", "pimoe_wrong_key");
      await page.click("#key-send");
      await page.getByText("does not take this key").waitFor();
    }
    await page.fill("#key", key);
    await page.press("#key", "Enter");
    await live(page);
    assert.match(await page.locator("#who").innerText(), new RegExp(role));
    await page.waitForSelector("#processes tbody tr");
    const buttons = await page.getByRole("button", { name: /^Kill/ }).count();
    assert.equal(buttons, 0, `${role}: kill buttons`);
    assert.equal(await page.locator("#chat-input").isDisabled(), role === "viewer");
    if (role === "viewer") assert.equal(await page.locator("#processes .name").count(), 0, "a viewer sees processes");
    else {
      await page.getByRole("button", { name: "e1/0", exact: true }).click();
      assert.equal(await page.locator("#drawer").getByRole("button", { name: "Restart" }).count(), 1);
      assert.equal(await page.locator("#drawer").getByRole("button", { name: /^(Kill|Stop)/ }).count(), 0);
    }
    const post = (path, headers) => fetch(`${PUBLIC}/admin/experts/e1/${path}`, { method: "POST", body: "{}", headers: { "Content-Type": "application/json", ...headers } }).then((r) => r.status);
    const own = { Authorization: `Bearer ${key}` };
    assert.equal(await post("chaos", own), 403, `${role}: chaos`);
    assert.equal(await post("restart", own), role === "viewer" ? 403 : 200, `${role}: restart`);
    assert.equal(await post("restart", {}), 401, "nobody: restart");
    await page.keyboard.press("Escape");
    await page.click("#sign-out");
    await page.waitForSelector("#key");
    step(`${role}: sees and may what it should`);
    await page.context().close();
  }
}

// A login at a provider, and a change with the session's cookie and token.
async function login() {
  const page = await visit(PUBLIC);
  await page.click("#login-oidc");
  await page.fill("input[name=login]", "admin");
  await page.fill("input[name=password]", "x");
  await page.click("button[type=submit]");
  await page.click("button[type=submit]"); // consent
  await page.waitForURL(`${PUBLIC}/console`);
  await live(page);
  assert.match(await page.locator("#who").innerText(), /session:admin . admin/);
  await page.getByRole("button", { name: "Kill e2/0" }).click();
  await page.click("#confirm .danger");
  await page.getByText("Kill e2/0: done").waitFor();
  await page.waitForFunction(() => /e2\/0\s*process was killed by SIGKILL/.test(document.querySelector("#events").innerText));
  await page.click("#sign-out");
  await page.waitForSelector("#login-oidc");
  step("a login, a change with its token, a logout");
  await page.context().close();
}

// Nothing serious for axe, in both themes, wide and narrow; and all with the keyboard alone.
async function looks() {
  const all = {
    "light-narrow": { viewport: { width: 360, height: 780 }, colorScheme: "light", reducedMotion: "reduce" }, "dark-wide-plain": {},
    "light-wide": { colorScheme: "light" }, "dark-narrow": { viewport: { width: 360, height: 780 } },
  };
  const some = Object.entries(all).slice(0, PIMOE_SHOTS ? 4 : 2); // each theme and each width at least once
  for (const [name, options] of some) {
    const page = await visit(ADMIN, options);
    await live(page);
    await page.waitForSelector("#processes tbody tr");
    await answered(page, await ask(page, "Tell me a story about a boat."));
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(overflow, 0, `${name}: the page is wider than the screen`);
    await accessible(page, name);
    await shot(page, name);
    if (!PIMOE_SHOTS && name !== "dark-wide-plain") { // the dialogs once
      await page.context().close();
      continue;
    }
    await page.getByRole("button", { name: "e1/0", exact: true }).click();
    await page.locator("#drawer").getByRole("button", { name: "Kill" }).click();
    await accessible(page, `${name}, dialogs`);
    await shot(page, `${name}-dialog`);
    await page.context().close();
  }
  step(`axe finds nothing serious in ${some.length} looks, with and without dialogs`);

  const page = await visit(ADMIN);
  await live(page);
  await page.waitForSelector("#processes tbody tr");
  const seen = [];
  const tab = async () => {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => {
      const e = document.activeElement;
      return { name: e.id || e.textContent.slice(0, 20), tag: e.tagName, outline: getComputedStyle(e).outlineStyle };
    });
    assert.notEqual(focus.outline, "none", `focus of ${focus.tag} ${focus.name} is not visible`);
    seen.push(focus.name);
    return focus.name;
  };
  await tab();
  await page.keyboard.press("Enter"); // the skip link
  await page.keyboard.type("Tell me a story about a kite.");
  await page.keyboard.press("Enter");
  await page.locator(".answer .text:not([aria-busy])").waitFor();
  await page.waitForSelector("#stop", { state: "hidden" });
  for (let i = 0; i < 20 && (await tab()) !== "map"; i++);
  for (const key of ["ArrowRight", "ArrowRight", "ArrowDown"]) await page.keyboard.press(key);
  assert.match(await page.locator("#map-details").innerText(), /^Layer 1, expert 2 . group e2/);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#drawer[open]");
  assert.equal(await page.locator("#drawer-title").innerText(), "e2/0");
  await page.keyboard.press("Escape");
  await page.waitForSelector("#drawer", { state: "hidden" });
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  assert.equal(await theme(), "dark");
  await page.focus("#theme");
  await page.keyboard.press("Enter");
  assert.equal(await theme(), "light");
  step(`with the keyboard alone: ${seen.join(", ")}`);
  await page.context().close();
}

for (const part of [demo, group, alarms, hostile, roles, login, looks]) {
  try {
    await part();
  } catch (err) {
    for (const c of browser.contexts()) for (const p of c.pages()) await p.screenshot({ path: `${PIMOE_SHOTS ?? PIMOE_CLIENTS}/failed-${part.name}.png` }).catch(() => {});
    console.log(`${part.name}: ${err.stack}\n${mistakes.splice(0).join("\n")}`);
    process.exitCode = 1;
    for (const c of browser.contexts()) await c.close().catch(() => {});
  }
}
await browser.close();
if (process.exitCode) process.exit(); // a part that has failed may leave its crowd running
assert.deepEqual(mistakes, [], "errors, warnings and violations of the policy");
console.log("done");
