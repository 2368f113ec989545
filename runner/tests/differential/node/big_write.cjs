process.stdout.write('x'.repeat(5_000_000) + '\n', () => process.exit(0));
