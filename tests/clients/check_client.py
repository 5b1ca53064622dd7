#!/usr/bin/env python3
"""Lets a client library hold the conversations of conversations/ with the scripted server, and checks what both got.

  check_client.py --server PROGRAM --client NAME [--template NAME] [--mode whole|stream]

NAME is openai_agents, langchain, ai_sdk or ai_sdk_openai. Exit status 77 where its packages are not installed:
README.md says how to get them. Checked are the calls that the client made of answers (names, arguments, ids),
texts, thoughts, what streams brought piece by piece, that tokens were counted, and the prompt of each of the six
requests against transformers' rendering.
"""
import argparse
import contextlib
import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE.parent / "data" / "templates"
PYTHON = os.environ.get("WEFT_CLIENTS_PYTHON") or "python3"
NODE_FOLDER = os.environ.get("WEFT_CLIENTS_NODE") or str(HERE)


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


class Python:
    """A client in Python: the file, and the packages with the names under which they are imported."""

    def __init__(self, file, **packages):
        self.file, self.packages = file, packages

    def require(self, _):
        code = "import importlib.metadata as m\n" + "".join(
            f"import {module}\nprint({package!r}, m.version({package!r}))\n"
            for module, package in self.packages.items())
        found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
        if found.returncode:
            skip(f"{', '.join(self.packages.values())} cannot be imported by {PYTHON} (see tests/clients/README.md)")
        print("; ".join(found.stdout.split("\n")).rstrip("; "))

    def command(self, jobs):
        return [PYTHON, str(HERE / self.file), jobs]


class Node:
    """The AI SDK with a provider. Node looks for packages beside the program, so it runs as a copy in a folder that has
    them."""

    def __init__(self, provider, package):
        self.provider, self.package = provider, package

    def require(self, folder):
        modules = Path(NODE_FOLDER) / "node_modules"
        needed = ["ai", "zod", self.package]
        missing = [name for name in needed if not (modules / name / "package.json").is_file()]
        if missing or not shutil.which("node"):
            skip(f"{', '.join(missing) or 'node'} is not installed (see tests/clients/README.md)")
        print("; ".join(f"{name} {json.loads((modules / name / 'package.json').read_text())['version']}"
                        for name in needed))
        (folder / "node_modules").symlink_to(modules.resolve())
        shutil.copy(HERE / "ai_sdk.mjs", folder)
        self.folder = folder

    def command(self, jobs):
        return ["node", str(self.folder / "ai_sdk.mjs"), self.provider, jobs]


CLIENTS = {
    "openai_agents": Python("openai_agents_client.py", agents="openai-agents", openai="openai"),
    "langchain": Python("langchain_client.py", langchain="langchain", langchain_openai="langchain-openai"),
    "ai_sdk": Node("compatible", "@ai-sdk/openai-compatible"),
    "ai_sdk_openai": Node("openai", "@ai-sdk/openai"),
}


class Server:
    """The scripted server on a port of its own, as a context."""

    def __init__(self, program, script, template, log):
        self.log = log
        self.process = subprocess.Popen(
            [program, str(log), "serve", str(script), "--chat-template", str(template), "--port", "0",
             "--served-model-name", "scripted"],
            stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        said = []
        for line in self.process.stderr:
            said.append(line)
            found = re.search(r"serving .* at (http://\S+)", line)
            if found:
                self.url = found[1] + "/v1"
                return self
        raise SystemExit("the server did not start: " + "".join(said))

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.communicate(timeout=30)[1]
        if self.process.returncode:
            print(f"the server ended with {self.process.returncode}: {rest}")

    def prompts(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line)["rendered"] for line in lines]


class Checks:
    def __init__(self, name):
        self.name, self.failed, self.count = name, 0, 0

    def equal(self, what, got, wanted):
        self.count += 1
        if got == wanted:
            return
        self.failed += 1
        print(f"{self.name}: {what}:\n  got    {got!r}\n  wanted {wanted!r}")
        if isinstance(got, str) and isinstance(wanted, str) and len(wanted) > 80:
            for tag, a, b, c, d in difflib.SequenceMatcher(None, wanted, got, autojunk=False).get_opcodes():
                if tag != "equal":
                    print(f"    at {a}: {wanted[a:b]!r} became {got[c:d]!r}")


def check_turns(checks, turns, script):
    """Returns the ids that the client saw, by those of the script."""
    ids = {}
    checks.equal("turns", len(turns), len(script["turns"]))
    for number, (got, wanted) in enumerate(zip(turns, script["turns"]), 1):
        where = f"turn {number}, "
        checks.equal(where + "calls", [{k: call[k] for k in ("name", "arguments")} for call in got["calls"]],
                     wanted["calls"])
        for call, id in zip(got["calls"], wanted["ids"]):
            checks.equal(where + "id", bool(re.fullmatch("[0-9A-Za-z]{9}", call["id"])), True)
            ids[id] = call["id"]
        checks.equal(where + "text beside the calls", (got["beside"] or "").strip(), wanted["beside"])
        if got["thought"] is not None:
            checks.equal(where + "thought", got["thought"], wanted["thought"])
        checks.equal(where + "text", got["text"], wanted["text"])
        checks.equal(where + "tokens counted", got["usage"], True)
        if got["finish"] is not None:
            checks.equal(where + "finish reasons", [reason.replace("-", "_") for reason in got["finish"]],
                         ["tool_calls", "stop"])
        if got["streamed"]:
            checks.equal(where + "streamed text", got["streamed"]["text"], (got["beside"] or "") + got["text"])
            checks.equal(where + "streamed arguments",
                         [json.loads(text or "null") for text in got["streamed"]["arguments"]],
                         [call["arguments"] for call in wanted["calls"]])
    checks.equal("ids differ", len(set(ids.values())), sum(len(turn["ids"]) for turn in script["turns"]))
    return ids


def check_prompts(checks, prompts, script, client, ids):
    wanted = next(variant["prompts"] for variant in script["variants"] if client in variant["clients"])
    checks.equal("requests", len(prompts), len(wanted))
    question = script["turns"][0]["question"]
    for number, (got, text) in enumerate(zip(prompts, wanted), 1):
        # Mistral's template shows the tools again before the last question.
        got = re.sub(r"\[AVAILABLE_TOOLS\].*?\[/AVAILABLE_TOOLS\]", "", got, flags=re.DOTALL)
        for of_script, of_client in ids.items():
            text = text.replace(of_script, of_client)
        checks.equal(f"prompt of request {number}", got[max(got.find(question), 0):], text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="the scripted_server of the build")
    parser.add_argument("--client", required=True, choices=CLIENTS)
    parser.add_argument("--template", help="one of conversations/, without .json; default: all")
    parser.add_argument("--mode", choices=("whole", "stream"), help="default: both")
    options = parser.parse_args()
    client = CLIENTS[options.client]
    failed = count = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = Path(folder)
        client.require(folder)
        runs = []
        for path in sorted((HERE / "conversations").glob(f"{options.template or '*'}.json")):
            script = json.loads(path.read_text(encoding="utf-8"))
            for mode in (options.mode,) if options.mode else ("whole", "stream"):
                template = TEMPLATES / f"{script['template']}.jinja"
                server = stack.enter_context(Server(options.server, path, template, folder / f"{path.stem}-{mode}.log"))
                runs.append((path, script, mode, server))
        jobs = folder / "jobs.json"
        jobs.write_text(json.dumps([{"url": server.url, "script": str(path), "mode": mode}
                                    for path, _, mode, server in runs]))
        # One process for all of them: importing the libraries takes longer than the conversations.
        done = subprocess.run(client.command(str(jobs)), capture_output=True, text=True, timeout=500)
        outcomes = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode or len(outcomes) != len(runs):
            print(done.stderr[-4000:])
            outcomes += [{"error": "the client ended early"}] * (len(runs) - len(outcomes))
        for (path, script, mode, server), outcome in zip(runs, outcomes):
            checks = Checks(f"{path.stem}, {mode}")
            checks.equal("error", outcome.get("error"), None)
            if "turns" in outcome:
                ids = check_turns(checks, outcome["turns"], script)
                check_prompts(checks, server.prompts(), script, options.client, ids)
            failed += checks.failed
            count += checks.count
    print(f"{options.client}: {count} checks, {failed} failed")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
