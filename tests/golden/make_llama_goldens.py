"""Writes the fixtures in `llama/`: small checkpoints, and what transformers makes of them.

    pip install torch==2.11.0 transformers==5.23.0 && python tests/golden/make_llama_goldens.py

Every folder is a checkpoint as Brigade writes it (`config.json` with the fields of `ModelConfig::to_hugging_face`,
`model.safetensors`), which `AutoModelForCausalLM.from_pretrained` loads here as a user would, and
`expected.safetensors` with, all in fp32 on the CPU:

    tokens         int64 [sequences, length + 1]   inputs and, shifted by one, targets
    logits         [sequences, length, vocab]
    losses         [sequences]                      mean cross-entropy in nats
    gradient.NAME  shape of NAME                    of the mean of `losses`
    step_losses    [4]                              mean loss before each of four AdamW steps on the same batch
    step_norms     [4]                              gradient norm before clipping, likewise

The AdamW steps: lr 0.01, betas (0.9, 0.95), eps 1e-8, weight decay 0.1 on matrices only, norm clipped to 1.
The test that reads them is `crates/trainer/tests/golden.rs`.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent / "llama"

# Each case pairs what can go wrong together: tying, grouping of heads, a head width that hidden_size does not imply,
# odd extents, and numbers that differ from transformers' defaults.
CASES = {
    "tied-gqa": dict(vocab_size=53, hidden_size=24, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=6, tie_word_embeddings=True),
    "untied-mha": dict(vocab_size=101, hidden_size=16, intermediate_size=23, num_hidden_layers=1, num_attention_heads=2,
                       num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-2),
    "untied-wide-heads": dict(vocab_size=31, hidden_size=21, intermediate_size=11, num_hidden_layers=2,
                                  num_attention_heads=3, num_key_value_heads=1, head_dim=10, rope_theta=500000.0,
                                  rms_norm_eps=1e-6),
    "tied-mqa-deep": dict(vocab_size=17, hidden_size=12, intermediate_size=7, num_hidden_layers=3, num_attention_heads=4,
                          num_key_value_heads=1, head_dim=4, tie_word_embeddings=True, rope_theta=100.0,
                          max_position_embeddings=40, length=40),
    "llama3-rope": dict(vocab_size=29, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
                        num_key_value_heads=1, head_dim=16, rope_theta=100.0, max_position_embeddings=128, length=70,
                        rope_scaling=dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                          original_max_position_embeddings=32)),
    "biased": dict(vocab_size=37, hidden_size=16, intermediate_size=19, num_hidden_layers=2, num_attention_heads=4,
                   num_key_value_heads=2, head_dim=4, attention_bias=True, mlp_bias=True),
    "attention-bias": dict(vocab_size=23, hidden_size=12, intermediate_size=9, num_hidden_layers=2, num_attention_heads=2,
                           num_key_value_heads=2, head_dim=6, attention_bias=True, tie_word_embeddings=True),
}


def config_json(case):
    """The output of `ModelConfig::to_hugging_face`; the Rust test compares the two."""
    fields = dict(max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
                  initializer_range=0.02)
    fields.update({key: value for key, value in case.items() if key != "length"})
    fixed = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", attention_bias=False,
                 mlp_bias=False, torch_dtype="float32", use_cache=True)
    return {**fixed, **fields}


def weights(config, generator):
    """Normal weights, large enough that attention and gates are far from uniform."""
    d, f, v, hd = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
    q, kv = config["num_attention_heads"] * hd, config["num_key_value_heads"] * hd
    shapes = {"model.embed_tokens.weight": (v, d)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (d,), at + "self_attn.q_proj.weight": (q, d),
            at + "self_attn.k_proj.weight": (kv, d), at + "self_attn.v_proj.weight": (kv, d),
            at + "self_attn.o_proj.weight": (d, q), at + "post_attention_layernorm.weight": (d,),
            at + "mlp.gate_proj.weight": (f, d), at + "mlp.up_proj.weight": (f, d), at + "mlp.down_proj.weight": (d, f),
        }
        if config["attention_bias"]:
            rows = dict(q_proj=q, k_proj=kv, v_proj=kv, o_proj=d)
            shapes |= {f"{at}self_attn.{name}.bias": (count,) for name, count in rows.items()}
        if config["mlp_bias"]:
            shapes |= {f"{at}mlp.{name}.bias": (count,) for name, count in dict(gate_proj=f, up_proj=f, down_proj=d).items()}
    shapes["model.norm.weight"] = (d,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (v, d)
    draw = lambda shape: torch.randn(shape, generator=generator)
    return {
        name: (0.2 * draw(shape) + (0 if name.endswith(".bias") else 1)) if len(shape) == 1 else draw(shape) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }


def losses_of(model, tokens):
    logits = model(input_ids=tokens[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return logits, losses.mean(1)


def adamw_steps(model, tokens, count):
    groups = [
        dict(params=[p for p in model.parameters() if p.ndim > 1], weight_decay=0.1),
        dict(params=[p for p in model.parameters() if p.ndim == 1], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for _ in range(count):
        optimizer.zero_grad()
        loss = losses_of(model, tokens)[1].mean()
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
    return torch.tensor(losses), torch.tensor(norms)


def make(name, case, seed):
    generator = torch.Generator().manual_seed(seed)
    config, folder = config_json(case), HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    state = weights(config, generator)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {k: v for k, v in report.items() if v}
    assert not problems, f"{name}: transformers found {problems}"
    parameters = dict(model.named_parameters())
    assert parameters.keys() == state.keys(), parameters.keys() ^ state.keys()
    for key, value in state.items():
        assert torch.equal(parameters[key], value), key
    rope = model.config.rope_parameters["rope_theta"]
    assert rope == config["rope_theta"], f"{name}: rope_theta arrived as {rope}"
    scaling = config.get("rope_scaling", dict(rope_type="default"))
    assert scaling.items() <= model.config.rope_parameters.items(), f"{name}: {model.config.rope_parameters}"
    assert model.config.rms_norm_eps == config["rms_norm_eps"]

    length = case.get("length", 9)
    tokens = torch.randint(config["vocab_size"], (2, length + 1), generator=generator)
    logits, losses = losses_of(model, tokens)
    losses.mean().backward()
    expected = {"tokens": tokens, "logits": logits.detach().contiguous(), "losses": losses.detach()}
    expected |= {f"gradient.{key}": value.grad.clone() for key, value in parameters.items()}
    expected["step_losses"], expected["step_norms"] = adamw_steps(model, tokens, 4)
    save_file(expected, folder / "expected.safetensors")
    print(f"{name}: losses {losses.tolist()}, steps {expected['step_losses'].tolist()}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, (name, case) in enumerate(CASES.items()):
        make(name, case, seed)
