process.on('SIGUSR2', () => { console.log('got it'); process.exit(2); });
setInterval(() => {}, 1000);
process.kill(process.pid, 'SIGUSR2');
