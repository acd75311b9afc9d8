"""Holds constrained decoding against independent judges: hypothesis-jsonschema makes JSON Schemas, the server answers each
at temperature 1, Python's jsonschema judges the answers. An answer cut by the length counts as a failure. Prints one line
for each failure and a summary; any failure ends in an error.

PIMOE_URL, PIMOE_KEY: the server; PIMOE_SCHEMAS: how many (60); PIMOE_SEED: of Hypothesis (1); PIMOE_DUMP: a file for the
schemas, instead of asking a server."""

import collections
import concurrent.futures
import json
import os

import httpx2
import hypothesis
import jsonschema
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

WANT = int(os.environ.get("PIMOE_SCHEMAS", "60"))
SEED = int(os.environ.get("PIMOE_SEED", "1"))
MAX_TOKENS = 400


def closed(required, /, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def whole(low, high):
    return {"type": "integer", "minimum": low, "maximum": high}


NAME = {"enum": ["a", "b", "count", "name", "x-1", "o\u00e9", "with \"quote"]}
SCALAR = {"anyOf": [whole(-99, 99), {"type": "boolean"}, {"type": "null"}, {"type": "string", "maxLength": 6}, {"type": "number", "minimum": -9, "maximum": 9}]}
PATTERN = {"enum": ["^[a-c]{1,4}$", "^x", "\\d{2}$", "[^a-z]", "^(foo|bar)+$", "^$", ".", "^\\w+@\\w+$", "a.c|b"]}


INNER = {"const": "<schema>"}  # stands for a schema inside of another; Hypothesis draws it by itself
SEVERAL = {"type": "array", "items": INNER, "minItems": 1, "maxItems": 3}
NAMES = {"type": "array", "items": NAME, "maxItems": 3, "uniqueItems": True}
BY_NAME = {"type": "object", "propertyNames": NAME, "additionalProperties": INNER, "maxProperties": 4}

# JSON Schemas of schemas. Strings have a maxLength.
SIMPLE = [
    closed(["type", "maxLength"], type={"const": "string"}, minLength=whole(0, 4), maxLength=whole(4, 24)),
    closed(["type", "maxLength", "pattern"], type={"const": "string"}, maxLength=whole(2, 24), pattern=PATTERN),
    closed(["type"], type={"const": "integer"}, minimum=whole(-1000, 10), maximum=whole(0, 100000), multipleOf=whole(1, 12)),
    closed(["type"], type={"const": "integer"}, exclusiveMinimum=whole(-50, 50), exclusiveMaximum=whole(20, 80)),
    closed(["type"], type={"const": "number"}, minimum={"type": "number", "minimum": -1e6, "maximum": 10}, exclusiveMaximum={"type": "number", "minimum": 10, "maximum": 1e9}),
    closed(["type", "multipleOf"], type={"const": "number"}, multipleOf={"enum": [0.5, 0.1, 0.25, 3, 7.5]}, maximum=whole(0, 50)),
    closed(["type"], type={"type": "array", "items": {"enum": ["null", "boolean", "integer", "number"]}, "minItems": 1, "uniqueItems": True}),
    closed(["enum"], enum={"type": "array", "items": SCALAR, "minItems": 1, "maxItems": 5, "uniqueItems": True}),
    closed(["const"], const=SCALAR),
]
NESTED = [
    closed(["type", "items"], type={"const": "array"}, items=INNER, minItems=whole(0, 3), maxItems=whole(2, 6), uniqueItems={"type": "boolean"}),
    closed(["type", "prefixItems", "items"], type={"const": "array"}, prefixItems=SEVERAL, items={"anyOf": [{"type": "boolean"}, INNER]}, minItems=whole(0, 2)),
    closed(["type", "contains"], type={"const": "array"}, items=INNER, contains=INNER, minContains=whole(0, 2), maxContains=whole(1, 3)),
    closed(["type", "properties", "required"], type={"const": "object"}, properties=BY_NAME, required=NAMES),
    closed(["type", "properties", "additionalProperties"], type={"const": "object"}, properties=BY_NAME, required=NAMES, additionalProperties={"anyOf": [{"const": False}, INNER]}, maxProperties=whole(1, 6), minProperties=whole(0, 3)),
    closed(["type", "patternProperties", "additionalProperties"], type={"const": "object"}, patternProperties={"type": "object", "propertyNames": PATTERN, "additionalProperties": INNER, "maxProperties": 2}, additionalProperties={"anyOf": [{"type": "boolean"}, INNER]}, minProperties=whole(0, 2)),
    closed(["type", "additionalProperties", "propertyNames"], type={"const": "object"}, additionalProperties=INNER, propertyNames=closed(["pattern", "maxLength"], pattern=PATTERN, maxLength=whole(3, 9)), minProperties=whole(0, 2)),
    closed(["type", "properties", "dependentRequired"], type={"const": "object"}, properties=BY_NAME, dependentRequired={"type": "object", "propertyNames": NAME, "additionalProperties": NAMES, "maxProperties": 2}),
    closed(["anyOf"], anyOf=SEVERAL),
    closed(["oneOf"], oneOf=SEVERAL),
    closed(["allOf"], allOf=SEVERAL),
    closed(["not", "type"], type={"enum": ["integer", "boolean", "null", "array", "object", "number"]}, **{"not": INNER}),
    closed(["if", "then"], **{"if": INNER, "then": INNER, "else": INNER}),
]


@st.composite
def schema(draw, depth):
    """A schema that nests so deep, with all its parts from hypothesis-jsonschema."""
    made = draw(SIMPLE_SCHEMAS if depth == 0 or draw(st.integers(0, 3)) == 0 else NESTED_SCHEMAS)

    def fill(v):
        if v == INNER["const"]:
            return draw(schema(depth - 1))
        if isinstance(v, dict):
            return {k: fill(e) for k, e in v.items()}
        return [fill(e) for e in v] if isinstance(v, list) else v

    return fill(made)


SIMPLE_SCHEMAS = st.one_of(*map(from_schema, SIMPLE))
NESTED_SCHEMAS = st.one_of(*map(from_schema, NESTED))


def schemas():
    """Different schemas, some more than WANT: for some of them no value is valid."""
    found, texts = [], set()

    @hypothesis.seed(SEED)
    @hypothesis.settings(max_examples=WANT * 2 + 20, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate])
    @hypothesis.given(st.integers(0, 2).flatmap(schema))
    def collect(s):
        text = json.dumps(s, sort_keys=True)
        if text not in texts:
            texts.add(text)
            found.append(s)

    collect()
    return found


def judge(schema, text):
    try:
        value = json.loads(text)
    except ValueError as e:
        return f"not JSON: {e}"
    try:
        jsonschema.Draft202012Validator(schema).validate(value)
    except jsonschema.ValidationError as e:
        return f"invalid: {e.message[:200]}"
    return None


def ask(session, schema, number):
    """The answer's text, None where the server says that no value is valid, or an error. n=1 at temperature 1."""
    body = {"model": "pimoe-tiny", "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "seed": number, "max_tokens": MAX_TOKENS,
            "messages": [{"role": "user", "content": "Tell me about a fox."}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}}
    r = session.post("/chat/completions", json=body)
    if r.status_code == 400 and "no text has this form" in r.text:
        return None, None
    if r.status_code != 200:
        return None, f"{r.status_code} {r.text[:300]}"
    choice = r.json()["choices"][0]
    if choice["finish_reason"] != "stop":
        return None, f"finish_reason {choice['finish_reason']}: {choice['message']['content'][:200]}"
    return choice["message"]["content"], None


def main():
    made = schemas()
    if os.environ.get("PIMOE_DUMP"):
        with open(os.environ["PIMOE_DUMP"], "w") as f:
            f.writelines(json.dumps(s) + "\n" for s in made)
        return
    session = httpx2.Client(base_url=os.environ["PIMOE_URL"], headers={"authorization": "Bearer " + os.environ["PIMOE_KEY"]}, timeout=60, trust_env=False)
    counts, failed = collections.Counter(), 0
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for schema, (text, error) in zip(made, pool.map(lambda e: ask(session, e[1], e[0]), enumerate(made))):
            if counts["valid"] == WANT:
                break
            if text is None and error is None:
                counts["of no value"] += 1
                continue
            error = error or judge(schema, text)
            if error:
                failed += 1
                print("FAILED", json.dumps(schema), "=>", text, error)
            else:
                counts["valid"] += 1
    print(f"schemas: {counts['valid']} answers valid, {failed} failed, {counts['of no value']} schemas of no value refused")
    if failed or counts["valid"] < WANT:
        raise SystemExit("FAILED")
    print("done")


if __name__ == "__main__":
    main()
