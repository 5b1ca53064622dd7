#!/usr/bin/env python3
"""weft plan --trace and compare_hidden.py find a fault where it is: golden cases as they are pass, and copies whose
config.json has one value changed are traced and compared with the original.

  compare_hidden_test.py --weft build/release/weft       needs torch and transformers; exit status 77 without them
"""

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "data" / "golden"

# Golden case, what is changed in config.json, and the value that must be named.
FAULTS = [
    ("qwen3", {"rms_norm_eps": 0.1}, "model.layers.0.input_layernorm"),
    ("qwen3", {"rope_theta": 1000.0}, "rope_angles"),
    ("mistral-swa", {"sliding_window": 20}, "model.layers.0.self_attn:attend"),
    ("qwen3-moe", {"norm_topk_prob": False}, "model.layers.0.mlp:combine"),
]


def run(checkpoint, *more):
    """Exit status and output of compare_hidden.py; in this process, since importing transformers takes long."""
    import compare_hidden

    sys.argv = ["compare_hidden.py", str(checkpoint), *more]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            compare_hidden.main()
        except SystemExit as end:
            return end.code, output.getvalue()


def named(output):
    line = next(
        (line for line in output.splitlines() if line.startswith("first wrong value: ")), "first wrong value: none"
    )
    return line.removeprefix("first wrong value: ").partition(";")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    args = parser.parse_args()
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as missing:
        print(f"compare_hidden_test: skipped, {missing}")
        return 77
    failed = 0
    for case in sorted({case for case, _, _ in FAULTS} | {"gemma3-1b", "deepseek-v3", "bert-wordpiece-gamma"}):
        status, output = run(GOLDEN / case, "--weft", args.weft)
        good = status == 0
        failed += not good
        print(f"{'ok' if good else 'FAILED'}: {case} as it is: {output.splitlines()[-1] if output else 'no output'}")
    for case, changes, wanted in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            copy, trace = Path(folder) / "copy", Path(folder) / "trace.safetensors"
            shutil.copytree(GOLDEN / case, copy)
            config = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps(config | changes))
            requests = Path(folder) / "requests.jsonl"
            requests.write_text(json.dumps({"custom_id": "a", "prompt_token_ids": list(range(1, 41))}))
            subprocess.run(
                [
                    args.weft,
                    "plan",
                    str(copy),
                    "--trace",
                    str(trace),
                    "--requests",
                    str(requests),
                    "--dtype",
                    "float32",
                ],
                check=True,
            )
            status, output = run(GOLDEN / case, "--trace", str(trace))
        good = status == 1 and named(output) == wanted
        failed += not good
        print(
            f"{'ok' if good else 'FAILED'}: {case} with {changes}: named {named(output)}, wanted {wanted}, "
            f"exit status {status}"
        )
        if not good:
            print(output)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
