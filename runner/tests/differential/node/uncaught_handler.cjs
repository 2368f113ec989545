process.on('uncaughtException', (error, origin) => { console.log('caught', error.message, origin); });
setTimeout(() => console.log('alive'), 20);
throw new Error('first');
