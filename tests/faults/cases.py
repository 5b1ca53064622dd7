"""What is tried: requests, the servers that answer them, and how an answer is read."""
import base64
import collections
import dataclasses
import json

from injector import GOLDEN

PROMPT = "The quick brown fox jumps over the lazy dog and runs into the wood, where it"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]}
PICTURE = GOLDEN.parent / "images" / "corpus_control_png.0.png"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def picture():
    url = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}},
                                         {"type": "text", "text": "What is it?"}]}]


def ids(seed, count):
    return [10 + (seed * 7919 + i * i * 31 + i * 17) % 480 for i in range(count)]


@dataclasses.dataclass
class Case:
    model: str
    options: list  # of the server; {folder} is a folder of this run
    path: str
    fields: dict  # of the request
    role: str = ""  # "context" or "generation": two servers, of which this one has the faults
    before: dict = None  # a request that takes the place of the other's blocks in the cache's memory
    new: bool = False  # no cache knows the request
    may_fail: bool = False  # the engine, which says so: 503 from then on
    wait: float = 0  # seconds for what goes on behind the answer
    must: tuple = ()  # kinds of calls that there must be: else the case tries nothing of what it is for

    def body(self, **more):
        return {"temperature": 0, "max_tokens": 8, **self.fields, **more}


def completion(options=(), case=None, **fields):
    return Case("llama-3.1", list(options), COMPLETIONS, {"prompt": PROMPT, **fields}, **(case or {}))


TIER = ["--kv-cache-tier", "{folder}/tier:64M", "--kv-cache-tier-use", "always"]
# Memory for one sequence and little more: a long prompt takes the place of all others. No more than a quarter of it is
# kept in the tier at once.
SMALL = ["--max-seq-len", "768", "--kv-cache-memory", "430K", "--dtype", "float32"]
EXCHANGE = ["--dtype", "float32", "--max-seq-len", "2048", "--max-num-tokens", "64"]

REQUESTS = {
    "completion": completion(),
    "sampled": completion(temperature=1, seed=7, logprobs=3, stop=["zzz"], repetition_penalty=1.2,
                          logit_bias={"5": 1}),
    "stream": completion(stream=True, n=2, temperature=1, seed=7),
    "guided": completion(guided_json=SCHEMA, max_tokens=24),
    "beam": completion(use_beam_search=True, n=2, beam_width=3, max_tokens=4),
    "chat": Case("llama-3.1", [], CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
    "picture": Case("qwen2-vl", [], CHAT, {"messages": picture()}),
    "speculative": completion(["--speculative-config", "ngram"], prompt="a b c a b c a b c a b c a b c a b",
                              max_tokens=16),
    "ranks": completion(["--tp-size", "2"]),
    "stages": completion(["--pp-size", "2"], {"may_fail": True}),
    "tier": completion([*SMALL, *TIER], {"before": {"prompt": ids(2, 740)}, "must": ("open", "read")},
                       prompt=ids(1, 190)),
    "tier-out": completion([*SMALL, *TIER], {"new": True, "wait": 0.1, "must": ("open", "write")}, prompt=ids(1, 190)),
    "context": completion(EXCHANGE, {"role": "context", "new": True, "must": ("send", "receive")}, prompt=ids(3, 300)),
    "generation": completion(EXCHANGE, {"role": "generation", "new": True, "must": ("send", "receive")},
                             prompt=ids(3, 300)),
}

# Options of `weft run`.
LOADS = {
    "load": [],
    "load-ranks": ["--tp-size", "2"],
    "load-tier": TIER,
}

# The case whose server ends.
SHUTDOWNS = {"shutdown": "completion", "shutdown-tier": "tier", "shutdown-context": "context",
             "shutdown-generation": "generation"}


def answer_of(status, text):
    """What must be the same each time; None: it is an error or ends too early. A stream may bring its pieces in any
    cut."""
    if status != 200:
        return None
    if not text.startswith("data:"):
        return [choice.get("text") or choice["message"]["content"] for choice in json.loads(text)["choices"]]
    pieces = collections.defaultdict(str)
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if not lines or lines[-1] != "[DONE]":
        return None
    for line in lines[:-1]:
        event = json.loads(line)
        if "error" in event:
            return None
        for choice in event["choices"]:
            pieces[choice["index"]] += choice["text"]
    return sorted(pieces.items())


def has_message(status, text):
    """An error of HTTP, or one in the middle of a stream."""
    if status == 200:
        return any("error" in json.loads(line[6:]) for line in text.splitlines()
                   if line.startswith("data: {"))
    return 400 <= status < 600 and bool(json.loads(text)["error"]["message"])


def cached_tokens(text):
    """Of an answer that is no stream: prompt tokens that were not computed by the server that answers."""
    return (json.loads(text)["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
