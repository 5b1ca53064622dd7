// The AI SDK's side of conversations; check_client.py runs it.   ai_sdk.mjs PROVIDER JOBS.json
//
// PROVIDER: compatible (@ai-sdk/openai-compatible) or openai (@ai-sdk/openai). JOBS is a list of {"url", "script",
// "mode": "whole" or "stream"}. Prints for each what the client has got, a line of JSON.
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [provider, jobs] = process.argv.slice(2);

async function chatModel(baseURL) {
  const settings = { name: "weft", baseURL, apiKey: "none" };
  if (provider === "openai") return (await import("@ai-sdk/openai")).createOpenAI(settings).chat("scripted");
  const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
  return createOpenAICompatible({ ...settings, includeUsage: true })("scripted");
}

async function hold(job) {
  const model = await chatModel(job.url);
  const messages = [];
  const turns = [];
  for (const { question, calls: expected, results } of JSON.parse(readFileSync(job.script, "utf8")).turns) {
    // Calls of one step run at the same time, so a result is found by the arguments.
    const result = (name, args) =>
      results[expected.findIndex((call) => isDeepStrictEqual(call, { name, arguments: args }))] ??
      "no such call is expected";
    const tools = {
      get_weather: tool({
        description: "The weather of a city",
        inputSchema: z.object({ city: z.string() }),
        execute: async (args) => result("get_weather", args),
      }),
      add: tool({
        description: "Adds two numbers",
        inputSchema: z.object({ a: z.number().int(), b: z.number().int() }),
        execute: async (args) => result("add", args),
      }),
    };
    messages.push({ role: "user", content: question });
    const request = { model, messages, tools, stopWhen: stepCountIs(4), maxRetries: 0 };
    let streamed = null;
    let answer;
    if (job.mode === "stream") {
      const stream = streamText({ ...request, onError: ({ error }) => { throw error; } });
      streamed = { text: "", arguments: {} };
      for await (const part of stream.fullStream) {
        if (part.type === "error") throw part.error;
        if (part.type === "text-delta") streamed.text += part.text;
        if (part.type === "tool-input-delta")
          streamed.arguments[part.id] = (streamed.arguments[part.id] ?? "") + part.delta;
      }
      answer = { steps: await stream.steps, response: await stream.response };
    } else {
      answer = await generateText(request);
    }
    messages.push(...answer.response.messages);
    const calls = answer.steps.flatMap((step) => step.toolCalls);
    turns.push({
      calls: calls.map((call) => ({ id: call.toolCallId, name: call.toolName, arguments: call.input })),
      beside: answer.steps[0].text,
      thought: provider === "openai" ? null : (answer.steps[0].reasoningText ?? ""), // OpenAI's API shows none
      text: answer.steps.at(-1).text,
      finish: answer.steps.map((step) => step.finishReason),
      usage: answer.steps.every((step) => step.usage.inputTokens > 0 && step.usage.outputTokens > 0),
      streamed: streamed && { text: streamed.text, arguments: calls.map((call) => streamed.arguments[call.toolCallId]) },
    });
  }
  return turns;
}

for (const job of JSON.parse(readFileSync(jobs, "utf8"))) {
  const outcome = await hold(job).then((turns) => ({ turns }), (error) => ({ error: String(error.stack) }));
  console.log(JSON.stringify(outcome));
}
