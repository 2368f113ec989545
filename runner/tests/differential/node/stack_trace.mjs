Error.stackTraceLimit = 50;
console.log(new Error('deep').stack);
