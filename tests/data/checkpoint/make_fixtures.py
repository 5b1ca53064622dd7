#!/usr/bin/env python3
"""Makes the files of this folder. Needs numpy, ml_dtypes, safetensors and gguf (0.19): the values are those of that
package.

  blocks.safetensors   for each GGUF block format F: F.blocks, random stored bytes, and F.values, what they mean; the
  same for all
                       256 patterns of the 8-bit floats
  NAME.gguf            a small model of that architecture, one layer, written by the gguf package with what llama.cpp's
  converter does
                       to the weights; NAME.safetensors: the weights before, rounded as the file's formats round them
"""
import pathlib

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType as Q
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(20)

# Format: blocks kept, and where in a block its float16 factors are.
BLOCKS = {Q.Q4_0: (8, [0]), Q.Q4_1: (8, [0, 2]), Q.Q5_0: (8, [0]), Q.Q5_1: (8, [0, 2]), Q.Q8_0: (8, [0]),
          Q.Q2_K: (3, [80, 82]), Q.Q3_K: (3, [108]), Q.Q4_K: (3, [0, 2]), Q.Q5_K: (3, [0, 2]), Q.Q6_K: (3, [208])}


def make_blocks():
    out = {}
    for q, (count, factors) in BLOCKS.items():
        block = rng.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[q][1]), dtype=np.uint8)
        for at in factors:
            half = rng.normal(0, 0.1, count).astype(np.float16)
            half[0] = np.float16(3e-7)  # a subnormal
            block[:, at:at + 2] = half.view(np.uint8).reshape(count, 2)
        out[q.name.lower() + ".blocks"] = block
        out[q.name.lower() + ".values"] = gguf.quants.dequantize(block, q).astype(np.float32).reshape(count, -1)
    every = np.arange(256, dtype=np.uint8)
    for name, dtype in (("f8_e4m3", ml_dtypes.float8_e4m3fn), ("f8_e5m2", ml_dtypes.float8_e5m2),
                        ("f8_e8m0", ml_dtypes.float8_e8m0fnu)):
        out[name + ".blocks"] = every
        out[name + ".values"] = every.view(dtype).astype(np.float32)
    save_file(out, HERE / "blocks.safetensors")


def rotary_order(weight, heads):
    """What the converter does to q and k of Llama: the two halves of each head are interleaved."""
    pairs = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def make_model(name, arch, tied, bias=False, head_norm=False, rope_factors=False):
    hidden, heads, kv, head, ffn, vocab = 32, 2, 1, 16, 64, 24
    if arch == "gemma3":
        head = 32
    gemma, expected = arch == "gemma3", {}
    w = gguf.GGUFWriter(HERE / (name + ".gguf"), arch)
    w.add_context_length(512), w.add_embedding_length(hidden), w.add_block_count(1), w.add_feed_forward_length(ffn)
    w.add_head_count(heads), w.add_head_count_kv(kv), w.add_layer_norm_rms_eps(1e-5), w.add_rope_freq_base(50000.0)
    w.add_rope_dimension_count(head)
    if gemma or arch == "qwen3":
        w.add_key_length(head), w.add_value_length(head)
    if gemma:
        w.add_sliding_window(8), w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(8.0)
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("smollm"), w.add_token_list([f"t{i}" for i in range(vocab)])
    w.add_token_types([3] + [1] * (vocab - 1)), w.add_token_merges(["t 1", "t 2"])
    w.add_bos_token_id(1), w.add_eos_token_id(2)
    w.add_add_bos_token(True), w.add_chat_template("{{ messages }}")

    def add(gguf_name, hf_name, shape, q=Q.F32, order=0, offset=0.0):
        values = rng.normal(0, 0.5, shape).astype(np.float32)
        if q in (Q.Q8_0, Q.Q4_1):
            raw = gguf.quants.quantize(values, q)
            values = gguf.quants.dequantize(raw, q).astype(np.float32)
            if order:  # the same rows in the other order: blocks lie along the columns
                raw = rotary_order(raw, order)
            w.add_tensor(gguf_name, raw, raw_dtype=q)
        else:
            if q == Q.F16:
                values = values.astype(np.float16).astype(np.float32)
            stored = rotary_order(values, order) if order else values
            if offset:
                stored = stored + np.float32(offset)
                values = stored - np.float32(offset)
            w.add_tensor(gguf_name, stored.astype(np.float16) if q == Q.F16 else stored)
        expected[hf_name] = values

    order = (heads, kv) if arch == "llama" else (0, 0)
    one = 1.0 if gemma else 0.0
    L, B = "model.layers.0.", "blk.0."
    add("token_embd.weight", "model.embed_tokens.weight", (vocab, hidden), Q.Q8_0)
    add("output_norm.weight", "model.norm.weight", (hidden,), offset=one)
    if not tied:
        add("output.weight", "lm_head.weight", (vocab, hidden), Q.F16)
    for part, rows, turn in (("q", heads * head, order[0]), ("k", kv * head, order[1]), ("v", kv * head, 0)):
        add(f"{B}attn_{part}.weight", f"{L}self_attn.{part}_proj.weight", (rows, hidden), Q.Q4_1, turn)
        if bias:
            add(f"{B}attn_{part}.bias", f"{L}self_attn.{part}_proj.bias", (rows,), Q.F32, turn)
    add(B + "attn_output.weight", L + "self_attn.o_proj.weight", (hidden, heads * head), Q.F16)
    if bias and arch == "llama":
        add(B + "attn_output.bias", L + "self_attn.o_proj.bias", (hidden,))
    if head_norm:
        add(B + "attn_q_norm.weight", L + "self_attn.q_norm.weight", (head,), offset=one)
        add(B + "attn_k_norm.weight", L + "self_attn.k_norm.weight", (head,), offset=one)
    add(B + "attn_norm.weight", L + "input_layernorm.weight", (hidden,), offset=one)
    if gemma:
        add(B + "post_attention_norm.weight", L + "post_attention_layernorm.weight", (hidden,), offset=one)
        add(B + "ffn_norm.weight", L + "pre_feedforward_layernorm.weight", (hidden,), offset=one)
        add(B + "post_ffw_norm.weight", L + "post_feedforward_layernorm.weight", (hidden,), offset=one)
    else:
        add(B + "ffn_norm.weight", L + "post_attention_layernorm.weight", (hidden,))
    add(B + "ffn_gate.weight", L + "mlp.gate_proj.weight", (ffn, hidden), Q.Q8_0)
    add(B + "ffn_up.weight", L + "mlp.up_proj.weight", (ffn, hidden), Q.Q8_0)
    add(B + "ffn_down.weight", L + "mlp.down_proj.weight", (hidden, ffn), Q.Q8_0)
    if rope_factors:
        add("rope_freqs.weight", "rope_factors", (head // 2,))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
    w.close()
    save_file(expected, HERE / (name + ".safetensors"))


if __name__ == "__main__":
    make_blocks()
    make_model("llama", "llama", tied=False, bias=True, rope_factors=True)
    make_model("qwen2", "qwen2", tied=True, bias=True)
    make_model("qwen3", "qwen3", tied=True, head_norm=True)
    make_model("gemma3", "gemma3", tied=True, head_norm=True)
