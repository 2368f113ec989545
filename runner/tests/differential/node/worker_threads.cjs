const { Worker, isMainThread, workerData } = require('worker_threads');
if (isMainThread) {
  const worker = new Worker(__filename, { workerData: 5 });
  worker.on('message', (message) => console.log('message', message));
  worker.on('exit', (code) => console.log('worker exit', code));
} else {
  const { parentPort } = require('worker_threads');
  parentPort.postMessage([workerData * 2, process.argv, process.execArgv, require.main === module,
    Object.keys(require.cache), module.parent]);
}
