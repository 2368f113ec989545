// The live session that the JavaScript drivers share: takes calls, runs them, reports their end.
//
// A call ends when its top level has settled and the event loop is empty, exactly when a program of
// its own would end; see background.mjs for the exceptions. `process.exit` ends the call, not the
// interpreter: it throws, and what the program still says while that error unwinds is not heard.
import fs from 'node:fs';
import process from 'node:process';
import { setImmediate } from 'node:timers';
import * as background from './background.mjs';
import { compile, declare, load, start } from './evaluate.mjs';
import { describe, locate } from './errors.mjs';

// A program may declare such names itself.
const { JSON, Number, Object, Reflect, Error, console, queueMicrotask } = globalThis;
const { parse, stringify } = JSON;
const { defineProperty, keys } = Object;
const { apply } = Reflect;
const { unlinkSync } = fs;
const later = setImmediate;
const chdir = process.chdir.bind(process);
const stdoutWrite = process.stdout.write;
const { stdout, stderr, env } = process;

/** What `process.exit` throws. */
const EXIT = Object.freeze(Object.assign(new Error('the program has called process.exit()'), { stack: 'process.exit' }));
const ERRNO = {
  __proto__: null, EPERM: 1, ENOENT: 2, ENOMEM: 12, EACCES: 13, ENOTDIR: 20, ENAMETOOLONG: 36, ELOOP: 40,
  // Deno's names.
  NotFound: 2, PermissionDenied: 13, NotCapable: 13, NotADirectory: 20,
};
const EIO = 5;
const SILENT = ['log', 'error', 'warn', 'info', 'debug', 'trace', 'dir', 'table', 'group'];

/**
 * Serves calls until the commands end.
 *
 * `host`: `read(callback)` asks for the next line, which keeps the event loop alive, and gives null at
 * the end; `report(text)`; `complain(text)` writes to standard error; `openStdin(path | null)` replaces
 * the standard input; `closeStdin()`; `leave()` ends the process; `filename(path)`; `metaOf(filename)`;
 * `stripTypes` or null for a path; `detach()` lets go of handles after an early end;
 * `interrupted()`, whether a signal has stopped the program and `interrupt` has not been called yet;
 * `busy(whether)`, told when a call begins and ends; `exitCode`, `{ get, clear }`;
 * `recover(next)` makes sure that the event loop still works after one; `streams`, more
 * `[object, method]` pairs that write output; `style`, see errors.mjs; `unsettled`, the exit code of an
 * await that never ends.
 */
export function serve(host) {
  let current = null;
  let unmute = null;
  const report = (message) => host.report(`${stringify(message)}\n`);

  const next = () => host.read((line) => {
    if (line === null) host.leave();
    else begin(parse(line));
  });

  function begin(command) {
    const call = { id: command.call, code: command.code, filename: host.filename(command.path), exit: null, settled: false };
    if (command.cwd !== null) {
      try {
        chdir(command.cwd);
      } catch (error) {
        report({ failed: call.id, errno: ERRNO[error.code ?? error.name] ?? EIO });
        next();
        return;
      }
    }
    for (const name of keys(command.env)) {
      if (command.env[name] === null) delete env[name];
      else env[name] = command.env[name];
    }
    host.openStdin(command.stdinPath);
    if (command.stdinPath) {
      try {
        unlinkSync(command.stdinPath);
      } catch {
        // Gone already: the name was of use only until now.
      }
      report({ stdin: call.id });
    }
    host.exitCode.clear();
    background.begin();
    host.busy(true);
    current = call;
    execute(call, command.path);
  }

  async function execute(call, path) {
    try {
      const program = compile(call.code, call.filename, host.stripTypes(path), host.metaOf);
      declare(program.names);
      if (program.imports.length > 0) await load(program.imports, call.filename, program.lenient);
      if (call !== current) return;
      const result = start(program);
      if (program.asynchronous) await result;
      if (call !== current) return;
      call.settled = true;
      background.settle();
    } catch (error) {
      fail(error, 'top level', call);
    }
  }

  function fail(error, kind, call = current) {
    if (error === EXIT) return;
    if (call !== current || call?.exit != null) return;
    if (safe(() => error.code) === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') return void (call && end(call, 130));
    const syntax = error !== null && typeof error === 'object' && safe(() => error.syntax === true && error.error);
    const at = syntax ? error.at : locate(error, call?.filename);
    host.complain(describe(syntax || error, at, { call, kind, style: host.style, syntax: syntax !== null && syntax !== false }));
    if (call) end(call, 1);
  }

  /** Ends the call before its work is done. */
  function end(call, code) {
    call.exit = code;
    unmute ??= mute(host.streams);
    later(() => abandon(call));
  }

  function abandon(call) {
    if (call !== current) return;
    background.cancel();
    host.detach();
    finish(call, call.exit);
  }

  function finish(call, code) {
    current = null;
    host.busy(false);
    host.closeStdin();
    flush(() => {
      unmute?.();
      unmute = null;
      report({ done: call.id, exit: code });
      next();
    });
  }

  function exit(code) {
    const wanted = code ?? host.exitCode.get();
    if (current && current.exit === null) end(current, numeric(wanted));
    throw EXIT;
  }

  process.on('beforeExit', () => {
    const call = current;
    if (!call || call.exit !== null) return;
    if (host.interrupted()) {
      interrupt();
    } else if (call.settled) {
      // After the program's own listeners.
      queueMicrotask(() => call === current && finish(call, numeric(host.exitCode.get())));
    } else {
      host.complain(host.style.unsettled(call));
      finish(call, host.unsettled);
    }
  });
  protect('beforeExit');
  host.onFailure(fail, protect);
  for (const [object, name] of host.exits) {
    defineProperty(object, name, { value: exit, writable: true, enumerable: true, configurable: true });
  }
  background.install();
  report({ ready: true });
  next();

  return { interrupt };

  /** A signal has arrived: ends the call, if there is one. */
  function interrupt() {
    const call = current;
    if (!call) return;
    call.exit = 130;
    background.cancel();
    host.recover(() => abandon(call));
  }

  function flush(done) {
    const waiting = [stdout, stderr].filter((stream) => safe(() => stream.writableLength > 0 && !stream.destroyed));
    let left = waiting.length;
    if (left === 0) return done();
    for (const stream of waiting) apply(stdoutWrite, stream, ['', () => --left === 0 && done()]);
  }
}

function safe(look) {
  try {
    return look();
  } catch {
    return null;
  }
}

/** The exit status a process would show. */
function numeric(code) {
  const number = Number(code ?? 0);
  return Number.isInteger(number) ? number & 255 : 1;
}

/** Takes the program's voice; returns what gives it back. */
function mute(streams) {
  const silent = [...SILENT.map((name) => [console, name]), [stdout, 'write'], [stderr, 'write'], ...streams];
  const undo = [];
  for (const [object, name] of silent) {
    const own = Object.getOwnPropertyDescriptor(object, name);
    if (own && !own.configurable) continue;
    defineProperty(object, name, { value: () => true, writable: true, configurable: true, enumerable: own?.enumerable ?? false });
    undo.push(() => (own ? defineProperty(object, name, own) : delete object[name]));
  }
  return () => undo.forEach((step) => step());
}

/** Keeps this driver's listeners when a program removes all of an event's. */
const kept = new Map();
function protect(event) {
  if (kept.size === 0) {
    const { removeAllListeners } = process;
    process.removeAllListeners = function (name) {
      const result = apply(removeAllListeners, this, arguments);
      for (const [guarded, listeners] of kept) {
        if (name === undefined || name === guarded) for (const listener of listeners) if (!process.listeners(guarded).includes(listener)) process.on(guarded, listener);
      }
      return result;
    };
  }
  kept.set(event, process.listeners(event));
}
