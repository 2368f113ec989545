import { Worker } from 'node:worker_threads';
const worker = new Worker('console.log("in worker", Object.keys(require.cache), process.env.CUSTOM)', { eval: true });
await new Promise((resolve) => worker.once('exit', resolve));
console.log('joined');
