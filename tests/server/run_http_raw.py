#!/usr/bin/env python3
"""Runs the http-raw cases of a bad-input corpus against a server that it starts for each case.

  run_http_raw.py CORPUS SPLIT COMMAND...      e.g. run_http_raw.py bad_input public build/release/weft serve MODEL
  --served-model-name tiny

`--port N` is appended to the command.  A case passes when what its `expect` says in numbers holds (status, answers in
order, requests cancelled in time, descriptors and KV blocks returned, exit code) and the server then answers a normal
request. Standard library only.
"""
import base64, json, os, re, signal, socket, struct, subprocess, sys, threading, time
from pathlib import Path

CONTROL = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"max_tokens":2}'


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def read_all(sock, seconds):
    data, end = b"", time.time() + seconds
    while time.time() < end:
        sock.settimeout(max(0.05, end - time.time()))
        try:
            piece = sock.recv(65536)
        except socket.timeout:
            break
        except OSError:
            break
        if not piece:
            break
        data += piece
    return data


def read_response(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(rest) < int(length[1]):
        piece = sock.recv(65536)
        if not piece:
            break
        rest += piece
    return head + b"\r\n\r\n" + rest


def healthy(port):
    try:
        sock = connect(port)
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(CONTROL) + CONTROL)
        answer = read_response(sock)
        sock.close()
        return answer.startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def ready(port):
    try:
        sock = connect(port)
        sock.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = read_response(sock)
        sock.close()
        return answer.startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def metric(port, name):
    sock = connect(port)
    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = read_response(sock).decode()
    sock.close()
    found = re.search(rf"(?m)^weft_{name} (\S+)", answer)
    return float(found[1]) if found else None


def expand(gen):
    prefix = base64.b64decode(gen["prefix_b64"]) if "prefix_b64" in gen else gen.get("prefix", "").encode()
    return prefix + gen["unit"].encode() * gen["count"] + gen.get("suffix", "").encode()


class Run:
    def __init__(self, port, process):
        self.port, self.process, self.data, self.statuses, self.fault = port, process, b"", [], ""

    def steps(self, steps, sock=None):
        try:
            for step in steps:
                sock = self.step(step, sock)
        except OSError:
            pass
        return sock

    def step(self, step, sock):
        if "repeat" in step:
            for _ in range(step["repeat"]):
                if step.get("new_connection"):
                    self.steps(step["steps"])
                else:
                    sock = sock or connect(self.port)
                    self.steps(step["steps"], sock)
            return sock
        if "parallel" in step:
            runs = [Run(self.port, self.process) for _ in range(step["parallel"])]
            threads = [threading.Thread(target=run.steps, args=(step["steps"],)) for run in runs]
            [t.start() for t in threads], [t.join() for t in threads]
            self.statuses += [s for run in runs for s in (run.found() or [0])]
            if any(b"HTTP/1.1 429" in run.data and b"Retry-After" not in run.data for run in runs):
                self.fault = "429 without Retry-After"
            return sock
        if "open_connections" in step:
            held = [connect(self.port) for _ in range(step["open_connections"])]
            end = time.time() + step["hold_s"]
            while time.time() < end:
                if not healthy(self.port):
                    self.fault = "others are affected"
                time.sleep(0.5)
            [s.close() for s in held]
            return sock
        if "signal_server" in step:
            self.process.send_signal(getattr(signal, "SIG" + step["signal_server"]))
            time.sleep(0.3)
            return sock
        if "new_connection_expect" in step:
            try:
                other = connect(self.port)
                other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = other.recv(1000)
                if answer and b" 503 " not in answer:
                    self.fault = "a new connection was served during shutdown"
            except OSError:
                pass
            return sock
        sock = sock or connect(self.port)
        if "send_b64" in step:
            sock.sendall(base64.b64decode(step["send_b64"]))
        elif "send_gen" in step:
            sock.sendall(expand(step["send_gen"]))
        elif "sleep" in step:
            time.sleep(step["sleep"])
        elif "rcvbuf" in step:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, step["rcvbuf"])
        elif "read_bytes" in step:
            while len(self.data) < step["read_bytes"]:
                piece = sock.recv(step["read_bytes"])
                if not piece:
                    break
                self.data += piece
        elif "read_response" in step:
            self.data += read_response(sock)
        elif "read_until" in step:
            self.data += read_all(sock, 10)
        elif "shutdown" in step:
            sock.shutdown(socket.SHUT_WR)
        elif "close" in step:
            if step["close"] == "rst":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            return None
        return sock

    def found(self):
        return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d\d\d) ", self.data)]


def rss_mb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def check(case, expect, port, process):
    healthy(port)
    before = rss_mb(process.pid), fds(process.pid), metric(port, "requests_cancelled_total")
    run = Run(port, process)
    run.steps(case["steps"])
    statuses = run.statuses + run.found()
    if run.fault:
        return run.fault
    if "aborted_within_s" in expect:
        time.sleep(expect["aborted_within_s"])
        if metric(port, "num_requests_running") or metric(port, "num_requests_waiting"):
            return "still running"
    if "status" in expect and not statuses and not expect.get("or_close"):
        return "no answer"
    if "status" in expect and any(s not in expect["status"] for s in statuses):
        return f"status {statuses[:5]}"
    for key in ("all_status", "each_status"):
        if key in expect and (not statuses or any(s not in expect[key] for s in statuses)):
            return f"statuses {sorted(set(statuses))}, {len(statuses)}"
    if "responses" in expect and len(statuses) not in (1, expect["responses"]):
        return f"{len(statuses)} answers"
    if expect.get("complete") and b"[DONE]" not in run.data and not run.data.rstrip().endswith(b"}"):
        return "incomplete"
    if "never" in expect and (b"chunked" in run.data or b"X-Evil: 1\r\n" in run.data):
        return f"{expect['never']} happened"
    if "exit_code" in expect:
        if b"[DONE]" not in run.data:
            return "the stream has no end"
        return "" if process.wait(expect["within_s"]) == expect["exit_code"] else f"exit {process.returncode}"
    if "max_rss_growth_mb" in expect and rss_mb(process.pid) - before[0] > expect["max_rss_growth_mb"]:
        return f"memory grew by {rss_mb(process.pid) - before[0]:.0f} MB"
    end = time.time() + 10
    while not healthy(port):
        if time.time() > end:
            return "dead afterwards"
        time.sleep(0.5)
    if expect.get("kv_blocks_return") or expect.get("fd_stable"):
        time.sleep(2.5)
        if metric(port, "kv_cache_used_blocks"):
            return "KV blocks are held"
        if fds(process.pid) > before[1] + 3:
            return f"descriptors {before[1]} -> {fds(process.pid)}"
    return ""


def main():
    corpus, split, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    only = os.environ.get("ONLY", "")
    passed = failed = 0
    port = 18200
    for line in (corpus / split / "manifest.jsonl").read_text().splitlines():
        meta = json.loads(line)
        if meta["kind"] != "http-raw" or only not in meta["name"]:
            continue
        case = json.loads((corpus / meta["files"][0]).read_text())
        port += 1
        extra = ["--api-key", "secret"] if meta["expect"].get("server_flags") == "API key set" else []
        process = subprocess.Popen([*command, "--port", str(port), *extra], stderr=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                if ready(port):
                    break
                time.sleep(0.05)
            if extra:
                run = Run(port, process)
                run.steps(case["steps"])
                expected = run.found() and all(s in meta["expect"]["status"] for s in run.found())
                fault = "" if expected else f"status {run.found()}"
            else:
                fault = check(case, meta["expect"], port, process)
            if process.poll() not in (None, 0):
                fault = f"the server ended with {process.returncode}"
        except Exception as problem:
            fault = f"{type(problem).__name__}: {problem}"
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    if process.wait(30) != 0:
                        fault = fault or f"exit {process.returncode}"
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    fault = fault or "did not end on SIGTERM"
        passed, failed = passed + (not fault), failed + bool(fault)
        if fault:
            print(f"FAIL  {meta['name']}: {fault}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
