"""Holds a PiMoE server against OpenAI's own client for Python. Prints one line a check; any failure ends it."""

import asyncio
import json
import math
import os
import re
import typing

import openai
from openai.types.chat import completion_create_params as chat_params
from openai.types import completion_create_params as text_params
from openai.types import embedding_create_params as embedding_params
from openai.types.responses import response_create_params as response_params
from pydantic import BaseModel, Field

BASE, KEY, MODEL = os.environ["PIMOE_URL"], os.environ["PIMOE_KEY"], "pimoe-tiny"
client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=60)
FOX = [{"role": "user", "content": "Tell me a story about a fox and a lamp."}]


def check(name, ok, detail=""):
    if not ok:
        raise SystemExit(f"FAILED {name}: {detail}")
    print("ok", name)


def fails(name, kind, call, **want):
    try:
        call()
    except kind as e:
        for field, value in want.items():
            check(f"{name} ({field})", getattr(e, field) == value, f"{getattr(e, field)!r}, want {value!r}: {e}")
        return e
    raise SystemExit(f"FAILED {name}: no {kind.__name__}")


def models():
    listed = client.models.list()
    check("models.list", [m.id for m in listed] == [MODEL], listed)
    m = client.models.retrieve(MODEL)
    check("models.retrieve", m.object == "model" and m.owned_by == "pimoe" and m.created > 0, m)
    fails("models.retrieve of another", openai.NotFoundError, lambda: client.models.retrieve("gpt-4"), code="model_not_found", param="model")


def completions():
    a = client.completions.create(model=MODEL, prompt="Once upon a time, a little", max_tokens=12, seed=3, n=2)
    b = client.completions.create(model=MODEL, prompt="Once upon a time, a little", max_tokens=12, seed=3, n=2, best_of=2)
    check("completions seed", [c.text for c in a.choices] == [c.text for c in b.choices], (a, b))
    check("completions ids", a.id != b.id and a.object == "text_completion", a)
    check("completions usage", a.usage.total_tokens == a.usage.prompt_tokens + a.usage.completion_tokens, a.usage)
    check("completions fingerprint", a.system_fingerprint == b.system_fingerprint and a.system_fingerprint.startswith("pimoe-"), a)
    c = client.completions.create(model=MODEL, prompt=["Once upon", "The dog"], max_tokens=4, temperature=0, logprobs=3, echo=True)
    check("completions echo", c.choices[1].text.startswith("The dog") and c.choices[1].index == 1, c)
    lp = c.choices[0].logprobs
    check("completions logprobs", lp.token_logprobs[0] is None and "".join(lp.tokens) == c.choices[0].text and len(lp.top_logprobs[-1]) in (3, 4), lp)
    pieces = list(client.completions.create(model=MODEL, prompt="Once upon a time, a little", max_tokens=12, seed=3, stream=True, stream_options={"include_usage": True}))
    check("completions stream", "".join(p.choices[0].text for p in pieces if p.choices) == a.choices[0].text, pieces)
    check("completions stream usage", pieces[-1].usage.completion_tokens == 12 and not pieces[-1].choices, pieces[-1])
    ids = client.completions.create(model=MODEL, prompt=[[100, 101], [102]], max_tokens=1)
    check("completions of ids", ids.usage.prompt_tokens == 3, ids.usage)


def chat():
    a = client.chat.completions.create(model=MODEL, messages=FOX, max_completion_tokens=16, temperature=0, logprobs=True, top_logprobs=2)
    m = a.choices[0].message
    check("chat", m.role == "assistant" and m.content and m.refusal is None and a.choices[0].finish_reason == "length", a)
    check("chat logprobs", "".join(t.token for t in a.choices[0].logprobs.content) == m.content and len(a.choices[0].logprobs.content[0].top_logprobs) == 2, a)
    check("chat bytes", bytes(a.choices[0].logprobs.content[0].bytes).decode() == a.choices[0].logprobs.content[0].token, a)
    again = client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=16, temperature=0)
    check("chat cached tokens", again.usage.prompt_tokens_details.cached_tokens > 0, again.usage)
    text, finish = "", None
    with client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=16, temperature=0, stream=True) as s:
        for chunk in s:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
    check("chat stream", text == m.content and finish == "length", (text, finish))
    first = m.content.split()[0]  # the helper takes an answer only if it is not cut by the length
    with client.chat.completions.stream(model=MODEL, messages=FOX, max_tokens=16, temperature=0, stop=m.content.split()[2]) as s:
        final = s.get_final_completion()
    check("chat stream helper", final.choices[0].message.content.startswith(first), final)
    turn = FOX + [m.model_dump(), {"role": "user", "content": [{"type": "text", "text": "And then?"}]}]
    check("chat with its own answer", client.chat.completions.create(model=MODEL, messages=turn, max_tokens=2).choices, "")
    stop = m.content.split()[2]
    s = client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=16, temperature=0, stop=[stop])
    check("chat stop", s.choices[0].finish_reason == "stop" and stop not in s.choices[0].message.content, s)
    x = client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=4, extra_body={"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True, "chat_template_kwargs": {}})
    check("chat extensions", x.usage.completion_tokens == 4, x)
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=FOX, max_tokens=1, extra_headers={"x-request-id": "py-1"})
    check("chat request id", raw.headers["x-request-id"] == "py-1" and raw.headers["pimoe-status"] == "exact", dict(raw.headers))


ANIMAL = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "legs": {"type": "integer", "minimum": 0, "maximum": 8}}, "required": ["name", "legs"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "feed", "description": "Feeds an animal.", "parameters": ANIMAL}}, {"type": "function", "function": {"name": "sleep"}}]


def form(schema):
    return {"type": "json_schema", "json_schema": {"name": "form", "strict": True, "schema": schema}}


def forms():
    def ask(**more):
        c = client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=120, temperature=1, **more).choices
        check("form ends by itself", all(x.finish_reason in ("stop", "tool_calls") for x in c), c)
        return c

    for c in ask(response_format=form(ANIMAL), n=3, seed=5, logprobs=True, logit_bias={"5": 3}):
        v = json.loads(c.message.content)
        check("json_schema", set(v) == {"name", "legs"} and 0 <= v["legs"] <= 8 and len(v["name"]) <= 12, c)
        check("json_schema logprobs", "".join(t.token for t in c.logprobs.content) == c.message.content, c)
    check("json_object", isinstance(json.loads(ask(response_format={"type": "json_object"})[0].message.content), dict))
    expr = "(fox|hen){2} [0-9]{3}"
    check("regex", re.fullmatch(expr, ask(response_format={"type": "regex", "regex": expr})[0].message.content))
    text = client.completions.create(model=MODEL, prompt="Once", max_tokens=9, extra_body={"response_format": {"type": "grammar", "grammar": 'root ::= "a" root "b" | "c"'}}).choices[0].text
    check("grammar", re.fullmatch("a*cb*", text) and text.count("a") == text.count("b"), text)

    calls = ask(tools=TOOLS, tool_choice="required")[0]
    check("required call", calls.finish_reason == "tool_calls" and calls.message.content is None and all(t.function.name in ("feed", "sleep") and isinstance(json.loads(t.function.arguments), dict) for t in calls.message.tool_calls), calls)
    named = ask(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "feed"}})[0]
    check("named call", named.finish_reason == "stop" and [t.function.name for t in named.message.tool_calls] == ["feed"] and set(json.loads(named.message.tool_calls[0].function.arguments)) == {"name", "legs"}, named)
    turn = FOX + [named.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": named.message.tool_calls[0].id, "content": "fed"}]
    check("answer to a call", client.chat.completions.create(model=MODEL, messages=turn, tools=TOOLS, max_tokens=4).usage.prompt_tokens > 40)
    with client.chat.completions.stream(model=MODEL, messages=FOX, max_tokens=200, tools=TOOLS[:1], tool_choice="required") as s:
        final = s.get_final_completion().choices[0]
    check("streamed calls", final.message.tool_calls and all(json.loads(t.function.arguments)["legs"] <= 8 for t in final.message.tool_calls), final)
    check("auto", ask_auto().choices[0].message.role == "assistant")


class Animal(BaseModel):
    name: str = Field(max_length=12)
    legs: int = Field(ge=0, le=8)


def embeddings():
    both = client.embeddings.create(model=MODEL, input=["A fox.", "A lamp."])  # the client asks for base64 by itself
    plain = client.embeddings.create(model=MODEL, input="A fox.", encoding_format="float")
    near = all(abs(a - b) < 1e-7 for a, b in zip(both.data[0].embedding, plain.data[0].embedding, strict=True))  # decimals are rounded
    check("embeddings", near and both.data[1].index == 1 and both.usage.total_tokens > plain.usage.total_tokens, both.usage)
    check("embeddings of length 1", abs(math.hypot(*plain.data[0].embedding) - 1) < 1e-5, plain.usage)
    few = client.embeddings.create(model=MODEL, input=[[100, 101], [102]], dimensions=8)
    check("embeddings of ids", [len(d.embedding) for d in few.data] == [8, 8] and few.usage.prompt_tokens == 3, few.usage)
    fails("too many dimensions", openai.BadRequestError, lambda: client.embeddings.create(model=MODEL, input="A fox.", dimensions=10**6), param="dimensions")


def responses():
    told = client.responses.create(model=MODEL, input=FOX[0]["content"], max_output_tokens=16, temperature=0)
    same = client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=16, temperature=0).choices[0].message.content
    check("responses", told.output_text == same and told.status == "incomplete" and told.incomplete_details.reason == "max_output_tokens", told)
    check("responses usage", told.usage.output_tokens == 16 and told.usage.total_tokens == told.usage.input_tokens + 16, told.usage)
    turn = [{"role": "user", "content": FOX[0]["content"]}] + [o.model_dump(exclude_none=True) for o in told.output] + [{"role": "user", "content": "And then?"}]
    check("responses with its own answer", client.responses.create(model=MODEL, instructions="Be brief.", input=turn, max_output_tokens=4, metadata={"a": "b"}).metadata == {"a": "b"})
    kinds, text, numbers = [], "", []
    for e in client.responses.create(model=MODEL, input=FOX, max_output_tokens=16, temperature=0, stream=True):
        kinds.append(e.type)
        numbers.append(e.sequence_number)
        text += e.delta if e.type == "response.output_text.delta" else ""
    check("responses stream", text == same and kinds[0] == "response.created" and kinds[-1] == "response.incomplete" and numbers == list(range(len(numbers))), kinds)
    stop = same.split()[2]
    with client.responses.stream(model=MODEL, input=FOX, max_output_tokens=200, temperature=1, text_format=Animal, extra_body={"seed": 3, "stop": ["#never#"]}) as s:
        for _ in s:
            pass
        final = s.get_final_response()
    check("responses stream helper", isinstance(final.output_parsed, Animal) and final.output_parsed.legs <= 8 and final.status == "completed", final)
    parsed = client.responses.parse(model=MODEL, input=FOX, max_output_tokens=200, text_format=Animal)
    check("responses parse", isinstance(parsed.output_parsed, Animal), parsed)
    ended = client.responses.create(model=MODEL, input=FOX, max_output_tokens=60, temperature=0, extra_body={"stop": [stop]})
    check("responses completed", ended.status == "completed" and stop not in ended.output_text, ended)
    tools = [{"type": "function", "name": "feed", "parameters": ANIMAL, "strict": True}]
    asked = client.responses.create(model=MODEL, input=FOX, max_output_tokens=200, tools=tools, tool_choice="required", parallel_tool_calls=False)
    call = asked.output[0]
    check("responses call", call.type == "function_call" and call.name == "feed" and json.loads(call.arguments)["legs"] <= 8 and asked.status == "completed", asked)
    answered = FOX + [call.model_dump(exclude_none=True), {"type": "function_call_output", "call_id": call.call_id, "output": "fed"}]
    check("responses answer to a call", client.responses.create(model=MODEL, input=answered, tools=tools, tool_choice="none", max_output_tokens=4).output_text is not None)
    with client.responses.stream(model=MODEL, input=FOX, max_output_tokens=200, tools=tools, tool_choice={"type": "function", "name": "feed"}) as s:
        final = s.get_final_response()
    check("responses streamed call", final.output[0].type == "function_call" and json.loads(final.output[0].arguments)["legs"] <= 8, final)
    logged = client.responses.create(model=MODEL, input=FOX, max_output_tokens=4, temperature=0, include=["message.output_text.logprobs"], top_logprobs=2)
    part = logged.output[0].content[0]
    check("responses logprobs", "".join(t.token for t in part.logprobs) == part.text and len(part.logprobs[0].top_logprobs) == 2, part)
    fails("no memory", openai.BadRequestError, lambda: client.responses.create(model=MODEL, input=FOX, previous_response_id="resp_1"), param="previous_response_id", code="unsupported_value")
    fails("stored", openai.BadRequestError, lambda: client.responses.create(model=MODEL, input=FOX, store=True), param="store")


def traces():
    extra = {"pimoe": {"trace": True}}
    a = client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=6, seed=1, extra_body=extra)
    run = a.pimoe["runs"][0]
    check("trace", len(run["tokens"]) == 6 and len(run["tokens"][0]["layers"]) > 1 and a.pimoe["format"] == "pimoe-replay/1", a.pimoe)
    pieces, record = [], None
    for c in client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=6, seed=1, stream=True, extra_body=extra):
        p = getattr(c, "pimoe", None) or {}
        pieces += p.get("tokens", [])
        record = p if "runs" in p else record
    check("trace of a stream", [t["id"] for t in pieces] == [t["id"] for t in record["runs"][0]["tokens"]] == [t["id"] for t in run["tokens"]], pieces)
    r = client.responses.create(model=MODEL, input=FOX, max_output_tokens=6, extra_body={"seed": 1, **extra})
    check("trace of a response", [t["id"] for t in r.pimoe["runs"][0]["tokens"]] == [t["id"] for t in run["tokens"]], r)
    with client.responses.stream(model=MODEL, input=FOX, max_output_tokens=200, text_format=Animal, extra_body={"seed": 1, **extra}) as s:
        check("trace beside the helper", isinstance(s.get_final_response().output_parsed, Animal))
    check("no trace", not hasattr(client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=1), "pimoe"))


def ask_auto():
    return client.chat.completions.create(model=MODEL, messages=FOX, max_tokens=20, tools=TOOLS)


def documented_fields():
    """Every field that this version of the client knows is taken at null."""
    for name, params, call, given in [
        ("chat", chat_params.CompletionCreateParamsBase, client.chat.completions.create, {"messages": FOX}),
        ("completions", text_params.CompletionCreateParamsBase, client.completions.create, {"prompt": "Once"}),
        ("responses", response_params.ResponseCreateParamsBase, client.responses.create, {"input": "Once"}),
        ("embeddings", embedding_params.EmbeddingCreateParams, client.embeddings.create, {"input": "Once"}),
    ]:
        known = set(typing.get_type_hints(params)) | ({"stream"} if name != "embeddings" else set())
        fields = sorted(known - {"model", "messages", "prompt", "input"})
        most = {"chat": "max_tokens", "completions": "max_tokens", "responses": "max_output_tokens"}.get(name)
        call(model=MODEL, extra_body={f: None for f in fields if f != most} | ({most: 1} if most else {}), **given)
        check(f"{name}: {len(fields)} documented fields", True)


def errors():
    create = client.chat.completions.create
    fails("bad value", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, temperature=3), param="temperature", code="invalid_value", status_code=400)
    fails("no effect", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, store=True), param="store")
    fails("impossible schema", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, response_format=form({"type": "integer", "minimum": 2, "maximum": 1})), param="response_format.json_schema.schema")
    fails("unsupported keyword", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, response_format=form({"unevaluatedItems": False})), code="unsupported_value")
    fails("no room", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, max_tokens=3, response_format=form(ANIMAL)), code="form_too_long", param="max_tokens")
    fails("no such tool", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}}), param="tool_choice.function.name")
    fails("unknown field", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, extra_body={"colour": 1}), param="colour", code="unknown_parameter")
    fails("too long", openai.BadRequestError, lambda: create(model=MODEL, messages=[{"role": "user", "content": "fox " * 4000}]), code="context_length_exceeded", param="messages")
    e = fails("unknown model", openai.NotFoundError, lambda: create(model="nope", messages=FOX), code="model_not_found", type="invalid_request_error")
    check("error has the request id", e.request_id and e.body["request_id"] == e.request_id, e.body)
    other = openai.OpenAI(base_url=BASE, api_key="sk-wrong", max_retries=0)
    fails("wrong key", openai.AuthenticationError, lambda: other.models.list(), code="invalid_api_key", status_code=401)
    fails("bad stream", openai.BadRequestError, lambda: create(model=MODEL, messages=FOX, n=0, stream=True), param="n")


async def asynchronous():
    a = openai.AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0)

    async def one(i):
        text = ""
        async for c in await a.completions.create(model=MODEL, prompt="Once upon a time", seed=i, max_tokens=8, stream=True):
            text += c.choices[0].text
        return text

    texts = await asyncio.gather(*(one(i) for i in range(8)))
    check("eight streams at once", texts == [await one(i) for i in range(8)], texts)
    await a.close()


print("openai", openai.__version__)
for part in (models, completions, chat, forms, embeddings, responses, traces, documented_fields, errors):
    part()
asyncio.run(asynchronous())
print("done")
