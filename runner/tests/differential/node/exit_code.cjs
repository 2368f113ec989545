console.log("x"); process.exit(7);
