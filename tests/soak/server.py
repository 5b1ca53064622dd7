"""A `weft serve` as a process, what can be seen of it from outside, and plain sockets to it."""
import json
import os
import re
import signal
import socket
import subprocess
import time


class Server:
    def __init__(self, weft, model, log, *options):
        self.port = free_port()
        self.log = open(log, "ab")
        self.process = subprocess.Popen(
            [weft, "serve", str(model), "--port", str(self.port), "--threads", "1", "--dtype", "float32",
             "--kv-cache-memory", "64MB", *options],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + 120
        while self.status("/ready") != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the server does not start; see {log}")
            time.sleep(0.1)

    def status(self, path):
        try:
            return ask(self.port, "GET", path, timeout=10).status
        except OSError:
            return 0

    def metrics(self):
        """The gauges and counters without labels, weft_ left out."""
        text = ask(self.port, "GET", "/metrics", timeout=60).body.decode()
        return {name: float(value) for name, value in re.findall(r"^weft_(\w+) (\S+)$", text, re.M)}

    def alive(self):
        return self.process.poll() is None

    def proc(self, name):
        with open(f"/proc/{self.process.pid}/{name}") as file:
            return file.read()

    def rss_mb(self):
        return int(re.search(r"VmRSS:\s+(\d+)", self.proc("status"))[1]) / 1024

    def threads(self):
        return int(re.search(r"Threads:\s+(\d+)", self.proc("status"))[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        """Asks the process to end; its exit status, or None if it had to be killed."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Reply:
    def __init__(self, status, headers, body, first):
        self.status, self.headers, self.body = status, headers, body
        self.first = first  # seconds from the request to the first byte of the body


def connect(port, timeout, address="127.0.0.1", small_buffer=False):
    """`address`: where the client says it is; the server takes each for a client of its own."""
    link = socket.socket()
    link.settimeout(timeout)
    if small_buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    link.bind((address, 0))
    link.connect(("127.0.0.1", port))
    return link


def request_bytes(method, path, body=b"", more=""):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return (f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"{more}Content-Length: {len(body)}\r\n\r\n").encode() + body


def read_reply(link):
    """To the end of the connection. An answer that breaks off is a ConnectionError."""
    begin, data, first = time.monotonic(), b"", None
    while True:
        piece = link.recv(1 << 16)
        if not piece:
            break
        data += piece
        if first is None and data.partition(b"\r\n\r\n")[2]:
            first = time.monotonic() - begin
    head, mark, body = data.partition(b"\r\n\r\n")
    if not mark:
        raise ConnectionError(f"no answer, but {data[:80]!r}")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if ": " in line)}
    if headers.get("transfer-encoding") == "chunked":
        body = join_chunks(body)
    elif len(body) != int(headers.get("content-length", len(body))):
        raise ConnectionError("the answer breaks off")
    return Reply(int(lines[0].split()[1]), headers, body, first)


def join_chunks(data):
    whole = b""
    while True:
        size, mark, data = data.partition(b"\r\n")
        if not mark:
            raise ConnectionError("the answer breaks off")
        count = int(size, 16)
        if count == 0:
            return whole
        whole += data[:count]
        data = data[count + 2:]


def ask(port, method, path, body=b"", timeout=120, address="127.0.0.1", more=""):
    link = connect(port, timeout, address)
    try:
        link.sendall(request_bytes(method, path, body, more))
        return read_reply(link)
    finally:
        link.close()
