#!/usr/bin/env python3
"""Ranks in several processes give the answers of one process, to the bit: the lines that `weft batch` writes, with
logprobs and logits, and the tensors of `weft score`.

  answers_test.py --weft PROGRAM --plugin libweft_mpi.so [TEST...]
"""
import json
import unittest
from pathlib import Path

import jobs

MTP = ("--speculative-config", '{"method": "mtp", "num_tokens": 2}')
TEXTS = ("The sky is", "Write a list: 1. circle 2. square 3. triangle.", "a b c a b c a b c a b", "Zwei mal drei",
         "Once upon a time there was a small house behind the hill, and nobody knew who had built it. " * 3)


def mixed_requests():
    """One of each kind for every text, so that steps have rows of many kinds."""
    kinds = [
        {"temperature": 0},
        {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "logprobs": 3},
        {"temperature": 0.8, "presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.2},
        {"temperature": 1, "n": 2, "min_p": 0.02},
        {"temperature": 0.9, "top_k": 5, "top_p": 0.8, "min_p": 0.01, "min_tokens": 3, "ignore_eos": False},
        {"temperature": 0, "presence_penalty": 0.7, "repetition_penalty": 1.2, "logit_bias": {"5": -3}},
        {"temperature": 1, "guided_regex": "[a-f]{3}-[0-9]{4}", "logprobs": 1},
        {"temperature": 0, "prompt_logprobs": 2, "return_context_logits": True},
        {"temperature": 0.7, "return_generation_logits": True, "max_tokens": 4},
    ]
    return [{"prompt": text, "max_tokens": 12, "ignore_eos": True, "seed": 7 * len(text) + k, **kind}
            for k, kind in enumerate(kinds) for text in TEXTS[k % 2:]]


def beams():
    return [{"prompt": TEXTS[0], "use_beam_search": True, "beam_width": 3, "n": 2, "max_tokens": 6, "seed": 1}]


def image_requests(model):
    prompts = json.loads((jobs.GOLDEN / model / "prompts.json").read_text())
    return [{"prompt": prompt["text"], "images": [str(jobs.GOLDEN / model / image) for image in prompt["images"]],
             "max_tokens": 6, "temperature": 0.5, "seed": 11, "logprobs": 2}
            for prompt in prompts.values() if prompt["images"] and not prompt["videos"]]


def many_images(model):
    """More images than there are ranks, of many sizes: one each, then pairs in which all of them come again."""
    text = next(prompt["text"] for prompt in json.loads((jobs.GOLDEN / model / "prompts.json").read_text()).values()
                if len(prompt["images"]) == 1 and not prompt["videos"])
    names = [jobs.folder / f"{model}-{i}.png" for i in range(11)]
    for i, name in enumerate(names):
        jobs.write_png(name, 40 + 37 * i, 300 - 23 * i, i)
    two = json.loads((jobs.GOLDEN / model / "prompts.json").read_text())["two"]["text"]
    sets = [(text, [name]) for name in names] + [(two, [a, b]) for a, b in zip(names, reversed(names))]
    return [{"prompt": text, "images": [str(image) for image in images], "max_tokens": 4, "temperature": 0, "seed": 5,
             "logprobs": 2, "return_generation_logits": True} for text, images in sets]


def without_counts(line):
    """How many tokens came out of the cache or out of drafts depends on the order in which steps ended."""
    answer = json.loads(line)
    for count in ("cached_tokens", "draft_tokens", "accepted_tokens"):
        del answer["usage"][count]
    return json.dumps(answer)


class Answers(unittest.TestCase):

    def lines(self, ranks, model, file, *options):
        status, out, log = jobs.run(ranks, "batch", "--model", jobs.GOLDEN / model, "--requests", file, "--threads", 1,
                                    *options)
        self.assertEqual(status, 0, log)
        self.assertEqual(jobs.lines_of_weft(log), [], "nothing to warn of")
        return [without_counts(line) for line in out.splitlines()]

    def check(self, model, *layouts, requests=None, common=()):
        """`layouts`: numbers of processes, each with the options that share the model among so many."""
        requests = requests or mixed_requests() + beams()
        file = jobs.folder / f"{Path(model).name}.jsonl"
        file.write_text("".join(json.dumps({"custom_id": str(i), **request}) + "\n"
                                for i, request in enumerate(requests)))
        wanted = self.lines(0, model, file, *common)
        self.assertEqual(len(wanted), len(requests))
        failed = [line[:300] for line in wanted if json.loads(line)["error"]]
        self.assertEqual(failed, [], "every request has an answer")
        for ranks, *options in layouts:
            got = self.lines(ranks, model, file, *common, *options)
            different = [i for i, pair in enumerate(zip(wanted, got)) if pair[0] != pair[1]]
            self.assertEqual((len(got), different), (len(wanted), []), f"{model} {options}: lines that differ")

    def test_llama(self):
        self.check("llama-3.1", (2, "--tp-size", 2), (4, "--tp-size", 2, "--pp-size", 2),
                   (2, "--tp-size", 2, "--pp-size", 2))

    def test_prompts_of_many_rows(self):
        """Products in front of sums are computed in pieces from 512 rows on: sum_pieces() in src/plan/cpu_executor.h.
        A row that was sent too early is in all logits behind it. Logprobs of prompts would make steps of 256 rows."""
        requests = [{"prompt": " ".join(str(i * step) for i in range(count)), "max_tokens": 4, "seed": step,
                     "temperature": 0.8, "return_generation_logits": True}
                    for step, count in ((3, 300), (7, 90), (11, 500))]
        for model, chunk in (("llama-3.1", 512), ("qwen3", 1111)):
            with self.subTest(model):
                self.check(model, (0, "--tp-size", 2), (2, "--tp-size", 2), (4, "--tp-size", 4), requests=requests,
                           common=("--chunked-prefill-size", chunk))

    def test_experts_with_attention_data_parallelism(self):
        self.check("mixtral", (2, "--tp-size", 2, "--enable-attention-dp", "on"))

    def test_latent_attention_with_drafts(self):
        self.check("deepseek-v3", (4, "--tp-size", 4, "--enable-attention-dp", "on"), (2, "--pp-size", 2),
                   (2, "--tp-size", 2, "--pp-size", 2), common=MTP)

    def test_latent_attention_in_fp8_with_drafts(self):
        self.check("deepseek-v3-fp8", (2, "--tp-size", 2), common=MTP)

    def test_windows(self):
        self.check("gemma3-1b", (2, "--pp-size", 2), (4, "--tp-size", 4))

    def test_images(self):
        for model, *layouts in (("qwen2.5-vl", (2, "--tp-size", 2)), ("llama4", (4, "--tp-size", 2, "--pp-size", 2))):
            with self.subTest(model):
                self.check(model, *layouts, requests=image_requests(model))

    def test_many_images(self):
        """Ranks encode them at the same time (serving_test.py counts how many each)."""
        for model in ("qwen2.5-vl", "llama4"):
            with self.subTest(model):
                self.check(model, (2, "--tp-size", 2), (2, "--pp-size", 2), (4, "--tp-size", 4),
                           requests=many_images(model))

    def test_images_in_cross_attention(self):
        """A folder without weights."""
        images = jobs.GOLDEN.parent / "media" / "mllama" / "images"
        requests = [{"prompt": "<|image|>" * len(names) + "What is this?", "images": [str(images / n) for n in names],
                     "max_tokens": 6, "temperature": 0.5, "seed": 3, "logprobs": 2}
                    for names in (["wide.png"], ["tall.jpg", "gray.png"], ["alpha.png"], [])]
        self.check("../media/mllama", (2, "--tp-size", 2), (4, "--tp-size", 2, "--pp-size", 2),
                   requests=requests, common=("--load-format", "dummy"))

    def test_scores(self):
        file = jobs.folder / "scores.jsonl"
        file.write_text("".join(json.dumps({"custom_id": str(i), "prompt": text[:90], "text_pair": "a second text"}) +
                                "\n" for i, text in enumerate(TEXTS * 4)))

        def tensors(ranks, *options):
            out = jobs.folder / f"scores-{ranks}.safetensors"
            status, _, log = jobs.run(ranks, "score", "--model", jobs.GOLDEN / "bert-wordpiece-gamma", "--requests",
                                      file, "--out", out, "--threads", 1, *options)
            self.assertEqual(status, 0, log)
            return out.read_bytes()

        wanted = tensors(0)
        self.assertEqual(tensors(2, "--tp-size", 2), wanted)
        self.assertEqual(tensors(4, "--tp-size", 2, "--pp-size", 2), wanted)


if __name__ == "__main__":
    jobs.main(__doc__)
