const { spawnSync, execFileSync } = require('child_process');
const { status, stdout, stderr } = spawnSync('sh', ['-c', 'echo out; echo err >&2; exit 3'], { encoding: 'utf8' });
console.log(status, stdout, stderr);
console.log(execFileSync(process.execPath, ['-p', 'process.execArgv'], { encoding: 'utf8' }));
