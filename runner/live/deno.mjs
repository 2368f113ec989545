// Driver of a live Deno session: descriptor 3 brings calls, descriptor 4 takes their ends.
//
// It runs with the permissions of a plain program and needs no more. The rules are those of node.cjs.
// What differs:
// - Types are stripped if the text is no JavaScript; only enums and the like move lines in errors.
// - SIGINT interrupts whatever awaits; a busy loop cannot be interrupted: the runner kills the
//   interpreter and its state is lost.
// - Standard input is Deno.stdin and process.stdin; fs.readFileSync(0) finds nothing.
// - An import map or deno.json beside the program is not read.
import module from 'node:module';
import net from 'node:net';
import { dirname } from 'node:path';
import process from 'node:process';
import { Readable } from 'node:stream';
import { fileURLToPath, pathToFileURL } from 'node:url';
import * as background from './javascript/background.mjs';
import { deno } from './javascript/errors.mjs';
import { serve } from './javascript/session.mjs';

// A program may declare such names itself.
const { Deno, URL } = globalThis;
const COMMANDS = 3;
const REPORTS = 4;
const leave = Deno.exit.bind(Deno, 0);
const { inspect, openSync, stderr } = Deno;
const emptyStdin = Deno.stdin;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

const commands = new net.Socket({ fd: COMMANDS, readable: true, writable: false });
const reports = new net.Socket({ fd: REPORTS, readable: false, writable: true });
reports.on('error', leave);
reports.unref();

// Keeps the event loop alive only while a call is awaited.
let chunks = [];
let waiting = null;
const deliver = () => {
  const last = chunks.length - 1;
  const end = waiting && last >= 0 ? chunks[last].indexOf(10) : -1;
  if (end < 0) return;
  let line = '';
  for (const chunk of chunks.slice(0, last)) line += decoder.decode(chunk, { stream: true });
  line += decoder.decode(chunks[last].subarray(0, end));
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

let stdin = null;
let file = null;
Object.defineProperty(process, 'stdin', {
  get: () => (stdin ??= file ? Readable.fromWeb(file.readable) : Readable.from([])),
  enumerable: true,
  configurable: true,
});

const strip = module.stripTypeScriptTypes;
const stripTypes = (path) => {
  if (!/\.([mc]?ts|tsx)$/.test(path)) return null;
  return (code) => {
    try {
      return strip(code);
    } catch {
      return strip(code, { mode: 'transform' });
    }
  };
};

const host = {
  read(callback) {
    waiting = callback;
    commands.ref();
    deliver();
  },
  report: (text) => reports.write(text),
  complain(text) {
    const bytes = encoder.encode(text);
    for (let at = 0; at < bytes.length;) at += stderr.writeSync(bytes.subarray(at));
  },
  leave,
  openStdin(path) {
    file = path === null ? null : openSync(path);
    Deno.stdin = file ?? emptyStdin;
  },
  closeStdin() {
    stdin?.destroy();
    stdin = null;
    try {
      file?.close();
    } catch {
      // The program has closed it.
    }
    file = null;
    Deno.stdin = emptyStdin;
  },
  filename(path) {
    process.argv[1] = path;
    return pathToFileURL(path).href;
  },
  metaOf(url) {
    const filename = fileURLToPath(url);
    const resolve = (specifier) => (/^\.{0,2}\//.test(specifier) ? new URL(specifier, url).href : import.meta.resolve(specifier));
    return { __proto__: null, dirname: dirname(filename), filename, main: true, resolve, url };
  },
  stripTypes,
  detach() {},
  interrupted: () => false,
  busy() {},
  exitCode: {
    get: () => process.exitCode || Deno.exitCode,
    clear: () => (process.exitCode = Deno.exitCode = 0),
  },
  recover: (next) => next(),
  onFailure(fail) {
    addEventListener('error', (event) => {
      event.preventDefault();
      fail(event.error, 'exception');
    });
    addEventListener('unhandledrejection', (event) => {
      event.preventDefault();
      fail(event.reason, 'rejection');
    });
  },
  exits: [[process, 'exit'], [process, 'reallyExit'], [Deno, 'exit']],
  streams: [[Deno.stdout, 'write'], [Deno.stdout, 'writeSync'], [Deno.stderr, 'write'], [Deno.stderr, 'writeSync']],
  style: deno((error) => inspect(error, { colors: false })),
  unsettled: 1,
};

background.watchResult(Deno, 'serve');
background.watchResult(Deno, 'listen');
Deno.addSignalListener('SIGINT', serve(host).interrupt);
