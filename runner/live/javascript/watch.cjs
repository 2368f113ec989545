// Worker thread of the Node driver: waits for SIGINT and ends what the main thread is busy with.
//
// `breakOnSigint` makes node's own signal thread end the wait below, wherever the main thread is.
'use strict';
const { Session } = require('node:inspector');
const { Script } = require('node:vm');
const { parentPort, workerData: shared } = require('node:worker_threads');

/** Time for the main thread to notice by itself that it is to stop. */
const PATIENCE_MS = 50;

const main = new Session();
main.connectToMainThread();
const [NOTED, SENT, STOPPED, BUSY] = [1, 2, 3, 4];
globalThis.shared = shared;
// Word 0 never changes: only a signal ends this wait.
const wait = new Script('Atomics.wait(shared, 0, 0)');

for (;;) {
  try {
    wait.runInThisContext({ breakOnSigint: true });
    continue;
  } catch {
    // A signal; the main thread may be idle, awaiting something, or busy.
  }
  if (Atomics.load(shared, BUSY) === 0) continue;
  const noted = Atomics.load(shared, NOTED);
  Atomics.add(shared, SENT, 1);
  parentPort.postMessage('interrupt');
  if (Atomics.wait(shared, NOTED, noted, PATIENCE_MS) === 'timed-out') {
    Atomics.store(shared, STOPPED, 1);
    main.post('Runtime.terminateExecution');
  }
}
