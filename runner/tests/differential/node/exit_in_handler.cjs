process.on('exit', () => { process.exitCode = 4; });
