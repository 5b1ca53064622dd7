#!/usr/bin/env python3
"""`weft batch --url` writes what `weft batch --model` writes, to the byte, for every kind of request line; and what it
does when the server is not there, goes away, is busy, or is no server of this API.

  batch_url_test.py --weft PROGRAM --plugin token_lists.so [TEST...]
"""
import argparse
import base64
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
arguments = None
folder = None  # for this run's files

SENTENCES = ("The sky is", "Write a list: 1. circle 2. square 3. triangle.", "a b c a b c a b c a b", "Zwei mal drei")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "description": "d", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}


def talk(text, **more):
    return {"messages": [{"role": "user", "content": text}], **more}


def text_requests():
    prompts = [{"prompt": text, "max_tokens": 10, "seed": 7 * len(text), **kind} for text in SENTENCES[:2] for kind in (
        {"temperature": 0},
        {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "logprobs": 3, "ignore_eos": True},
        {"temperature": 0.8, "presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.2},
        {"n": 3, "logprobs": 0},
        {"n": 2, "best_of": 4, "logprobs": True, "top_logprobs": 2},
        {"use_beam_search": True, "beam_width": 3, "n": 2, "logprobs": 2, "length_penalty": 0.5},
        {"guided_regex": "[a-f]{3}-[0-9]{4}", "logprobs": 5},
        {"regex": "[a-c]", "logprobs": 20, "logprobs_mode": "processed_logprobs"},
        {"prompt_logprobs": 3, "echo": None, "stream": True, "stream_options": {"include_usage": True}},
        {"prompt_logprobs": 0, "return_context_logits": True, "temperature": 0, "max_tokens": 2},
        {"return_generation_logits": True, "max_tokens": 3, "n": 2},
        {"stop": ["e", "a"], "include_stop_str_in_output": True, "max_tokens": 40},
        {"stop_token_ids": list(range(60)), "min_tokens": 3, "max_tokens": 40},
        {"min_tokens": 50},
        {"logit_bias": {"70": 20, "71": -100}, "bad_words": ["the"], "allowed_token_ids": [70, 71, 72, 73]},
        {"logits_processors": [{"name": "ban_tokens", "params": {"tokens": list(range(100))}}]},
        {"cache_salt": "salt", "priority": 80, "user": "u", "model": None},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {
            "type": "object", "properties": {"a": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}},
            "required": ["a"]}}}, "max_tokens": 30},
        {"no_such_field": 1, "separate_reasoning": True, "audio": {"a": 1}, "skip_special_tokens": False},
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 30},
        {"add_special_tokens": False, "text_pair": "p"},
    )]
    ids = [{"prompt_token_ids": [1, 5, 9, 30, 77, 12], "max_tokens": 5, "min_p": 0.01, "prompt_logprobs": 4,
            "top_k": -1, "seed": 5}]
    chats = [{**talk(text, max_tokens=12, seed=k), **kind} for text in SENTENCES[2:] for k, kind in enumerate((
        {"temperature": 0, "logprobs": True, "top_logprobs": 20},
        {"logprobs": 4, "prompt_logprobs": 2, "return_context_logits": True, "max_tokens": 2},
        {"best_of": 3, "n": 2},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none", "return_generation_logits": True, "max_tokens": 2},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}, "max_tokens": 20},
        {"tools": [STRICT], "max_tokens": 20},
        {"response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": False}},
        {"continue_final_message": True,
         "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Well, the"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {"max_tokens": 3, "max_completion_tokens": 6, "documents": [{"title": "t"}], "reasoning_effort": "low"},
    ))]
    return prompts + ids + chats


def bad_lines():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    other = {"type": "function", "function": {"name": "other"}}
    bad = {
        "none": {},
        "list": {"prompt": ["a", "b"]},
        "both": {"prompt": "x", **talk("y")},
        "top": {"prompt": "x", "top_p": 2},
        "cold": {"prompt": "x", "temperature": -1},
        "bias": {"prompt": "x", "logit_bias": {"99999": 1}},
        "long": {"prompt": "x " * 9000},
        "ids": {"prompt_token_ids": [99999]},
        "echo": {"prompt": "x", "echo": True},
        "n": {"prompt": "x", "n": 0},
        "alternatives": {"prompt": "x", "logprobs": 21},
        "regex": {"prompt": "x", "regex": "("},
        "schema": talk("x", response_format={"type": "json_schema", "json_schema": {"schema": 5}}),
        "processor": {"prompt": "x", "logits_processors": [{"name": "no_such"}]},
        "choice": talk("x", tools=[TOOL], tool_choice=other),
        "nothing allowed": {"prompt": "x", "regex": "[a-c]", "allowed_token_ids": [1], "temperature": 0},
        "beams": {"prompt": "x", "use_beam_search": True, "stop": "a"},
        "image": {"messages": [{"role": "user", "content": [image]}]},
        "images": {"prompt": "x", "images": ["data:image/png;base64,AAAA"]},
        "empty": {"prompt": "", "add_special_tokens": False},
    }
    return ["not json", "[1]", '{"custom_id": 5, "prompt": "x"}',
            '{"custom_id": "twice", "prompt": "a", "prompt": "b", "max_tokens": 2, "temperature": 0}',
            *[json.dumps({"custom_id": name, **row}) for name, row in bad.items()]]


def image_requests(model):
    prompts = json.loads((GOLDEN / model / "prompts.json").read_text())

    def addresses(paths, data):
        if not data:
            return [str(GOLDEN / model / path) for path in paths]
        files = [(GOLDEN / model / path).read_bytes() for path in paths]
        return ["data:image/x;base64," + base64.b64encode(file).decode() for file in files]

    common = {"max_tokens": 5, "temperature": 0.5, "seed": 11, "logprobs": 2}
    for k, prompt in enumerate(prompts.values()):
        one = {"images": addresses(prompt["images"], k % 2),
               "videos": [addresses(frames, k % 2) for frames in prompt["videos"]]}
        yield {"prompt": prompt["text"], **common, **{name: value for name, value in one.items() if value}}
        if not prompt["messages"]:
            continue
        messages = json.loads(json.dumps(prompt["messages"]))
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        images = iter(addresses(prompt["images"], 1 - k % 2))
        for part in parts:
            if "image_url" in part:
                part["image_url"] = {"url": next(images)}
            if "video" in part:
                part["video"] = [str(GOLDEN / model / frame) for frame in part["video"]]
        yield {"messages": messages, **common}
    yield {"custom_id": "absent", "prompt": "x", "images": ["no/such.png"]}
    yield {"custom_id": "no image", "prompt": "x", "images": [str(GOLDEN / model / "config.json")]}
    yield {"custom_id": "fetched", "prompt": "x", "images": ["https://example.org/a.png"]}


def batch(*words, environment=None, timeout=120):
    done = subprocess.run([arguments.weft, "batch", *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout, env={**os.environ, **(environment or {})})
    return done.returncode, done.stdout, done.stderr


def start(*words):
    return subprocess.Popen([arguments.weft, "batch", *map(str, words)], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def write(name, rows):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps({"custom_id": str(i), **row})) + "\n"
                            for i, row in enumerate(rows)))
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A `weft serve`; with `ready`, one that has its model."""

    def __init__(self, model, *options, port=0, ready=True):
        self.log_file = folder / f"log-{time.monotonic_ns()}"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [arguments.weft, "serve", str(GOLDEN / model), "--port", str(port), "--threads", "1", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while ready:
            if found := re.search(r"at (http://127.0.0.1:\d+)", self.log_file.read_text()):
                self.url = found[1]
                return
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("the server does not start: " + self.log_file.read_text())
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class SameLines(unittest.TestCase):
    maxDiff = None

    def check(self, model, rows, *options):
        """The lines of both ways, which are compared as bytes. Counts of cached tokens depend on the order in which
        requests meet, so there is no cache."""
        requests = write("same.jsonl", rows)
        options = ("--enable-block-reuse", "off", "--dtype", "float32", *options)
        status, wanted, log = batch("--model", GOLDEN / model, "--threads", 1, "--requests", requests, *options)
        self.assertEqual(status, 0, log)
        with Server(model, *options) as server:
            for more in ((), ("--concurrency", 3)):
                status, got, log = batch("--url", server.url, "--requests", requests, *more)
                self.assertEqual(status, 0, log)
                for a, b in zip(wanted.splitlines(), got.splitlines()):
                    self.assertEqual(a[:3000], b[:3000])
                self.assertTrue(wanted == got, "lines that differ")
        return [json.loads(line) for line in wanted.splitlines()]

    def test_text(self):
        good = text_requests()
        rows = self.check("llama-3.1", good + bad_lines(), "--logits-processor", arguments.plugin, "--seed", "3")
        failed = [json.dumps(row)[:300] for row in rows[:len(good)] if row["error"]]
        self.assertEqual(failed, [], "every request has an answer")
        self.assertEqual([row["custom_id"] for row in rows[len(good):] if not row["error"]], ["twice"])
        self.assertTrue(any(row.get("warnings") for row in rows), "one has a warning")

    def test_thoughts_calls_and_drafts(self):
        chats = [row for row in text_requests() if "messages" in row]
        self.check("qwen3", chats + [talk("think", max_tokens=9, seed=k, tools=[TOOL, STRICT]) for k in range(6)],
                   "--speculative-config", '{"method": "ngram", "num_tokens": 2}')

    def test_images(self):
        for model in ("qwen2.5-vl", "llama4"):
            with self.subTest(model):
                rows = self.check(model, list(image_requests(model)))
                self.assertEqual([row["custom_id"] for row in rows if row["error"]], ["absent", "no image", "fetched"])


class Stub(http.server.BaseHTTPRequestHandler):
    """A server whose `script` makes of a path and a body a status, a text and headers; None: the connection ends."""
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        made = self.server.script(self.path, body)
        if made is None:
            self.close_connection = True
            return
        status, text, headers = made
        self.send_response(status)
        for name, value in {"Content-Length": len(text), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        try:
            self.wfile.write(text.encode())
        except BrokenPipeError:
            pass  # the client has waited long enough

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Faults(unittest.TestCase):

    def stub(self, script, servers=None):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
        if servers is not None:
            servers.append(server)
        server.script = lambda path, body: (200, "{}", {}) if path == "/ready" else script(path, body)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    def errors(self, out):
        return [json.loads(line)["error"] for line in out.splitlines()]

    def test_usage(self):
        for words, message in (((), "--model or --url is required"),
                               (("--url", "http://x", "--model", "m"), "exclude each other"),
                               (("--url", "http://x", "--dtype", "float32"), "--dtype is an option of the engine"),
                               (("--model", "m", "--concurrency", "3"), "--concurrency requires --url"),
                               (("--url", "http://x", "--concurrency", "0"), "--concurrency")):
            with self.subTest(words):
                status, _, log = batch("--requests", "r", *words)
                self.assertEqual(status, 2)
                self.assertIn(message, log)

    def test_addresses(self):
        requests = write("one.jsonl", [{"prompt": "x"}])
        for url in ("https://localhost", "localhost:80", "http://a:0", "http://u@h", "http://a b"):
            with self.subTest(url):
                status, out, log = batch("--url", url, "--requests", requests)
                self.assertEqual((status, out), (1, ""))
                self.assertIn(f"the URL {url} ", log)

    def test_no_server(self):
        requests, out = write("one.jsonl", [{"prompt": "x"}]), folder / "out.jsonl"
        url = f"http://127.0.0.1:{free_port()}"
        status, _, log = batch("--url", url, "--requests", requests, "--out", out)
        self.assertEqual(status, 1)
        self.assertRegex(log, rf"^weft: {url} cannot be reached: Connection refused; --wait S waits")
        self.assertFalse(out.exists())
        began = time.monotonic()
        status, _, log = batch("--url", url, "--requests", requests, "--wait", 1)
        self.assertEqual(status, 1)
        self.assertIn("(for 1 s)", log)
        self.assertGreater(time.monotonic() - began, 0.9)

    def test_waits_for_a_server_that_starts(self):
        requests, port = write("one.jsonl", [{"prompt": "x", "max_tokens": 2}]), free_port()
        with Server("llama-3.1", port=port, ready=False):
            status, out, log = batch("--url", f"http://127.0.0.1:{port}/v1/", "--requests", requests, "--wait", 60)
        self.assertEqual((status, self.errors(out)), (0, [None]), log)

    def test_keys_models_and_paths(self):
        requests = write("two.jsonl", [{"prompt": "x", "max_tokens": 2}, {"prompt": "x", "model": "other"}])
        with Server("llama-3.1", "--api-key", "secret") as server:
            status, out, log = batch("--url", server.url, "--requests", requests)
            self.assertEqual((status, out), (1, ""))
            self.assertRegex(log, r"needs an API key.*give --api-key or WEFT_API_KEY")
            for words, environment in ((("--api-key", "secret"), {}), ((), {"WEFT_API_KEY": "secret"})):
                status, out, log = batch("--url", server.url, "--requests", requests, *words, environment=environment)
                self.assertEqual(status, 0, log)
                good, wrong = self.errors(out)
                self.assertIsNone(good)
                self.assertEqual(wrong["code"], "not_found")
                self.assertIn('the model "other" is not served here', wrong["message"])
            status, out, log = batch("--url", server.url + "/elsewhere", "--requests", requests, "--api-key", "secret")
            self.assertEqual(status, 0, log)
            for error in self.errors(out):
                self.assertEqual(error["code"], "not_found")
                self.assertIn(server.url + "/elsewhere/v1/completions answered with status 404", error["message"])

    def test_killed_in_the_middle(self):
        rows = [{"prompt": "x", "max_tokens": 2, "temperature": 0}] + [
            {"prompt": "y", "max_tokens": 60_000, "temperature": 0, "ignore_eos": True}] * 5
        requests, out = write("long.jsonl", rows), folder / "killed.jsonl"
        with Server("llama-3.1", "--max-seq-len", "65536") as server:
            running = start("--url", server.url, "--requests", requests, "--out", out, "--concurrency", 2)
            time.sleep(1.5)
            self.assertIsNone(running.poll())
            server.process.kill()
            _, log = running.communicate(timeout=20)
        self.assertEqual(running.returncode, 0, log)
        first, *rest = self.errors(out.read_text())
        self.assertIsNone(first)
        self.assertEqual(len(rest), 5)
        for error in rest:
            self.assertEqual(error["code"], "unavailable")
            self.assertIn(server.url + " went away: Connection refused", error["message"])
        gone = f"{server.url} went away (Connection refused): 5 of 6 lines of {requests} have no answer"
        self.assertIn(gone + ", the first is line 2", log)

    def test_a_server_that_is_ended(self):
        """It takes no more connections, but completes the answers that it has begun."""
        servers = []

        def script(path, body):
            prompt = json.loads(body)["prompt"]
            time.sleep(0.3 if prompt == "first" else 1.5)
            if prompt == "first":
                servers[0].shutdown()
                servers[0].server_close()
            return 200, json.dumps({"choices": [{"text": prompt}]}), {"Connection": "close"}

        url = self.stub(script, servers)
        rows = [{"prompt": name} for name in ("first", "slow", "slow too", "later", "last")]
        status, out, log = batch("--url", url, "--requests", write("ended.jsonl", rows), "--concurrency", 3)
        self.assertEqual(status, 0, log)
        answers = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([answer["choices"][0]["text"] for answer in answers[:3]], ["first", "slow", "slow too"])
        self.assertEqual([answer["error"]["code"] for answer in answers[3:]], ["unavailable"] * 2)

    def test_a_server_that_comes_back(self):
        row = {"prompt": "y", "max_tokens": 3000, "temperature": 0, "ignore_eos": True}
        requests = write("back.jsonl", [row] * 3)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with Server("llama-3.1", "--max-seq-len", "4096", port=port) as server:
            running = start("--url", url, "--requests", requests, "--wait", 60)
            time.sleep(0.5)
            server.process.kill()
            server.process.wait()
            self.assertIsNone(running.poll())
            with Server("llama-3.1", "--max-seq-len", "4096", port=port):
                out, log = running.communicate(timeout=100)
        self.assertEqual((running.returncode, self.errors(out)), (0, [None] * 3), log)

    def test_interrupted(self):
        rows = [{"prompt": "x", "max_tokens": 2}, {"prompt": "y", "max_tokens": 60_000, "ignore_eos": True}]
        requests, out = write("stop.jsonl", rows), folder / "stopped.jsonl"
        with Server("llama-3.1", "--max-seq-len", "65536") as server:
            running = start("--url", server.url, "--requests", requests, "--out", out)
            time.sleep(1.5)
            running.send_signal(signal.SIGINT)
            _, log = running.communicate(timeout=10)
            self.assertEqual(running.returncode, 130)
            self.assertIn(f"ended by SIGINT ({out}.part has the first 1 of 2 lines)", log)
            self.assertFalse(out.exists())
            self.assertEqual(len((folder / "stopped.jsonl.part").read_text().splitlines()), 1)
            status, _, log = batch("--url", server.url, "--requests", write("one.jsonl", [{"prompt": "x"}]))
            self.assertEqual(status, 0, "the server goes on: " + log)

    def test_slow_servers(self):
        url = self.stub(lambda *_: time.sleep(3) or (200, "{}", {}))
        status, out, log = batch("--url", url, "--requests", write("one.jsonl", [{"prompt": "x"}]), "--timeout", 1)
        self.assertEqual(status, 0, log)
        self.assertEqual(self.errors(out), [{"code": "deadline_exceeded", "message":
                                             f"{url}/v1/completions: no answer within 1 s"}])

    def test_busy_and_broken_servers(self):
        asked = {}

        def script(path, body):
            prompt = json.loads(body)["prompt"]
            asked[prompt] = asked.get(prompt, 0) + 1
            if prompt == "busy" and asked[prompt] < 3:
                return 429, "{}", {"Retry-After": "0"}
            if prompt == "unavailable" and asked[prompt] < 2:
                return 503, json.dumps({"error": {"message": "loading", "code": None}}), {}
            if prompt == "breaks" and asked[prompt] < 3 or prompt == "broken":
                return None
            if prompt == "lost":
                return 503, json.dumps({"error": {"message": "ranks were lost", "code": "unavailable"}}), {}
            return 200, json.dumps({"choices": [{"text": prompt}]}), {}

        names = ["busy", "unavailable", "breaks", "broken", "lost", "plain"]
        url = self.stub(script)
        status, out, log = batch("--url", url, "--requests", write("busy.jsonl", [{"prompt": name} for name in names]))
        self.assertEqual(status, 0, log)
        rows = [json.loads(line) for line in out.splitlines()]
        ended = f"{url}/v1/completions: the connection ended before the answer, 3 times"
        self.assertEqual([row["choices"][0]["text"] if row["choices"] else row["error"] for row in rows],
                         ["busy", "unavailable", "breaks", {"code": "unavailable", "message": ended},
                          {"code": "unavailable", "message": "ranks were lost"}, "plain"])
        self.assertLessEqual(asked.pop("broken"), 6, "three times, each once more where a connection was at rest")
        self.assertEqual(asked, {"busy": 3, "unavailable": 2, "breaks": 3, "lost": 1, "plain": 1})

    def test_strange_answers(self):
        texts = ["", "{}", "[]", "[1", "<html>", '{"choices": {}}', '{"choices": [5, null]}',
                 '{"choices": [{"logprobs": [7], "token_ids": ["a"], "stop_reason": {}}]}',
                 '{"choices": [{"message": 5, "logprobs": {"content": [1, {"top_logprobs": [2, {}]}]}}], "usage": 7}',
                 '{"choices": [{"text": 1, "logprobs": {"tokens": [1, "token_id:x"], "token_logprobs": ["a"],'
                 '"top_logprobs": [{"q": null}]}}]}',
                 '{"choices": [{"prompt_logprobs": [1, {}, {"a": 1}, {"5": {"logprob": null, "rank": -3}}],'
                 '"context_logits": [[1e39, "x"], 5]}]}']
        for status in (200, 302, 400, 500):
            served = iter(texts)
            url = self.stub(lambda *_: (status, next(served), {}))
            rows = [{"prompt": "x", "logprobs": 1, "prompt_logprobs": 1} for _ in texts]
            done, out, log = batch("--url", url, "--requests", write("strange.jsonl", rows), "--concurrency", 1)
            self.assertEqual((done, len(self.errors(out))), (0, len(texts)), log)
            if status != 200:
                self.assertTrue(all(f"/v1/completions answered with status {status}" in error["message"]
                                    for error in self.errors(out)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    parser.add_argument("--plugin", required=True)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="weft-batch-url-") as name:
        folder = Path(name)
        unittest.main(argv=[sys.argv[0], *rest])
