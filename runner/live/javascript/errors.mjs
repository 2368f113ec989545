// Writes an uncaught error the way the runtime itself does, without the frames of the driver.

const { Error, Number, String } = globalThis;
const FRAME = /^\s+at /;
const OWN_FRAME = /^\s+at .*(\/isol8\/live\/|node:vm:|ext:deno_node\/vm\.js|runInThisContext \((unknown|native)\))/;

/** Where in `filename` the error was made: `{ line, column }`, both from 1, or null. */
export function locate(error, filename) {
  try {
    const { stack } = error;
    for (const line of String(stack).split('\n')) {
      const at = line.lastIndexOf(`${filename}:`);
      if (at < 0) continue;
      const [, row, column] = /^(\d+):(\d+)/.exec(line.slice(at + filename.length + 1)) ?? [];
      if (row) return { line: Number(row), column: Number(column) };
    }
  } catch {
    // Exotic values have no place.
  }
  return null;
}

/** The text for standard error. */
export function describe(error, at, { call, kind, style, syntax }) {
  let shown;
  try {
    shown = syntax ? `${style.syntax}: ${error.message}` : style.inspect(error);
  } catch {
    shown = 'a value that cannot be shown';
  }
  const text = withoutDriver(shown);
  const source = at && call ? call.code.split('\n')[at.line - 1] : undefined;
  const frame = source === undefined ? null : { ...at, source, caret: `${' '.repeat(Math.max(0, at.column - 1))}^` };
  return style.compose({ text, frame, kind, call, error });
}

/** Cuts the stack where the driver begins: what is below is its own way to get there. */
function withoutDriver(shown) {
  const lines = [];
  let cutting = false;
  for (const line of shown.split('\n')) {
    if (OWN_FRAME.test(line)) cutting = true;
    else if (!FRAME.test(line)) cutting = false;
    if (!cutting) lines.push(line);
    else if (line.endsWith(' {')) lines[lines.length - 1] += ' {';
  }
  return lines.join('\n');
}

const isError = (error) => {
  try {
    return error instanceof Error;
  } catch {
    return false;
  }
};

/** Node: place, source line, error, version. */
export const node = (inspect, version) => ({
  inspect,
  syntax: 'SyntaxError',
  compose({ text, frame, call, error }) {
    const head = frame ? `${call.filename}:${frame.line}\n${frame.source}\n${frame.caret}\n\n` : '';
    const hint = isError(error) ? '' : '\n(Use `node --trace-uncaught ...` to show where the exception was thrown)';
    return `${head}${isError(error) ? '' : 'Uncaught:\n'}${text}${hint}\n\nNode.js ${version}\n`;
  },
  unsettled: (call) => `Warning: Detected unsettled top-level await at ${call.filename}\n`,
});

/** Bun: numbered source line, error, version. */
export const bun = (inspect, version) => ({
  syntax: 'error',
  inspect(error) {
    if (!isError(error)) return inspect(error);
    // Bun itself shows no frame of a script above the first one.
    const shown = inspect(error).split('\n').filter((line) => !FRAME.test(line)).join('\n').trimEnd();
    const frames = String(error.stack).split('\n').filter((line) => FRAME.test(line));
    return [shown, ...frames.map((line) => `      ${line.trim()}`)].join('\n');
  },
  compose({ text, frame }) {
    const number = frame ? `${frame.line} | ` : '';
    // Bun shows the source itself where it knows it.
    const head = frame && !/^\s*\d+ \| /.test(text) ? `${number}${frame.source}\n${' '.repeat(number.length)}${frame.caret}\n` : '';
    return `${head}${text.trimEnd()}\n\nBun v${version} (Linux)\n`;
  },
  unsettled: (call) => `Warning: Detected unsettled top-level await at ${call.filename}\n`,
});

/** Deno: error with the source line above the stack. */
export const deno = (inspect) => ({
  inspect,
  syntax: 'SyntaxError',
  compose({ text, frame, kind }) {
    const lines = text.trimEnd().split('\n');
    const stack = lines.findIndex((line) => /^\s+at /.test(line));
    if (frame) lines.splice(stack < 0 ? lines.length : stack, 0, frame.source, frame.caret);
    return `error: Uncaught ${kind === 'exception' ? '' : '(in promise) '}${lines.join('\n')}\n`;
  },
  unsettled: () => 'error: Top-level await promise never resolved\n',
});
