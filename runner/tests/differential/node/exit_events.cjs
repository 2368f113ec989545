process.on('exit', (code) => console.log('exit', code));
let again = 1;
process.on('beforeExit', (code) => {
  console.log('beforeExit', code);
  if (again-- > 0) setTimeout(() => console.log('more work'), 10);
});
