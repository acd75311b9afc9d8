"""Holds a PiMoE server's WebSocket against the client library websockets. Prints one line a check; any failure ends it."""

import asyncio
import json
import os
import struct
import urllib.request

import websockets

BASE, KEY, MODEL = os.environ["PIMOE_URL"], os.environ["PIMOE_KEY"], "pimoe-tiny"
URL = "ws" + BASE.removeprefix("http").removesuffix("/v1") + "/ws"
BODY = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "ignore_eos": True, "seed": 5}


def check(name, ok, detail=""):
    if not ok:
        raise SystemExit(f"FAILED {name}: {detail}")
    print("ok", name)


def connect(**more):
    return websockets.connect(URL, proxy=None, **more)


async def hear(ws):
    return json.loads(await asyncio.wait_for(ws.recv(), 30))


async def say(ws, **message):
    await ws.send(json.dumps(message))


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE.removesuffix("/v1") + path, data, {"Content-Type": "application/json", "Authorization": "Bearer " + KEY})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)


async def refused(name, status, **more):
    try:
        async with connect(**more):
            pass
    except websockets.InvalidStatus as e:
        return check(name, e.response.status_code == status, e)
    raise SystemExit(f"FAILED {name}: it is open")


async def closes(name, ws, code):
    try:
        while True:
            await asyncio.wait_for(ws.recv(), 30)
    except websockets.ConnectionClosed as e:
        check(name, e.rcvd is not None and e.rcvd.code == code, e)


async def access():
    bearer = {"Authorization": "Bearer " + KEY}
    async with connect(additional_headers=bearer) as ws:
        check("a key in the header", (await hear(ws))["type"] == "ready")
    async with connect(subprotocols=["pimoe.v1", "pimoe.bearer." + KEY]) as ws:
        check("a key in a subprotocol", ws.subprotocol == "pimoe.v1" and (await hear(ws))["type"] == "ready")
    async with connect() as ws:
        await say(ws, type="auth", data={"token": KEY})
        check("a key in the first message", (await hear(ws))["type"] == "ready")
    async with connect() as ws:
        await say(ws, type="ping", id="a")
        await closes("no key", ws, 4401)
    await refused("a wrong key", 401, additional_headers={"Authorization": "Bearer wrong"})
    await refused("a foreign origin", 403, additional_headers=bearer, origin="https://evil.example")


async def answer(ws, request):
    text, events, generation = "", [], None
    while True:
        m = await hear(ws)
        if m["id"] != request:
            check("the id", False, m)
        if m["type"] == "accepted":
            generation = m["data"]["generation"]
        if "event" in m:
            events.append(m["event"])
        if m["type"] == "token":
            text += "".join(c["text"] for c in m["data"]["choices"])
        if m["type"] in ("done", "error"):
            return text, events, generation, m


async def generate():
    want = ask("/v1/completions", BODY)["choices"][0]["text"]
    async with connect(additional_headers={"Authorization": "Bearer " + KEY}) as ws:
        await hear(ws)
        await say(ws, type="generate", id="g", data=BODY)
        text, events, generation, last = await answer(ws, "g")
        check("the text of HTTP", text == want and last["type"] == "done", text)
        check("numbers of events", events == list(range(1, len(events) + 1)), events)
    async with connect(additional_headers={"Authorization": "Bearer " + KEY}) as ws:
        await hear(ws)
        await say(ws, type="resume", id="r", data={"generation": generation, "last_event": 5})
        check("resumed", (await hear(ws))["type"] == "resumed")
        _, rest, _, last = await answer(ws, "r")
        check("the rest", rest == events[5:] and last["type"] == "done", rest)
        pong = await asyncio.wait_for(await ws.ping(), 30)
        check("a ping frame", pong >= 0)


async def tensors():
    hidden = ask("/api/v1/stats")["system"]["model"]["hidden_size"]
    row = [((i * 37) % 101 - 50) / 50 for i in range(hidden)]
    want = ask("/api/v1/process", {"input_tensor": [[row]]})["output"][0][0]
    async with connect(additional_headers={"Authorization": "Bearer " + KEY}) as ws:
        await hear(ws)
        head = json.dumps({"type": "process", "id": "t", "data": {"shape": [1, 1, hidden]}}).encode()
        await ws.send(struct.pack("<I", len(head)) + head + struct.pack(f"<{hidden}f", *row))
        frame = await asyncio.wait_for(ws.recv(), 30)
        size = struct.unpack_from("<I", frame)[0]
        m, rest = json.loads(frame[4 : 4 + size]), frame[4 + size :]
        check("the head of a binary answer", m["type"] == "response" and m["id"] == "t" and m["data"]["shape"] == [1, 1, hidden], m)
        got = struct.unpack(f"<{hidden}f", rest)
        check("the tensor of HTTP", list(got) == [struct.unpack("<f", struct.pack("<f", x))[0] for x in want])


async def main():
    await access()
    await generate()
    await tensors()
    print("done")


asyncio.run(main())
