#!/usr/bin/env python3
"""Tokens a second in training: Brigade beside PyTorch with transformers, on this machine, in one run.

The two take turns step by step, so whatever else the machine does slows both alike; medians, and the median of the
ratios of neighbouring steps, are reported.

    cargo build --release -p brigade-trainer --example steps
    benches/peer/compare.py --brigade target/release/examples/steps [--python PYTHON] [--json]

PYTHON needs torch and transformers; --help names the sizes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# 5.4 M parameters: 6 blocks of width 256.
SMALL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 256,
    "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "hidden_act": "silu", "initializer_range": 0.02,
}


class Side:
    """A process that makes one step for each line it is sent."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.read()

    def read(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return line

    def step(self, counts: bool) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, loss = map(float, self.read().split())
        self.losses.append(loss)
        if counts:
            self.seconds.append(seconds)


def compare(args: argparse.Namespace, dtype: str, config: str) -> dict:
    options = ["--config", config, "--sequences", str(args.sequences), "--length", str(args.length), "--dtype", dtype,
               "--threads", str(args.threads), "--device", args.device]
    peer = [args.python, str(HERE / "pytorch_steps.py"), *options] + (["--compile"] if args.compile else [])
    sides = [Side([args.brigade, *options]), Side(peer)]
    for number in range(args.warm_up + args.steps):
        for side in sides:
            side.step(counts=number >= args.warm_up)
    for side in sides:
        side.process.stdin.close()
        side.process.wait()
    ours, theirs = sides
    tokens = args.sequences * args.length
    return {
        "dtype": dtype,
        "brigade_tokens_per_second": tokens / statistics.median(ours.seconds),
        "pytorch_tokens_per_second": tokens / statistics.median(theirs.seconds),
        "ratio": statistics.median(b / a for a, b in zip(ours.seconds, theirs.seconds)),
        # Both learn the same batch by heart: proof that both train.
        "brigade_losses": [ours.losses[0], ours.losses[-1]],
        "pytorch_losses": [theirs.losses[0], theirs.losses[-1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brigade", required=True, help="the built example `steps`")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--config", help="a config.json; 5.4 M parameters (6 blocks of width 256) if absent")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", action="append", choices=["f32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="let PyTorch compile its model")
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = args.config or f"{folder}/config.json"
        if not args.config:
            Path(config).write_text(json.dumps(SMALL))
        results = [compare(args, dtype, config) for dtype in args.dtype or ["bf16", "f32"]]
    if args.json:
        print(json.dumps(results))
        return
    for r in results:
        print(f"{r['dtype']:>5}: Brigade {r['brigade_tokens_per_second']:,.0f} tokens/s, PyTorch "
              f"{r['pytorch_tokens_per_second']:,.0f}, ratio {r['ratio']:.2f}")


if __name__ == "__main__":
    main()
