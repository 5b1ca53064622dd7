#!/usr/bin/env python3
"""Writes LoRA adapters of random numbers, for all matrices of attention and MLP of a shape of make_checkpoint.py.

  bench/make_adapters.py --shape llama-3.2-1b --out /tmp/models [--count 8] [--rank 16]

makes OUT/llama-3.2-1b-adapters/0 and so on, for `weft bench --lora 0=OUT/llama-3.2-1b-adapters/0 ...`. Needs numpy.
"""
import argparse
import json
from pathlib import Path

import numpy as np

from make_checkpoint import SHAPES, random_tensor, tensor_shapes, write_tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    for number in range(options.count):
        random = np.random.default_rng(100 + number)
        tensors = {}
        for name, shape in tensor_shapes(SHAPES[options.shape]):
            module = name.removesuffix(".weight")
            if not module.endswith("_proj"):
                continue
            for half, extent in (("A", (options.rank, shape[1])), ("B", (shape[0], options.rank))):
                key = f"base_model.model.{module}.lora_{half}.weight"
                tensors[key] = random_tensor(random, key, extent, False)
        folder = options.out / f"{options.shape}-adapters" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"peft_type": "LORA", "r": options.rank, "lora_alpha": options.rank, "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        write_tensors(folder / "adapter_model.safetensors", tensors)


if __name__ == "__main__":
    main()
