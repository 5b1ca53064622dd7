"""LangChain's side of conversations; check_client.py runs it.   langchain_client.py JOBS.json

JOBS is a list of {"url", "script", "mode": "whole" or "stream"}. Prints for each what the client has got, a line of
JSON."""
import json
import sys
import traceback

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

turn = {}  # the present one


def result(name, **arguments):
    """Calls of one step may run at the same time, so a result is found by the arguments."""
    return turn["results"][turn["calls"].index({"name": name, "arguments": arguments})]


@tool
def get_weather(city: str) -> str:
    """The weather of a city"""
    return result("get_weather", city=city)


@tool
def add(a: int, b: int) -> str:
    """Adds two numbers"""
    return result("add", a=a, b=b)


def hold(job):
    global turn
    model = ChatOpenAI(model="scripted", base_url=job["url"], api_key="none", max_retries=0,
                       streaming=job["mode"] == "stream", stream_usage=True)
    agent = create_agent(model, tools=[get_weather, add])
    messages, turns = [], []
    for turn in json.load(open(job["script"], encoding="utf-8"))["turns"]:
        sent = [*messages, {"role": "user", "content": turn["question"]}]
        streamed = None
        if job["mode"] == "stream":
            streamed = {"text": "", "arguments": {}}
            ids = {}  # of calls, by index and message: later pieces have the index alone
            for kind, part in agent.stream({"messages": sent}, stream_mode=["messages", "values"]):
                if kind == "values":
                    answer = part
                    continue
                chunk = part[0]
                if not isinstance(chunk, AIMessageChunk):
                    continue
                streamed["text"] += chunk.text if isinstance(chunk.text, str) else chunk.text()
                for piece in chunk.tool_call_chunks:
                    place = (chunk.id, piece["index"])
                    ids[place] = piece["id"] or ids[place]
                    id = ids[place]
                    streamed["arguments"][id] = streamed["arguments"].get(id, "") + (piece["args"] or "")
        else:
            answer = agent.invoke({"messages": sent})
        fresh = answer["messages"][len(sent):]
        messages = answer["messages"]
        answers = [message for message in fresh if isinstance(message, AIMessage)]
        calls = [call for message in answers for call in message.tool_calls]
        for message in answers:
            assert not message.invalid_tool_calls, message.invalid_tool_calls
        turns.append({
            "calls": [{"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in calls],
            "beside": answers[0].content,
            "thought": None,  # not shown for OpenAI's API
            "text": answers[-1].content,
            "finish": [message.response_metadata.get("finish_reason") for message in answers],
            "usage": all(message.usage_metadata and message.usage_metadata["input_tokens"] > 0
                         and message.usage_metadata["output_tokens"] > 0 for message in answers),
            "streamed": streamed and {"text": streamed["text"],
                                      "arguments": [streamed["arguments"].get(call["id"]) for call in calls]},
        })
        assert [m.tool_call_id for m in fresh if isinstance(m, ToolMessage)] == [call["id"] for call in calls]
    return turns


for job in json.load(open(sys.argv[1], encoding="utf-8")):
    try:
        print(json.dumps({"turns": hold(job)}), flush=True)
    except Exception:
        print(json.dumps({"error": traceback.format_exc(limit=-3)}), flush=True)
