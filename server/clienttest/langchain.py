"""Holds a PiMoE server against LangChain's library for OpenAI's API. Prints one line a check; any failure ends it."""

import json
import math
import os

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

BASE, KEY, MODEL = os.environ["PIMOE_URL"], os.environ["PIMOE_KEY"], "pimoe-tiny"
SAID = [SystemMessage("You tell stories."), HumanMessage("Tell me a story about a fox and a lamp.")]


def check(name, ok, detail=""):
    if not ok:
        raise SystemExit(f"FAILED {name}: {detail}")
    print("ok", name)


def model(**more):
    return ChatOpenAI(base_url=BASE, api_key=KEY, model=MODEL, max_retries=0, timeout=60, **more)


class Animal(BaseModel):
    """An animal of the story."""

    name: str = Field(max_length=12)
    legs: int = Field(ge=0, le=8)


@tool
def feed(legs: int) -> str:
    """Feeds an animal."""
    return f"fed {legs}"


chat = model(max_tokens=16, temperature=0)
said = chat.invoke(SAID)
check("invoke", isinstance(said, AIMessage) and said.content and said.usage_metadata["output_tokens"] == 16, said)
check("invoke says why it ended", said.response_metadata["finish_reason"] == "length" and said.response_metadata["system_fingerprint"].startswith("pimoe-"), said)
whole = None
for piece in model(max_tokens=16, temperature=0, stream_usage=True).stream(SAID):
    whole = piece if whole is None else whole + piece
check("stream", whole.content == said.content and whole.usage_metadata["output_tokens"] == 16, whole)
check("batch", [m.content for m in chat.batch([SAID, SAID])] == [said.content] * 2)
logged = model(max_tokens=4, temperature=0, logprobs=True, top_logprobs=2).invoke(SAID)
check("logprobs", len(logged.response_metadata["logprobs"]["content"]) == 4, logged)
check("seed", model(max_tokens=12, temperature=1.5, seed=7).invoke(SAID).content == model(max_tokens=12, temperature=1.5, seed=7).invoke(SAID).content)
check("a turn with its own answer", chat.invoke(SAID + [said, HumanMessage("And then?")]).content)
check("stop", "." not in model(max_tokens=60, temperature=0).invoke(SAID, stop=["."]).content)

for method in ("json_schema", "function_calling"):
    out = model(max_tokens=120, temperature=1).with_structured_output(Animal, method=method).invoke(SAID)
    check(f"structured output by {method}", isinstance(out, Animal) and 0 <= out.legs <= 8 and len(out.name) <= 12, out)
called = model(max_tokens=120, temperature=1).bind_tools([feed], tool_choice="required", parallel_tool_calls=False).invoke(SAID)
check("tools", [c["name"] for c in called.tool_calls] == ["feed"] and isinstance(called.tool_calls[0]["args"]["legs"], int), called)
check("a tool's answer", chat.invoke(SAID + [called, ToolMessage("fed", tool_call_id=called.tool_calls[0]["id"])]).content)

by_responses = model(max_tokens=16, temperature=0, use_responses_api=True)
told = by_responses.invoke(SAID)
check("responses", told.text == said.content and told.usage_metadata["output_tokens"] == 16, told)
streamed = "".join(piece.text for piece in by_responses.stream(SAID))
check("responses stream", streamed == said.content, streamed)
out = model(max_tokens=120, temperature=1, use_responses_api=True).with_structured_output(Animal).invoke(SAID)
check("responses structured output", isinstance(out, Animal) and out.legs <= 8, out)

text = OpenAI(base_url=BASE, api_key=KEY, model=MODEL, max_tokens=12, temperature=0, max_retries=0)
check("completions", text.invoke("Once upon a time") == "".join(text.stream("Once upon a time")))

traced = model(max_tokens=3, temperature=0, extra_body={"pimoe": {"trace": True}}).invoke(SAID)
check("a field of our own", traced.content, traced)

vectors = OpenAIEmbeddings(base_url=BASE, api_key=KEY, model=MODEL, max_retries=0, check_embedding_ctx_length=False)
both = vectors.embed_documents(["A fox.", "A lamp."])
check("embeddings", vectors.embed_query("A fox.") == both[0] and abs(math.hypot(*both[1]) - 1) < 1e-5, [len(v) for v in both])
print("done")
