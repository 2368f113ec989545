import fs from "node:fs";
console.log(typeof fs.readFileSync, import.meta.url);
