//! Files that an interpreter, a shell or a package manager reads by itself.

use crate::channel::{Channel, PYTHON};

const FILES: Channel = Channel { group: "start-up files and caches", ..PYTHON };
const PACKAGES: Channel = Channel { runtime: "node", ..FILES };
const SHELL: Channel = Channel { runtime: "bash", ..FILES };

pub(crate) const CHANNELS: &[Channel] = &[
    Channel {
        name: "user packages of Python (.pth, usercustomize)",
        plant: "
import site
place = site.getusersitepackages()
os.makedirs(place)
open(place + '/evil.pth', 'w').write('import sys; sys.evil = True\\n')
open(place + '/usercustomize.py', 'w').write('import sys; sys.evil = True\\n')
open('/sandbox/sitecustomize.py', 'w').write('import sys; sys.evil = True\\n')",
        probe: "
import subprocess
other = subprocess.run([sys.executable, '-c', 'import sys; print(hasattr(sys, \"evil\"))'], capture_output=True)
print_if([place for place, evil in (('here', hasattr(sys, 'evil')), ('in a child', b'True' in other.stdout)) if evil])",
        ..FILES
    },
    Channel {
        name: "modules beside the program, and compiled ones",
        plant: "
import py_compile
for name in ('fractions', 'colorsys'): open('/sandbox/%s.py' % name, 'w').write('evil = True\\n')
py_compile.compile('/sandbox/colorsys.py', cfile='/sandbox/colorsys.pyc'); os.unlink('/sandbox/colorsys.py')",
        probe: "
import colorsys, fractions
print_if([module.__name__ for module in (colorsys, fractions) if hasattr(module, 'evil')])",
        ..FILES
    },
    Channel {
        name: "configuration and cache of pip",
        plant: "
for place in ('.config/pip', '.cache/pip/http', '.pip'): os.makedirs(os.path.expanduser('~/' + place))
open(os.path.expanduser('~/.config/pip/pip.conf'), 'w').write('[global]\\nindex-url = http://127.0.0.1/\\n')
open(os.path.expanduser('~/.netrc'), 'w').close()",
        probe: "print_if([name for name in ('.config', '.cache', '.pip', '.netrc') if os.path.lexists(os.path.expanduser('~/' + name))])",
        ..FILES
    },
    Channel {
        name: "configuration, cache and packages of npm",
        plant: "
import fs from 'node:fs';
for (const place of ['.npm/_cacache', '.npm-global/lib/node_modules/evil', 'node_modules/evil'])
  fs.mkdirSync('/sandbox/' + place, { recursive: true });
for (const name of ['node_modules/evil/index.js', '.npm-global/lib/node_modules/evil/index.js', '.npmrc'])
  fs.writeFileSync('/sandbox/' + name, '');",
        probe: "
import { existsSync } from 'node:fs';
for (const name of ['.npm', '.npmrc', '.npm-global']) if (existsSync('/sandbox/' + name)) console.log(name);
try { console.log(import.meta.resolve('evil')); } catch {}",
        ..PACKAGES
    },
    Channel {
        name: "state of the Node interpreter",
        plant: "
import Module from 'node:module'; import os from 'node:os';
Object.prototype.evil = 1; globalThis.evil = 1; process.env.EVIL = '1';
Module._cache.evil = {}; os.evil = 1; process.title = 'evil';",
        probe: "
import modules from 'node:module'; import system from 'node:os';
const traces = [({}).evil, globalThis.evil, process.env.EVIL, modules._cache.evil, system.evil];
if (traces.some((trace) => trace !== undefined) || process.title === 'evil') console.log(traces.length);",
        ..PACKAGES
    },
    Channel {
        name: "start-up files and history of Bash",
        plant: "
for name in .bashrc .profile .bash_profile .bash_login .bash_history .bash_logout .inputrc; do echo 'echo evil' > ~/$name; done",
        probe: "bash -ilc true 2>/dev/null </dev/null; for name in ~/.bash* ~/.profile ~/.inputrc; do test -e $name && echo $name; done; true",
        ..SHELL
    },
    Channel {
        name: "programs in front of the image's own",
        plant: "
for place in ~/.local/bin ~/.npm-global/bin ~/.bun-global/bin; do
    mkdir -p $place; printf '#!/bin/sh\\necho evil\\n' > $place/ls; chmod +x $place/ls
done",
        probe: "for name in ls cat python3; do case $(command -v $name) in /sandbox/*) echo $name;; esac; done",
        ..SHELL
    },
    Channel {
        name: "functions, aliases, options and variables of the shell",
        plant: "
ls() { echo evil; }; export -f ls; alias cat='echo evil'; export EVIL=1 BASH_ENV=/sandbox/evil PS4=evil; set -o noclobber; shopt -s extglob",
        probe: "test $(type -t ls) = file || echo ls; alias; env | grep -i evil; shopt -o noclobber | grep on; shopt extglob | grep on$; true",
        ..SHELL
    },
];
