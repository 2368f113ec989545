// Driver of a live Node session: descriptor 3 brings calls, descriptor 4 takes their ends.
//
// Rules and differences to a program of its own:
// - Top-level names are properties of the global object; see javascript/rewrite.mjs.
// - A call ends when its top level is done and the event loop is empty. Listening servers, and
//   intervals beside one, go on in the background; see javascript/background.mjs.
// - process.exit(n) ends the call with n. It throws, and what the program does in `catch` and
//   `finally` on the way out happens, but is not heard. 'exit' listeners do not run.
// - SIGINT interrupts anything, a busy loop too: a worker thread watches for it, because the main
//   thread sees signals only between two callbacks. One stopped inside a timer's callback may leave
//   node's timers stuck: then the interpreter ends and its state is lost. Work that has been handed to the system goes on
//   (a fetch, a child process), and what follows it may run during a later call.
// - A module that has been imported stays as it was, even if its file changes.
'use strict';
// A program may declare such names itself.
const { process, Atomics, Buffer, Date, Object } = globalThis;
const fs = require('node:fs');
const inspect = require('node:util').inspect;
const Module = require('node:module');
const net = require('node:net');
const { dirname } = require('node:path');
const { fileURLToPath, pathToFileURL } = require('node:url');
const { Worker } = require('node:worker_threads');

const COMMANDS = 3;
const REPORTS = 4;
const ERRORS = 2;
const NEWLINE = 10;
const TIMER_PATIENCE_MS = 100;
const { setTimeout: setTimer, setImmediate: setSoon } = require('node:timers');
const leave = process.reallyExit.bind(process, 0);
const { closeSync, openSync, writeSync } = fs;

const write = (fd, text) => {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') return false;
    }
  }
  return true;
};

// Keeps the event loop alive only while a call is awaited.
const commands = new net.Socket({ fd: COMMANDS, readable: true, writable: false });
let chunks = [];
let waiting = null;
const deliver = () => {
  const last = chunks.length - 1;
  const end = waiting && last >= 0 ? chunks[last].indexOf(NEWLINE) : -1;
  if (end < 0) return;
  const line = Buffer.concat([...chunks.slice(0, last), chunks[last].subarray(0, end)]).toString();
  const rest = chunks[last].subarray(end + 1);
  chunks = rest.length > 0 ? [rest] : [];
  const callback = waiting;
  waiting = null;
  commands.unref();
  callback(line);
};
commands.on('data', (chunk) => {
  chunks.push(chunk);
  deliver();
});
for (const event of ['end', 'error', 'close']) commands.on(event, leave);

// Opened anew for each call: the stream a program reads, and whether descriptor 0 is more than nothing.
let stdin = null;
let stdinOpen = false;
const replaceStdin = (path) => {
  try {
    closeSync(0);
  } catch {
    // The program may have closed it.
  }
  openSync(path, 'r');
};
const stdinStream = () => {
  if (stdin) return stdin;
  if (!stdinOpen) return (stdin = fs.createReadStream('/dev/null'));
  // As node does it; libuv never closes descriptor 0 with the stream.
  stdin = new net.Socket({ fd: 0, readable: true, writable: false, manualStart: true });
  stdin.fd = 0;
  return stdin;
};
Object.defineProperty(process, 'stdin', { get: stdinStream, enumerable: true, configurable: true });

// Between the watcher and this thread: the interrupts taken note of, those sent, whether
// the last one had to stop the program, and whether there is a call.
const shared = new Int32Array(new SharedArrayBuffer(20));
const [NOTED, SENT, STOPPED, BUSY] = [1, 2, 3, 4];
const interrupted = () => {
  const sent = Atomics.load(shared, SENT);
  if (Atomics.exchange(shared, NOTED, sent) === sent) return false;
  Atomics.notify(shared, NOTED);
  return true;
};

const watchSignals = (session) => {
  const watcher = new Worker(`${__dirname}/javascript/watch.cjs`, { workerData: shared, execArgv: [] });
  watcher.on('message', () => {
    if (interrupted()) session.interrupt();
  });
  watcher.on('error', () => process.on('SIGINT', session.interrupt));
  watcher.unref();
  // Until the watcher is there.
  process.on('SIGINT', session.interrupt);
};

const enter = (path) => {
  process.argv = [process.argv[0], path];
  const module = new Module(path);
  module.filename = path;
  module.paths = Module._nodeModulePaths(dirname(path));
  const require = Module.createRequire(path);
  require.main = module;
  const values = { require, module, exports: module.exports, __filename: path, __dirname: dirname(path) };
  for (const name of Object.keys(values)) {
    Object.defineProperty(globalThis, name, { value: values[name], writable: true, enumerable: false, configurable: true });
  }
};

let entered = null;
const host = {
  read(callback) {
    waiting = callback;
    commands.ref();
    deliver();
  },
  report: (text) => write(REPORTS, text) || leave(),
  complain: (text) => write(ERRORS, text),
  leave,
  openStdin(path) {
    stdinOpen = path !== null;
    if (stdinOpen) replaceStdin(path);
  },
  closeStdin() {
    if (stdin) stdin.destroy();
    stdin = null;
    if (stdinOpen) replaceStdin('/dev/null');
    stdinOpen = false;
  },
  filename(path) {
    if (path !== entered) enter(path);
    entered = path;
    return /\.m[jt]s$/.test(path) ? pathToFileURL(path).href : path;
  },
  metaOf(filename) {
    const path = filename.startsWith('file:') ? fileURLToPath(filename) : filename;
    const url = pathToFileURL(path).href;
    const require = Module.createRequire(path);
    const resolve = (specifier) => {
      if (Module.isBuiltin(specifier)) return specifier.startsWith('node:') ? specifier : `node:${specifier}`;
      if (/^[a-z][a-z+.-]*:/i.test(specifier)) return specifier;
      return /^\.{0,2}\//.test(specifier) ? new URL(specifier, url).href : pathToFileURL(require.resolve(specifier)).href;
    };
    return { __proto__: null, dirname: dirname(path), filename: path, resolve, url };
  },
  stripTypes(path) {
    if (!/\.[mc]?ts$/.test(path) || !Module.stripTypeScriptTypes) return null;
    return (code) => {
      // Says that it is experimental, in the middle of the program's own output.
      const { emitWarning } = process;
      process.emitWarning = () => {};
      try {
        return Module.stripTypeScriptTypes(code);
      } finally {
        process.emitWarning = emitWarning;
      }
    };
  },
  detach() {
    for (const handle of process._getActiveHandles()) if (handle !== commands && handle.unref) handle.unref();
  },
  interrupted,
  busy(whether) {
    // A signal from before the call is not meant for it.
    Atomics.store(shared, NOTED, Atomics.load(shared, SENT));
    Atomics.store(shared, BUSY, whether ? 1 : 0);
  },
  exitCode: { get: () => process.exitCode, clear: () => (process.exitCode = undefined) },
  recover(next) {
    if (Atomics.exchange(shared, STOPPED, 0) === 0) return next();
    // A program stopped inside node's own list of timers leaves it stuck: nothing can mend that.
    let works = false;
    const deadline = Date.now() + TIMER_PATIENCE_MS;
    const timer = setTimer(() => (works = true), 1);
    const look = () => {
      if (works) return next();
      if (Date.now() > deadline) return leave();
      setSoon(look);
    };
    timer.ref();
    look();
  },
  onFailure(fail, protect) {
    process.on('uncaughtException', (error) => {
      if (process.listenerCount('uncaughtException') === 1) fail(error, 'exception');
    });
    protect('uncaughtException');
  },
  exits: [[process, 'exit'], [process, 'reallyExit']],
  streams: [],
  unsettled: 13,
};

(async () => {
  const [{ serve }, errors] = await Promise.all([import('./javascript/session.mjs'), import('./javascript/errors.mjs')]);
  host.style = errors.node(inspect, process.version);
  process.execArgv = [];
  watchSignals(serve(host));
})();
