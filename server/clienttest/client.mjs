// Holds a PiMoE server against OpenAI's own client for JavaScript. Prints one line a check; any failure ends it.
import { createRequire } from "node:module";

const require = createRequire(process.env.PIMOE_CLIENTS + "/");
const { OpenAI } = require("openai");
const baseURL = process.env.PIMOE_URL, apiKey = process.env.PIMOE_KEY, model = "pimoe-tiny";
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: "Tell me a story about a fox and a lamp." }];

function check(name, ok, detail) {
  if (!ok) {
    console.log("FAILED", name, JSON.stringify(detail));
    process.exit(1);
  }
  console.log("ok", name);
}

async function fails(name, kind, promise, want) {
  try {
    await promise;
  } catch (e) {
    check(name, e instanceof kind && Object.entries(want).every(([k, v]) => e[k] === v), { name: e.constructor.name, status: e.status, code: e.code, param: e.param, message: e.message });
    return e;
  }
  check(name, false, "no error");
}

const listed = [];
for await (const m of client.models.list()) listed.push(m.id);
check("models.list", listed.length === 1 && listed[0] === model, listed);
check("models.retrieve", (await client.models.retrieve(model)).object === "model");

await fails("models.retrieve of another", OpenAI.NotFoundError, client.models.retrieve("gpt-4"), { code: "model_not_found", param: "model" });

const prompt = "Once upon a time, a little";
const text = await client.completions.create({ model, prompt, max_tokens: 12, seed: 3 });
check("completions", text.object === "text_completion" && text.choices[0].finish_reason === "length" && text.usage.completion_tokens === 12, text);
let streamed = "";
for await (const c of await client.completions.create({ model, prompt, max_tokens: 12, seed: 3, stream: true })) streamed += c.choices[0].text;
check("completions stream", streamed === text.choices[0].text, streamed);

const chat = await client.chat.completions.create({ model, messages, max_completion_tokens: 16, temperature: 0, logprobs: true, top_logprobs: 2 });
const answer = chat.choices[0].message.content;
check("chat", answer && chat.choices[0].message.role === "assistant" && chat.choices[0].logprobs.content.map((t) => t.token).join("") === answer, chat);
let usage, joined = "", roles = 0;
for await (const c of await client.chat.completions.create({ model, messages, max_tokens: 16, temperature: 0, stream: true, stream_options: { include_usage: true } })) {
  if (c.choices[0]?.delta.role) roles++;
  joined += c.choices[0]?.delta.content ?? "";
  usage = c.usage ?? usage;
}
check("chat stream", joined === answer && roles === 1 && usage.completion_tokens === 16, { joined, roles, usage });
const runner = client.chat.completions.stream({ model, messages, max_tokens: 16, temperature: 0 });
check("chat stream helper", (await runner.finalChatCompletion()).choices[0].message.content === answer);
const two = await client.chat.completions.create({ model, messages: [...messages, chat.choices[0].message, { role: "user", content: "And then?" }], max_tokens: 2, n: 2, seed: 1 });
check("chat with its own answer", two.choices.length === 2 && two.choices[1].index === 1, two);

const aborting = await client.chat.completions.create({ model, messages, max_tokens: 200, stream: true, ignore_eos: true });
for await (const _ of aborting) break; // leaves the loop: the client aborts the request
check("abort", aborting.controller.signal.aborted);

const schema = { type: "object", properties: { name: { type: "string", maxLength: 12 }, legs: { type: "integer", minimum: 0, maximum: 8 } }, required: ["name", "legs"], additionalProperties: false };
const formed = await client.chat.completions.create({ model, messages, max_tokens: 80, temperature: 1, response_format: { type: "json_schema", json_schema: { name: "animal", strict: true, schema } } });
const animal = JSON.parse(formed.choices[0].message.content);
check("json_schema", formed.choices[0].finish_reason === "stop" && Number.isInteger(animal.legs) && animal.name.length <= 12, formed);
const tools = [{ type: "function", function: { name: "feed", parameters: schema } }];
let called = "", callName = "", callFinish = null;
for await (const c of await client.chat.completions.create({ model, messages, max_tokens: 120, tools, tool_choice: "required", parallel_tool_calls: false, stream: true })) {
  for (const t of c.choices[0].delta.tool_calls ?? []) { callName += t.function.name ?? ""; called += t.function.arguments; }
  callFinish = c.choices[0].finish_reason ?? callFinish;
}
check("tool call stream", callName === "feed" && callFinish === "tool_calls" && Number.isInteger(JSON.parse(called).legs), [callName, called, callFinish]);

const vectors = await client.embeddings.create({ model, input: ["A fox.", "A lamp."] }); // the client asks for base64 by itself
const plain = await client.embeddings.create({ model, input: "A fox.", encoding_format: "float", dimensions: 8 });
const norm = (v) => Math.hypot(...v);
check("embeddings", vectors.data.length === 2 && Math.abs(norm(vectors.data[1].embedding) - 1) < 1e-5 && plain.data[0].embedding.length === 8 && Math.abs(norm(plain.data[0].embedding) - 1) < 1e-5, vectors.usage);

const told = await client.responses.create({ model, input: messages, max_output_tokens: 16, temperature: 0 });
check("responses", told.output_text === answer && told.status === "incomplete" && told.usage.output_tokens === 16, told);
let heard = "", numbers = 0, lastType = "";
for await (const e of await client.responses.create({ model, input: messages, max_output_tokens: 16, temperature: 0, stream: true })) {
  check("sequence_number", e.sequence_number === numbers++, e);
  if (e.type === "response.output_text.delta") heard += e.delta;
  lastType = e.type;
}
check("responses stream", heard === answer && lastType === "response.incomplete", [heard, lastType]);
const format = { type: "json_schema", name: "animal", strict: true, schema };
const listening = client.responses.stream({ model, input: messages, max_output_tokens: 200, text: { format } });
let deltas = "";
listening.on("response.output_text.delta", (e) => { deltas += e.delta; });
const heardAll = await listening.finalResponse();
check("responses stream helper", heardAll.status === "completed" && Number.isInteger(JSON.parse(heardAll.output_text).legs) && deltas === heardAll.output_text, heardAll);
const calling = await client.responses.create({ model, input: messages, max_output_tokens: 200, tools: [{ type: "function", name: "feed", parameters: schema, strict: true }], tool_choice: "required", parallel_tool_calls: false });
check("responses call", calling.output[0].type === "function_call" && Number.isInteger(JSON.parse(calling.output[0].arguments).legs), calling);
await fails("no memory", OpenAI.BadRequestError, client.responses.create({ model, input: "A fox.", previous_response_id: "resp_1" }), { param: "previous_response_id", code: "unsupported_value" });
const traced = await client.chat.completions.create({ model, messages, max_tokens: 3, pimoe: { trace: true } });
check("trace", traced.pimoe.runs[0].tokens.length === 3 && traced.pimoe.runs[0].tokens[0].layers.length > 1 && chat.pimoe === undefined, traced.pimoe);

const bad = (extra) => client.chat.completions.create({ model, messages, ...extra });
await fails("bad value", OpenAI.BadRequestError, bad({ temperature: 3 }), { status: 400, param: "temperature", code: "invalid_value", type: "invalid_request_error" });
await fails("no effect", OpenAI.BadRequestError, bad({ store: true }), { param: "store", code: "unsupported_value" });
await fails("unknown field", OpenAI.BadRequestError, bad({ colour: 1 }), { param: "colour" });
const e = await fails("unknown model", OpenAI.NotFoundError, bad({ model: "nope" }), { code: "model_not_found" });
check("error has the request id", e.requestID && e.error.request_id === e.requestID, e.error);
const other = new OpenAI({ baseURL, apiKey: "sk-wrong", maxRetries: 0 });
await fails("wrong key", OpenAI.AuthenticationError, other.models.list(), { status: 401, code: "invalid_api_key" });
console.log("done");
