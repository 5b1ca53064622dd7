#!/usr/bin/env python3
"""The n-th allocation, mmap, open, read, write, thread, send and receive fails while a model is loaded, while requests
of several kinds are answered, and when a server ends. Asserted: no abort, no hang, the answer or a clear error, the
same request answered rightly afterwards, gauges back at zero, no descriptor lost.

Where there are many calls a sample is tried, chosen by --seed; --all tries every one. `--trace` prints where a call
failed after which something was wrong.
"""
import argparse
import base64
import collections
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from injector import GOLDEN, KINDS, LIMIT, Injector, Server

PROMPT = "The quick brown fox jumps over the lazy dog and runs into the wood, where it"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]}
PICTURE = GOLDEN.parent / "images" / "corpus_control_png.0.png"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def picture():
    url = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}},
                                         {"type": "text", "text": "What is it?"}]}]


def of(path, **fields):
    return path, {"temperature": 0, "max_tokens": 8, **fields}


# name: model, options of the server, request
REQUESTS = {
    "completion": ("llama-3.1", [], of(COMPLETIONS, prompt=PROMPT)),
    "sampled": ("llama-3.1", [], of(COMPLETIONS, prompt=PROMPT, temperature=1, seed=7, logprobs=3, stop=["zzz"],
                                    repetition_penalty=1.2, logit_bias={"5": 1})),
    "stream": ("llama-3.1", [], of(COMPLETIONS, prompt=PROMPT, stream=True, n=2, temperature=1, seed=7)),
    "guided": ("llama-3.1", [], of(COMPLETIONS, prompt=PROMPT, guided_json=SCHEMA, max_tokens=24)),
    "beam": ("llama-3.1", [], of(COMPLETIONS, prompt=PROMPT, use_beam_search=True, n=2, beam_width=3, max_tokens=4)),
    "chat": ("llama-3.1", [], of(CHAT, messages=[{"role": "user", "content": "hi"}])),
    "picture": ("qwen2-vl", [], of(CHAT, messages=picture())),
    "speculative": ("llama-3.1", ["--speculative-config", "ngram"],
                    of(COMPLETIONS, prompt="a b c a b c a b c a b c a b c a b", max_tokens=16)),
}


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


class Faults:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.random = random.Random(arguments.seed)
        self.injector = Injector(arguments.inject, folder / "control")
        self.wrong = []
        self.tally = collections.Counter()
        self.server = None

    def points(self, count):
        if self.arguments.all or count <= self.arguments.samples:
            return list(range(1, count + 1))
        middle = self.random.sample(range(2, count), self.arguments.samples - 2)
        return [1, *sorted(middle), count]

    def blame(self, what, problem):
        self.wrong.append(f"{what}: {problem}")
        print(f"WRONG {self.wrong[-1]}", flush=True)

    # ---- Requests

    def start(self, name):
        model, options, _ = REQUESTS[name]
        self.server = Server(self.arguments.weft, self.injector, model, options, self.folder / f"log-{name}")

    def outcome(self, request, right):
        """'right', 'error', 'connection' or what is wrong."""
        try:
            status, text = self.server.call("POST", *request)
        except TimeoutError:
            return f"no answer in {LIMIT} s"
        except (OSError, http.client.HTTPException):
            return "connection"
        try:
            answer = answer_of(status, text)
            if answer is not None:
                return "right" if answer == right else f"another answer: {answer} in place of {right}"
            return "error" if has_message(status, text) else f"an error without a message: {status} {text[:200]}"
        except (ValueError, KeyError) as problem:
            return f"status {status} with {text[:200]!r}: {problem}"

    def try_one(self, name, kind, at, goes_on, right):
        what = f"{name}, {kind} {at}{' and all behind it' if goes_on else ''}"
        request = REQUESTS[name][2]
        self.injector.arm(kind, at, goes_on, trace=self.arguments.trace)
        before = len(self.server.log())
        if goes_on:  # nothing can be answered meanwhile: it must only live
            self.tally[self.while_all_fails(request)] += 1
            result = "right"
        else:
            result = self.outcome(request, right)
        self.injector.disarm()
        self.tally[result if result in ("right", "error", "connection") else "wrong"] += 1
        status = self.server.died(0.05 if result == "connection" or goes_on else 0)
        problem = None
        if self.not_ours(status, goes_on):
            self.tally["ended by a library"] += 1
            self.restart(name, right)
            return
        if status is not None:
            problem = f"the server ended with {status}: {self.last_lines()}"
        elif result not in ("right", "error", "connection"):
            problem = result
        elif result == "connection" and kind not in ("send", "receive") and not self.says_why(before):
            problem = "closed without an answer, and the log does not say why"
        elif (after := self.outcome(request, right)) != "right":
            problem = f"{result}, and then {after}; ended: {self.server.died(0.5)}; {self.last_lines()}"
        elif any((gauges := self.server.idle_gauges()).values()):
            problem = f"{result}, and then {gauges}"
        if problem:
            self.blame(what, problem)
            self.restart(name, right)

    def restart(self, name, right):
        self.server.kill()
        self.start(name)
        self.outcome(REQUESTS[name][2], right)

    def not_ours(self, status, goes_on):
        """What ends the process where we cannot catch it. glibc has no 32 bytes to note down a destructor of a new
        thread (Rust's threads have one). And where nothing at all is to be had, Asio ends the process in the destructor
        of a coroutine that it could not go on with, which posts."""
        if status != -signal.SIGABRT:
            return False
        log = self.server.log()
        return "failed to register TLS destructor" in log or (
            goes_on and "terminate called without an active exception" in log and "awaitable_thread" in log)

    def says_why(self, before):
        """A connection may end without an answer where Asio had no memory for its next step, or where the answer had
        begun; then there is a warning."""
        end = time.monotonic() + 2
        while "warning: " not in (fresh := self.server.log()[before:]) and time.monotonic() < end:
            time.sleep(0.05)
        return "warning: " in fresh

    def while_all_fails(self, request):
        import socket
        body = json.dumps(request[1])
        try:
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=1) as link:
                link.sendall(f"POST {request[0]} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                             f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
                link.settimeout(0.3)
                return "answered meanwhile" if link.recv(100) else "closed meanwhile"
        except TimeoutError:
            return "silent meanwhile"
        except OSError:
            return "closed meanwhile"

    def last_lines(self):
        return " | ".join(self.server.log().splitlines()[-30 if self.arguments.trace else -4:])

    def run_request(self, name):
        self.start(name)
        request = REQUESTS[name][2]
        for _ in range(3):  # the first ones fill caches
            status, text = self.server.call("POST", *request)
        right = answer_of(status, text)
        if right is None:
            return self.blame(name, f"without a fault: {status} {text[:300]}")
        before = self.server.descriptors()
        for kind in self.arguments.kinds:
            self.injector.arm(kind)
            assert self.outcome(request, right) == "right"
            self.injector.disarm()
            count = self.injector.count
            points = self.points(count)
            self.tally.clear()
            for at in points:
                self.try_one(name, kind, at, False, right)
            if kind in ("malloc", "mmap", "thread"):
                for at in self.random.sample(points, min(len(points), max(1, self.arguments.samples // 8))):
                    self.try_one(name, kind, at, True, right)
            print(f"{name}: {kind}: {len(points)} of {count} calls: {dict(self.tally)}", flush=True)
        if self.server.process.poll() is None and self.server.descriptors() > before + 2:
            self.blame(name, f"{self.server.descriptors()} descriptors, {before} before")
        self.server.process.send_signal(signal.SIGTERM)
        if self.server.died(LIMIT) != 0:
            self.blame(name, f"the server ends with {self.server.died()} and not with 0")
            self.server.kill()

    # ---- Loading, and the end

    def run_program(self, words, what, right, goes_on=False):
        """A run of the program with what was armed. The right answer and status 0, or status 1 and a message. Where
        nothing can be had any more, it may wait for memory, and must end once there is some."""
        program = subprocess.Popen(words, env=self.injector.environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for patience in [5, LIMIT] if goes_on else [LIMIT]:
            try:
                done = subprocess.CompletedProcess(words, None, *program.communicate(timeout=patience))
                break
            except subprocess.TimeoutExpired:
                if goes_on:
                    self.injector.disarm()
        else:
            program.kill()
            program.communicate()
            return self.blame(what, f"not through in {LIMIT} s")
        done.returncode = program.returncode
        errors = done.stderr.decode(errors="replace")
        if done.returncode == 0:
            self.tally["right" if done.stdout == right else "wrong"] += 1
            if right is not None and done.stdout != right:
                self.blame(what, f"another answer: {done.stdout[:200]}")
        elif done.returncode == 1 and re.search(r"^weft: \S", errors, re.MULTILINE):
            self.tally["error"] += 1
        else:
            self.tally["wrong"] += 1
            self.blame(what, f"status {done.returncode}: {errors[-2500 if self.arguments.trace else -300:]}")
        return done

    def run_load(self, model="llama-3.1"):
        words = [self.arguments.weft, "run", str(GOLDEN / model), "--raw", "Hello there", "--max-tokens", "4",
                 "--threads", "2", "--temperature", "0"]
        for kind in self.arguments.kinds:
            if kind in ("send", "receive"):
                continue
            self.injector.arm(kind)
            right = self.run_program(words, "load", None).stdout
            count = self.injector.count
            points = self.points(count)
            self.tally.clear()
            for at in points:
                self.injector.arm(kind, at, trace=self.arguments.trace)
                self.run_program(words, f"load, {kind} {at}", right)
            for at in self.random.sample(points, min(len(points), max(1, self.arguments.samples // 8))):
                self.injector.arm(kind, at, True, trace=self.arguments.trace)
                self.run_program(words, f"load, {kind} {at} and all behind it", right, True)
            self.injector.disarm()
            print(f"load: {kind}: {len(points)} of {count} calls: {dict(self.tally)}", flush=True)

    def run_shutdown(self):
        for kind in self.arguments.kinds:
            self.start("completion")
            self.injector.arm(kind)
            self.server.process.send_signal(signal.SIGTERM)
            self.server.died(LIMIT)
            count = self.injector.count
            points = self.points(count)
            self.tally.clear()
            for at in points:
                self.start("completion")
                self.injector.arm(kind, at, trace=self.arguments.trace)
                self.server.process.send_signal(signal.SIGTERM)
                status = self.server.died(LIMIT)
                self.injector.disarm()
                self.tally[status] += 1
                if status not in (0, 1):
                    self.blame(f"shutdown, {kind} {at}", f"status {status}: {self.last_lines()}")
                    self.server.kill()
            print(f"shutdown: {kind}: {len(points)} of {count} calls: {dict(self.tally)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    parser.add_argument("--inject", required=True, help="the library of inject.cc")
    parser.add_argument("--what", default=",".join(["load", *REQUESTS, "shutdown"]), help="comma-separated")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated")
    parser.add_argument("--samples", type=int, default=24, help="calls of a kind that are tried")
    parser.add_argument("--all", action="store_true", help="every call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    arguments.kinds = arguments.kinds.split(",")
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(arguments, Path(folder))
        for what in arguments.what.split(","):
            if what == "load":
                faults.run_load()
            elif what == "shutdown":
                faults.run_shutdown()
            else:
                faults.run_request(what)
    print(f"{len(faults.wrong)} wrong")
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
