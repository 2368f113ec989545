const value = await new Promise((resolve) => setTimeout(resolve, 20, 'later'));
console.log(value);
const fs = await import('node:fs');
console.log(typeof fs.readFileSync);
