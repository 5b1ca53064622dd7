#!/usr/bin/env python3
"""Makes the files of this folder. Needs numpy, ml_dtypes, safetensors and gguf (0.19): the values are those of that
package.

  blocks.safetensors   for each GGUF block format F: F.blocks, random stored bytes, and F.values, what they mean; the
  same for all
                       256 patterns of the 8-bit floats
  code_blocks.safetensors   the same for the formats whose values are codes times scales (IQ, TQ, FP4)
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

# Formats whose values are codes times scales; bytes that are no float16 may hold anything.
CODE_BLOCKS = {Q.IQ1_S: [0], Q.IQ1_M: [], Q.IQ2_XXS: [0], Q.IQ2_XS: [0], Q.IQ2_S: [0], Q.IQ3_XXS: [0], Q.IQ3_S: [0],
               Q.IQ4_NL: [0], Q.IQ4_XS: [0], Q.TQ1_0: [52], Q.TQ2_0: [64], Q.MXFP4: [], Q.NVFP4: []}


def make_code_blocks():
    rng, out = np.random.default_rng(21), {}
    for q, factors in CODE_BLOCKS.items():
        size, width = gguf.GGML_QUANT_SIZES[q]
        count = 2 if size == 256 else 4
        block = rng.integers(0, 256, (count, width), dtype=np.uint8)
        for at in factors:
            half = rng.normal(0, 0.1, count).astype(np.float16)
            half[0] = np.float16(3e-7)  # a subnormal
            block[:, at:at + 2] = half.view(np.uint8).reshape(count, 2)
        if q == Q.MXFP4:
            block[:4, 0] = [0, 1, 127, 130]
        if q == Q.NVFP4:
            block[0, :4] = [0x7f, 0, 1, 0x38]
        out[q.name.lower() + ".blocks"] = block
        out[q.name.lower() + ".values"] = gguf.quants.dequantize(block, q).astype(np.float32).reshape(count, -1)
    save_file(out, HERE / "code_blocks.safetensors")


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


class Model:
    """A GGUF file of few values and the tensors that it stands for under Hugging Face's names."""

    def __init__(self, name, arch, layers, **counts):
        self.rng, self.expected, self.arch = np.random.default_rng(22), {}, arch
        self.path, self.name, self.order = HERE / (name + ".gguf"), name, arch in ("llama", "deci")
        self.w = w = gguf.GGUFWriter(self.path, arch, split_max_tensors=counts.pop("split", 0))
        w.add_context_length(512), w.add_embedding_length(32), w.add_block_count(layers)
        w.add_head_count(counts.pop("heads", 2)), w.add_head_count_kv(counts.pop("kv_heads", 1))
        w.add_feed_forward_length(counts.pop("ffn", 32)), w.add_rope_freq_base(50000.0)
        for key, value in counts.items():
            getattr(w, "add_" + key)(value)
        w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("smollm"), w.add_token_list([f"t{i}" for i in range(8)])
        w.add_token_merges(["t 1"])

    def add(self, gguf_name, hf_name, shape, heads=0, plus=0.0, change=lambda values: values):
        """A tensor of whole numbers, so that float16 holds them; `change` is what the converter does to it."""
        values = self.rng.integers(-64, 64, shape).astype(np.float32)
        stored = change(rotary_order(values, heads) if self.order and heads else values) + np.float32(plus)
        self.w.add_tensor(gguf_name, np.ascontiguousarray(stored.astype(np.float16 if len(shape) > 1 else np.float32)))
        self.expected[hf_name] = values

    def experts(self, gguf_names, hf_names, shapes, count=2):
        """Experts' matrices, together in one tensor for each of their three parts."""
        for part, hf, shape in zip(gguf_names, hf_names, shapes):
            values = self.rng.integers(-64, 64, (count, *shape)).astype(np.float32)
            self.w.add_tensor(part, values.astype(np.float16))
            for e in range(count):
                self.expected[hf.format(e)] = values[e]

    def frame(self, plus=0.0, bias=False):
        self.add("token_embd.weight", "model.embed_tokens.weight", (8, 32))
        self.add("output_norm.weight", "model.norm.weight", (32,), plus=plus)
        if bias:
            self.add("output_norm.bias", "model.norm.bias", (32,))
        self.add("output.weight", "lm_head.weight", (8, 32))

    def attention(self, layer, heads=2, kv=1):
        blk, hf = f"blk.{layer}.", f"model.layers.{layer}.self_attn."
        for part, rows, turn in (("q", heads * 16, heads), ("k", kv * 16, kv), ("v", kv * 16, 0)):
            self.add(f"{blk}attn_{part}.weight", f"{hf}{part}_proj.weight", (rows, 32), turn)
        self.add(blk + "attn_output.weight", hf + "o_proj.weight", (32, heads * 16))

    def norms(self, layer, names=("attn_norm", "ffn_norm"), plus=0.0, bias=False):
        hf = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
        for name in names:
            self.add(f"blk.{layer}.{name}.weight", f"model.layers.{layer}.{hf[name]}.weight", (32,), plus=plus)
            if bias:
                self.add(f"blk.{layer}.{name}.bias", f"model.layers.{layer}.{hf[name]}.bias", (32,))

    def mlp(self, layer, hf, ffn=32, gated=True):
        for part, shape in (("gate", (ffn, 32)), ("up", (ffn, 32)), ("down", (32, ffn)))[0 if gated else 1:]:
            self.add(f"blk.{layer}.ffn_{part}.weight", f"model.layers.{layer}.{hf}.{part}_proj.weight", shape)

    def close(self):
        w = self.w
        w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
        w.close()
        expected = {name: values.astype(np.float16) for name, values in self.expected.items()}
        save_file(expected, HERE / (self.name + ".safetensors"))


EXPERT_SHAPES = ((16, 32), (16, 32), (32, 16))


def exps(layer, parts=("gate", "up", "down")):
    return [f"blk.{layer}.ffn_{part}_exps.weight" for part in parts]


def make_mixtral():
    m = Model("mixtral", "llama", 2, ffn=16, expert_count=2, expert_used_count=1, layer_norm_rms_eps=1e-5)
    m.frame()
    for i in range(2):
        m.attention(i), m.norms(i)
        moe = f"model.layers.{i}.block_sparse_moe."
        m.add(f"blk.{i}.ffn_gate_inp.weight", moe + "gate.weight", (2, 32))
        if i == 0:
            m.experts(exps(i), [f"{moe}experts.{{}}.{w}.weight" for w in ("w1", "w3", "w2")], EXPERT_SHAPES)
            continue
        for e in range(2):  # as the first files with experts have them
            for part, w, shape in zip(("gate", "up", "down"), ("w1", "w3", "w2"), EXPERT_SHAPES):
                m.add(f"blk.{i}.ffn_{part}.{e}.weight", f"{moe}experts.{e}.{w}.weight", shape)
    m.close()


def make_qwen3moe():
    m = Model("qwen3moe", "qwen3moe", 1, expert_count=2, expert_used_count=1, expert_feed_forward_length=16,
              key_length=16, value_length=16, layer_norm_rms_eps=1e-5)
    m.frame(), m.attention(0), m.norms(0)
    for part in "qk":
        m.add(f"blk.0.attn_{part}_norm.weight", f"model.layers.0.self_attn.{part}_norm.weight", (16,))
    m.add("blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.gate.weight", (2, 32))
    m.experts(exps(0), [f"model.layers.0.mlp.experts.{{}}.{w}_proj.weight" for w in ("gate", "up", "down")],
              EXPERT_SHAPES)
    m.close()


def make_llama4():
    m = Model("llama4", "llama4", 2, expert_count=2, expert_used_count=1, expert_feed_forward_length=16,
              interleave_moe_layer_step=2, key_length=16, value_length=16, rope_dimension_count=16,
              layer_norm_rms_eps=1e-5)
    m.frame()
    for i in range(2):
        m.attention(i), m.norms(i)
        if i == 0:
            m.mlp(i, "feed_forward")
            continue
        moe = f"model.layers.{i}.feed_forward."
        m.add(f"blk.{i}.ffn_gate_inp.weight", moe + "router.weight", (2, 32))
        m.experts(exps(i), [f"{moe}experts.{{}}.{w}_proj.weight" for w in ("gate", "up", "down")], EXPERT_SHAPES)
        for part, shape in zip(("gate", "up", "down"), EXPERT_SHAPES):
            m.add(f"blk.{i}.ffn_{part}_shexp.weight", f"{moe}shared_expert.{part}_proj.weight", shape)
    m.close()


def make_deepseek2(name, split):
    sizes = dict(key_length=32, value_length=16, key_length_mla=24, value_length_mla=16) if split else \
        dict(key_length=24, value_length=16)
    m = Model(name, "deepseek2", 2, kv_heads=1 if split else 2, q_lora_rank=16, kv_lora_rank=24,
              rope_dimension_count=8, leading_dense_block_count=1, expert_count=2, expert_used_count=1,
              expert_feed_forward_length=16, expert_shared_count=1, expert_weights_scale=2.5, expert_weights_norm=True,
              expert_gating_func=gguf.ExpertGatingFuncType.SIGMOID, layer_norm_rms_eps=1e-5,
              rope_scaling_type=gguf.RopeScalingType.YARN, rope_scaling_factor=4.0, rope_scaling_orig_ctx_len=128,
              rope_scaling_yarn_log_mul=0.1, **sizes)
    m.frame()
    for i in range(2):
        blk, hf = f"blk.{i}.", f"model.layers.{i}."
        m.norms(i)
        for part, to, shape in (("attn_q_a", "q_a_proj", (16, 32)), ("attn_q_b", "q_b_proj", (48, 16)),
                                ("attn_kv_a_mqa", "kv_a_proj_with_mqa", (32, 32)), ("attn_output", "o_proj", (32, 32)),
                                ("attn_q_a_norm", "q_a_layernorm", (16,)), ("attn_kv_a_norm", "kv_a_layernorm", (24,))):
            m.add(f"{blk}{part}.weight", f"{hf}self_attn.{to}.weight", shape)
        if split:  # [heads, kv_rank, nope] and [heads, v, kv_rank]
            m.add(blk + "attn_k_b.weight", hf + "self_attn.k_b_proj.weight", (2, 24, 16))
            m.add(blk + "attn_v_b.weight", hf + "self_attn.v_b_proj.weight", (2, 16, 24))
        else:
            m.add(blk + "attn_kv_b.weight", hf + "self_attn.kv_b_proj.weight", (64, 24))
        if i == 0:
            m.mlp(i, "mlp")
            continue
        m.add(blk + "ffn_gate_inp.weight", hf + "mlp.gate.weight", (2, 32))
        m.add(blk + "exp_probs_b.bias", hf + "mlp.gate.e_score_correction_bias", (2,))
        if split:  # gate and up together
            values = m.rng.integers(-64, 64, (2, 32, 32)).astype(np.float32)
            m.w.add_tensor(blk + "ffn_gate_up_exps.weight", values.astype(np.float16))
            for e in range(2):
                m.expected[f"{hf}mlp.experts.{e}.gate_proj.weight"] = np.ascontiguousarray(values[e, :16])
                m.expected[f"{hf}mlp.experts.{e}.up_proj.weight"] = np.ascontiguousarray(values[e, 16:])
            m.experts(exps(i, ["down"]), [hf + "mlp.experts.{}.down_proj.weight"], EXPERT_SHAPES[2:])
        else:
            m.experts(exps(i), [f"{hf}mlp.experts.{{}}.{w}_proj.weight" for w in ("gate", "up", "down")], EXPERT_SHAPES)
        for part, shape in zip(("gate", "up", "down"), EXPERT_SHAPES):
            m.add(f"{blk}ffn_{part}_shexp.weight", f"{hf}mlp.shared_experts.{part}_proj.weight", shape)
    m.close()


def make_deci():
    heads, kv_heads, ffn = [2, 0, 2, 2], [1, 0, 0, 2], [32, 16, 32, 0]
    m = Model("deci", "deci", 4, heads=heads, kv_heads=kv_heads, ffn=ffn, key_length=16, value_length=16,
              rope_dimension_count=16, layer_norm_rms_eps=1e-5)
    m.frame()
    for i in range(4):
        if kv_heads[i]:
            m.attention(i, heads[i], kv_heads[i])
        elif heads[i]:
            m.add(f"blk.{i}.attn_output.weight", f"model.layers.{i}.self_attn.linear_attn.weight", (32, 32))
        m.norms(i, ["attn_norm"] * (heads[i] > 0) + ["ffn_norm"] * (ffn[i] > 0))
        if ffn[i]:
            m.mlp(i, "mlp", ffn[i])
    m.close()


def make_nemotron():
    m = Model("nemotron", "nemotron", 1, layer_norm_eps=1e-5, rope_dimension_count=8)
    m.frame(plus=1.0, bias=True), m.attention(0), m.norms(0, plus=1.0, bias=True), m.mlp(0, "mlp", gated=False)
    m.close()


def make_split():
    """Three parts, and q, k and v in one tensor."""
    m = Model("parts", "llama", 1, split=3, layer_norm_rms_eps=1e-5)
    m.frame(), m.norms(0), m.mlp(0, "mlp")
    q, k, v = (m.rng.integers(-64, 64, (rows, 32)).astype(np.float32) for rows in (32, 16, 16))
    together = np.concatenate([rotary_order(q, 2), rotary_order(k, 1), v])
    m.w.add_tensor("blk.0.attn_qkv.weight", together.astype(np.float16))
    for part, values in zip("qkv", (q, k, v)):
        m.expected[f"model.layers.0.self_attn.{part}_proj.weight"] = values
    m.add("blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", (32, 32))
    m.close()


# Of each kind of encoder: parts of a layer, and tensors outside of layers, under both names and with their shapes.
CLIP_LAYER = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
              "attn_out": "self_attn.out_proj", "ln1": "layer_norm1", "ln2": "layer_norm2", "ffn_up": "mlp.fc1",
              "ffn_down": "mlp.fc2"}
QWEN_LAYER = {"attn_q": "attn.q_proj", "attn_k": "attn.k_proj", "attn_v": "attn.v_proj", "attn_out": "attn.proj",
              "ln1": "norm1", "ln2": "norm2"}
CLIP, QWEN = "vision_tower.vision_model.", "visual.merger."
QWEN_WHOLE = [("v.post_ln.weight", QWEN + "ln_q.weight", (8,)), ("mm.0.weight", QWEN + "mlp.0.weight", (32, 32)),
              ("mm.2.weight", QWEN + "mlp.2.weight", (32, 32))]
ENCODERS = {
    "qwen2vl_merger": ("visual.blocks.0.", {**QWEN_LAYER, "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}, QWEN_WHOLE),
    "qwen2.5vl_merger": ("visual.blocks.0.", {**QWEN_LAYER, "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
                                              "ffn_down": "mlp.down_proj"}, QWEN_WHOLE),
    "gemma3": (CLIP + "encoder.layers.0.", CLIP_LAYER, [
        ("v.patch_embd.weight", CLIP + "embeddings.patch_embedding.weight", (8, 3, 2, 2)),
        ("v.position_embd.weight", CLIP + "embeddings.position_embedding.weight", (16, 8)),
        ("v.post_ln.weight", CLIP + "post_layernorm.weight", (8,)),
        ("mm.input_projection.weight", "multi_modal_projector.mm_input_projection_weight", (8, 32)),
        ("mm.soft_emb_norm.weight", "multi_modal_projector.mm_soft_emb_norm.weight", (8,))]),
    "mlp": (CLIP + "encoder.layers.0.", CLIP_LAYER, [
        ("v.class_embd", CLIP + "embeddings.class_embedding", (8,)),
        ("v.patch_embd.weight", CLIP + "embeddings.patch_embedding.weight", (8, 3, 2, 2)),
        ("v.position_embd.weight", CLIP + "embeddings.position_embedding.weight", (17, 8)),
        ("v.pre_ln.weight", CLIP + "pre_layrnorm.weight", (8,)),
        ("mm.0.weight", "multi_modal_projector.linear_1.weight", (32, 8)),
        ("mm.2.weight", "multi_modal_projector.linear_2.weight", (32, 32)),
        ("model.image_newline", "image_newline", (32,))]),
    "llama4": ("vision_model.model.layers.0.", {**CLIP_LAYER, "attn_out": "self_attn.o_proj", "ln1": "input_layernorm",
                                                "ln2": "post_attention_layernorm"}, [
        ("v.class_embd", "vision_model.class_embedding", (8,)),
        ("v.patch_embd.weight", "vision_model.patch_embedding.linear.weight", (8, 12)),
        ("v.position_embd.weight", "vision_model.positional_embedding_vlm", (17, 8)),
        ("v.pre_ln.weight", "vision_model.layernorm_pre.weight", (8,)),
        ("v.post_ln.weight", "vision_model.layernorm_post.weight", (8,)),
        ("mm.model.mlp.1.weight", "vision_model.vision_adapter.mlp.fc1.weight", (16, 32)),
        ("mm.model.mlp.2.weight", "vision_model.vision_adapter.mlp.fc2.weight", (24, 16)),
        ("mm.model.fc.weight", "multi_modal_projector.linear_1.weight", (32, 24))]),
}


def make_encoder(kind):
    """mmproj-KIND.gguf: an encoder of one layer, and what its tensors are under Hugging Face's names."""
    rng, expected = np.random.default_rng(23), {}
    w = gguf.GGUFWriter(HERE / f"mmproj-{kind}.gguf", "clip")
    w.add_clip_has_vision_encoder(True), w.add_clip_projector_type(kind)
    w.add_vision_projection_dim(32), w.add_vision_image_size(8), w.add_vision_patch_size(2)
    w.add_vision_embedding_length(8), w.add_vision_feed_forward_length(16), w.add_vision_block_count(1)
    w.add_vision_head_count(2), w.add_vision_image_mean([0.5, 0.25, 0.125]), w.add_vision_image_std([1.0, 0.5, 0.25])
    w.add_uint32("clip.vision.n_wa_pattern", 1), w.add_uint32("clip.vision.projector.scale_factor", 2)
    w.add_array("clip.vision.image_grid_pinpoints", [8, 16, 16, 8])
    place, layer, whole = ENCODERS[kind]

    def add(name, hf, shape):
        values = rng.integers(-64, 64, shape).astype(np.float32)
        w.add_tensor(name, values + np.float32(1 if "soft_emb" in name else 0))
        expected[hf] = values

    for part, hf in layer.items():
        shape = (8,) if part.startswith("ln") else (8, 16) if part == "ffn_down" else \
            (16, 8) if part.startswith("ffn") else (8, 8)
        add(f"v.blk.0.{part}.weight", f"{place}{hf}.weight", shape)
        if len(shape) > 1:
            add(f"v.blk.0.{part}.bias", f"{place}{hf}.bias", shape[:1])
    for name, hf, shape in whole:
        add(name, hf, shape)
    if "qwen" in kind:  # the kernel over two frames is kept as two
        values = rng.integers(-64, 64, (8, 3, 2, 2, 2)).astype(np.float32)
        for frame, name in enumerate(("v.patch_embd.weight", "v.patch_embd.weight.1")):
            w.add_tensor(name, np.ascontiguousarray(values[:, :, frame]))
        expected["visual.patch_embed.proj.weight"] = values
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
    w.close()
    expected = {name: values.astype(np.float16) for name, values in expected.items()}
    save_file(expected, HERE / f"mmproj-{kind}.safetensors")


def make_qwen2vl():
    m = Model("qwen2vl", "qwen2vl", 1, layer_norm_rms_eps=1e-5, rope_dimension_sections=[2, 3, 3, 0])
    m.frame(), m.attention(0), m.norms(0), m.mlp(0, "mlp")
    for part, rows in (("q", 32), ("k", 16), ("v", 16)):
        m.add(f"blk.0.attn_{part}.bias", f"model.layers.0.self_attn.{part}_proj.bias", (rows,))
    m.close()


if __name__ == "__main__":
    make_blocks()
    make_code_blocks()
    make_model("llama", "llama", tied=False, bias=True, rope_factors=True)
    make_model("qwen2", "qwen2", tied=True, bias=True)
    make_model("qwen3", "qwen3", tied=True, head_norm=True)
    make_model("gemma3", "gemma3", tied=True, head_norm=True)
    make_mixtral(), make_qwen3moe(), make_llama4(), make_deci(), make_nemotron(), make_split()
    make_deepseek2("deepseek2", True), make_deepseek2("deepseek2-old", False)
    make_qwen2vl()
    for kind in ENCODERS:
        make_encoder(kind)
