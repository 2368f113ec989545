process.on('unhandledRejection', (reason) => { console.log('unhandled', reason.message); process.exit(3); });
Promise.reject(new Error('x'));
