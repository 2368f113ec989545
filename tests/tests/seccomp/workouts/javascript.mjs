// What Node's standard library asks of the kernel; Bun and Deno carry the same modules. Prints each part that failed,
// then how many went well.
import assert from "node:assert";
import { spawn, spawnSync } from "node:child_process";
import crypto from "node:crypto";
import dns from "node:dns/promises";
import { once } from "node:events";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import zlib from "node:zlib";

const parts = {
  files() {
    const folder = fs.mkdtempSync("/sandbox/work-");
    fs.writeFileSync(`${folder}/a`, "hello"); fs.appendFileSync(`${folder}/a`, "!"); fs.copyFileSync(`${folder}/a`, `${folder}/b`);
    fs.chmodSync(`${folder}/b`, 0o600); fs.utimesSync(`${folder}/b`, 1, 2); fs.renameSync(`${folder}/b`, `${folder}/c`);
    fs.linkSync(`${folder}/a`, `${folder}/h`);
    fs.truncateSync(`${folder}/c`, 2); fs.mkdirSync(`${folder}/d/e`, { recursive: true }); assert.equal(fs.readdirSync(folder).length, 4);
    const file = fs.openSync(`${folder}/a`, "r+"); fs.fsyncSync(file); fs.fdatasyncSync(file); fs.futimesSync(file, 1, 2); fs.closeSync(file);
    assert.equal(fs.realpathSync(`${folder}/a`), `${folder}/a`); fs.statSync(folder); fs.lstatSync(`${folder}/a`);
    fs.cpSync(`${folder}/d`, `${folder}/f`, { recursive: true }); fs.rmSync(folder, { recursive: true });
  },
  "links and rights"() {
    fs.symlinkSync("nowhere", "/sandbox/link"); assert.equal(fs.readlinkSync("/sandbox/link"), "nowhere"); fs.lstatSync("/sandbox/link"); fs.unlinkSync("/sandbox/link"); fs.accessSync("/sandbox");
  },
  async "files, later"() {
    await fs.promises.writeFile("/sandbox/x", "hello"); const handle = await fs.promises.open("/sandbox/x"); const { buffer } = await handle.read(Buffer.alloc(5), 0, 5, 0);
    assert.equal(buffer.toString(), "hello"); await handle.close(); await fs.promises.rm("/sandbox/x");
    const writing = fs.createWriteStream("/sandbox/s"); writing.end("x".repeat(1 << 20)); await once(writing, "finish");
    let size = 0; for await (const piece of fs.createReadStream("/sandbox/s")) size += piece.length; assert.equal(size, 1 << 20);
    await fs.promises.copyFile("/sandbox/s", "/sandbox/t");
  },
  async "watching files"() {
    fs.mkdirSync("/sandbox/watched", { recursive: true }); const watcher = fs.watch("/sandbox/watched"); const change = once(watcher, "change");
    const writer = setInterval(() => fs.writeFileSync("/sandbox/watched/a", "x"), 20); await change; clearInterval(writer); watcher.close();
  },
  async processes() {
    assert.equal(spawnSync("/bin/echo", ["hi"]).stdout.toString(), "hi\n"); assert.equal(spawnSync("exit 3", { shell: true }).status, 3);
    const child = spawn("cat", { detached: true }); child.stdin.end("x"); let said = ""; child.stdout.on("data", (piece) => { said += piece; });
    await once(child, "close"); assert.equal(said, "x");
    const sleeper = spawn("sleep", ["60"]); sleeper.kill("SIGTERM"); assert.equal((await once(sleeper, "exit"))[1], "SIGTERM");
  },
  async signals() {
    const seen = once(process, "SIGUSR2"); process.kill(process.pid, "SIGUSR2"); await seen;
  },
  async threads() {
    const worker = new Worker('const { parentPort } = require("node:worker_threads"); parentPort.postMessage(6 * 7)', { eval: true });
    assert.equal((await once(worker, "message"))[0], 42); await worker.terminate();
  },
  async "shared memory"() {
    const cells = new Int32Array(new SharedArrayBuffer(8)); Atomics.store(cells, 0, 1); assert.equal(Atomics.wait(cells, 0, 1, 5), "timed-out");
  },
  async sockets() {
    const echo = net.createServer((socket) => socket.pipe(socket)).listen(0, "127.0.0.1"); await once(echo, "listening");
    const client = net.connect(echo.address().port, "127.0.0.1"); client.end("hi"); let heard = ""; for await (const piece of client) heard += piece;
    assert.equal(heard, "hi"); echo.close();
    const server = net.createServer((socket) => socket.end("hi")).listen("/tmp/socket"); await once(server, "listening");
    let said = ""; for await (const piece of net.connect("/tmp/socket")) said += piece; assert.equal(said, "hi"); server.close();
  },
  async datagrams() {
    const dgram = await import("node:dgram"); const socket = dgram.createSocket("udp4"); socket.bind(0, "127.0.0.1"); await once(socket, "listening");
    const heard = once(socket, "message"); socket.send("x", socket.address().port, "127.0.0.1"); assert.equal((await heard)[0].toString(), "x"); socket.close();
  },
  async requests() {
    const server = http.createServer((_, answer) => answer.end("hi")).listen(0, "127.0.0.1"); await once(server, "listening");
    assert.equal(await (await fetch(`http://127.0.0.1:${server.address().port}/`)).text(), "hi"); server.close(); server.closeAllConnections();
  },
  async "names that do not resolve"() {
    await assert.rejects(dns.lookup("example.com"));
  },
  async compression() {
    const plain = Buffer.alloc(1 << 16, "x"); assert(zlib.gunzipSync(zlib.gzipSync(plain)).equals(plain));
    assert(zlib.brotliDecompressSync(zlib.brotliCompressSync(plain)).equals(plain)); assert((await promisify(zlib.inflate)(zlib.deflateSync(plain))).equals(plain));
  },
  async secrets() {
    crypto.randomBytes(8); crypto.createHash("sha256").update("x").digest(); await promisify(crypto.scrypt)("a", "b", 16); crypto.generateKeyPairSync("ed25519");
    await crypto.subtle.digest("SHA-256", Buffer.from("x")); await promisify(crypto.pbkdf2)("a", "b", 10, 16, "sha256");
  },
  async databases() {
    if (globalThis.Bun) { const { Database } = await import("bun:sqlite"); const database = new Database("/sandbox/data.db"); assert.equal(database.query("select 1 as x").get().x, 1); database.exec("create table if not exists t (x)"); database.close(); return; }
    const { DatabaseSync } = await import("node:sqlite"); const database = new DatabaseSync("/sandbox/data.db"); database.exec("create table if not exists t (x)"); assert.equal(database.prepare("select 1 as x").get().x, 1); database.close();
  },
  async "code made while it runs"() {
    const add = new Function("a", "b", "return a + b"); let sum = 0; for (let i = 0; i < 200_000; i++) sum = add(sum, i); assert.equal(sum, 19999900000);
    const wasm = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11);
    assert.equal((await WebAssembly.instantiate(wasm)).instance.exports.add(20, 22), 42);
  },
  async "memory and its collection"() {
    let kept = []; for (let i = 0; i < 40; i++) { kept.push(new ArrayBuffer(1 << 20)); if (kept.length > 10) kept = []; } await sleep(5);
  },
  "the machine"() {
    assert(os.cpus().length > 0); os.freemem(); os.loadavg(); os.uptime(); os.networkInterfaces(); os.hostname(); os.userInfo(); os.setPriority(5); os.getPriority(); os.availableParallelism();
    process.memoryUsage(); process.resourceUsage?.(); process.hrtime.bigint(); process.cwd(); process.umask(0o22); process.getgroups?.();
  },
  async timers() { await sleep(2); await new Promise(setImmediate); await new Promise(process.nextTick); performance.now(); },
};

if (globalThis.Bun) {
  parts["Bun's own"] = async () => {
    await Bun.write("/sandbox/b", "x"); await Bun.write("/sandbox/c", Bun.file("/sandbox/b")); assert.equal(await Bun.file("/sandbox/c").text(), "x");
    const child = Bun.spawn(["cat"], { stdin: new Blob(["hi"]), stdout: "pipe" }); assert.equal(await new Response(child.stdout).text(), "hi"); await child.exited;
    assert.equal(Bun.spawnSync(["echo", "hi"]).stdout.toString(), "hi\n"); assert.equal((await Bun.$`echo hi | tr h H`.text()), "Hi\n");
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(Bun.file("/sandbox/b")) }); assert.equal(await (await fetch(server.url)).text(), "x"); server.stop(true);
  };
}
if (globalThis.Deno) {
  // It is started without the right to any of these.
  for (const name of ["links and rights", "processes", "the machine"]) delete parts[name];
  parts["Deno's own"] = async () => {
    await Deno.writeTextFile("/sandbox/b", "x"); await Deno.copyFile("/sandbox/b", "/sandbox/c"); assert.equal(Deno.readTextFileSync("/sandbox/c"), "x");
    const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, () => new Response("x")); assert.equal(await (await fetch(`http://127.0.0.1:${server.addr.port}`)).text(), "x"); await server.shutdown();
    const watcher = Deno.watchFs("/sandbox"); setTimeout(() => Deno.writeTextFileSync("/sandbox/w", "x"), 10); for await (const _ of watcher) break;
    const file = await Deno.open("/sandbox/b", { read: true, write: true }); await file.lock(true); await file.unlock(); await file.syncData(); file.close();
  };
}

let failed = 0;
for (const [name, work] of Object.entries(parts)) {
  try {
    await Promise.race([work(), sleep(15_000).then(() => { throw new Error("no end"); })]);
  } catch (error) { failed += 1; console.log(`${name}: ${error}`); }
}
console.log(`${Object.keys(parts).length - failed} of ${Object.keys(parts).length} parts went well`);
process.exit(failed > 0 ? 1 : 0);
