#!/usr/bin/env python3
"""Compares blocks that weft writes into GGUF files with the gguf package: what both read from them, for Q8_0 also what
the package writes, and that the package knows all metadata keys. Exit status 77 (skipped) where a package is missing.

  check_gguf_blocks.py WEFT   the program
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
    from gguf import quants
    from gguf.constants import Keys
    from safetensors.numpy import load_file, save_file
except ImportError as problem:
    print(f"skipped: {problem}")
    sys.exit(77)

# The largest squared error that blocks may have, in units of the values' squares. Of normally distributed values a
# scale for each 16 or 32 of them leaves about 3e-5, 5e-3 and 3e-4; of some with outliers more.
MOST = {"Q8_0": 2e-4, "Q4_K": 1.2e-2, "Q6_K": 1e-3}


def make_model(folder):
    """A small Llama of values of several kinds: normal, with outliers, of one sign, all the same, 0."""
    rng, hidden, width = np.random.default_rng(3), 256, 512
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
              "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": width,
              "vocab_size": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "tie_word_embeddings": False}
    layer = "model.layers.0."
    shapes = {layer + "self_attn.q_proj": (hidden, hidden), layer + "self_attn.k_proj": (hidden // 2, hidden),
              layer + "self_attn.v_proj": (hidden // 2, hidden), layer + "self_attn.o_proj": (hidden, hidden),
              layer + "mlp.gate_proj": (width, hidden), layer + "mlp.up_proj": (width, hidden),
              layer + "mlp.down_proj": (hidden, width), "model.embed_tokens": (64, hidden), "lm_head": (64, hidden)}
    tensors = {name + ".weight": rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors[layer + "mlp.gate_proj.weight"] *= rng.choice([1, 1, 1, 20], (width, hidden)).astype(np.float32)
    up = tensors[layer + "mlp.up_proj.weight"]
    up[:100], up[100:200], up[200], up[201] = np.abs(up[:100]), -np.abs(up[100:200]), 0.5, 0
    for norm in ("model.norm", layer + "input_layernorm", layer + "post_attention_layernorm"):
        tensors[norm + ".weight"] = np.ones(hidden, np.float32)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def known_keys(keys=Keys):
    for name, value in vars(keys).items():
        if isinstance(value, type):
            yield from known_keys(value)
        elif isinstance(value, str) and not name.startswith("_"):
            yield value


def read(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def check(weft, folder, kind):
    blocks, back = folder / f"{kind}.gguf", folder / kind
    run = lambda *words: subprocess.run([weft, *words], check=True, stdout=subprocess.DEVNULL)
    run("quantize", folder / "model", blocks, "--type", kind)
    run("convert", blocks, back, "--dtype", "float32")  # what weft reads
    reader = gguf.GGUFReader(blocks)
    unknown = [key for key in reader.fields
               if not key.startswith("GGUF.") and key not in {k.replace("{arch}", "llama") for k in known_keys()}]
    assert not unknown, f"metadata keys that the package does not know: {unknown}"
    ours, before = load_file(back / "model.safetensors"), read(folder / "plain.gguf")
    names = {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}  # whose rows are in the same order
    found = 0
    for name, tensor in read(blocks).items():
        if tensor.tensor_type.name != kind:
            assert tensor.tensor_type.name == "F32" and not (name.startswith("blk.") and tensor.data.ndim > 1), name
            continue
        found += 1
        exact, values = before[name].data, quants.dequantize(tensor.data, tensor.tensor_type)
        error = np.sum((values - exact)**2) / np.sum(exact**2)
        assert error < MOST[kind], f"{kind} {name}: relative squared error {error}"
        part = name.split(".")[2]
        if part in names:
            assert np.array_equal(ours[f"model.layers.0.{names[part]}.weight"], values), f"{name} is read otherwise"
        if kind == "Q8_0":
            assert np.array_equal(quants.quantize(exact, gguf.GGMLQuantizationType.Q8_0), tensor.data), name
    assert found == 7, f"{kind}: {found} tensors are in blocks"
    print(f"{kind}: the same in both")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_model(folder / "model")
        subprocess.run([sys.argv[1], "convert", folder / "model", folder / "plain.gguf"], check=True,
                       stdout=subprocess.DEVNULL)
        for kind in MOST:
            check(sys.argv[1], folder, kind)


main()
