// Client of PiMoE's HTTP API. Paths, parameters, requests and answers are typed by schema.ts, which is generated from the
// server's OpenAPI description.
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./schema.js";

export type { paths } from "./schema.js";
export type Schemas = components["schemas"];

export interface Options {
  url: string; // of the server, without a path
  key?: string; // an API key or a token
  retries?: number; // of answers that ask to come back later; default 2
  fetch?: (request: Request) => Promise<Response>;
}

// What the server refuses, in the terms of both of its error shapes. code is stable, message is for people.
export class PimoeError extends Error {
  readonly code: string;
  readonly param: string | null;
  readonly fields: { field: string; expected: string; got: string }[];

  constructor(readonly status: number, body: unknown, readonly requestId: string, readonly retryAfter: number | null) {
    const outer = (body ?? {}) as Record<string, any>;
    const inner: Record<string, any> = typeof outer.error === "object" && outer.error !== null ? outer.error : outer;
    super(`${status} ${inner.code ?? ""}: ${inner.message ?? inner.detail ?? "no text"} (request ${requestId})`);
    this.name = "PimoeError";
    this.code = inner.code ?? "";
    this.param = inner.param ?? null;
    this.fields = inner.errors ?? [];
  }
}

const longestWait = 60; // seconds that an answer can make a retry wait

async function errorOf(response: Response): Promise<PimoeError> {
  const text = await response.text();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = { message: text.slice(0, 200) };
  }
  const after = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new PimoeError(response.status, body, response.headers.get("x-request-id") ?? "", Number.isNaN(after) ? null : Math.max(0, after));
}

// patient sends a request until the answer is no reason to wait, and throws answers that are errors.
function patient(options: Options): (request: Request) => Promise<Response> {
  const send = options.fetch ?? ((request: Request) => globalThis.fetch(request));
  return async (request) => {
    const asked = new Request(request);
    if (options.key !== undefined) asked.headers.set("Authorization", `Bearer ${options.key}`);
    for (let attempt = 0; ; attempt++) {
      const response = await send(asked.clone());
      if (response.status < 400) return response;
      const error = await errorOf(response);
      if ((error.status !== 429 && error.status !== 503) || attempt >= (options.retries ?? 2)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(error.retryAfter ?? 1, longestWait)));
    }
  };
}

// Pimoe has GET, POST and so on for every path of the description; an answer that is an error is thrown as PimoeError.
export type Pimoe = Client<paths, "application/json">;

export function connect(options: Options): Pimoe {
  return createClient<paths, "application/json">({ baseUrl: options.url.replace(/\/+$/, ""), fetch: patient(options) });
}

// The events of the routes that stream.
export interface Events {
  "/v1/completions": { request: Schemas["CompletionRequest"]; event: Schemas["Completion"] };
  "/v1/chat/completions": { request: Schemas["ChatRequest"]; event: Schemas["ChatCompletionChunk"] };
}

// stream gives an answer's events as they come. Leaving the loop ends the request, and so does the signal.
export async function* stream<Path extends keyof Events>(
  pimoe: Pimoe,
  path: Path,
  body: Events[Path]["request"],
  signal?: AbortSignal,
): AsyncGenerator<Events[Path]["event"]> {
  const post = pimoe.POST as (path: string, init: object) => Promise<{ data?: unknown; response: Response }>;
  const { data, response } = await post(path, { body: { ...body, stream: true }, parseAs: "stream", signal });
  let rest = "";
  for await (const text of (data as ReadableStream<Uint8Array>).pipeThrough(new TextDecoderStream() as any) as ReadableStream<string>) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data:")) continue; // comments keep the connection alive
      const data = line.slice("data:".length).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event?.error) throw new PimoeError(event.error.status ?? 500, event, response.headers.get("x-request-id") ?? "", null);
      yield event;
    }
  }
}
