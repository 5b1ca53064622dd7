#!/usr/bin/env python3
"""Copies a reference case into tests/data/golden, keeping the expected logits of some positions only (they are most of
its bytes).

  thin_case.py CASE_FOLDER tests/data/golden

Cases with images keep image_features, not pixel_values (tests/media has those). Of the logits are kept the first and
last four positions of each prompt and every twentieth between; `P.rows` lists them. Needs numpy and safetensors.
"""
import shutil, sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

source, target = Path(sys.argv[1]), Path(sys.argv[2]) / Path(sys.argv[1]).name
shutil.copytree(source, target, dirs_exist_ok=True)
path = target / "expected.safetensors"
with safe_open(str(path), "numpy") as file:
    texts = file.metadata()
tensors = load_file(str(path))
for name in [n for n in tensors if n.endswith(".logits") and tensors[n].ndim == 2 and tensors[n].shape[1] > 8]:
    rows = len(tensors[name])
    kept = sorted({*range(min(4, rows)), *range(0, rows, 20), *range(max(0, rows - 4), rows)})
    tensors[name] = np.ascontiguousarray(tensors[name][kept])
    tensors[name.removesuffix("logits") + "rows"] = np.array(kept, np.int64)
kept = ("input_ids", "token_type_ids", "logits", "rows", "greedy", "gap", "reward", "step_probs", "image_features")
tensors = {n: v for n, v in tensors.items() if n.rpartition(".")[2] in kept and not n.startswith("image.")}
save_file(tensors, str(path), texts)
