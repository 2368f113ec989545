// Turns a program into scripts whose top-level names live on the global object, so that the next
// call finds them.
//
// Declarations at the top level become assignments, static imports are taken out for the caller to
// load, exports lose their keyword. Nothing moves: every token keeps its line and, but for a few
// characters inserted in front of classes and after declarations, its column. Function declarations
// stay declarations, which the engine hoists. A program that awaits runs inside an async function;
// its function declarations then run as a script of their own, so that they stay global.
//
// Known differences to a module: the code is sloppy, not strict; `const` may be assigned to; a name
// used before its declaration is undefined instead of an error.
import { parse } from './vendor/acorn.mjs';

const { Object, Set } = globalThis;
const { keys } = Object;
const OPTIONS = Object.freeze({
  __proto__: null,
  ecmaVersion: 'latest',
  sourceType: 'script',
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
});
export const PREFIX = '(async () => {';

/**
 * `{ functions, body, asynchronous, names, imports }`: `functions` (or null) and then `body` are to be
 * run as scripts, after every one of `names` exists on the global object and `imports` (each
 * `{ specifier, attributes, bindings: [[local, imported]] }`, imported `*` for the namespace) are loaded.
 *
 * `meta` is the expression that stands for `import.meta`. Throws acorn's SyntaxError.
 */
export function rewrite(code, meta) {
  const program = parse(code, OPTIONS);
  const edits = [];
  const names = new Set();
  const imports = [];
  const functions = [];
  const context = { code, edits, names, asynchronous: false, meta, heads: new Set() };
  // Not at the very start once the text is wrapped.
  if (code.startsWith('#!')) edits.push({ start: 0, end: 2, text: '//' });
  for (const statement of program.body) topLevel(statement, context, imports, functions);
  const asynchronous = context.asynchronous || imports.length > 0;
  if (!asynchronous) return { functions: null, body: apply(code, edits), asynchronous, names: [...names], imports };

  const inside = (edit) => functions.some((range) => range.start <= edit.start && edit.end <= range.end);
  const gaps = complement(functions, code.length);
  const blanked = (ranges) => ranges.map(({ start, end }) => ({ start, end, text: blank(code.slice(start, end)) }));
  const body = apply(code, [...edits.filter((edit) => !inside(edit)), ...blanked(functions)]);
  return {
    functions: functions.length === 0 ? null : apply(code, [...edits.filter(inside), ...blanked(gaps)]),
    body: `${PREFIX}${body}\n})()`,
    asynchronous,
    names: [...names],
    imports,
  };
}

function topLevel(statement, context, imports, functions) {
  const { code, edits, names } = context;
  switch (statement.type) {
    case 'ImportDeclaration':
      imports.push(importOf(statement));
      edits.push(blanking(code, statement.start, statement.end));
      return;
    case 'ExportAllDeclaration':
      imports.push({ specifier: statement.source.value, attributes: attributesOf(statement), bindings: [] });
      edits.push(blanking(code, statement.start, statement.end));
      return;
    case 'ExportNamedDeclaration':
      if (statement.declaration) {
        edits.push(blanking(code, statement.start, statement.declaration.start));
        topLevel(statement.declaration, context, imports, functions);
        return;
      }
      if (statement.source) {
        imports.push({ specifier: statement.source.value, attributes: attributesOf(statement), bindings: [] });
      }
      edits.push(blanking(code, statement.start, statement.end));
      return;
    case 'ExportDefaultDeclaration': {
      const { declaration } = statement;
      if (declaration.id && /Declaration$/.test(declaration.type)) {
        edits.push(blanking(code, statement.start, declaration.start));
        topLevel(declaration, context, imports, functions);
        return;
      }
      edits.push({ start: statement.start, end: declaration.start, text: fill(';(', code, statement.start, declaration.start) });
      edits.push({ start: declaration.end, end: declaration.end, text: ');' });
      walk(declaration, context, false);
      return;
    }
    case 'FunctionDeclaration':
      functions.push({ start: statement.start, end: statement.end });
      walk(statement, context, false);
      return;
    case 'ClassDeclaration':
      names.add(statement.id.name);
      edits.push({ start: statement.start, end: statement.start, text: `;${statement.id.name} = ` });
      edits.push({ start: statement.end, end: statement.end, text: ';' });
      walkChildren(statement, context, false);
      return;
    case 'VariableDeclaration':
      if (statement.kind === 'const' || statement.kind === 'let' || statement.kind === 'var') {
        assign(statement, context, ';(', ');');
        for (const declarator of statement.declarations) walkChildren(declarator, context, false);
        return;
      }
      // `using` needs a block that ends with the call.
      context.asynchronous = true;
      walkChildren(statement, context, false);
      return;
    default:
      walk(statement, context, false);
  }
}

/** Rewrites what is left below the top level: `var`, `import.meta`, and finds `await`. */
function walk(node, context, within) {
  const { code, edits } = context;
  switch (node.type) {
    case 'AwaitExpression':
      if (!within) context.asynchronous = true;
      break;
    case 'MetaProperty':
      if (node.meta.name === 'import') edits.push({ start: node.start, end: node.end, text: context.meta });
      return;
    case 'FunctionDeclaration':
    case 'FunctionExpression':
    case 'ArrowFunctionExpression':
    case 'StaticBlock':
      walkChildren(node, context, true);
      return;
    case 'PropertyDefinition':
      if (node.computed) walk(node.key, context, within);
      if (node.value) walk(node.value, context, true);
      return;
    case 'ForStatement':
      if (!within && isVariable(node.init)) assign(node.init, context, '', '');
      break;
    case 'ForOfStatement':
      if (node.await && !within) context.asynchronous = true;
    // falls through
    case 'ForInStatement':
      if (!within && isVariable(node.left)) {
        collect(node.left.declarations[0].id, context.names);
        edits.push(blanking(code, node.left.start, node.left.start + 3));
      }
      break;
    case 'VariableDeclaration':
      if (node.kind === 'await using' && !within) context.asynchronous = true;
      if (!within && node.kind === 'var' && !context.heads.has(node)) {
        // A block, because this may be the only statement of an `if` with an `else`.
        assign(node, context, '{(', ')');
        edits.push({ start: node.end, end: node.end, text: '}' });
      }
      break;
    default:
  }
  if (!within && /^For/.test(node.type)) {
    const head = node.init ?? node.left;
    if (head) context.heads.add(head);
  }
  walkChildren(node, context, within);
}

function walkChildren(node, context, within) {
  for (const key of keys(node)) {
    const value = node[key];
    if (Array.isArray(value)) {
      for (const child of value) if (child && typeof child.type === 'string') walk(child, context, within);
    } else if (value && typeof value.type === 'string') {
      walk(value, context, within);
    }
  }
}

const isVariable = (node) => node?.type === 'VariableDeclaration' && node.kind === 'var';

/** `const a = 1, {b} = c` as `(a = 1, {b} = c)`. */
function assign(declaration, { code, edits, names }, open, close) {
  const { declarations, kind, start } = declaration;
  const first = declarations[0].start;
  edits.push({ start, end: first, text: fill(open, code, start, first) });
  for (const { id, init, end } of declarations) {
    collect(id, names);
    if (!init) edits.push({ start: end, end, text: kind === 'var' ? '' : ' = void 0' });
  }
  const { end } = declarations.at(-1);
  edits.push({ start: end, end, text: close });
}

function collect(pattern, names) {
  switch (pattern?.type) {
    case 'Identifier': names.add(pattern.name); break;
    case 'ObjectPattern': for (const property of pattern.properties) collect(property.value ?? property.argument, names); break;
    case 'ArrayPattern': for (const element of pattern.elements) collect(element, names); break;
    case 'AssignmentPattern': collect(pattern.left, names); break;
    case 'RestElement': collect(pattern.argument, names); break;
    default:
  }
}

function importOf(statement) {
  const bindings = statement.specifiers.map((specifier) => {
    switch (specifier.type) {
      case 'ImportDefaultSpecifier': return [specifier.local.name, 'default'];
      case 'ImportNamespaceSpecifier': return [specifier.local.name, '*'];
      default: return [specifier.local.name, specifier.imported.name ?? specifier.imported.value];
    }
  });
  return { specifier: statement.source.value, attributes: attributesOf(statement), bindings };
}

function attributesOf({ attributes }) {
  if (!attributes?.length) return null;
  return Object.fromEntries(attributes.map(({ key, value }) => [key.name ?? key.value, value.value]));
}

const blank = (text) => text.replace(/[^\n\r\u2028\u2029]/g, ' ');
const blanking = (code, start, end) => ({ start, end, text: blank(code.slice(start, end)) });

/** `text` in place of `code[start, end)`, as long as that where possible. */
function fill(text, code, start, end) {
  return text + blank(code.slice(start, end)).slice(text.length);
}

function complement(ranges, length) {
  const gaps = [];
  let at = 0;
  for (const { start, end } of ranges) {
    gaps.push({ start: at, end: start });
    at = end;
  }
  gaps.push({ start: at, end: length });
  return gaps;
}

function apply(code, edits) {
  // Stable: of two edits at one place, the one made first comes first.
  const ordered = edits.toSorted((one, other) => one.start - other.start || one.end - other.end);
  let text = '';
  let at = 0;
  for (const edit of ordered) {
    text += code.slice(at, edit.start) + edit.text;
    at = edit.end;
  }
  return text + code.slice(at);
}
