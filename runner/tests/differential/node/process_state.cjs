console.log(process.argv, process.execArgv, process.execPath, process.title, process.argv0);
console.log(process.cwd(), process.exitCode, process.uptime() < 100, process.stdin.fd);
console.log(process._preload_modules, process.config.variables !== undefined, process.features);
console.log(Object.keys(process).sort(), process.eventNames());
console.log(require('fs').readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(0, 1));
