import { writeFileSync } from 'node:fs';
writeFileSync('/sandbox/helper.json', '{"a": 1}');
const { default: data } = await import('./helper.json', { with: { type: 'json' } });
console.log(data);
import { createRequire } from 'node:module';
console.log(createRequire(import.meta.url)('./helper.json'));
