#!/usr/bin/env python3
"""Finds the op that is wrong: lays what weft's ops computed (weft plan --trace) beside what transformers' modules
computed on the same checkpoint and prompt, in the order of the plan, and marks the first one that differs.
docs/debugging.md shows how to read it.

  compare_hidden.py CHECKPOINT                      runs weft on a prompt of the golden case
  compare_hidden.py CHECKPOINT --ids 1,2,3          the same on these tokens
  compare_hidden.py CHECKPOINT --trace FILE         a trace that exists, of the same checkpoint (or of one with a fault)

Differences are the largest absolute one divided by the standard deviation of the expected values. What an op wrote is
compared with the output of the module of its path, or with the input of the module that reads it next (a residual
addition, a gated activation). Prompts without images only. Exit status: 0 all within the tolerance, 1 some are not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from reference import leave, load_reference, torch
from safetensors import safe_open

IGNORED_PARTS = (
    "model",
    "language_model",
)  # transformers 5 nests them in another order than published checkpoints do


class Trace:
    def __init__(self, path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if "ops" not in metadata:
                leave(f"{path} is not a file of weft plan --trace")
            self.ops = json.loads(metadata["ops"])
            self.requests = {}
            for name in file.keys():
                request, _, value = name.partition("/")
                self.requests.setdefault(request, {})[value] = file.get_tensor(name)


def run_weft(args, ids, folder):
    requests, out = Path(folder) / "requests.jsonl", Path(folder) / "trace.safetensors"
    requests.write_text(json.dumps({"custom_id": "prompt", "prompt_token_ids": ids}) + "\n")
    command = [
        args.weft,
        "plan",
        args.checkpoint,
        "--trace",
        str(out),
        "--requests",
        str(requests),
        "--dtype",
        "float32",
    ]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        leave("weft failed:", " ".join(command))
    return Trace(str(out))


def golden_prompt(checkpoint):
    path = Path(checkpoint) / "expected.safetensors"
    if not path.is_file():
        leave(f"{checkpoint} has no expected.safetensors to take a prompt from; give --ids")
    with safe_open(str(path), "pt") as file:
        prompts = sorted(n for n in file.keys() if n.endswith(".input_ids"))
        wanted = [f"{name}.input_ids" for name in ("medium", "text")]  # those without an image
        name = next((name for name in wanted if name in prompts), prompts[0])
        return file.get_tensor(name).tolist()


class Reference:
    """What every module of transformers' model got and gave, by its name."""

    def __init__(self, model, ids):
        self.inputs, self.outputs, self.modules = {}, {}, dict(model.named_modules())
        self.tokens = len(ids)
        hooks = [
            module.register_forward_hook(self._hook(name), with_kwargs=True) for name, module in self.modules.items()
        ]
        with torch.no_grad():
            self.logits = model(input_ids=torch.tensor([ids])).logits
        for hook in hooks:
            hook.remove()
        self.by_key = {}
        for name in self.modules:
            self.by_key.setdefault(self._key(name), []).append(name)

    def _hook(self, name):
        def keep(_, args, kwargs, output):
            given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
            self.inputs.setdefault(name, []).append([a.detach().clone() for a in given[:1]])
            parts = output if isinstance(output, (tuple, list)) else [output]
            self.outputs.setdefault(name, []).append(
                [p.detach().clone() for p in parts if isinstance(p, torch.Tensor)]
            )

        return keep

    @staticmethod
    def _key(name):
        return ".".join(part for part in name.split(".") if part not in IGNORED_PARTS)

    def module(self, path):
        """The name of the module that a path of the checkpoint means, or None."""
        if path in self.outputs:
            return path
        same = [name for name in self.by_key.get(self._key(path), []) if name in self.outputs]
        return same[0] if len(same) == 1 else None

    def as_rows(self, tensor):
        """[rows, columns], as weft has it."""
        if tensor.dim() >= 3 and tensor.shape[0] == 1:
            tensor = tensor[0]
        return tensor.reshape(tensor.shape[0], -1).float() if tensor.dim() >= 2 else tensor.reshape(1, -1).float()

    def input_of(self, name):
        calls = self.inputs.get(name, [])
        return self.as_rows(calls[0][0]) if calls and calls[0] else None

    def output_of(self, name, op):
        module = self.modules[name]
        if op == "linear" and not isinstance(module, torch.nn.Linear):  # routers give more than their product
            weight, given = getattr(module, "weight", None), self.input_of(name)
            if weight is not None and given is not None and weight.dim() == 2 and given.shape[-1] == weight.shape[1]:
                return torch.nn.functional.linear(given, weight.detach().float(), getattr(module, "bias", None))
        calls = self.outputs[name]
        return self.as_rows(calls[0][0]) if calls[0] else None

    def angles(self, wanted):
        """What rotary modules gave, cos beside sin without repetition: the call that is nearest to `wanted`."""
        found = []
        for name, calls in self.outputs.items():
            if not name.endswith(("rotary_emb", "rotary_emb_local")):
                continue
            for call in calls:
                if len(call) == 2:
                    cos, sin = (self.as_rows(part) for part in call)
                    half = wanted.shape[1] // 2
                    for step in (1, 2):  # halves side by side, or pairs
                        pick = slice(0, half) if step == 1 else slice(0, 2 * half, 2)
                        both = torch.cat([cos[:, pick], sin[:, pick]], 1)
                        if both.shape == wanted.shape:
                            found.append((name, both))
        return min(found, key=lambda f: (f[1] - wanted).abs().max().item()) if found else (None, None)


def base(name):
    return name.partition(":")[0]


class Matcher:
    def __init__(self, ops, reference):
        self.ops, self.reference = ops, reference
        self.readers = {}
        for op in ops:
            for name in op["input"]:
                self.readers.setdefault(name, []).append(op)
        # Of every module the last op that is part of it: its output, if nothing is added to it.
        self.last_of = {}
        for op in ops:
            parts = base(op["name"]).split(".")
            self.last_of |= {".".join(parts[:n]): op["name"] for n in range(1, len(parts) + 1)}

    def read_as(self, op):
        """The module whose input this value is, through conversions and the selection of rows."""
        for reader in self.readers.get(op["name"], []):
            if reader["input"] != [op["name"]]:
                continue
            if reader["op"] in ("linear", "norm"):
                if name := self.reference.module(base(reader["name"])):
                    return name
            elif reader["op"] in ("to_operand", "select"):
                if name := self.read_as(reader):
                    return name
        return None

    def expected(self, op, got):
        """(what it is compared with, its value); None where transformers has nothing of the kind."""
        reference, name = self.reference, op["name"]
        if op is self.ops[-1]:
            return "logits", reference.as_rows(reference.logits)
        if op["op"] == "rope_angles":
            return reference.angles(got)
        module = reference.module(base(name)) if base(name) else None
        plain = ":" not in name
        if not plain or op["op"] == "embed":  # scales of embeddings lie outside of the module
            if reader := self.read_as(op):
                return f"input of {reader}", reference.input_of(reader)
        if module and (plain or op["op"] in ("add", "combine") and self.last_of[base(name)] == name):
            return f"output of {module}", reference.output_of(module, op["op"])
        return None, None


def difference(got, want):
    if not torch.isfinite(got).all():
        return float("inf")
    return (
        ((got - want).abs().max() / want.std().clamp_min(1e-30)).item()
        if want.numel() > 1
        else (got - want).abs().max().item()
    )


def compare(trace, request, reference, tolerance):
    """Prints a line per value; returns the name of the first one that is off, or None."""
    values, matcher = trace.requests[request], Matcher(trace.ops, reference)
    first, unseen, compared = None, [], 0
    for op in trace.ops:
        got = values.get(op["name"])
        if got is None:  # filtered, or of a step that this request does not have
            continue
        against, want = matcher.expected(op, got)
        if want is not None and want.shape != got.shape and got.shape[0] == 1 and want.shape[1] == got.shape[1]:
            want = want[:1]  # a classifier's first row
        if want is None or want.shape != got.shape:
            print(f"{'-':>9}  {op['name']}")
            if first is None:
                unseen.append(op["name"])
            continue
        off = difference(got, want)
        compared += 1
        mark = ""
        if not off <= tolerance and first is None:
            first, mark = op["name"], "   <-- the first above the tolerance"
        elif first is None:
            unseen.clear()
        print(f"{off:9.1e}  {op['name']}   ({against}){mark}")
    if compared == 0:
        leave(f"nothing of request {request} could be compared")
    if first:
        print(
            f"first wrong value: {first}"
            + (f"; not comparable, just before it: {', '.join(unseen)}" if unseen else "")
        )
    else:
        print(f"{compared} values within {tolerance:g}")
    return first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint", help="folder of the checkpoint, for transformers (and for weft without --trace)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--trace", help="file of weft plan --trace")
    source.add_argument(
        "--ids", help="token ids of the prompt, with commas; default: a prompt of the golden case"
    )
    parser.add_argument("--request", help="with --trace: custom_id of the request; default: the first")
    parser.add_argument("--weft", default="build/release/weft", help="the program; default: %(default)s")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="default: %(default)g, for --dtype float32")
    args = parser.parse_args()
    if args.trace:
        trace = Trace(args.trace)
        request = args.request or next(iter(trace.requests))
        if request not in trace.requests:
            leave(f"{args.trace} has no request {request}; it has {', '.join(trace.requests)}")
    else:
        if not os.access(args.weft, os.X_OK):
            leave(f"no program {args.weft}; --weft says where it is")
        try:
            ids = [int(i) for i in args.ids.split(",")] if args.ids else golden_prompt(args.checkpoint)
        except ValueError:
            leave(f"--ids {args.ids}: numbers with commas are wanted")
        with tempfile.TemporaryDirectory() as folder:
            trace = run_weft(args, ids, folder)
        request = "prompt"
    if "input_ids" not in trace.requests[request]:
        leave(f"request {request} has no input_ids")
    model = load_reference(args.checkpoint)
    ids = trace.requests[request]["input_ids"].tolist()
    image = getattr(model.config, "image_token_id", None) or getattr(model.config, "image_token_index", None)
    if image in ids:
        leave(f"the prompt of {request} has an image; only prompts without one can be compared")
    sys.exit(1 if compare(trace, request, Reference(model, ids), args.tolerance) else 0)


if __name__ == "__main__":
    main()
