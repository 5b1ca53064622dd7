#!/usr/bin/env python3
"""Writes checkpoints of random weights in the shapes of published models, the same weights for every engine that is
compared: a Hugging Face folder (config.json, model.safetensors, tokenizer.json) and GGUF files.

  bench/make_checkpoint.py --shape qwen3-0.6b --out /tmp/models [--gguf bf16,f16,q8_0,q4_0] [--tokenizer
  tokenizer.json[.gz]]

makes OUT/qwen3-0.6b/ and OUT/qwen3-0.6b.bf16.gguf and so on. Without --tokenizer the vocabulary is made up: bytes, and
names that no text contains. Needs the Python packages numpy, safetensors and gguf.
"""
import argparse
import gzip
import json
from pathlib import Path

import numpy as np

SHAPES = {
    "llama-3.2-1b": dict(arch="llama", layers=16, hidden=2048, mlp=8192, heads=32, kv_heads=8, head_dim=64,
                         vocab=128256, theta=500000.0, eps=1e-5, context=131072),
    "qwen3-0.6b": dict(arch="qwen3", layers=28, hidden=1024, mlp=3072, heads=16, kv_heads=8, head_dim=128, vocab=151936,
                       theta=1000000.0, eps=1e-6, context=40960),
    "gemma-3-270m": dict(arch="gemma3", layers=18, hidden=640, mlp=2048, heads=4, kv_heads=1, head_dim=256,
                         vocab=262144, theta=1000000.0, eps=1e-6, context=32768, window=512),
    "smollm2-135m": dict(arch="llama", layers=30, hidden=576, mlp=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152,
                         theta=100000.0, eps=1e-5, context=8192),
    "tiny": dict(arch="qwen3", layers=2, hidden=128, mlp=256, heads=4, kv_heads=2, head_dim=32, vocab=1024,
                 theta=10000.0, eps=1e-6, context=2048),
}
END = "<|end|>"


def config_of(s):
    config = {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM",
                           "gemma3": "Gemma3ForCausalLM"}[s["arch"]]],
        "model_type": {"gemma3": "gemma3_text"}.get(s["arch"], s["arch"]),
        "hidden_size": s["hidden"], "intermediate_size": s["mlp"], "num_hidden_layers": s["layers"],
        "num_attention_heads": s["heads"], "num_key_value_heads": s["kv_heads"], "head_dim": s["head_dim"],
        "vocab_size": s["vocab"], "rms_norm_eps": s["eps"], "rope_theta": s["theta"],
        "max_position_embeddings": s["context"], "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "hidden_act": "silu", "attention_bias": False,
        "bos_token_id": None, "eos_token_id": s["vocab"] - 1,
    }
    if s["arch"] == "gemma3":
        config |= {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": s["window"],
                   "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": s["head_dim"], "sliding_window_pattern": 6,
                   "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(s["layers"])]}
        del config["hidden_act"]
    return config


def tensor_shapes(s):
    """Hugging Face name -> shape, in file order."""
    q, kv, h = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"], s["hidden"]
    yield "model.embed_tokens.weight", (s["vocab"], h)
    for i in range(s["layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (h,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield p + f"self_attn.{name}_proj.weight", (rows, h)
        yield p + "self_attn.o_proj.weight", (h, q)
        if s["arch"] in ("qwen3", "gemma3"):
            yield p + "self_attn.q_norm.weight", (s["head_dim"],)
            yield p + "self_attn.k_norm.weight", (s["head_dim"],)
        yield p + "post_attention_layernorm.weight", (h,)
        if s["arch"] == "gemma3":
            yield p + "pre_feedforward_layernorm.weight", (h,)
            yield p + "post_feedforward_layernorm.weight", (h,)
        for name, shape in (("gate", (s["mlp"], h)), ("up", (s["mlp"], h)), ("down", (h, s["mlp"]))):
            yield p + f"mlp.{name}_proj.weight", shape
    yield "model.norm.weight", (h,)


def to_bf16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x):
    return (x.astype(np.uint32) << 16).view(np.float32)


def random_tensor(random, name, shape, gemma):
    """bfloat16 bits: matrices of variance 1 / columns, norms near 1 (Gemma stores what is added to 1)."""
    x = random.random(shape, dtype=np.float32) * 2 - 1
    if len(shape) > 1:
        return to_bf16(x * np.float32(np.sqrt(3 / shape[-1])))
    return to_bf16(x * np.float32(0.1) + np.float32(0 if gemma else 1))


def made_up_tokens(vocab):
    bytes_used = list(range(ord("!"), ord("~") + 1)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    characters, extra = [], 0
    for byte in range(256):
        characters.append(chr(byte) if byte in bytes_used else chr(256 + extra))
        extra += byte not in bytes_used
    tokens = characters + ["ab"]
    return tokens + [f"<unseen {i}>" for i in range(vocab - len(tokens) - 1)] + [END], ["a b"]


def made_up_tokenizer(vocab):
    tokens, merges = made_up_tokens(vocab)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": vocab - 1, "content": END, "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": True}],
            "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {token: i for i, token in enumerate(tokens[:-1])}, "merges": merges}}


def write_folder(folder, s, tensors, tokenizer):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(s), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": s["vocab"] - 1}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", tensors)


def write_tensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * ((56 - len(text)) % 64)  # with the 8 bytes of its length: the data begin at a multiple of 64
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for bits in tensors.values():
            bits.tofile(out)


def interleaved(w, heads):
    """llama's GGUF keeps the two halves of each rotary head interleaved."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, s, tensors, kind):
    import gguf
    writer = gguf.GGUFWriter(path, s["arch"])
    writer.add_name(path.stem)
    writer.add_context_length(s["context"]), writer.add_embedding_length(s["hidden"])
    writer.add_block_count(s["layers"])
    writer.add_feed_forward_length(s["mlp"]), writer.add_head_count(s["heads"]), writer.add_head_count_kv(s["kv_heads"])
    writer.add_key_length(s["head_dim"]), writer.add_value_length(s["head_dim"]), writer.add_rope_freq_base(s["theta"])
    writer.add_layer_norm_rms_eps(s["eps"]), writer.add_vocab_size(s["vocab"])
    if s["arch"] == "llama":
        writer.add_rope_dimension_count(s["head_dim"])
    if "window" in s:
        writer.add_sliding_window(s["window"])
    tokens, merges = made_up_tokens(s["vocab"])
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("gpt-2"), writer.add_token_list(tokens)
    writer.add_token_types([1] * (s["vocab"] - 1) + [3])
    writer.add_token_merges(merges), writer.add_eos_token_id(s["vocab"] - 1)
    writer.add_bos_token_id(s["vocab"] - 1), writer.add_pad_token_id(s["vocab"] - 1), writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    writer.add_file_type({"bf16": gguf.LlamaFileType.MOSTLY_BF16, "f16": gguf.LlamaFileType.MOSTLY_F16,
                          "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}[kind])
    names = gguf.get_tensor_name_map({"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3,
                                      "gemma3": gguf.MODEL_ARCH.GEMMA3}[s["arch"]], s["layers"])
    quantized = {"bf16": None, "f16": None, "q8_0": gguf.GGMLQuantizationType.Q8_0,
                 "q4_0": gguf.GGMLQuantizationType.Q4_0}[kind]
    for name, bits in tensors.items():
        base = name.removesuffix(".weight")
        target = names.get_name(base) + ".weight"
        if bits.ndim == 1:
            values = from_bf16(bits)
            writer.add_tensor(target, values + 1 if s["arch"] == "gemma3" else values)
            continue
        if s["arch"] == "llama" and base.endswith(("q_proj", "k_proj")):
            bits = np.ascontiguousarray(interleaved(bits, s["heads"] if base.endswith("q_proj") else s["kv_heads"]))
        own = quantized
        if quantized and name.startswith("model.embed"):
            own = gguf.GGMLQuantizationType.Q8_0  # the head, as llama.cpp's own converter keeps it at 8 bits or nearly
        if kind == "f16":
            writer.add_tensor(target, from_bf16(bits).astype(np.float16))
        elif own is None:
            writer.add_tensor(target, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(target, gguf.quants.quantize(from_bf16(bits), own), raw_dtype=own)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--gguf", default="", help="bf16, f16, q8_0, q4_0, separated by commas")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, or one through gzip, for the folder")
    options = parser.parse_args()
    s = SHAPES[options.shape]
    random = np.random.default_rng(7)
    tensors = {name: random_tensor(random, name, shape, s["arch"] == "gemma3") for name, shape in tensor_shapes(s)}
    if options.tokenizer:
        read = gzip.open if options.tokenizer.suffix == ".gz" else open
        with read(options.tokenizer, "rt", encoding="utf-8") as file:
            tokenizer = json.load(file)
    else:
        tokenizer = made_up_tokenizer(s["vocab"])
    write_folder(options.out / options.shape, s, tensors, tokenizer)
    print(options.out / options.shape)
    for kind in filter(None, options.gguf.split(",")):
        path = options.out / f"{options.shape}.{kind}.gguf"
        write_gguf(path, s, tensors, kind)
        print(path)


if __name__ == "__main__":
    main()
