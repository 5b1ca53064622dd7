"""Servers, clients and a network between them, for the tests of this folder that are programs in Python."""
import argparse
import hashlib
import hmac
import http.client
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
COMMON = ("--threads", "1", "--dtype", "float32", "--max-seq-len", "4096")
LIMIT = 150  # seconds, for any request, on machines with other work too
arguments = None
folder = None  # for this run's files


def free_ports(count):
    """Below those that the system gives to connections, so that a server that is started again finds its own free."""
    ports, first = [], 20000 + os.getpid() % 400 * 25
    for port in range(first, 32768):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports")


def answers_of_one_engine(model, requests, *options):
    """Of each request its choices, without servers: a list of (token ids, logprobs) for each."""
    file = folder / f"requests-{model}.jsonl"
    file.write_text("".join(json.dumps(request) + "\n" for request in requests))
    done = subprocess.run([arguments.weft, "batch", "--model", str(GOLDEN / model), "--requests", str(file), *COMMON,
                           *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        if row["error"]:
            raise AssertionError(row["error"])
    return [[(choice["token_ids"], [token["logprob"] for token in choice["logprobs"]]) for choice in row["choices"]]
            for row in rows]


class Server:
    """A `weft serve` that is ready; started again it has the same ports."""

    def __init__(self, model, role, port, *options):
        self.role, self.port = role, port
        self.words = [arguments.weft, "serve", str(GOLDEN / model), "--role", role, "--port", str(port), *COMMON,
                      *map(str, options)]
        self.log_file = folder / f"log-{role}-{time.monotonic_ns()}"
        self.start()

    def start(self):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started = self.log().count("weft: serving")
        end = time.monotonic() + 60
        while not self.answers("/ready"):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the {self.role} server does not start:\n{self.log()}")
            time.sleep(0.02)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def answers(self, path):
        try:
            return self.get(path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def metrics(self):
        found = re.findall(r"^(weft_[a-z_]+)(?:\{[^}]*\})? (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return {name: float(value) for name, value in found}

    def gauges(self):
        """Those that say what is going on: back at their start values once nothing is."""
        moving = re.compile(r"weft_kv_cache_used_blocks|weft_num_requests_(running|waiting)|"
                            r"weft_kv_transfer_(fetches|leases)")
        return {name: value for name, value in self.metrics().items() if moving.fullmatch(name)}


class Client(threading.Thread):
    """A request. `outcome`: "answer", "status N", "error event", "connection", "left" or "hangs"."""

    def __init__(self, port, request, addresses=(), proof_of="", stream=False, leave=None):
        super().__init__(daemon=True)
        self.port, self.stream, self.leave = port, stream, leave
        self.body = {**request, "prompt": request["prompt_token_ids"], "return_token_ids": True, "stream": stream}
        del self.body["prompt_token_ids"]
        self.headers = {"Content-Type": "application/json"}
        if addresses:
            self.headers["Weft-Context-Servers"] = value = ",".join(addresses)
            if proof_of:
                text = f"weft-context-servers\n{value}".encode()
                self.headers["Weft-Context-Proof"] = hmac.new(proof_of.encode(), text, hashlib.sha256).hexdigest()
        self.outcome, self.choices, self.message, self.cached = "hangs", [], "", 0
        self.began = time.monotonic()
        self.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request("POST", "/v1/completions", json.dumps(self.body), self.headers)
            if self.leave is not None and not self.stream:
                time.sleep(self.leave)
                self.outcome = "left"
                return
            response = connection.getresponse()
            if response.status != 200:
                self.outcome, self.message = f"status {response.status}", response.read().decode()
            elif self.stream:
                self.read_stream(response)
            else:
                self.take(json.loads(response.read()))
                self.outcome = "answer"
        except TimeoutError:
            self.outcome = "hangs"
        except (OSError, http.client.HTTPException) as error:
            self.outcome, self.message = "connection", repr(error)
        finally:
            connection.close()

    def take(self, answer):
        for choice in answer["choices"]:
            while len(self.choices) <= choice["index"]:
                self.choices.append(([], []))
            tokens, logprobs = self.choices[choice["index"]]
            tokens += choice.get("token_ids") or []
            logprobs += (choice.get("logprobs") or {}).get("token_logprobs", [])
        self.cached = ((answer.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens", 0)

    def read_stream(self, response):
        events = 0
        for line in response:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                self.outcome = "answer"
                return
            event = json.loads(line[6:])
            if "error" in event:
                self.outcome, self.message = "error event", event["error"]["message"]
                return
            self.take(event)
            events += 1
            if self.leave is not None and events > self.leave:
                self.outcome = "left"
                return
        self.outcome, self.message = "connection", "the stream ends"


class Relay:
    """A network between two servers. `fault(connection, direction, data, offset)` returns the bytes to hand on, None
    for the end of the connection; directions are "there" (to `target`) and "back". The first `faulty` connections have
    it."""

    def __init__(self, port, target, fault, faulty):
        self.target, self.fault, self.faulty = target, fault, faulty
        self.connections, self.sockets = 0, []
        self.listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.address = f"127.0.0.1:{port}"
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.close()
        for one in self.sockets:
            self.end(one)

    @staticmethod
    def end(one):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                if self.listener.fileno() < 0:
                    return
                near.close()
                continue
            far.settimeout(None)
            self.sockets += [near, far]
            fault = self.fault if self.connections < self.faulty else None
            for ends in ((near, far, "there"), (far, near, "back")):
                threading.Thread(target=self.pump, args=(self.connections, *ends, fault), daemon=True).start()
            self.connections += 1

    def pump(self, connection, source, target, direction, fault):
        offset = 0
        try:
            while data := source.recv(1 << 16):
                sent = data if fault is None else fault(connection, direction, data, offset)
                if sent is None:
                    break
                offset += len(data)
                target.sendall(sent)
        except OSError:
            pass
        self.end(source), self.end(target)


def main(description):
    global arguments, folder
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", required=True)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="weft-disaggregation-") as name:
        folder = Path(name)
        unittest.main(argv=[sys.argv[0], *rest])
