const Module = require('module');
console.log(Module.runMain.toString().slice(0, 60), Module.runMain.name, Module._preloadModules.name);
console.log(Object.keys(Module).sort(), Module.builtinModules.length, Module.globalPaths);
