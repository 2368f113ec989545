console.log(import.meta.url, import.meta.filename, import.meta.dirname, import.meta.main);
console.log(import.meta.resolve('./x.js'), typeof require, typeof module);
