"""The OpenAI Agents SDK's side of conversations; check_client.py runs it.   openai_agents_client.py JOBS.json

JOBS is a list of {"url", "script", "mode": "whole" or "stream"}. Prints for each what the client has got, a line of
JSON."""
import asyncio
import json
import sys
import traceback

from agents import (Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled)
from openai import AsyncOpenAI

turn = {}  # the present one
set_tracing_disabled(True)


def result(name, **arguments):
    """Calls of one step may run at the same time, so a result is found by the arguments."""
    return turn["results"][turn["calls"].index({"name": name, "arguments": arguments})]


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city"""
    return result("get_weather", city=city)


@function_tool
def add(a: int, b: int) -> str:
    """Adds two numbers"""
    return result("add", a=a, b=b)


def text_of(response):
    return "".join(part.text for item in response.output if item.type == "message" for part in item.content)


def thought_of(response):
    return "".join(part.text for item in response.output if item.type == "reasoning" for part in item.summary)


async def run(agent, sent, mode):
    """The run's result, and what its stream brought."""
    if mode != "stream":
        return await Runner.run(agent, sent), None
    running = Runner.run_streamed(agent, sent)
    text, arguments = "", {}
    item_ids = {}
    async for event in running.stream_events():
        if event.type != "raw_response_event":
            continue
        data = event.data
        if data.type == "response.output_text.delta":
            text += data.delta
        elif data.type == "response.output_item.added" and data.item.type == "function_call":
            item_ids[(len(running.raw_responses), data.output_index)] = data.item.call_id
        elif data.type == "response.function_call_arguments.delta":
            call = item_ids[(len(running.raw_responses), data.output_index)]
            arguments[call] = arguments.get(call, "") + data.delta
    return running, {"text": text, "arguments": arguments}


async def hold(job):
    global turn
    client = AsyncOpenAI(base_url=job["url"], api_key="none", max_retries=0)
    agent = Agent(name="Helper", tools=[get_weather, add],
                  model=OpenAIChatCompletionsModel(model="scripted", openai_client=client),
                  model_settings=ModelSettings(include_usage=True))
    history, turns = [], []
    for turn in json.load(open(job["script"], encoding="utf-8"))["turns"]:
        answer, streamed = await run(agent, [*history, {"role": "user", "content": turn["question"]}], job["mode"])
        history = answer.to_input_list()
        calls = [item for response in answer.raw_responses for item in response.output if item.type == "function_call"]
        turns.append({
            "calls": [{"id": call.call_id, "name": call.name, "arguments": json.loads(call.arguments)}
                      for call in calls],
            "beside": text_of(answer.raw_responses[0]),
            "thought": thought_of(answer.raw_responses[0]),
            "text": answer.final_output,
            "finish": None,  # not shown
            "usage": all(response.usage.input_tokens > 0 and response.usage.output_tokens > 0
                         for response in answer.raw_responses),
            "streamed": streamed and {"text": streamed["text"],
                                      "arguments": [streamed["arguments"].get(call.call_id) for call in calls]},
        })
    return turns


for job in json.load(open(sys.argv[1], encoding="utf-8")):
    try:
        print(json.dumps({"turns": asyncio.run(hold(job))}), flush=True)
    except Exception:
        print(json.dumps({"error": traceback.format_exc(limit=-3)}), flush=True)
