console.log(Object.getOwnPropertyNames(globalThis).sort().join(' '));
console.log(process.memoryUsage().rss > 0, process.getActiveResourcesInfo());
