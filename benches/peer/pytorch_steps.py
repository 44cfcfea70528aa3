"""Training steps of PyTorch and transformers, one for each line on stdin; see compare.py.

Prints "ready", then for every line the seconds of one step and its loss. A step is what a careful user writes: autocast
in bf16, gradients clipped by norm, AdamW fused. fp32 is the same without autocast.
"""

import argparse
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--config", required=True)
parser.add_argument("--sequences", type=int, required=True)
parser.add_argument("--length", type=int, required=True)
parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--device", default="cpu", help="cpu or cuda")
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
device = torch.device(args.device)
config = LlamaConfig.from_json_file(args.config)
model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.float32).to(device).train()
matrices = [p for p in model.parameters() if p.dim() > 1]
vectors = [p for p in model.parameters() if p.dim() == 1]
groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
forward = torch.compile(model) if args.compile else model
ids = torch.randint(config.vocab_size, (args.sequences, args.length + 1), generator=torch.manual_seed(1)).to(device)
inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def step() -> float:
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        loss = forward(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    loss = step()
    print(time.perf_counter() - start, loss, flush=True)
