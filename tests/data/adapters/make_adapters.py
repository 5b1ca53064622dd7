#!/usr/bin/env python3
"""Writes the adapters of this folder and what models give with them: transformers in float32 on a CPU, on checkpoints
whose weights are W + scale * B A, added up in float64.

  make_adapters.py ../golden .           needs numpy, torch, transformers, safetensors and gguf
"""
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
import safetensors.torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

golden, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
EXPERTS = [f"mlp.experts.{e}.{part}" for e in range(8) for part in ("gate_proj", "up_proj", "down_proj")]
PLAIN = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}


def make(base, name, seed, modules, config, layers=None, dtype=np.float32):
    """One adapter: random factors for the modules of every layer (or of `layers`)."""
    stored = safetensors.torch.load_file(str(golden / base / "model.safetensors"))
    weights = {k: v.float().numpy() for k, v in stored.items()}
    rng = np.random.default_rng(seed)
    config = PLAIN | config
    pairs, merged = {}, {k: v.astype(np.float64) for k, v in weights.items()}
    for key, weight in weights.items():
        module = key.removesuffix(".weight")
        if not any(module.endswith("." + m) for m in modules):
            continue
        if layers is not None and int(module.split(".")[2]) not in layers:
            continue
        pattern = lambda kind, otherwise: next((v for k, v in config[kind].items() if module.endswith(k)), otherwise)
        rank, alpha = pattern("rank_pattern", config["r"]), pattern("alpha_pattern", config["lora_alpha"])
        a = (rng.standard_normal((rank, weight.shape[1])) / math.sqrt(weight.shape[1])).astype(dtype)
        b = (rng.standard_normal((weight.shape[0], rank)) * 0.1).astype(dtype)
        pairs[f"base_model.model.{module}.lora_A.weight"] = a
        pairs[f"base_model.model.{module}.lora_B.weight"] = b
        scale = alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank
        merged[key] = merged[key] + scale * (b.astype(np.float64) @ a.astype(np.float64))
    folder = out / base / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(pairs, str(folder / "adapter_model.safetensors"))
    config["target_modules"] = sorted({m.rpartition(".")[2] for m in modules})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return {k: v.astype(np.float32) for k, v in merged.items()}


def expected(base, name, weights, prompts=("short", "page"), tokens=12):
    """Of some of the base's prompts: logits at a few positions, the greedy answer and its gaps."""
    source, values = load_file(str(golden / base / "expected.safetensors")), {}
    with tempfile.TemporaryDirectory() as folder:
        for file in ("config.json", "generation_config.json"):
            if (golden / base / file).exists():
                shutil.copy(golden / base / file, folder)
        save_file(weights, folder + "/model.safetensors", metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for prompt in prompts:
        ids = source[f"{prompt}.input_ids"].tolist()
        rows = sorted({0, len(ids) // 2, len(ids) - 1})
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy()
            greedy, gap = [], []
            for _ in range(tokens):
                last = model(torch.tensor([ids + greedy])).logits[0, -1]
                best = torch.topk(last, 2).values
                greedy.append(int(last.argmax())), gap.append(float(best[0] - best[1]))
        key = f"{name}.{prompt}"
        values |= {f"{key}.input_ids": np.array(ids, np.int64), f"{key}.rows": np.array(rows, np.int64),
                   f"{key}.logits": logits[rows], f"{key}.greedy": np.array(greedy, np.int64),
                   f"{key}.gap": np.array(gap, np.float32)}
    return values


for base, adapters in {
    "llama-3.1": {
        "attention": (1, ATTENTION, {"r": 4, "lora_alpha": 8}),
        "all": (2, ATTENTION + MLP, {"r": 2, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"k_proj": 3},
                                     "alpha_pattern": {"mlp.down_proj": 4}}, None, np.float16),
    },
    "qwen3-moe": {
        "attention": (3, ATTENTION[:1] + ATTENTION[3:], {"r": 3, "lora_alpha": 8}, [0]),
        "experts": (4, ATTENTION[:2] + EXPERTS + ["mlp.gate"], {"r": 2, "lora_alpha": 8}, [1], np.float16),
    },
}.items():
    values = {}
    for name, arguments in adapters.items():
        values |= expected(base, name, make(base, name, *arguments))
    save_file(values, str(out / base / "expected.safetensors"),
              metadata={"transformers": transformers.__version__, "base": base})


def write_gguf(base, name):
    """The same adapter as convert_lora_to_gguf.py writes it: rows of q and k reordered within each head."""
    config = json.loads((out / base / name / "adapter_config.json").read_text())
    model = json.loads((golden / base / "config.json").read_text())
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    heads = {"q_proj": model["num_attention_heads"], "k_proj": model["num_key_value_heads"]}
    writer = gguf.GGUFWriter(str(out / base / f"{name}.gguf"), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    for key, value in load_file(str(out / base / name / "adapter_model.safetensors")).items():
        parts = key.split(".")
        layer, module, half = parts[4], parts[6], parts[7]
        if half == "lora_B" and module in heads:
            h = heads[module]
            value = value.reshape(h, 2, value.shape[0] // h // 2, -1).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(f"blk.{layer}.{names[module]}.weight.{half.lower()}", np.ascontiguousarray(value))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()


write_gguf("llama-3.1", "attention")
