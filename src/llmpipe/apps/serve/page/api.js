// Talking to the server. The key, if one is needed, lives as long as this tab.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let askForKey = async () => null;

export const key = {
  get: () => sessionStorage.getItem("key"),
  set: (value) => sessionStorage.setItem("key", value),
  forget: () => sessionStorage.removeItem("key"),
  /** Say how a person is asked; the function returns the key, or null. */
  onMissing: (ask) => { askForKey = ask; },
};

async function send(path, body, signal) {
  for (;;) {
    const headers = {};
    if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, {
      method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
    });
    if (answer.ok) return answer;
    const message = await errorMessage(answer);
    if (answer.status !== 401) throw new ApiError(answer.status, message);
    const given = await askForKey(key.get() !== null);
    if (given === null) throw new ApiError(401, message);
    key.set(given);
  }
}

async function errorMessage(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the server answered ${answer.status}`;
  }
}

/** GET, or POST with a body; return the JSON. */
export async function call(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** POST and yield the events of the streamed answer. */
export async function* stream(path, body, signal) {
  const answer = await send(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ApiError(0, "the connection ended before the answer did");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const parsed = JSON.parse(data);
        if (parsed.error) throw new ApiError(500, parsed.error.message);
        yield parsed;
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // whoever stops reading wants no more to be written
  }
}
