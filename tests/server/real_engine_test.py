#!/usr/bin/env python3
"""What a client of `weft serve` is told when it is refused, with a real engine and over real sockets: the queue's 429,
deadlines' 503, the front's 504, slow bodies' 408, prompts beyond the context, and grammars that are too large or slow.

  real_engine_test.py --weft PROGRAM [TEST...]
"""
import argparse
import concurrent.futures
import json
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "soak"))
from server import Server, ask, connect, free_port, read_reply, request_bytes  # noqa: E402

MODEL = Path(__file__).resolve().parents[1] / "data" / "golden" / "llama-3.1"
CONTEXT = 4096
PATH = "/v1/completions"
LONG = {"prompt": "The sky is", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}
SHORT = {**LONG, "max_tokens": 5}
# Each token makes the parser's row longer: within some tens of tokens a mask takes the 50 ms that it may.
HOSTILE = {**LONG, "guided_grammar": 'start: s\ns: s s s | "a" | "b"', "max_tokens": 2000}
arguments = None
folder = None


def error(reply):
    return json.loads(reply.body)["error"]


def events(reply):
    return [line[len("data: "):] for line in reply.body.decode().split("\n") if line.startswith("data: ")]


class RealEngine(unittest.TestCase):
    def serve(self, *options):
        server = Server(arguments.weft, MODEL, f"{folder}/{self.id().split('.')[-1]}.log", *options)
        self.addCleanup(lambda: self.assertEqual(server.stop(), 0))
        return server

    def choice(self, reply):
        self.assertEqual(reply.status, 200, reply.body)
        return json.loads(reply.body)["choices"][0]

    def text(self, reply):
        return self.choice(reply)["text"]

    def test_full_queue(self):
        server = self.serve("--max-batch-size", "1", "--max-queue", "2", "--max-queue-per-client", "0")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: ask(server.port, "POST", PATH, LONG), range(8)))
        refused = [reply for reply in replies if reply.status == 429]
        self.assertGreaterEqual(len(refused), 3, [reply.status for reply in replies])
        for reply in refused:
            self.assertGreaterEqual(int(reply.headers["retry-after"]), 1)
            self.assertRegex(error(reply)["message"],
                             r"^2 requests are waiting, and --max-queue is 2: try again in \d+ s$")
            self.assertEqual(error(reply)["type"], "rate_limit_error")
        taken = {self.text(reply) for reply in replies if reply.status != 429}
        self.assertEqual(len(taken), 1, "an answer depends on who waits beside it")
        short = self.text(ask(server.port, "POST", PATH, SHORT))
        self.assertTrue(short and taken.pop().startswith(short))
        self.assertEqual(server.metrics()["queued_requests"], 0)

    def test_one_clients_share_of_the_queue(self):
        server = self.serve("--max-batch-size", "1", "--max-queue", "8", "--max-queue-per-client", "1")
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            greedy = [pool.submit(ask, server.port, "POST", PATH, LONG, 120, "127.0.0.2") for _ in range(5)]
            deadline = time.monotonic() + 60
            while server.metrics()["queued_requests"] < 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            other = ask(server.port, "POST", PATH, SHORT, 120, "127.0.0.3")
            statuses = sorted(one.result().status for one in greedy)
        self.assertEqual(other.status, 200, other.body)
        self.assertIn(429, statuses)
        named = [error(one.result())["message"] for one in greedy if one.result().status == 429]
        self.assertTrue(all("requests of this client are waiting, and --max-queue-per-client is 1" in m
                            for m in named), named)

    def test_deadlines(self):
        server = self.serve()
        for more, option in (({"timeout": 0.2}, "timeout"), ({}, "--request-timeout")):
            if not more:
                server = self.serve("--request-timeout", "0.2")
            whole = ask(server.port, "POST", PATH, {**LONG, **more, "n": 4})
            self.assertEqual(whole.status, 503, whole.body)
            self.assertEqual(error(whole)["code"], "deadline_exceeded")
            self.assertIn(option, error(whole)["message"])
            stream = ask(server.port, "POST", PATH, {**LONG, **more, "n": 4, "stream": True})
            self.assertEqual(stream.status, 200)
            self.assertEqual(events(stream)[-1], "[DONE]")
            self.assertEqual(json.loads(events(stream)[-2])["error"]["code"], "deadline_exceeded")
            self.text(ask(server.port, "POST", PATH, SHORT))

    def test_the_front_waits_so_long(self):
        server = self.serve()
        port = free_port()
        front = subprocess.Popen([arguments.weft, "orchestrate", "--server", f"127.0.0.1:{server.port}", "--port",
                                  str(port), "--request-timeout", "0.2", "--health-interval", "0.1"],
                                 stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.wait(lambda: ask(port, "GET", "/ready").status == 200)
            late = ask(port, "POST", PATH, {**LONG, "n": 4})
            self.assertEqual(late.status, 504, late.body)
            self.assertIn("no answer within 0.2 s", error(late)["message"])
            self.text(ask(port, "POST", PATH, SHORT))
        finally:
            front.terminate()
            self.assertEqual(front.wait(60), 0)

    def wait(self, condition):
        deadline = time.monotonic() + 60
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            self.assertLess(time.monotonic(), deadline, "it does not begin")
            time.sleep(0.05)

    def test_slow_bodies(self):
        server = self.serve("--body-timeout", "1")
        with connect(server.port, 60) as link:
            link.sendall(request_bytes("POST", PATH, SHORT)[:-5])
            reply = read_reply(link)
        self.assertEqual(reply.status, 408)
        self.assertIn("did not come within 1.0 s (--body-timeout)", error(reply)["message"])
        server = self.serve("--min-body-rate", "1M")
        with connect(server.port, 60) as link:
            link.sendall(request_bytes("POST", PATH, SHORT)[:-5])
            reply = read_reply(link)
        self.assertEqual(reply.status, 408)
        self.assertIn("at least 1048576 a second must come behind the first 10.0 s (--min-body-rate)",
                      error(reply)["message"])
        self.text(ask(server.port, "POST", PATH, SHORT))

    def test_beyond_the_context(self):
        server = self.serve()
        of_ids = {key: value for key, value in SHORT.items() if key != "prompt"}
        for body in ({**of_ids, "prompt_token_ids": [5] * (CONTEXT + 1)}, {**SHORT, "prompt": "word " * (2 * CONTEXT)}):
            reply = ask(server.port, "POST", PATH, body)
            self.assertEqual(reply.status, 400)
            self.assertEqual(error(reply)["code"], "context_length_exceeded")
            self.assertEqual(error(reply)["type"], "invalid_request_error")
            self.assertIn(str(CONTEXT), error(reply)["message"])
        # One token fewer than the context has room for one.
        last = ask(server.port, "POST", PATH, {**of_ids, "prompt_token_ids": [5] * (CONTEXT - 1), "max_tokens": 1})
        self.assertEqual(last.status, 200, last.body)

    def test_grammars_that_are_too_large(self):
        server = self.serve()
        many = "|".join(f'"{i}"' for i in range(60000))
        begin = time.monotonic()
        refused = ask(server.port, "POST", PATH, {**SHORT, "guided_grammar": "start: " + many})
        self.assertEqual(refused.status, 400, refused.body)
        self.assertIn("it has more than 30000 rules and terminals, and 30000 are allowed", error(refused)["message"])
        self.assertLess(time.monotonic() - begin, 20)
        # As one terminal they are no more than one.
        self.text(ask(server.port, "POST", PATH, {**SHORT, "guided_grammar": f"start: A\nA: {many}"}))

    def test_grammars_that_take_long(self):
        """They fail, or wait, and the answers of others are what they are alone, to the last digit of a logprob."""
        server = self.serve()
        plain = {**LONG, "max_tokens": 1500, "logprobs": 2, "seed": 1}
        guided = {**LONG, "max_tokens": 200, "logprobs": 2, "temperature": 1, "seed": 3,
                  "guided_regex": "([a-z]{1,9} ){1,200}"}
        alone = [self.choice(ask(server.port, "POST", PATH, body)) for body in (plain, guided)]
        self.assertRegex(alone[1]["text"], "^([a-z]{1,9} )+")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            hostile = [pool.submit(ask, server.port, "POST", PATH, HOSTILE) for _ in range(5)]
            beside = [pool.submit(ask, server.port, "POST", PATH, body) for body in (plain, guided)]
            self.assertEqual([self.choice(one.result()) for one in beside], alone)
            for one in hostile:
                reply = one.result()
                self.assertNotEqual(reply.status, 500, reply.body)
                if reply.status != 200:
                    self.assertIn("the grammar has become too complex", error(reply)["message"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="weft-real-engine-") as folder:
        unittest.main(argv=[sys.argv[0], *rest], verbosity=2, warnings="ignore")
