// What a call may leave behind: timers and listening servers.
//
// A call ends when the event loop is empty, as a program of its own would. Listening servers do not
// count, nor do intervals beside one: they go on between the calls. When a call ends early (exit,
// error, signal) its timers are cancelled, so that nothing of it wakes up in the next one.
import timers from 'node:timers';
import timersPromises from 'node:timers/promises';
import module from 'node:module';
import net from 'node:net';
import util from 'node:util';

const { Map, Promise, Reflect, Set } = globalThis;
const { apply } = Reflect;
const natives = {};
const pending = new Map();
const servers = new Set();
let settled = false;
/** The timer whose callback runs; stays if a signal has stopped it there. */
let running = null;

function wrap(start, stop, repeats) {
  const begin = (natives[start] = globalThis[start]);
  const end = (natives[stop] = globalThis[stop]);
  const started = {
    [start](callback, ...rest) {
      if (typeof callback !== 'function') return begin(callback, ...rest);
      const timer = begin(function (...values) {
        if (!repeats) pending.delete(timer);
        running = { timer, cancel: end };
        try {
          return apply(callback, this, values);
        } finally {
          running = null;
        }
      }, ...rest);
      pending.set(timer, { cancel: end, repeats });
      if (repeats && settled && servers.size > 0) timer.unref?.();
      return timer;
    },
    [stop](timer) {
      pending.delete(timer);
      return end(timer);
    },
  };
  for (const name of [start, stop]) {
    globalThis[name] = replaced.timers[name] = started[name];
    try {
      timers[name] = started[name];
    } catch {
      // A frozen module keeps its own: those timers merely outlive an early end.
    }
  }
}

function sleep(delay, value, options) {
  if (options?.signal) return natives.sleep(delay, value, options);
  return new Promise((resolve) => {
    const timer = globalThisTimers.setTimeout(resolve, delay, value);
    if (options?.ref === false) timer.unref?.();
  });
}

let globalThisTimers;

/** What takes the place of exports of node's modules, for engines that do not let them change. */
export const replaced = { __proto__: null, timers: { __proto__: null }, 'timers/promises': { __proto__: null } };

/** Takes over the timers and the listening servers of node's modules. */
export function install() {
  natives.sleep = timersPromises.setTimeout;
  replaced['timers/promises'].setTimeout = sleep;
  wrap('setTimeout', 'clearTimeout', false);
  wrap('setInterval', 'clearInterval', true);
  if (globalThis.setImmediate) wrap('setImmediate', 'clearImmediate', false);
  globalThisTimers = { setTimeout: globalThis.setTimeout };
  globalThis.setTimeout[util.promisify.custom] = sleep;
  try {
    timersPromises.setTimeout = sleep;
  } catch {
    // As above.
  }
  watch(net.Server.prototype, 'listen');
  module.syncBuiltinESMExports?.();
}

/** Takes note of the servers whose `method` is called. */
export function watch(prototype, method) {
  const native = prototype[method];
  prototype[method] = function (...values) {
    const result = apply(native, this, values);
    note(this);
    return result;
  };
}

/** Takes note of the servers that `object[method]` returns. */
export function watchResult(object, method) {
  const native = object[method];
  try {
    object[method] = function (...values) {
      const server = apply(native, this, values);
      note(server);
      return server;
    };
  } catch {
    // Read-only here: such a server keeps its call until the time limit.
  }
}

function note(server) {
  servers.add(server);
  if (settled) detach();
}

/** A call begins. */
export function begin() {
  settled = false;
}

/** The top level of the call is done: from here on servers do not keep it. */
export function settle() {
  settled = true;
  if (servers.size > 0) detach();
}

function detach() {
  for (const server of servers) server.unref?.();
  servers.clear();
  for (const [timer, { repeats }] of pending) if (repeats) timer.unref?.();
}

/** Cancels every timer that is left. */
export function cancel() {
  for (const [timer, { cancel: stop }] of pending) stop(timer);
  pending.clear();
  // Still counted as one that keeps the event loop alive.
  running?.cancel(running.timer);
  running = null;
}
