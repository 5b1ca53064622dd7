#!/usr/bin/env python3
"""Writes expected.json: prompts of transformers' renderer.   make_expected.py (needs transformers)

A case has the messages as a client sends them and, under `rendered`, what transformers makes of the messages that the
template's author meant, written here by hand: arguments as a text or an object, null content kept or not, roles that
the template knows."""
import datetime
import json
import os

from transformers.utils import chat_template_utils



class Fixed(datetime.datetime):
    """The clock of strftime_now: 1795910400 s since 1970."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 29, 0, 0, 0, tzinfo=tz)


chat_template_utils.datetime = Fixed
HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
ASK = {"role": "user", "content": "How warm is it in Lima?"}
NEXT = {"role": "user", "content": "And tomorrow?"}
TEXT, OBJECT = '{"city": "Lima"}', {"city": "Lima"}


def call(arguments, id="abcdefghi", name="get_weather"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(content, *calls, **more):
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}


def result(id="abcdefghi", content='{"celsius": 19}'):
    return {"role": "tool", "tool_call_id": id, "content": content}


NULLS = {"refusal": None, "audio": None, "function_call": None, "tool_calls": None, "name": None}
PARTS = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]

# template, case, sent, meant, with tools
CASES = []


def add(template, case, sent, meant, tools=True):
    CASES.append((template, case, sent, meant, tools))


for name in ("qwen3-full", "llama-3.1-instruct", "llama-4", "mistral-nemo-instruct", "qwen3-coder-moe",
             "nemotron-nano-v2"):
    content = None if name in ("mistral-nemo-instruct", "qwen3-coder-moe") else ""
    add(name, "call", [ASK, answer(None, call(TEXT)), result()], [ASK, answer(content, call(OBJECT)), result()])
    add(name, "blank arguments", [ASK, answer(None, call(" ")), result()], [ASK, answer(content, call({})), result()])
    add(name, "nulls", [ASK, answer("Warm.", **NULLS), NEXT], [ASK, answer("Warm."), NEXT], False)
    add(name, "no calls", [ASK, answer("Warm.", tool_calls=[]), NEXT], [ASK, answer("Warm."), NEXT], False)
for name in ("deepseek-v3", "deepseek-r1"):
    add(name, "call", [ASK, answer(None, call(TEXT)), result()], [ASK, answer(None, call(TEXT)), result()])
    add(name, "empty content", [ASK, answer("", call(TEXT)), result()],
        [ASK, answer(None if name == "deepseek-v3" else "", call(TEXT)), result()])
    add(name, "object arguments", [ASK, answer(None, call(OBJECT)), result()],
        [ASK, answer(None, call(TEXT)), result()])
    add(name, "developer", [{"role": "developer", "content": "Rhyme."}, ASK],
        [{"role": "system", "content": "Rhyme."}, ASK], False)
    add(name, "reasoning", [ASK, answer(None, reasoning_content="Hm."), NEXT], [ASK, answer(""), NEXT], False)
add("deepseek-v3", "text and call", [ASK, answer("I look.", call(TEXT)), result()],
    [ASK, answer("I look."), answer(None, call(TEXT)), result()])
add("qwen3-full", "parts", [{"role": "user", "content": PARTS}], [{"role": "user", "content": "One.\nTwo."}], False)
add("llama-4", "parts", [{"role": "user", "content": PARTS}], [{"role": "user", "content": PARTS}], False)
add("smolvlm", "text", [ASK], [{"role": "user", "content": [{"type": "text", "text": ASK["content"]}]}], False)
add("mistral-small-3.2", "call", [ASK, answer(None, call(TEXT)), result()], [ASK, answer(None, call(OBJECT)), result()])
add("gpt-oss-120b", "developer", [{"role": "developer", "content": "Rhyme."}, ASK],
    [{"role": "developer", "content": "Rhyme."}, ASK], False)
add("gemma-3-it", "call", [ASK, answer(None, call(TEXT)), result(), answer("19."), NEXT],
    [ASK, answer('[{"name": "get_weather", "arguments": {"city": "Lima"}}]'),
     {"role": "user", "content": '{"celsius": 19}'}, answer("19."), NEXT])
two = [call(TEXT, "aaaaaaaaa"), call('{"city": "Oslo"}', "bbbbbbbbb")]
add("llama-3.1-instruct", "two calls",
    [ASK, answer(None, *two), result("bbbbbbbbb", "5"), result("aaaaaaaaa", "19"), NEXT],
    [ASK, answer("", call(OBJECT)), result(content="19"), answer("", call({"city": "Oslo"})), result(content="5"),
     NEXT])

out = []
for template, case, sent, meant, tools in CASES:
    source = open(f"{HERE}/{template}.jinja").read()
    rendered, _ = chat_template_utils.render_jinja_template(
        conversations=[meant], tools=TOOLS if tools else None, chat_template=source, add_generation_prompt=True,
        bos_token="<s>", eos_token="</s>", date_string="26 Jul 2024", reasoning_effort="medium")
    out.append({"template": template, "case": case, "messages": sent, "tools": TOOLS if tools else None,
                "rendered": rendered[0]})
json.dump(out, open(f"{HERE}/expected.json", "w"), ensure_ascii=False, indent=1)
print(len(out), "cases")
