#!/usr/bin/env python3
"""Tokenizers against Hugging Face's `tokenizers`, chat templates against Jinja2, on random texts and conversations.

  text_test.py --check-text PROGRAM --part tokenizers|templates [--seed N] [--rounds N]

Where the reference is not installed the exit status is 77. Every difference is printed with what is needed to see it
again (--seed). Known ones are listed in docs/text-differences.md.
"""
import argparse
import hashlib
import importlib
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
NOW = 1767225600  # 2026-01-01, what strftime_now shows
WORDS = ["the", "quick", "brown", "fox's", "it'll", "I'VE", "café", "cafe\u0301", "İstanbul", "naïve", "x"]
SPACES = [" ", "  ", "   ", "\n", "\r\n", "\n\n \n", "\t", "\u00a0", "\u3000", "\u200b", "\u0085"]
SIGNS = ["!", "...", "::", "--", "'", '"', "“", "…", "(", ")", "<", ">", "_", "\\", "{{", "%}"]
NUMBERS = ["0", "7", "42", "2026", "3.14", "½", "٣", "Ⅷ", "1234567"]
SCRIPTS = ["你好", "こん", "か\u3099", "한글", "ᄀ\u1161\u11a8", "مر", "สว", "😀", "👨\u200d👩", "ﬁ", "Ω", "ǅ"]


def reference(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"the Python package {name} is not installed")
        sys.exit(77)


def text(draw, vocabulary, parts):
    out = []
    for _ in range(draw.randrange(1, parts)):
        kind = draw.randrange(8)
        if kind < 5:
            out.append(draw.choice([WORDS, SPACES, SIGNS, NUMBERS, SCRIPTS][kind]))
        elif kind == 5:
            out.append(" " * draw.randrange(4))
        elif kind == 6 and vocabulary:
            out.append(draw.choice(vocabulary))
        else:
            out.append(chr(draw.randrange(1, 0x3000)))
    return "".join(out)


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    print(done.stdout.strip())
    return done.returncode == 0


def tokenizers_differ(program, draw, rounds):
    library = reference("tokenizers")
    seen, wrong = set(), 0
    for file in sorted(DATA.glob("golden/*/tokenizer.json")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        theirs = library.Tokenizer.from_file(str(file))
        vocabulary = sorted(theirs.get_vocab())
        cases = []
        for i in range(rounds):
            given = text(draw, vocabulary, 40)
            ids = theirs.encode(given, add_special_tokens=False).ids
            cases.append({
                "id": f"{file.parent.name} {i}: {given!r}", "text": given, "ids": ids,
                "ids_with_special": theirs.encode(given, add_special_tokens=True).ids,
                "decoded": theirs.decode(ids, skip_special_tokens=False),
                "decoded_skip_special": theirs.decode(ids, skip_special_tokens=True)})
        with tempfile.NamedTemporaryFile("w", suffix=".json") as listed:
            json.dump({"cases": cases, "random_decode": []}, listed)
            listed.flush()
            print(file.parent.name, end=": ", flush=True)
            wrong += not run(program, "tokenizer", file.parent, listed.name)
    assert len(seen) >= 5, f"{len(seen)} different tokenizers in {DATA}/golden"
    return wrong


def environment(jinja2):
    """As transformers makes it for chat templates."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    import datetime

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    made.globals["strftime_now"] = now.strftime
    return made


def conversation(draw):
    messages = [{"role": "system", "content": text(draw, [], 12)}] if draw.random() < 0.5 else []
    for turn in range(draw.randrange(1, 8)):
        messages.append({"role": ["user", "assistant"][turn % 2], "content": text(draw, [], 25)})
    return {"messages": messages, "add_generation_prompt": draw.random() < 0.5}


def templates_differ(program, draw, rounds):
    jinja2 = reference("jinja2")
    theirs = environment(jinja2)
    cases = []
    for file in sorted((DATA / "templates").glob("*.jinja")):
        source = file.read_text()
        if "generation %}" in source:
            continue
        template = theirs.from_string(source)
        for i in range(rounds):
            given = conversation(draw)
            case = {"template": file.stem, "case": f"{i} {json.dumps(given)}", "bos_token": "<s>", "eos_token": "</s>",
                    "date_string": "26 Jul 2024", "input": given}
            try:
                case["rendered"] = template.render(bos_token="<s>", eos_token="</s>", tools=None, documents=None,
                                                   date_string="26 Jul 2024", **given)
            except jinja2.exceptions.TemplateError as error:
                exact = type(error).__name__ == "TemplateError"
                case |= {"error": "TemplateError" if exact else "other", "message": str(error)}
                if not exact:
                    continue
            except (TypeError, KeyError, ValueError):
                continue
            cases.append(case)
    assert len(cases) > 20, f"{len(cases)} cases from {DATA}/templates"
    with tempfile.TemporaryDirectory() as folder:
        for file in (DATA / "templates").glob("*.jinja"):
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        (Path(folder) / "cases.json").write_text(json.dumps({"cases": cases}))
        return not run(program, "templates", folder, NOW)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check-text", required=True)
    parser.add_argument("--part", choices=["tokenizers", "templates"], required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    differ = tokenizers_differ if options.part == "tokenizers" else templates_differ
    sys.exit(1 if differ(options.check_text, random.Random(options.seed), options.rounds) else 0)


if __name__ == "__main__":
    main()
