setTimeout(() => console.log('timeout'), 100);
setImmediate(() => console.log('immediate'));
process.nextTick(() => console.log('tick'));
Promise.resolve().then(() => console.log('micro'));
queueMicrotask(() => console.log('microtask'));
console.log('sync');
