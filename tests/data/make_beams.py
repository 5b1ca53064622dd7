#!/usr/bin/env python3
"""Writes beams.json: beam searches of transformers' generate() on the small checkpoints of golden/, in float32 on a
CPU.

  make_beams.py golden beams.json        needs torch, transformers and safetensors
"""
import json
import random
import sys

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig

golden, out = sys.argv[1:3]
torch.set_num_threads(1)
rng = random.Random(5)
cases = []
for name in ("llama-3.1", "qwen2-swa"):
    model = AutoModelForCausalLM.from_pretrained(f"{golden}/{name}", dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    model.generation_config = GenerationConfig(pad_token_id=507)  # nothing of the file, its end ids above all
    with safe_open(f"{golden}/{name}/expected.safetensors", "pt") as f:
        prompts = {p: f.get_tensor(f"{p}.input_ids").tolist() for p in ("short", "page", "medium")}
    for n in range(26):
        prompt = rng.choice(list(prompts))
        ids = torch.tensor([prompts[prompt]])
        width = rng.choice([2, 2, 3, 4, 6])
        max_tokens = rng.choice([1, 6, 12, 20, 20])
        # End ids that occur: tokens of a first search without any.
        free = GenerationConfig(num_beams=4, do_sample=False, max_new_tokens=20, pad_token_id=507,
                                num_return_sequences=4)
        seen = sorted({t for s in model.generate(ids, generation_config=free)[:, ids.shape[1]:].tolist() for t in s})
        ends = rng.sample(seen, min(len(seen), rng.choice([0, 2, 4, 8])))
        spec = dict(num_beams=width, length_penalty=rng.choice([0.0, 1.0, 1.0, 2.0, -0.5]),
                    early_stopping=rng.choice([False, True, "never"]), num_return_sequences=rng.randint(1, width))
        more = {}
        if rng.random() < 0.2: more["repetition_penalty"] = 1.3
        if rng.random() < 0.2: more["no_repeat_ngram_size"] = 2
        if rng.random() < 0.2 and ends: more["min_new_tokens"] = min(4, max_tokens)
        if rng.random() < 0.2: more["bad_words_ids"] = [[t] for t in rng.sample(seen, 2)]
        config = GenerationConfig(**spec, **more, do_sample=False, max_new_tokens=max_tokens, pad_token_id=507,
                                  eos_token_id=ends or None, return_dict_in_generate=True, output_scores=True)
        with torch.no_grad():
            got = model.generate(ids, generation_config=config)
        answers = []
        for sequence in got.sequences[:, ids.shape[1]:].tolist():
            end = next((i for i, t in enumerate(sequence) if t in ends and i + 1 >= more.get("min_new_tokens", 0)),
                       len(sequence) - 1)
            answers.append(sequence[:end + 1])
        scores = got.sequences_scores.tolist()
        cases.append(dict(model=name, prompt=prompt, max_tokens=max_tokens, ends=ends, **spec, **more, answers=answers,
                          scores=scores))
text = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
open(out, "w").write('{"made_with":"transformers %s, torch %s, float32, CPU","cases":[\n%s\n]}\n' %
                     (transformers.__version__, torch.__version__.split("+")[0], text))
