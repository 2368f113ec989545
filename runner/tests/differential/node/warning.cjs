process.emitWarning('careful', 'CustomWarning'); Buffer.from("x");
