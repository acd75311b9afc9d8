"""Triton's official client against a live server, over HTTP and gRPC: metadata, tensors in JSON and in binary, texts whole
and in parts, errors. Every tensor is compared bit for bit with the answer of /api/v1/process."""
import json
import os
import queue
import urllib.request

import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.utils import InferenceServerException

HTTP, GRPC, KEY = os.environ["PIMOE_HTTP"], os.environ["PIMOE_GRPC"], os.environ["PIMOE_KEY"]
TEXT, HIDDEN = "pimoe-tiny", "pimoe-tiny-hidden"
PROMPT = "Once upon a time, a little"


def auth():
    """A dictionary of its own for every call: the client writes its own headers into it."""
    return {"authorization": "Bearer " + KEY}


def post(path, body, headers):
    request = urllib.request.Request("http://" + HTTP + path, data=body, headers={"Authorization": "Bearer " + KEY, **headers})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def refused(call, text, status):
    try:
        call()
    except InferenceServerException as e:
        assert text in e.message(), e.message()
        assert status in str(e.status()), e.status()
        return
    raise AssertionError("not refused: " + text)


http = thttp.InferenceServerClient(HTTP, concurrency=2)
grpc = tgrpc.InferenceServerClient(GRPC)

for client in http, grpc:
    assert client.is_server_live(headers=auth()) and client.is_server_ready(headers=auth())
    assert client.is_model_ready(TEXT, headers=auth()) and client.is_model_ready(HIDDEN, headers=auth())
    assert len(client.get_model_repository_index(headers=auth()) if client is http else client.get_model_repository_index(headers=auth()).models) == 2
    refused(lambda: client.get_model_metadata("none", headers=auth()), "does not exist", "404" if client is http else "NOT_FOUND")
    refused(lambda: client.get_model_metadata(TEXT), "credential is required", "401" if client is http else "UNAUTHENTICATED")
assert http.get_server_metadata(headers=auth())["name"] == grpc.get_server_metadata(headers=auth()).name == "pimoe"
about = http.get_model_metadata(HIDDEN, headers=auth())
assert grpc.get_model_metadata(HIDDEN, headers=auth(), as_json=True)["inputs"][0]["name"] == about["inputs"][0]["name"] == "hidden_states"
version, width = about["versions"][0], about["inputs"][0]["shape"][2]

x = np.random.default_rng(7).standard_normal((2, 3, width)).astype(np.float32)
raw = post("/api/v1/process?layer=2", x.tobytes(), {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream", "X-Tensor-Shape": "2,3,%d" % width})
want = np.frombuffer(raw, np.float32).reshape(x.shape).view(np.uint32)
for kind, client, api in ("http", http, thttp), ("grpc", grpc, tgrpc):
    for binary_in in (True, False):
        for binary_out in (True, False, None):  # None: no outputs are named
            given = api.InferInput("hidden_states", list(x.shape), "FP32")
            if kind == "http":
                given.set_data_from_numpy(x, binary_data=binary_in)
                outputs = None if binary_out is None else [api.InferRequestedOutput("hidden_states", binary_data=binary_out)]
            else:
                given.set_data_from_numpy(x)
                outputs = None if binary_out is None else [api.InferRequestedOutput("hidden_states")]
            answer = client.infer(HIDDEN, [given], model_version=version, outputs=outputs, request_id="a7", headers=auth(), parameters={"layer": 2}, timeout=20_000_000)
            got = answer.as_numpy("hidden_states")
            assert got.dtype == np.float32 and got.shape == x.shape, (got.dtype, got.shape)
            assert (got.view(np.uint32) == want).all(), (kind, binary_in, binary_out)
            said = answer.get_response() if kind == "http" else answer.get_response(as_json=True)
            assert said["id"] == "a7" and said["model_name"] == HIDDEN
    bad = api.InferInput("hidden_states", [1, 1, width + 1], "FP32")
    bad.set_data_from_numpy(np.zeros((1, 1, width + 1), np.float32))
    refused(lambda: client.infer(HIDDEN, [bad], headers=auth()), "shape", "400" if kind == "http" else "INVALID_ARGUMENT")
    bad = api.InferInput("hidden_states", [1, 1, width], "FP32")
    bad.set_data_from_numpy(np.full((1, 1, width), np.nan, np.float32))
    refused(lambda: client.infer(HIDDEN, [bad], headers=auth()), "finite", "400" if kind == "http" else "INVALID_ARGUMENT")


def text(api, binary=True, **settings):
    """The inputs of a text model, with the datatypes that its metadata names."""
    values = [("text_input", "BYTES", np.array([PROMPT.encode()], object)), ("max_tokens", "INT32", np.array([12], np.int32)), ("temperature", "FP32", np.array([0.8], np.float32)),
              ("random_seed", "UINT64", np.array([5], np.uint64)), ("stop_words", "BYTES", np.array([b"."], object))]
    if settings.get("stream"):
        values.append(("stream", "BOOL", np.array([True])))
    out = []
    for name, datatype, value in values:
        out.append(api.InferInput(name, [1], datatype))
        if api is thttp:
            out[-1].set_data_from_numpy(value, binary_data=binary)
        else:
            out[-1].set_data_from_numpy(value)
    return out


body = json.dumps({"model": TEXT, "prompt": PROMPT, "max_tokens": 12, "temperature": 0.8, "seed": 5, "stop": ["."]}).encode()
story = json.loads(post("/v1/completions", body, {"Content-Type": "application/json"}))["choices"][0]["text"]
assert len(story) > 3
for binary in (True, False):
    answer = http.infer(TEXT, text(thttp, binary), headers=auth())
    assert answer.as_numpy("text_output")[0].decode() == story
    assert answer.as_numpy("num_output_tokens")[0] > 0
assert grpc.infer(TEXT, text(tgrpc), headers=auth()).as_numpy("text_output")[0].decode() == story
many = [http.async_infer(TEXT, text(thttp), headers=auth()) for _ in range(4)]
assert all(m.get_result().as_numpy("text_output")[0].decode() == story for m in many)

answers = queue.Queue()
grpc.start_stream(lambda result, error: answers.put((result, error)), headers=auth())
for request in "one", "two":
    grpc.async_stream_infer(TEXT, text(tgrpc, stream=True), request_id=request, enable_empty_final_response=True)
parts = {"one": [], "two": []}
ended = []
while len(ended) < 2:
    result, error = answers.get(timeout=60)
    assert error is None, error
    response = result.get_response()
    if response.parameters["triton_final_response"].bool_param:
        ended.append(response.id)
        continue
    parts[response.id].append(result.as_numpy("text_output")[0].decode())
assert all("".join(p) == story and len(p) > 2 for p in parts.values()), parts
grpc.async_stream_infer("none", text(tgrpc))
assert "does not exist" in answers.get(timeout=60)[1].message()
grpc.stop_stream()

events = post("/v2/models/%s/generate_stream" % TEXT, json.dumps({"text_input": PROMPT, "max_tokens": 12, "temperature": 0.8, "random_seed": 5, "stop_words": ["."]}).encode(), {"Content-Type": "application/json"})
assert "".join(json.loads(e[6:])["text_output"] for e in events.decode().strip().split("\n\n")) == story
http.close()
grpc.close()
print("done")
