// Preload script for prepared Node programs.
//
// The runner starts `node MAIN` with this file required and a control socket under descriptor 1000.
// It blocks until the job arrives, takes over the job's environment and directory, removes its own
// traces and returns; node then goes on to the main file natively.
//
// Known differences to a fresh process: /proc/self/environ and, if the job's file has another name
// than the prepared one, /proc/self/cmdline.
'use strict';
{
  const own = module;
  const forget = () => {
    delete require.cache[own.filename];
    const siblings = own.parent ? own.parent.children : null;
    if (siblings && siblings.includes(own)) siblings.splice(siblings.indexOf(own), 1);
  };
  forget();
  const { isMainThread } = process.getBuiltinModule
    ? process.getBuiltinModule('worker_threads') : require('worker_threads');
  if (isMainThread) {
    const fs = require('fs');
    const CONTROL = 1000;
    const leave = (code) => process.reallyExit(code);

    const exactly = (count) => {
      const buffer = Buffer.allocUnsafeSlow(count);
      for (let at = 0; at < count;) {
        const got = fs.readSync(CONTROL, buffer, at, count - at);
        if (got === 0) leave(0);
        at += got;
      }
      return buffer;
    };
    const fail = (stage, error, path) => {
      fs.writeSync(CONTROL, `${stage}\0${error.errno ? -error.errno : 5}\0${path.slice(0, 900)}`);
      leave(127);
    };

    fs.writeSync(CONTROL, 'R');
    const job = JSON.parse(exactly(exactly(4).readUInt32LE(0)).toString('utf8'));

    if (job.code) {
      const { path, text } = job.code;
      try {
        try {
          fs.writeFileSync(path, text);
        } catch (error) {
          if (error.code !== 'ENOENT') throw error;
          fs.mkdirSync(path.slice(0, path.lastIndexOf('/')), { recursive: true });
          fs.writeFileSync(path, text);
        }
      } catch (error) {
        fail('file', error, path);
      }
    }
    for (const name of Object.keys(process.env)) delete process.env[name];
    for (const [name, value] of job.env) process.env[name] = value;
    try {
      process.chdir(job.cwd);
    } catch (error) {
      fail('cwd', error, job.cwd);
    }

    const script = require('path').resolve(job.argv[1]);
    const Module = require('module');
    const native = Module.runMain;
    const { configurable, enumerable, writable } = Object.getOwnPropertyDescriptor(Module, 'runMain');
    // Read once, by node itself: undoes itself and yields a bound function, which has no stack frame.
    Object.defineProperty(Module, 'runMain', {
      configurable: true,
      enumerable,
      get() {
        Object.defineProperty(Module, 'runMain', { configurable, enumerable, writable, value: native });
        return native.bind(Module, script);
      },
    });
    process.argv[1] = script;
    if (process._preload_modules) process._preload_modules.length = 0;
    fs.writeSync(CONTROL, 'S');
    fs.closeSync(CONTROL);
  }
}
