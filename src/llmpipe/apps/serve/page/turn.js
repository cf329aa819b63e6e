// A turn of the assistant: from the events of the server to segments and tokens, and back to messages.
//
// segments   {kind: "text" | "thought", text}  or  {kind: "run", name, input, output}
// tokens     {id, text, forced, p, top: [{id, text, p}]}; p is missing where the model did not choose

const decoder = new TextDecoder();  // bytes that are no whole character become U+FFFD

const spelled = (entry) => decoder.decode(new Uint8Array(entry.bytes));

/** Add what an event says about one answer. */
export function addEvent(turn, choice) {
  const delta = choice.delta ?? { content: choice.text };
  if (delta.reasoning_content) addText(turn, "thought", delta.reasoning_content);
  if (delta.content) addText(turn, "text", delta.content);
  for (const run of delta.tool_runs ?? []) addRun(turn, run);
  addTokens(turn.tokens, choice);
  if (choice.finish_reason) turn.finish = choice.finish_reason;
}

function addText(turn, kind, text) {
  const last = turn.segments.at(-1);
  if (last?.kind === kind) last.text += text;
  else turn.segments.push({ kind, text });
}

function addRun(turn, run) {
  if (run.name) {
    turn.segments.push({ kind: "run", name: run.name, input: run.input, output: null });
  } else {
    turn.segments.filter((segment) => segment.kind === "run")[run.index].output = run.output;
  }
}

function addTokens(tokens, choice) {
  const entries = [...(choice.logprobs?.content ?? [])];
  (choice.token_ids ?? []).forEach((id, i) => {
    const token = { id, text: choice.token_strs[i] };
    const entry = choice.token_mask?.[i] === false ? undefined : entries.shift();
    if (!entry) token.forced = true;
    else {
      token.p = Math.exp(entry.logprob);
      token.top = entry.top_logprobs.map((one) => ({ id: one.id, text: spelled(one), p: Math.exp(one.logprob) }));
    }
    tokens.push(token);
  });
}

export const plainText = (turn) =>
  turn.segments.filter((segment) => segment.kind === "text").map((segment) => segment.text).join("");

/** Return messages in OpenAI's shape; what a tool has said stands where it was said. */
export function toMessages(nodes, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const node of nodes) {
    if (node.role === "user") messages.push({ role: "user", content: plainText(node) });
    else messages.push(...assistantMessages(node));
  }
  return messages;
}

function assistantMessages(node) {
  const messages = [];
  let open = { role: "assistant", content: "" };
  for (const segment of node.segments) {
    if (segment.kind === "text") open.content += segment.text;
    else if (segment.kind === "thought") open.reasoning_content = (open.reasoning_content ?? "") + segment.text;
    else if (segment.output !== null) {
      const name = segment.name, id = `call_${messages.length}`;
      const argument = name === "search" ? { query: segment.input } : { code: segment.input };
      open.tool_calls = [{ id, type: "function", function: { name, arguments: JSON.stringify(argument) } }];
      messages.push(open, { role: "tool", tool_call_id: id, content: segment.output });
      open = { role: "assistant", content: "" };
    }
  }
  if (open.content || open.reasoning_content || !messages.length) messages.push(open);
  return messages;
}

/** The answer as a line of preferences has it. */
export function toAnswer(turn, seed) {
  const thought = turn.segments.filter((s) => s.kind === "thought").map((s) => s.text).join("");
  const runs = turn.segments.filter((s) => s.kind === "run").map(({ name, input, output }) => ({ name, input, output }));
  return {
    content: plainText(turn),
    ...(thought && { reasoning_content: thought }),
    ...(runs.length && { tool_runs: runs }),
    token_ids: turn.tokens.map((token) => token.id),
    seed,
  };
}
