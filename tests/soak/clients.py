"""The clients of the soak: each function is one visit of a kind of client. What it returns is counted; what must not be
is an AssertionError with the reason."""
import base64
import json
import random
import socket
import struct
import time
import zlib

from server import ask, connect, read_reply, request_bytes

WORDS = "the cat sat on a mat and then it ran away from dogs".split()
GOOD = {"prompt": [5, 6, 7, 8, 9, 10], "max_tokens": 8, "temperature": 0, "logprobs": 2, "ignore_eos": True,
        "stream": True}
# What a request may be answered with: done, wrong, too much, too slow, too busy.
FINE = {200, 400, 404, 405, 408, 413, 415, 429, 431, 503}


class World:
    """Where the servers are, and the answers that never change."""

    def __init__(self, text_port, image_port):
        self.text, self.image = text_port, image_port
        self.answers = {}

    def same(self, name, answer):
        expected = self.answers.setdefault(name, answer)
        assert answer == expected, f"the answer to {name} has changed: {answer!r} instead of {expected!r}"


def prompt(most):
    return " ".join(random.choice(WORDS) for _ in range(random.randrange(1, most)))


def stranger():
    """An address of one of many clients."""
    return f"127.0.1.{random.randrange(1, 250)}"


def check(reply):
    assert reply.status in FINE, f"status {reply.status}: {reply.body[:200]!r}"
    if reply.status in (429, 503):
        assert "retry-after" in reply.headers, f"status {reply.status} without Retry-After"
    return str(reply.status)


def post(port, path, body, address=None, timeout=120):
    return ask(port, "POST", path, body, timeout, address or stranger())


def choices_of(reply):
    return [choice["text"] for choice in json.loads(reply.body)["choices"]]


def good(world):
    """Measured: seconds to the first token. Its answer is the same bits each time."""
    reply = post(world.text, "/v1/completions", GOOD, "127.0.0.1")
    assert reply.status == 200, f"the good client got status {reply.status}: {reply.body[:200]!r}"
    events = [json.loads(line[6:]) for line in reply.body.decode().split("\n\n") if line.startswith("data: {")]
    world.same("good", [choice for event in events for choice in event.get("choices", [])])
    return reply.first


def completion(world):
    body = {"prompt": prompt(40), "max_tokens": random.randrange(1, 60), "n": random.randrange(1, 4),
            "temperature": random.choice([0, 1]), "ignore_eos": True, "logprobs": random.choice([None, 0, 3]),
            "stream": random.random() < 0.5, "cache_salt": random.choice([None, "a", "b"])}
    body["best_of"] = None if body["stream"] else body["n"] + random.randrange(2)
    return check(post(world.text, "/v1/completions", body))


def repeating(world):
    """A text that n-grams draft: right whether or not drafts are accepted."""
    body = {"prompt": "ab cd ab cd ab cd ab cd", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    reply = post(world.text, "/v1/completions", body)
    if reply.status == 200:
        world.same("repeating", choices_of(reply))
    return check(reply)


def seeded(world):
    reply = post(world.text, "/v1/completions",
                 {"prompt": "seeds", "max_tokens": 8, "seed": 7, "n": 2, "temperature": 0.9, "ignore_eos": True})
    if reply.status == 200:
        world.same("seeded", choices_of(reply))
    return check(reply)


def guided(world):
    schema = {"type": "object", "properties": {f"k{random.randrange(40)}": {"type": "integer", "maximum": 99}},
              "required": []}
    reply = post(world.text, "/v1/completions", {"prompt": "x", "max_tokens": 40, "guided_json": schema})
    if reply.status == 200:
        choice = json.loads(reply.body)["choices"][0]
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["text"]), dict), choice["text"]
    return check(reply)


def beams(world):
    reply = post(world.text, "/v1/completions",
                 {"prompt": [5, 6, 7], "max_tokens": 6, "use_beam_search": True, "beam_width": 3, "n": 2})
    if reply.status == 200:
        world.same("beams", choices_of(reply))
    return check(reply)


def tools(world):
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": ["x", "y"]}},
                                            "required": ["a"], "additionalProperties": False}}
    reply = post(world.text, "/v1/chat/completions",
                 {"messages": [{"role": "user", "content": "call"}], "max_tokens": 60, "temperature": 0,
                  "tools": [{"type": "function", "function": function}],
                  "tool_choice": {"type": "function", "function": {"name": "f"}}})
    if reply.status == 200:
        message = json.loads(reply.body)["choices"][0]["message"]
        world.same("tools", [call["function"] for call in message["tool_calls"]])
    return check(reply)


def vanishing(world):
    """Leaves in the middle, with or without a reset."""
    link = connect(world.text, 30, stranger())
    link.sendall(request_bytes("POST", "/v1/completions", {
        "prompt": prompt(40), "max_tokens": 200, "stream": random.random() < 0.5, "ignore_eos": True,
        "n": random.randrange(1, 5)}))
    link.settimeout(random.random() * 0.3 + 0.001)
    try:
        link.recv(1000)
    except OSError:
        pass
    if random.random() < 0.5:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    return "left"


def slow_reader(world):
    link = connect(world.text, 60, stranger(), small_buffer=True)
    link.sendall(request_bytes("POST", "/v1/completions", {
        "prompt": prompt(10), "max_tokens": 150, "stream": True, "ignore_eos": True, "logprobs": 5}))
    for _ in range(random.randrange(2, 8)):
        if not link.recv(200):
            break
        time.sleep(0.3)
    link.close()
    return "left"


def picture(world):
    pictures = random.randrange(1, 3)
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + png(8 + 4 * i, 12)}}
             for i in range(pictures)]
    reply = post(world.image, "/v1/chat/completions",
                 {"messages": [{"role": "user", "content": parts + [{"type": "text", "text": "What?"}]}],
                  "max_tokens": 4, "temperature": 0, "ignore_eos": True})
    if reply.status == 200:
        world.same(f"{pictures} pictures", json.loads(reply.body)["choices"][0]["message"]["content"])
    return check(reply)


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(3 * width)) for y in range(height))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")).decode()


# ---- those that mean harm


def hostile_json(world):
    body = bytearray(json.dumps({"prompt": prompt(4), "max_tokens": 3, "n": 1, "stop": ["x"], "logit_bias": {"5": 1},
                                 "temperature": 0.5, "top_p": 0.9}).encode())
    for _ in range(random.randrange(1, 4)):
        body[random.randrange(len(body))] = random.randrange(256)
    return check(post(world.text, "/v1/completions", bytes(body)))


def hostile_lists(world):
    long = [f"{i}" * 20 for i in range(2000)]
    body = random.choice([
        {"prompt": "x", "n": 100, "best_of": 128, "stop": long, "max_tokens": 1},
        {"prompt": "x", "bad_words": long, "max_tokens": 1},
        {"prompt": "x", "logit_bias": {str(i): 1 for i in range(5000)}, "max_tokens": 1},
        {"prompt": ["x"] * 5000, "max_tokens": 1},
        {"prompt": [5] * 200_000, "max_tokens": 1},
        {"prompt": "a b " * 200_000, "max_tokens": 1},
        {"prompt": "x", "guided_choice": long, "max_tokens": 1},
        {"prompt": ["x"] * 64, "n": 16, "max_tokens": 2, "prompt_logprobs": 5},
    ])
    return check(post(world.text, "/v1/completions", body))


def hostile_nesting(world):
    deep = b'{"prompt":' + b"[" * 100_000
    return check(post(world.text, "/v1/completions", deep))


def hostile_grammar(world):
    body = random.choice([
        {"guided_regex": "(a{1,500}){1,500}"},
        {"guided_regex": "(.*a){40}"},
        {"guided_json": {"type": "number", "multipleOf": 1e-7, "minimum": 0.123456789, "maximum": 1e15}},
        {"guided_json": {"type": "array", "items": {"enum": list(range(3000))}, "minItems": 5000}},
        {"guided_grammar": "root ::= root root | \"a\" root | \"\""},
        {"guided_json": {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + 1) % 60}"}] * 3} for i in range(60)},
                         "$ref": "#/$defs/d0"}},
    ])
    return check(post(world.text, "/v1/completions", {"prompt": "x", "max_tokens": 3, **body}))


def hostile_picture(world):
    width, height = random.choice([(20_000, 20_000), (30_000, 10), (65_535, 65_535)])
    gif = (b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff," +
           struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00;")
    url = "data:image/gif;base64," + base64.b64encode(gif).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}] * random.choice([1, 20])
    return check(post(world.image, "/v1/chat/completions",
                      {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}))


def hostile_length(world):
    """A body shorter or longer than the head says."""
    link = connect(world.text, 5, stranger())
    try:
        whole = request_bytes("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
        link.sendall(whole[:random.randrange(30, len(whole) + 1)])
        if random.random() < 0.5:
            link.shutdown(socket.SHUT_WR)
        link.settimeout(random.random() * 2)
        return check(read_reply(link))
    except OSError:
        return "no answer"
    finally:
        link.close()


def half_open(world):
    link = connect(world.text, 5, stranger())
    time.sleep(random.random() * 3)
    link.close()
    return "left"


def slow_head(world):
    link = connect(world.text, 30, stranger())
    try:
        for byte in request_bytes("POST", "/v1/completions", {"prompt": "x"})[:random.randrange(5, 40)]:
            link.send(bytes([byte]))
            time.sleep(0.05)
        return "left"
    except OSError:
        return "closed"
    finally:
        link.close()


ORDINARY = [completion] * 4 + [repeating, seeded, guided, beams, tools, picture, vanishing, vanishing, slow_reader]
HOSTILE = [hostile_json] * 4 + [hostile_lists, hostile_nesting, hostile_grammar, hostile_picture, hostile_length,
                                half_open, slow_head]
