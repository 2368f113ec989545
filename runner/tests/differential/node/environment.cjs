console.log(process.env, Object.keys(process.env));
console.log(require('child_process').execSync("env | grep -v '^_=' | sort", { encoding: 'utf8' }));
console.log(process.env.NODE_OPTIONS, 'NODE_OPTIONS' in process.env);
