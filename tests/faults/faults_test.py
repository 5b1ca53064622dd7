#!/usr/bin/env python3
"""The n-th allocation, mmap, open, read, write, thread, send and receive fails while a model is loaded, while requests
of several kinds are answered (cases.py), and when a server ends; or that one and all behind it. Asserted: no abort, no
hang, the answer or a clear error, the same request answered rightly afterwards, gauges back at zero, no descriptor
lost. Of two servers that work together only one has faults, and both are watched.

Where there are many calls, --samples of them are tried: the first, the last, and one of each of as many equal parts,
chosen by --seed. --all tries every one. POINTS are always tried: what once ended in an abort or a hang. `--trace`
prints where a call failed after which something was wrong.
"""
import argparse
import collections
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import LOADS, REQUESTS, SHUTDOWNS, answer_of, cached_tokens, has_message
from injector import GOLDEN, KINDS, LIMIT, Injector, Server, free_port

# (what, kind): [(call, and all behind it)]. Calls are counted differently by every version and library, so the samples
# have to find what is like these.
POINTS = {
    # No memory for a thread's handle in Rust; none to note down a destructor of a thread's variable.
    ("chat", "malloc"): [(131, True), (136, True), (137, True), (148, True), (182, True)],
    # A folder is listed: std::filesystem::directory_iterator ended the process.
    # A scheduler was moved, noexcept, with a deque in it.
    ("load", "malloc"): [(115631, False), (116672, False), (116695, False), (116664, True), (118088, False)],
}
GOOD = ("right", "error", "connection")
BACK = 30  # seconds until two servers work together again
TIER_PAUSE = 5.1  # seconds for which nothing is written after a failure


class Faults:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.random = random.Random(arguments.seed)
        self.injector = Injector(arguments.inject, folder / "control")
        self.wrong = []
        self.tally = collections.Counter()
        self.server = self.partner = None  # who is asked; its context server
        self.made = 0

    def points(self, count, samples):
        """Of `count` calls: all, or the first, the last, and one of each of equal parts."""
        if self.arguments.all or count <= samples:
            return list(range(1, count + 1))
        parts = samples - 2
        middle = [self.random.randint(2 + i * (count - 2) // parts, 1 + (i + 1) * (count - 2) // parts)
                  for i in range(parts)]
        return [1, *middle, count]

    def tries(self, what, kind, count):
        """(call, whether all behind it fail too)"""
        some = [(at, False) for at in self.points(count, self.arguments.samples)]
        if kind in ("malloc", "mmap", "thread") and count > 0:
            some += [(at, True) for at in self.points(count, max(3, self.arguments.samples // 3))]
        return [point for point in POINTS.get((what, kind), []) if point not in some] + some

    def blame(self, what, problem):
        self.wrong.append(f"{what}: {problem}")
        print(f"WRONG {self.wrong[-1]}", flush=True)

    def say(self, what, kind, tried, count):
        print(f"{what}: {kind}: {len(tried)} of {count} calls: {dict(self.tally)}", flush=True)

    # ---- Servers

    def start_server(self, case, options, injected):
        options = [option.format(folder=self.folder) for option in [*case.options, *options]]
        self.made += 1
        log = self.folder / f"log-{self.made}"
        return Server(self.arguments.weft, self.injector if injected else None, case.model, options, log)

    def start(self, name):
        case = REQUESTS[name]
        options = ["--role", "generation"] if case.role else []
        if case.role:
            address = f"127.0.0.1:{free_port()}"
            self.partner = self.start_server(case, ["--role", "context", "--kv-transfer", address],
                                             case.role == "context")
            self.headers = {"Weft-Context-Servers": address}
        self.server = self.start_server(case, options, case.role != "context")

    def servers(self):
        return [server for server in (self.server, self.partner) if server]

    def victim(self, name):
        return self.partner if REQUESTS[name].role == "context" else self.server

    def kill(self):
        for server in self.servers():
            server.kill()
        self.server = self.partner = None

    # ---- Requests

    def request(self, name, fields=None):
        case = REQUESTS[name]
        body = case.body(**(fields or {}))
        if case.new:
            self.made += 1
            body["cache_salt"] = f"salt {self.made}"
        return case.path, body, self.headers if case.role else None

    def outcome(self, name, right):
        """'right', 'error', 'connection' or what is wrong."""
        self.cached = 0
        try:
            status, text = self.server.call("POST", *self.request(name))
        except TimeoutError:
            return f"no answer in {LIMIT} s"
        except (OSError, http.client.HTTPException):
            return "connection"
        try:
            answer = answer_of(status, text)
            if answer is None:
                return "error" if has_message(status, text) else f"an error without a message: {status} {text[:200]}"
            if REQUESTS[name].role:
                self.cached = cached_tokens(text)
            return "right" if answer == right else f"another answer: {answer} in place of {right}"
        except (ValueError, KeyError) as problem:
            return f"status {status} with {text[:200]!r}: {problem}"

    def prepare(self, name):
        case = REQUESTS[name]
        if case.before:
            self.server.idle_gauges()  # the tier has what it takes, else it may have no room for more
            status, text = self.server.call("POST", *self.request(name, case.before))
            if status != 200:
                raise AssertionError(f"{name}: the request before it: {status} {text[:300]}")
            self.server.idle_gauges()

    def after(self, name, right):
        """Of the same request without faults; of two servers until one fetches from the other again."""
        end = time.monotonic() + BACK
        while True:
            result = self.outcome(name, right)
            if result != "right" or not REQUESTS[name].role or self.cached > 0:
                return result
            if time.monotonic() > end:
                return f"nothing is fetched after {BACK} s"
            time.sleep(0.2)

    def try_one(self, name, kind, at, goes_on, right):
        what = f"{name}, {kind} {at}{' and all behind it' if goes_on else ''}"
        victim, role = self.victim(name), REQUESTS[name].role
        self.prepare(name)
        before = len(victim.log())
        self.injector.arm(kind, at, goes_on, trace=self.arguments.trace)
        if goes_on and role != "context":  # nothing can be answered meanwhile: it must only live
            self.tally[self.while_all_fails(name)] += 1
            result = "right"
        else:
            result = self.outcome(name, right)
        time.sleep(REQUESTS[name].wait)
        self.injector.disarm()
        self.tally[result if result in GOOD else "wrong"] += 1
        status = victim.died(0.05 if result == "connection" or goes_on else 0)
        problem = None
        if self.not_ours(victim, status, goes_on):
            self.tally["ended by a library"] += 1
            return self.restart(name, right)
        if status is None and REQUESTS[name].may_fail and victim.get("/health")[0] == 503:
            self.tally["engine failed"] += 1
            return self.restart(name, right)
        if status is not None:
            problem = f"the server ended with {status}: {self.last_lines()}"
        elif result not in GOOD:
            problem = result
        elif role == "context" and result != "right":
            problem = f"{result}, where the context server alone has faults"
        elif result == "connection" and kind not in ("send", "receive") and not self.says_why(before):
            problem = "closed without an answer, and the log does not say why"
        elif (after := self.after(name, right)) != "right":
            problem = f"{result}, and then {after}; ended: {victim.died(0.5)}; {self.last_lines()}"
        else:
            left = [gauges for server in self.servers() if any((gauges := server.idle_gauges()).values())]
            problem = f"{result}, and then {left}" if left else None
        if problem:
            self.blame(what, problem)
            self.restart(name, right)
        elif "the cache's tier: " in victim.log()[before:]:
            time.sleep(TIER_PAUSE)

    def restart(self, name, right):
        self.kill()
        self.start(name)
        self.after(name, right)

    def not_ours(self, victim, status, goes_on):
        """What ends the process where we cannot catch it: where nothing at all is to be had, Asio ends the process in
        the destructor of a coroutine that it could not go on with, which posts."""
        log = victim.log()
        if status != -signal.SIGABRT or not goes_on or "terminate called without an active exception" not in log:
            return False
        places = re.findall(r"weft\(\+(0x[0-9a-f]+)\)", log)
        words = ["addr2line", "-Cfi", "-e", self.arguments.weft, *places]
        return "awaitable_thread" in log or "awaitable_thread" in subprocess.run(words, capture_output=True, text=True,
                                                                               check=True).stdout

    def says_why(self, before):
        """A connection may end without an answer where Asio had no memory for its next step, or where the answer had
        begun; then there is a warning."""
        end = time.monotonic() + 2
        while "warning: " not in (fresh := self.server.log()[before:]) and time.monotonic() < end:
            time.sleep(0.05)
        return "warning: " in fresh

    def while_all_fails(self, name):
        path, fields, headers = self.request(name)
        body = json.dumps(fields)
        more = "".join(f"{key}: {value}\r\n" for key, value in (headers or {}).items())
        try:
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=1) as link:
                link.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}"
                             f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
                link.settimeout(0.3)
                return "answered meanwhile" if link.recv(100) else "closed meanwhile"
        except TimeoutError:
            return "silent meanwhile"
        except OSError:
            return "closed meanwhile"

    def last_lines(self):
        return " | ".join(line for server in self.servers()
                          for line in server.log().splitlines()[-30 if self.arguments.trace else -4:])

    def count(self, name, kind, right):
        """Calls while it is answered and shortly after. What goes on behind the answers may come late where the
        machine has other work: then once more, with more time."""
        for attempt in range(8):
            self.prepare(name)
            self.injector.arm(kind)
            result = self.outcome(name, right)
            assert result == "right", result
            time.sleep(REQUESTS[name].wait * 2**attempt)
            self.injector.disarm()
            if self.injector.count > 0 or kind not in REQUESTS[name].must:
                break
            time.sleep(0.05 * 2**attempt)
        return self.injector.count

    def run_request(self, name):
        self.start(name)
        for _ in range(3):  # the first ones fill caches
            self.prepare(name)
            status, text = self.server.call("POST", *self.request(name))
        right = answer_of(status, text)
        if right is None:
            return self.blame(name, f"without a fault: {status} {text[:300]}")
        before = self.victim(name).descriptors()
        for kind in self.arguments.kinds:
            count = self.count(name, kind, right)
            if count == 0 and kind in REQUESTS[name].must:
                self.blame(name, f"there is no {kind} at all")
            tries = self.tries(name, kind, count)
            self.tally.clear()
            for at, goes_on in tries:
                self.try_one(name, kind, at, goes_on, right)
            self.say(name, kind, tries, count)
        if self.victim(name).died() is None and self.victim(name).descriptors() > before + 2:
            self.blame(name, f"{self.victim(name).descriptors()} descriptors, {before} before")
        for server in self.servers():
            server.process.send_signal(signal.SIGTERM)
        for server in self.servers():
            if server.died(LIMIT) != 0:
                self.blame(name, f"the server ends with {server.died()} and not with 0")
        self.kill()

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

    def run_load(self, name):
        options = [option.format(folder=self.folder) for option in LOADS[name]]
        words = [self.arguments.weft, "run", str(GOLDEN / "llama-3.1"), "--raw", "Hello there", "--max-tokens", "4",
                 "--threads", "2", "--temperature", "0", *options]
        for kind in self.arguments.kinds:
            if kind in ("send", "receive"):
                continue
            self.injector.arm(kind)
            done = self.run_program(words, name, None)
            if done is None or done.returncode != 0:
                return self.blame(name, f"without a fault: {done}")
            count = self.injector.count
            tries = self.tries(name, kind, count)
            self.tally.clear()
            for at, goes_on in tries:
                self.injector.arm(kind, at, goes_on, trace=self.arguments.trace)
                self.run_program(words, f"{name}, {kind} {at}{' and all behind it' if goes_on else ''}", done.stdout,
                                 goes_on)
            self.injector.disarm()
            self.say(name, kind, tries, count)

    def end_server(self, case, what, kind, at, goes_on=False):
        """Its server ends with what is armed after it has answered."""
        self.start(case)
        self.outcome(case, None)
        victim = self.victim(case)
        self.injector.arm(kind, at, goes_on, trace=self.arguments.trace and at > 0)
        victim.process.send_signal(signal.SIGTERM)
        if goes_on and victim.died(5) is None:
            self.injector.disarm()
        status = victim.died(LIMIT)
        count = self.injector.count
        self.injector.disarm()
        self.tally[status] += 1
        if status not in (0, 1) and not self.not_ours(victim, status, goes_on):
            self.blame(f"{what}, {kind} {at}{' and all behind it' if goes_on else ''}",
                       f"status {status}: {self.last_lines()}")
        self.kill()
        return count

    def run_shutdown(self, name):
        for kind in self.arguments.kinds:
            count = self.end_server(SHUTDOWNS[name], name, kind, 0)
            tries = self.tries(name, kind, count)
            self.tally.clear()
            for at, goes_on in tries:
                self.end_server(SHUTDOWNS[name], name, kind, at, goes_on)
            self.say(name, kind, tries, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    parser.add_argument("--inject", required=True, help="the library of inject.cc")
    parser.add_argument("--what", default=",".join([*LOADS, *REQUESTS, *SHUTDOWNS]), help="comma-separated")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated")
    parser.add_argument("--samples", type=int, default=24, help="calls of a kind that are tried")
    parser.add_argument("--all", action="store_true", help="every call")
    parser.add_argument("--at", type=int, nargs="*", help="these calls alone")
    parser.add_argument("--on", action="store_true", help="--at: and all behind each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    arguments.kinds = arguments.kinds.split(",")
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(arguments, Path(folder))
        if arguments.at:
            faults.tries = lambda *_: [(at, arguments.on) for at in arguments.at]
        try:
            for what in arguments.what.split(","):
                run = faults.run_load if what in LOADS else faults.run_shutdown if what in SHUTDOWNS \
                    else faults.run_request
                run(what)
        finally:
            faults.kill()
    print(f"{len(faults.wrong)} wrong")
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
