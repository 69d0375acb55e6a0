// What the page asks of its server.

let key = "";

export function setKey(given) {
  key = given;
}

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function describe() {
  return (await ask("microscope/api/model")).json();
}

// Each token of a text and of what follows, with routers told otherwise.
export async function look(request, signal) {
  return (await ask("microscope/api/look", request, signal)).json();
}

export async function emptyPage() {
  return (await ask("microscope/saved.html")).text();
}

// The tokens of a prompt and of its continuation, as they are written.
export async function* write(request, signal) {
  const asked = { ...request, stream: true, echo: true, routing: true, logprobs: 0 };
  const response = await ask("v1/completions", asked, signal);
  let written = false; // the first tokens are those of the prompt, in one event
  for await (const { choices, error } of events(response.body)) {
    if (error) throw new Refusal(500, error.message);
    const { routing = [], logprobs } = choices[0];
    for (const [n, token] of routing.entries()) {
      const logprob = logprobs.token_logprobs[n];
      yield { ...token, loss: logprob === null ? null : -logprob, written };
    }
    written ||= routing.length > 0;
  }
}

async function ask(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const sent = { headers, signal };
  if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(sent, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, sent);
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: { message: response.statusText } }));
  throw new Refusal(response.status, error.message);
}

// Server-sent events: lines "data: JSON", with an empty line after each.
async function* events(body) {
  let rest = "";
  for await (const text of chunks(body.pipeThrough(new TextDecoderStream()))) {
    const whole = (rest + text).split("\n\n");
    rest = whole.pop();
    for (const each of whole) {
      const data = each.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
