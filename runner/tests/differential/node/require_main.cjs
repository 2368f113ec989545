console.log(require.main === module, module.id, module.filename, module.parent, module.children, module.loaded);
console.log(require.main.paths, Object.keys(require.cache), __filename, __dirname);
console.log(module.parent === null, require.main.children.length);
