function inner() { throw new TypeError('broken'); }
inner();
