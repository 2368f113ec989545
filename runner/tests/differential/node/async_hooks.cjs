const { executionAsyncId, triggerAsyncId, AsyncLocalStorage } = require('async_hooks');
console.log(executionAsyncId(), triggerAsyncId());
new AsyncLocalStorage().run(5, () => console.log('in'));
