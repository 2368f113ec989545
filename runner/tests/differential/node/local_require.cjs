const fs = require('fs');
fs.writeFileSync('/sandbox/helper.cjs', 'module.exports = [module.id, module.parent.id, require.main.id];');
console.log(require('./helper.cjs'), module.children.length, Object.keys(require.cache));
fs.writeFileSync('/sandbox/helper.mjs', 'export default import.meta.url;');
import('./helper.mjs').then((helper) => console.log(helper.default));
