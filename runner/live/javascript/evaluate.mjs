// Compiles a program and prepares the global object for it.
import process from 'node:process';
import vm from 'node:vm';
import { replaced } from './background.mjs';
import { PREFIX, rewrite } from './rewrite.mjs';

// A program may declare such names itself.
const { JSON, Number, Object, String, SyntaxError, TypeError } = globalThis;
const { defineProperty, getOwnPropertyDescriptor } = Object;
const { stringify } = JSON;
const { Script } = vm;
const importModuleDynamically = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;
const META = Symbol.for('isol8.importMeta');
const loaders = new Map();

defineProperty(globalThis, META, { value: Object.create(null) });

const script = (text, filename, options) =>
  new Script(text, { filename, importModuleDynamically, ...options });
const run = (compiled) => compiled.runInThisContext({ displayErrors: false, breakOnSigint: options.breakOnSigint });
const options = { breakOnSigint: false };

// Node warns of the loader constant at its first use, in the middle of somebody's output.
{
  const { emitWarning } = process;
  process.emitWarning = () => {};
  run(script('import("node:fs")', 'file:///'));
  process.emitWarning = emitWarning;
}

/** Lets SIGINT end what runs synchronously, with an error. */
export function breakOnSignal() {
  options.breakOnSigint = true;
}

/**
 * The program as something to run: `{ names, imports, lenient, functions, body, asynchronous }`.
 *
 * `stripTypes` (or null) turns TypeScript into JavaScript; it is asked only if the text is no
 * JavaScript, so that plain programs keep their columns. Throws the engine's SyntaxError.
 */
export function compile(code, filename, stripTypes, metaOf) {
  globalThis[META][filename] ??= metaOf(filename);
  const meta = `globalThis[Symbol.for("isol8.importMeta")][${stringify(filename)}]`;
  let plan;
  let lenient = false;
  try {
    plan = rewrite(code, meta);
  } catch (syntax) {
    try {
      if (!stripTypes) throw syntax;
      plan = rewrite(stripTypes(code), meta);
    } catch {
      throw nativeError(code, filename, syntax, stripTypes);
    }
    lenient = true;
  }
  return {
    names: plan.names,
    imports: plan.imports,
    lenient,
    asynchronous: plan.asynchronous,
    functions: plan.functions && script(plan.functions, filename),
    body: script(plan.body, filename, plan.asynchronous ? { columnOffset: -PREFIX.length } : undefined),
  };
}

/** The engine's own complaint where it has one; its words are the ones people know. */
function nativeError(code, filename, syntax, stripTypes) {
  let at = syntax.loc ? { line: syntax.loc.line, column: syntax.loc.column + 1 } : null;
  let error = new SyntaxError(String(syntax.message).replace(/ \(\d+:\d+\)$/, ''));
  if (stripTypes) {
    try {
      stripTypes(code);
    } catch (complaint) {
      // Bun gives several in one, with their place; Deno has the place in the stack.
      const first = complaint.errors?.[0] ?? complaint;
      const [, line, column] = /:(\d+):(\d+)\)?$/m.exec(String(first.stack)) ?? [];
      at = first.position ?? (line ? { line: Number(line), column: Number(column) } : null);
      error = new SyntaxError(String(first.message).split('\n')[0].replace(/^SyntaxError: /, ''));
    }
  } else if (!/^\s*(import|export)\b/m.test(code)) {
    try {
      script(`${PREFIX}${code}\n})`, filename);
    } catch (complaint) {
      error = new SyntaxError(complaint.message);
    }
  }
  return { syntax: true, error, at };
}

/** Runs a compiled program; a promise of its end if it is asynchronous. */
export function start({ functions, body }) {
  if (functions) run(functions);
  return run(body);
}

/** Makes every name a plain, writable property of the global object. */
export function declare(names) {
  for (const name of names) {
    const existing = getOwnPropertyDescriptor(globalThis, name);
    if (existing && 'value' in existing && existing.writable) continue;
    if (existing && !existing.configurable) continue;
    defineProperty(globalThis, name, { value: undefined, writable: true, enumerable: true, configurable: true });
  }
}

/** Loads what the program imports, in order, and binds the names: live, as in a module. */
export async function load(imports, filename, lenient) {
  if (!loaders.has(filename)) loaders.set(filename, run(script('(specifier, options) => import(specifier, options)', filename)));
  const loader = loaders.get(filename);
  for (const { specifier, attributes, bindings } of imports) {
    const namespace = await loader(specifier, attributes ? { with: attributes } : undefined);
    for (const [local, imported] of bindings) {
      if (imported !== '*' && !lenient && !(imported in namespace)) {
        throw new SyntaxError(`The requested module '${specifier}' does not provide an export named '${imported}'`);
      }
      const ours = replaced[specifier.replace(/^node:/, '')]?.[imported];
      bind(local, ours ? () => ours : imported === '*' ? () => namespace : () => namespace[imported]);
    }
  }
}

function bind(local, get) {
  const existing = getOwnPropertyDescriptor(globalThis, local);
  if (existing && !existing.configurable) {
    globalThis[local] = get();
    return;
  }
  const set = () => {
    throw new TypeError('Assignment to constant variable.');
  };
  defineProperty(globalThis, local, { get, set, enumerable: true, configurable: true });
}
