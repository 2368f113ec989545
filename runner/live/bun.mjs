// Driver of a live Bun session: descriptor 3 brings calls, descriptor 4 takes their ends.
//
// The rules are those of node.cjs. What differs:
// - TypeScript is transpiled if the text is no JavaScript; line numbers in errors are then those of
//   the transpiled text.
// - SIGINT interrupts whatever awaits, and a busy loop at the top level; a busy loop in a callback or
//   behind an `await` cannot be interrupted: the runner kills the interpreter and its state is lost.
import fs from 'node:fs';
import http from 'node:http';
import module from 'node:module';
import { dirname } from 'node:path';
import process from 'node:process';
import { pathToFileURL } from 'node:url';
import * as background from './javascript/background.mjs';
import { bun } from './javascript/errors.mjs';
import { breakOnSignal } from './javascript/evaluate.mjs';
import { serve } from './javascript/session.mjs';

// A program may declare such names itself.
const { Buffer, Bun, Object } = globalThis;
const COMMANDS = 3;
const REPORTS = 4;
const ERRORS = 2;
const NEWLINE = 10;
const leave = process.reallyExit.bind(process, 0);
const { closeSync, createReadStream, openSync, writeSync } = fs;
const readSome = fs.read;
const { inspect, resolveSync } = Bun;

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

// Reads only while a call is awaited: the pending read is what keeps the event loop alive.
let rest = Buffer.alloc(0);
const read = (callback, chunks = [rest]) => {
  const last = chunks.at(-1);
  const end = last.indexOf(NEWLINE);
  if (end >= 0) {
    rest = last.subarray(end + 1);
    callback(Buffer.concat([...chunks.slice(0, -1), last.subarray(0, end)]).toString());
    return;
  }
  const chunk = Buffer.allocUnsafe(65536);
  readSome(COMMANDS, chunk, 0, chunk.length, null, (error, count) => {
    if (error || count === 0) callback(null);
    else read(callback, [...chunks, chunk.subarray(0, count)]);
  });
};

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
Object.defineProperty(process, 'stdin', {
  get: () => (stdin ??= stdinOpen ? createReadStream('', { fd: 0, autoClose: false }) : createReadStream('/dev/null')),
  enumerable: true,
  configurable: true,
});

const transpilers = new Map();
const stripTypes = (path) => {
  const loader = /\.([mc]?ts|tsx|jsx)$/.exec(path)?.[1].replace(/^[mc]/, '');
  if (!loader) return null;
  if (!transpilers.has(loader)) {
    transpilers.set(loader, new Bun.Transpiler({ loader, target: 'bun', trimUnusedImports: false, deadCodeElimination: false, inline: false }));
  }
  const transpiler = transpilers.get(loader);
  return (code) => transpiler.transformSync(code);
};

const enter = (path) => {
  process.argv = [process.argv[0], path];
  const values = { require: module.createRequire(path), __filename: path, __dirname: dirname(path) };
  for (const name of Object.keys(values)) {
    Object.defineProperty(globalThis, name, { value: values[name], writable: true, enumerable: false, configurable: true });
  }
};

let entered = null;
const host = {
  read,
  report: (text) => write(REPORTS, text) || leave(),
  complain: (text) => write(ERRORS, text),
  leave,
  openStdin(path) {
    stdinOpen = path !== null;
    if (stdinOpen) replaceStdin(path);
  },
  closeStdin() {
    stdin?.destroy();
    stdin = null;
    if (stdinOpen) replaceStdin('/dev/null');
    stdinOpen = false;
  },
  filename(path) {
    if (path !== entered) enter(path);
    entered = path;
    return path;
  },
  metaOf: (path) => ({
    __proto__: null,
    dir: dirname(path),
    dirname: dirname(path),
    env: process.env,
    file: path.slice(path.lastIndexOf('/') + 1),
    filename: path,
    main: true,
    path,
    require: module.createRequire(path),
    resolve: (specifier) => {
      const found = resolveSync(specifier, dirname(path));
      return found.startsWith('/') ? pathToFileURL(found).href : found;
    },
    resolveSync: (specifier) => resolveSync(specifier, dirname(path)),
    url: pathToFileURL(path).href,
  }),
  stripTypes,
  detach() {},
  interrupted: () => false,
  busy() {},
  exitCode: { get: () => process.exitCode, clear: () => (process.exitCode = 0) },
  recover: (next) => next(),
  onFailure(fail, protect) {
    for (const [event, kind] of [['uncaughtException', 'exception'], ['unhandledRejection', 'rejection']]) {
      process.on(event, (error) => {
        if (process.listenerCount(event) === 1) fail(error, kind);
      });
      protect(event);
    }
  },
  exits: [[process, 'exit'], [process, 'reallyExit']],
  streams: [],
  style: bun((error) => inspect(error, { colors: false }), Bun.version),
  unsettled: 13,
};

breakOnSignal();
background.watch(http.Server.prototype, 'listen');
background.watchResult(Bun, 'serve');
process.on('SIGINT', serve(host).interrupt);
