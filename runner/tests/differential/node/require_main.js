console.log(require.main === module, module.id, __filename, Object.keys(require.cache));
