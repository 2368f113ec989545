for (let n = 0; n < 100000; n++) console.log('line', n);
