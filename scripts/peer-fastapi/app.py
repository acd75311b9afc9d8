"""One MoE layer behind POST /api/v1/process, as a service in FastAPI and PyTorch does it: softmax gate, 2 of 8 experts of
512 - 2048 - 512 with GELU, eager, float32. An expert has as many weights as one of the shape layer512.

Run: uvicorn app:app --workers N
"""
import os

import torch
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

HIDDEN, INNER, EXPERTS, TOP_K = 512, 2048, 8, 2


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(HIDDEN, EXPERTS)
        self.experts = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(HIDDEN, INNER), torch.nn.GELU(), torch.nn.Linear(INNER, HIDDEN)) for _ in range(EXPERTS))

    def forward(self, x):
        rows = x.reshape(-1, HIDDEN)
        weights, chosen = torch.softmax(self.gate(rows), -1).topk(TOP_K, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, place = (chosen == number).nonzero(as_tuple=True)
            if len(row):
                out.index_add_(0, row, expert(rows[row]) * weights[row, place, None])
        return out.reshape(x.shape)


torch.manual_seed(0)
torch.set_num_threads(int(os.environ["THREADS"]))
layer = Layer().eval()
app = FastAPI()


class Body(BaseModel):
    input_tensor: list[list[list[float]]]


@app.post("/api/v1/process")
async def process(body: Body):
    x = torch.tensor(body.input_tensor, dtype=torch.float32)
    if x.shape[-1] != HIDDEN:
        raise HTTPException(422, "input_tensor: the last dimension must be %d" % HIDDEN)
    with torch.inference_mode():
        y = layer(x)
    return {"output_tensor": y.tolist(), "shape": list(y.shape)}
