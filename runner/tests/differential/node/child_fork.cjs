const { fork } = require('child_process');
if (process.argv[2] === 'child') {
  process.send({ argv: process.argv.slice(1), execArgv: process.execArgv, main: require.main === module });
} else {
  const child = fork(__filename, ['child']);
  child.on('message', (message) => console.log(message));
  child.on('exit', (code) => console.log('exit', code));
}
