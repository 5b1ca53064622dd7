"""Measurements of another engine, in a process of its own: bench/compare starts it with the Python that has the engine
installed.

  compare_peers.py ENGINE MODEL WORKS.json     prints a line of JSON for each work of the list, or {"absent": why}

A work: {"kind": "prefill", "tokens", "context"} | {"kind": "decode", "batch", "context", "tokens"} | {"kind":
"serving", "streams", "prompt", "shared", "tokens"} | {"kind": "start"}, which must be the only one; and "threads",
"repeat", "bits" of the weights (16, 8, 4). Answers: {"tokens_per_s"}, medians of `repeat`; of serving also
{"first_token_s_p50", "first_token_s_p95"}; of start {"seconds", "peak_mb"}. Prompts are random ids; nothing ends before
its length. Where the engine has no such thing, the answer is {"absent": why}.
"""
import json
import os
import random
import resource
import statistics
import sys
import time


def ids(count, vocab, rng=random.Random(1)):
    return [rng.randrange(1, vocab - 1) for _ in range(count)]


def quantile(values, share):
    return sorted(values)[round(share * (len(values) - 1))]


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


class LlamaCpp:
    """llama.cpp through the C functions that llama-cpp-python exposes: what its own llama-bench calls."""

    def __init__(self, path, works):
        import llama_cpp as c
        self.c, self.version = c, "llama.cpp of llama-cpp-python " + c.__version__
        self.begin = time.perf_counter()
        c.llama_backend_init()
        silent = c.llama_log_callback(lambda *_: None)
        c.llama_log_set(silent, None)
        self.silent = silent
        model_params = c.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = c.llama_model_load_from_file(str(path).encode(), model_params)
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.batch = c.llama_batch_init(2048, 0, 1)
        self.context = None

    def prepare(self, work):
        c = self.c
        if self.context:
            c.llama_free(self.context)
        params = c.llama_context_default_params()
        sequences = work.get("batch", 1)
        params.n_ctx = sequences * (work.get("context", 0) + work.get("tokens", 0) + 64)
        params.n_batch, params.n_ubatch = 2048, 512
        params.n_threads = params.n_threads_batch = work["threads"]
        params.n_seq_max = sequences
        if hasattr(params, "kv_unified"):
            params.kv_unified = True
        self.context = c.llama_init_from_model(self.model, params)

    def run(self, rows):
        """rows: (token, position, sequence, wants logits)"""
        for first in range(0, len(rows), 2048):
            part = rows[first : first + 2048]
            b = self.batch
            b.n_tokens = len(part)
            for i, (token, position, sequence, logits) in enumerate(part):
                b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0], b.logits[i] = token, position, 1, sequence, logits
            if self.c.llama_decode(self.context, b) != 0:
                raise RuntimeError("llama_decode failed")
        self.c.llama_synchronize(self.context)

    def clear(self):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)

    def prompt(self, count, sequence=0, first=0):
        return [(token, first + i, sequence, i + 1 == count) for i, token in enumerate(ids(count, self.vocab))]

    def prefill(self, work):
        self.clear()
        if work["context"]:
            self.run(self.prompt(work["context"]))
        rows = self.prompt(work["tokens"], 0, work["context"])
        begin = time.perf_counter()
        self.run(rows)
        return work["tokens"] / (time.perf_counter() - begin)

    def decode(self, work):
        self.clear()
        for sequence in range(work["batch"]):
            self.run(self.prompt(work["context"], sequence))
        begin = time.perf_counter()
        for step in range(work["tokens"]):
            self.run([(token, work["context"] + step, s, True)
                      for s, token in enumerate(ids(work["batch"], self.vocab))])
        return work["batch"] * work["tokens"] / (time.perf_counter() - begin)

    def start(self, work):
        self.run(self.prompt(8))
        return time.perf_counter() - self.begin


class OpenVino:
    """OpenVINO GenAI, which reads GGUF files (F16, Q8_0, Q4_0 and others; not BF16) and quantises activations by
    itself."""

    def __init__(self, path, works):
        self.begin = time.perf_counter()
        import numpy
        import openvino
        import openvino_genai as genai
        self.numpy, self.openvino, self.genai = numpy, openvino, genai
        self.version = "OpenVINO GenAI " + genai.__version__
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size, scheduler.max_num_batched_tokens = 2, 2048
        scheduler.enable_prefix_caching = True
        self.pipe = genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU",
                                                     {"INFERENCE_NUM_THREADS": works[0]["threads"]})
        self.vocab = 32000

    def prepare(self, work):
        pass

    def together(self, prompts, tokens):
        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        tensors = [self.openvino.Tensor(self.numpy.array([prompt], dtype=self.numpy.int64)) for prompt in prompts]
        begin = time.perf_counter()
        results = self.pipe.generate(tensors, [config] * len(prompts))
        return time.perf_counter() - begin, results

    def prefill(self, work):
        context = ids(work["context"], self.vocab)
        if context:
            self.together([context], 1)
        seconds, _ = self.together([context + ids(work["tokens"], self.vocab)], 1)
        return work["tokens"] / seconds

    def decode(self, work):
        """The time of all tokens less that of the first ones."""
        prompts = [ids(work["context"], self.vocab) for _ in range(work["batch"])]
        first, _ = self.together([ids(work["context"], self.vocab) for _ in prompts], 1)
        seconds, _ = self.together(prompts, work["tokens"] + 1)
        return work["batch"] * work["tokens"] / (seconds - first)

    def serving(self, work):
        shared = ids(work["shared"], self.vocab)
        prompts = [shared + ids(work["prompt"] - work["shared"], self.vocab) for _ in range(work["streams"])]
        seconds, results = self.together(prompts, work["tokens"])
        first = [result.perf_metrics.get_ttft().mean / 1e3 for result in results]
        return {"tokens_per_s": work["streams"] * work["tokens"] / seconds, "first_token_s_p50": quantile(first, 0.5),
                "first_token_s_p95": quantile(first, 0.95)}

    def start(self, work):
        self.together([ids(8, self.vocab)], 1)
        return time.perf_counter() - self.begin


class Vllm:
    """vLLM's CPU backend, on the Hugging Face folder in bfloat16."""

    def __init__(self, path, works):
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0-%d" % (works[0]["threads"] - 1))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        self.begin = time.perf_counter()
        import vllm
        self.vllm, self.version = vllm, "vLLM " + vllm.__version__
        longest = max(work.get("context", 0) + work.get("prompt", 0) + work.get("tokens", 0) for work in works) + 64
        self.model = vllm.LLM(model=str(path), dtype="bfloat16", max_model_len=longest, enable_prefix_caching=True,
                              disable_log_stats=False)
        self.vocab = 32000

    def together(self, prompts, tokens):
        params = self.vllm.SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        outputs = self.model.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return time.perf_counter() - begin, outputs

    prepare, prefill, decode, start = OpenVino.prepare, OpenVino.prefill, OpenVino.decode, OpenVino.start

    def serving(self, work):
        shared = ids(work["shared"], self.vocab)
        prompts = [shared + ids(work["prompt"] - work["shared"], self.vocab) for _ in range(work["streams"])]
        seconds, outputs = self.together(prompts, work["tokens"])
        first = [output.metrics.first_token_latency for output in outputs]
        return {"tokens_per_s": work["streams"] * work["tokens"] / seconds, "first_token_s_p50": quantile(first, 0.5),
                "first_token_s_p95": quantile(first, 0.95)}


ENGINES = {"llama.cpp": LlamaCpp, "openvino": OpenVino, "vllm": Vllm}


def measure(engine, work):
    kind = work["kind"]
    if not hasattr(engine, kind):
        return {"absent": f"nothing like {kind} here"}
    engine.prepare(work)
    if kind == "start":
        return {"seconds": engine.start(work), "peak_mb": peak_mb()}
    measured = getattr(engine, kind)
    measured(work)  # warm up
    results = [measured(work) for _ in range(work["repeat"])]
    if not isinstance(results[0], dict):
        return {"tokens_per_s": statistics.median(results)}
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def main():
    name, path, works = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the engines print
    try:
        engine = ENGINES[name](path, works)
        for work in works:
            os.write(out, (json.dumps(measure(engine, work) | {"version": engine.version}) + "\n").encode())
    except ImportError as error:
        os.write(out, (json.dumps({"absent": str(error)}) + "\n").encode())
    os._exit(0)  # some engines crash when they are torn down


if __name__ == "__main__":
    main()
