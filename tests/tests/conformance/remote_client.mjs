// Behaves on the wire as isol8's own remote client does, on whatever runtime it
// is started with: same requests, same choice between WebSocket and server-sent events, same parser,
// same silence about close codes. One line of output for each thing checked.
//
// usage: remote_client.mjs URL_OF_ONE_GATEWAY URL_OF_ANOTHER KEY

const [first, second, key] = process.argv.slice(2);

class Remote {
  constructor(host, sessionId, options, { webSocket = typeof WebSocket === "function" } = {}) {
    this.host = host.endsWith("/") ? host.slice(0, -1) : host;
    this.sessionId = sessionId;
    this.options = options;
    this.webSocketWorks = webSocket ? undefined : false;
  }

  call(path, init = {}) {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${key}` };
    return fetch(this.host + path, { ...init, headers });
  }

  post(path, body) {
    return this.call(path, { method: "POST", body: JSON.stringify(body) });
  }

  async start() {
    const response = await this.call("/health");
    if (!response.ok) throw new Error(`Remote server health check failed: ${response.status}`);
  }

  async stop() {
    if (this.sessionId) await this.call(`/session/${this.sessionId}`, { method: "DELETE" });
  }

  async execute(request) {
    const body = { request, options: this.options, sessionId: this.sessionId };
    const response = await this.post("/execute", body);
    if (!response.ok) {
      const { error } = await response.json().catch(() => ({}));
      throw new Error(`Execution failed: ${error ?? response.statusText}`);
    }
    return response.json();
  }

  async *stream(request) {
    if (this.webSocketWorks !== false) {
      const known = this.webSocketWorks;
      try {
        yield* this.overWebSocket(request);
        return;
      } catch (error) {
        if (known) throw error;
        this.webSocketWorks = false;
      }
    }
    yield* this.overEvents(request);
  }

  async *overWebSocket(request) {
    const url = `${this.host.replace(/^http/, "ws")}/execute/ws`;
    const socket = new WebSocket(url, { headers: { Authorization: `Bearer ${key}` } });
    const waiting = [];
    let wake = () => {};
    let over = false;
    let failed = false;
    socket.addEventListener("open", () => {
      this.webSocketWorks = true;
      // Deliberately without the session: that is what the client does.
      socket.send(JSON.stringify({ type: "execute", request, options: this.options }));
    });
    socket.addEventListener("message", (message) => {
      try {
        waiting.push(JSON.parse(message.data));
      } catch {
        // Dropped, as the client does.
      }
      wake();
    });
    socket.addEventListener("error", () => {
      failed = true;
      wake();
    });
    socket.addEventListener("close", (event) => {
      this.closed = { code: event.code, reason: event.reason };
      over = true;
      wake();
    });
    while (true) {
      if (waiting.length > 0) yield waiting.shift();
      else if (failed) throw new Error("WebSocket connection failed");
      else if (over) return;
      else await new Promise((resolve) => (wake = resolve));
    }
  }

  async *overEvents(request) {
    const body = { request, options: this.options, sessionId: this.sessionId };
    const response = await this.post("/execute/stream", body);
    if (!response.ok) {
      const { error } = await response.json().catch(() => ({}));
      throw new Error(`Stream failed: ${error ?? response.statusText}`);
    }
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of response.body) {
      rest += decoder.decode(chunk, { stream: true });
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ")) yield JSON.parse(line.slice(6).trim());
      }
    }
    if (rest.startsWith("data: ")) yield JSON.parse(rest.slice(6).trim());
  }

  async putFile(path, bytes) {
    const content = Buffer.from(bytes).toString("base64");
    const response = await this.post("/file", { sessionId: this.sessionId, path, content });
    if (!response.ok) throw new Error(`File upload failed: ${response.statusText}`);
  }

  async getFile(path) {
    const query = new URLSearchParams({ sessionId: this.sessionId, path });
    const response = await this.call(`/file?${query}`);
    if (!response.ok) throw new Error(`File download failed: ${response.statusText}`);
    return Buffer.from((await response.json()).content, "base64");
  }

  async sessions() {
    const response = await this.call("/sessions");
    if (!response.ok) throw new Error(`Failed to list sessions: ${response.statusText}`);
    return (await response.json()).sessions;
  }
}

let wrong = 0;

function check(name, holds, found) {
  if (!holds) wrong += 1;
  console.log(`${holds ? "ok" : "WRONG"} ${name}${holds ? "" : `: ${JSON.stringify(found)}`}`);
}

async function failure(step) {
  try {
    await step();
    return "";
  } catch (error) {
    return String(error.message);
  }
}

async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  const text = (type) =>
    all.filter((event) => event.type === type).map((event) => event.data).join("");
  return { all, stdout: text("stdout"), stderr: text("stderr"), last: all.at(-1) ?? {} };
}

const python = (code) => ({ runtime: "python", code });

async function results() {
  const remote = new Remote(first, undefined, { network: "none", timeoutMs: 20000 });
  await remote.start();
  const hello = await remote.execute(python("print('hello world')"));
  const keys = Object.keys(hello).slice(0, 9).join();
  check(
    "a result starts with the agreed fields in their order",
    keys ===
      "stdout,stderr,exitCode,durationMs,truncated,executionId,runtime,timestamp,containerId",
    keys,
  );
  check("hello world", hello.stdout === "hello world" && hello.exitCode === 0, hello);
  check(
    "ids and times have their forms",
    /^[0-9a-f-]{36}$/.test(hello.executionId) &&
      /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(hello.timestamp) &&
      /^[0-9a-f]{64}$/.test(hello.containerId),
    hello,
  );
  const failed = await remote.execute(python("import sys; print('x', file=sys.stderr); sys.exit(42)"));
  check("a failing program is a result", failed.exitCode === 42 && failed.stderr === "x", failed);
  const slept = await remote.execute({ ...python("import time; time.sleep(60)"), timeoutMs: 500 });
  check(
    "a timeout is 137 with its mark",
    slept.exitCode === 137 && slept.stderr.includes("--- EXECUTION TIMED OUT ---"),
    slept,
  );
  const unknown = await failure(() => remote.execute({ runtime: "cobol", code: "x" }));
  check(
    "an unknown runtime is told",
    unknown.startsWith('Execution failed: Unknown runtime: "cobol"'),
    unknown,
  );
  const buffers = await remote.execute({
    runtime: "bash",
    code: "od -An -tx1 sub/data.bin; cat text",
    files: { "/sandbox/sub/data.bin": Buffer.from([0, 255, 10]), text: "plain" },
    outputPaths: ["/sandbox/sub/data.bin", "/sandbox/none"],
  });
  check(
    "buffers go in, base64 comes out",
    buffers.stdout.trim() === "00 ff 0a\nplain" &&
      JSON.stringify(buffers.files) === '{"/sandbox/sub/data.bin":"AP8K"}',
    buffers,
  );
  const other = new Remote(first, undefined, {});
  other.call = (path, init = {}) =>
    fetch(first + path, { ...init, headers: { Authorization: "Bearer nope" } });
  const refused = await failure(() => other.execute(python("1")));
  check("a wrong key is told", refused === "Execution failed: Invalid API key", refused);
}

async function streams(name, transport) {
  const remote = new Remote(first, undefined, { timeoutMs: 20000 }, transport);
  const plain = await collect(
    remote.stream(python("import sys\nfor i in range(5): print(i)\nprint('e', file=sys.stderr)")),
  );
  check(`${name}: output arrives in order`, plain.stdout === "0\n1\n2\n3\n4\n", plain.all);
  check(`${name}: standard error too`, plain.stderr === "e\n", plain.all);
  check(
    `${name}: the end is an exit with a string`,
    plain.last.type === "exit" && plain.last.data === "0" && plain.last.phase === "code",
    plain.last,
  );
  if (remote.closed) {
    check(
      `${name}: it closes as agreed`,
      remote.closed.code === 1000 && remote.closed.reason === "Execution complete",
      remote.closed,
    );
  }
  const again = await collect(remote.stream({ runtime: "node", code: "throw new Error('boom')" }));
  check(
    `${name}: a second call on one client, failing`,
    again.stderr.includes("boom") && again.last.type === "exit" && again.last.data === "1",
    again.all,
  );
  const setup = await collect(
    remote.stream({ runtime: "bash", code: "echo code", setupScript: "echo setup" }),
  );
  const seen = setup.all.map((event) => `${event.phase}:${event.type}:${event.data.trim()}`);
  check(
    `${name}: setup has its own phase and exit`,
    seen.join() === "setup:stdout:setup,setup:exit:0,code:stdout:code,code:exit:0",
    seen,
  );
  const broken = await collect(
    remote.stream({ runtime: "bash", code: "echo no", setupScript: "exit 3" }),
  );
  const ends = broken.all.map((event) => `${event.phase}:${event.type}:${event.data}`);
  check(
    `${name}: a failing setup script ends it`,
    ends.join() === "setup:error:Setup script failed (exit code 3),setup:exit:3",
    ends,
  );
  const late = await collect(remote.stream({ runtime: "bash", code: "sleep 60", timeoutMs: 400 }));
  const marks = late.all.map((event) => `${event.type}:${event.data}`);
  check(
    `${name}: a timeout is an error and an exit`,
    marks.join() === "error:EXECUTION TIMED OUT,exit:137",
    marks,
  );
  const hidden = new Remote(first, undefined, { secrets: { S: "top-secret-value" } }, transport);
  const masked = await collect(
    hidden.stream({
      runtime: "bash",
      code: 'for part in top- sec ret -val ue; do printf %s "$part"; sleep 0.05; done; echo',
    }),
  );
  check(`${name}: a secret in pieces stays hidden`, masked.stdout === "***\n", masked.all);
  const kept = new Remote(first, undefined, { mode: "persistent" }, transport);
  const note = await collect(kept.stream(python("print(1)")));
  if (kept.closed) {
    check(
      `${name}: persistent without a session runs and says so`,
      note.stdout === "1\n" && note.stderr.includes("No session was kept"),
      note.all,
    );
  }
  const wrong = await collectOrError(remote, { runtime: "cobol", code: "x" });
  check(`${name}: bad requests are told`, wrong.includes("Unknown runtime"), wrong);
}

async function collectOrError(remote, request) {
  try {
    const { all } = await collect(remote.stream(request));
    return JSON.stringify(all);
  } catch (error) {
    return String(error.message);
  }
}

async function sessions() {
  const id = `remote-${Date.now()}`;
  const here = new Remote(first, id, {}, { webSocket: false });
  const there = new Remote(second, id, {}, { webSocket: false });
  await here.execute(python("x = 42"));
  const read = await there.execute(python("print(x)"));
  check("variables survive, also through another gateway", read.stdout === "42", read);
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
  await here.putFile("/sandbox/in.bin", bytes);
  const back = await there.getFile("/sandbox/in.bin");
  check("256 bytes go in and out", Buffer.compare(back, Buffer.from(bytes)) === 0, [...back]);
  const seen = await there.execute(python("print(len(open('/sandbox/in.bin', 'rb').read()))"));
  check("the program sees the file", seen.stdout === "256", seen);
  const absent = await failure(() => here.getFile("/sandbox/none"));
  check("a missing file is told", absent.startsWith("File download failed"), absent);
  const events = await collect(there.stream(python("x += 1; print(x)")));
  check("a stream runs in the session", events.stdout === "43\n", events.all);
  const switched = await failure(() => here.execute({ runtime: "node", code: "1" }));
  check(
    "a session has one runtime",
    switched === 'Execution failed: Cannot switch runtime from "python" to "node"' ||
      switched.startsWith('Execution failed: Cannot switch runtime from "python" to "node"'),
    switched,
  );
  const mine = (await there.sessions()).find((session) => session.id === id);
  check(
    "the session is listed, idle",
    mine?.isActive === false && !Number.isNaN(Date.parse(mine.lastAccessedAt)),
    mine,
  );
  await there.stop();
  const left = (await here.sessions()).filter((session) => session.id === id);
  check("after its end it is not", left.length === 0, left);
  await here.stop();
  check("ending it twice is fine", true);
  const lost = await failure(() => here.getFile("/sandbox/in.bin"));
  check("its files are gone", lost === "File download failed: Not Found", lost);
}

await results();
await streams("events", { webSocket: false });
if (typeof WebSocket === "function") await streams("web socket", { webSocket: true });
await sessions();
console.log(wrong === 0 ? "all as agreed" : `${wrong} wrong`);
process.exit(wrong === 0 ? 0 : 1);
