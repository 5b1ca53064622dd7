#!/usr/bin/env python3
"""Writes conversations/NAME.json, a conversation over each chat template.   make_scripts.py (needs transformers)

Of each: `answers`, what the model writes, in the form that its template shows; `turns`, what a client must have got of
them; and `prompts`, what transformers' renderer makes of the messages of each of the six requests, from the first
question on (tools before it are left out, since each client writes their schemas in its own way). Messages are written
here as the template's author meant them. The clients differ in what they send back, and so in their prompts: the AI SDK
writes arguments anew without blanks, and with its provider for compatible servers it sends thoughts."""
import json
import os

from transformers.utils import chat_template_utils

HERE = os.path.dirname(os.path.abspath(__file__))
QUESTIONS = ["How warm is it in Quito?", "Now add 17 and 25.", "How warm is it in Zürich, and how warm in Łódź?"]
CALLS = [[("get_weather", {"city": "Quito"})], [("add", {"a": 17, "b": 25})],
         [("get_weather", {"city": "Zürich"}), ("get_weather", {"city": "Łódź"})]]
RESULTS = [['{"celsius": 17}'], ["42"], ['{"celsius": 8}', '{"celsius": 3}']]
TEXTS = ["It is 17 degrees in Quito.", "The sum is 42.", "8 degrees in Zürich, 3 in Łódź."]
BESIDE = "I add them."  # beside the second turn's call
THOUGHT = "They ask for the weather."  # before the first turn's call
IDS = [["call00001"], ["call00002"], ["call00003", "call00004"]]
CLIENTS = ("openai_agents", "langchain", "ai_sdk", "ai_sdk_openai")


def python_call(name, arguments):
    return f"{name}({', '.join(f'{key}={json.dumps(value, ensure_ascii=False)}' for key, value in arguments.items())})"


def dump(value):
    return json.dumps(value, ensure_ascii=False)


def json_calls(calls, key):
    return [dump({"name": name, key: arguments}) for name, arguments in calls]


def llama3(calls, turn):
    return "; ".join(json_calls(calls, "parameters"))


def llama4(calls, turn):
    if turn == 1:
        return "<|python_start|><|python_end|>" + "".join(json_calls(calls, "parameters"))
    return "[" + ", ".join(python_call(*call) for call in calls) + "]"


def mistral(calls, turn):
    return "[TOOL_CALLS][" + ", ".join(json_calls(calls, "arguments")) + "]"


def qwen(calls, turn):
    written = [f"<tool_call>\n{call}\n</tool_call>" for call in json_calls(calls, "arguments")]
    return ("\n" if turn == 1 else "") + "\n".join(written)  # a line break behind the text


def deepseek(calls, turn):
    written = [f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dump(arguments)}\n```<｜tool▁call▁end｜>"
               for name, arguments in calls]
    return "<｜tool▁calls▁begin｜>" + "\n".join(written) + "<｜tool▁calls▁end｜>"


# template: form of calls, whether a text may stand beside them, whether the model thinks
FORMS = {"llama-3.1-instruct": (llama3, False, False), "qwen3-full": (qwen, True, True),
         "mistral-nemo-instruct": (mistral, True, False), "deepseek-v3": (deepseek, True, False),
         "llama-4": (llama4, False, False)}


def written_arguments(client, arguments):
    """The text of arguments that the client sends back."""
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":") if "ai_sdk" in client else None)


def turn_messages(template, client, turn):
    """Question, calls and results of a turn, for the template."""
    text = BESIDE if turn == 1 and FORMS[template][1] else ""
    calls = [{"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
             for id, (name, arguments) in zip(IDS[turn], CALLS[turn])]
    results = [{"role": "tool", "tool_call_id": id, "content": result} for id, result in zip(IDS[turn], RESULTS[turn])]
    messages = [{"role": "user", "content": QUESTIONS[turn]}]
    if template == "llama-3.1-instruct":  # one call a message
        for call, result in zip(calls, results):
            messages += [{"role": "assistant", "content": "", "tool_calls": [call]}, result]
        return messages
    if template == "deepseek-v3":  # arguments as a text, and calls only beside null
        for call in calls:
            call["function"]["arguments"] = written_arguments(client, call["function"]["arguments"])
        if text:
            messages.append({"role": "assistant", "content": text})
        return messages + [{"role": "assistant", "content": None, "tool_calls": calls}] + results
    answer = {"role": "assistant", "content": text, "tool_calls": calls}
    if FORMS[template][2] and turn == 0 and client == "ai_sdk":
        answer["reasoning_content"] = THOUGHT
    return messages + [answer] + results


def prompts(template, client):
    source = open(f"{HERE}/../data/templates/{template}.jinja").read()
    messages, rendered = [], []
    for turn in range(3):
        whole = turn_messages(template, client, turn)
        for sent in (whole[:1], whole):
            text, _ = chat_template_utils.render_jinja_template(
                conversations=[messages + sent], tools=None, chat_template=source, add_generation_prompt=True,
                bos_token="<s>", eos_token="</s>", date_string="26 Jul 2024")
            rendered.append(text[0][text[0].index(QUESTIONS[0]):])
        messages += whole + [{"role": "assistant", "content": TEXTS[turn]}]
    return rendered


def script(template):
    form, beside, thinks = FORMS[template]
    answers, strict_answers, turns = [], [], []
    for turn, calls in enumerate(CALLS):
        text = BESIDE if turn == 1 and beside else ""
        thought = THOUGHT if turn == 0 and thinks else ""
        before = (f"<think>\n{thought}\n</think>\n\n" if thought else "") + text
        answers.append([before + form(calls, turn), TEXTS[turn]])
        # Strict functions hold Llama 4 to JSON, as whole_answer() of src/forms/strict_calls.h has it.
        strict_answers.append([before + (llama3 if form is llama4 else form)(calls, turn), TEXTS[turn]])
        turns.append({"question": QUESTIONS[turn], "beside": text, "thought": thought,
                      "calls": [{"name": name, "arguments": arguments} for name, arguments in calls],
                      "results": RESULTS[turn], "ids": IDS[turn], "text": TEXTS[turn]})
    variants = []
    for client in CLIENTS:
        texts = prompts(template, client)
        same = next((v for v in variants if v["prompts"] == texts), None)
        if same:
            same["clients"].append(client)
        else:
            variants.append({"clients": [client], "prompts": texts})
    return {"template": template, "answers": answers, "strict_answers": strict_answers, "turns": turns,
            "variants": variants}


os.makedirs(f"{HERE}/conversations", exist_ok=True)
for name in FORMS:
    with open(f"{HERE}/conversations/{name}.json", "w") as file:
        json.dump(script(name), file, ensure_ascii=False, indent=1)
        file.write("\n")
