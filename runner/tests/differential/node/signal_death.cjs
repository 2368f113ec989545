console.log('x'); process.kill(process.pid, 'SIGTERM'); setInterval(() => {}, 1000);
