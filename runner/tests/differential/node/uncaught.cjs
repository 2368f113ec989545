function inner() { throw new TypeError('broken'); }
function outer() { inner(); }
outer();
