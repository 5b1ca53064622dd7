#!/usr/bin/env python3
"""Compares weft's defaults of configuration keys with transformers': takes every key out of the config.json of every
case once, nested ones too, and compares the logits of a prompt.

  check_config_defaults.py --weft build/release/weft [CASE ...]      CASE: a checkpoint folder; default: golden cases

Right is: the logits that transformers computes from the changed file, or a refusal. What fails: other logits, and a
refusal of a file that transformers computes, unless the message names the key. Exit status 77 without transformers.
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    from safetensors.numpy import load_file
    from reference import EAGER, architecture_class, torch, transformers
except (ImportError, SystemExit):
    sys.exit(77)

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden"
TOLERANCE = 1e-3  # of the logits' standard deviation


def paths(config, prefix=()):
    """The keys of a config and of the objects in it."""
    for key, value in config.items():
        yield prefix + (key,)
        if isinstance(value, dict) and key not in ("id2label", "label2id", "quantization_config"):
            yield from paths(value, prefix + (key,))


def without(config, path):
    changed = copy.deepcopy(config)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return changed


def load(folder):
    """As reference.load_reference(), but longrope's short factors stay: which list counts is part of the question."""
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    cls = architecture_class(config.architectures[0])
    return cls.from_pretrained(folder, config=config, dtype=torch.float32, **EAGER).eval()


def reference_logits(folder, ids):
    """What transformers computes, or None where it cannot load the folder or has to invent weights."""
    try:
        torch.manual_seed(0)
        model = load(folder)
        first = model(input_ids=torch.tensor([ids])).logits
        torch.manual_seed(1)
        second = load(folder)(input_ids=torch.tensor([ids])).logits
    except (Exception, SystemExit):
        return None
    if first.shape != second.shape or not torch.equal(first, second):
        return None
    return first[0].float().detach().numpy()


def weft_logits(weft, folder, ids):
    """(logits or None, messages)"""
    requests, out = folder / "requests.jsonl", folder / "out.safetensors"
    out.unlink(missing_ok=True)
    requests.write_text(json.dumps({"custom_id": "p", "prompt_token_ids": ids}) + "\n")
    command = [weft, "score", "--model", folder, "--requests", requests, "--out", out, "--dtype", "float32"]
    run = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True, timeout=100)
    return (load_file(out).get("p.logits") if out.exists() else None), run.stderr


def difference(got, expected):
    got = got.reshape(-1, expected.shape[-1]) if expected.ndim == 2 else got.reshape(expected.shape)
    if got.shape != expected.shape:
        return np.inf
    return float(np.abs(got - expected).max() / max(float(expected.std()), 1e-6))


def check(weft, case, folder):
    """Messages about one case."""
    config = json.loads((case / "config.json").read_text())
    ids = longest_prompt(case)
    base = reference_logits(case, ids)
    if base is None:
        return [], 0
    faults, count = [], 0
    for path in paths(config):
        (folder / "config.json").write_text(json.dumps(without(config, path)))
        expected = reference_logits(folder, ids)
        got, message = weft_logits(weft, folder, ids)
        name, count = ".".join(path), count + 1
        if got is None:
            if expected is not None and path[-1] not in message:
                faults.append(f"{case.name} without {name}: refused by another name: {message.strip()[-200:]}")
        elif expected is None:
            if (off := difference(got, base)) > TOLERANCE:
                faults.append(f"{case.name} without {name}: only weft loads it, and its logits are off by {off:.1e}")
        elif (off := difference(got, expected)) > TOLERANCE:
            faults.append(f"{case.name} without {name}: logits are off by {off:.1e}")
    return faults, count


def longest_prompt(case):
    """Ids of the longest prompt that is text alone: windows and scaled positions must show."""
    tensors = load_file(case / "expected.safetensors")
    names = [k.removesuffix(".input_ids") for k in tensors if k.endswith(".input_ids")]
    names = [n for n in names if f"{n}.pixel_values" not in tensors]
    return [int(i) for i in max((tensors[f"{n}.input_ids"] for n in names), key=len)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", required=True)
    parser.add_argument("cases", nargs="*", type=Path)
    options = parser.parse_args()
    cases = options.cases or sorted(p for p in GOLDEN.iterdir() if (p / "config.json").exists())
    bad = 0
    for case in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copytree(case, folder, dirs_exist_ok=True)
            faults, count = check(options.weft, case, folder)
        print(f"{case.name}: {count} keys" if count else f"{case.name}: not computed by transformers", flush=True)
        for fault in faults:
            print("  " + fault, flush=True)
        bad += len(faults)
    print(f"{bad} faults")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
