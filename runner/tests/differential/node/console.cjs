console.error('error'); console.warn('warn'); console.info('info');
console.table([{ a: 1 }, { a: 2 }]);
console.log('%s is %d', 'x', 5, { deep: { deeper: { deepest: { x: 1 } } } }, new Map([[1, 2]]));
process.stdout.write('no newline');
