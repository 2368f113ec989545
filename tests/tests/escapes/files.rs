//! Links in the way of files that go in and out: a classic way out is a root process outside that
//! writes to, or changes the owner of, a path that a program has replaced by a link.

use tests::isolation::InGvisor::Differs;

use crate::attempt::Expected::{Prints, PrintsAs, Refused, Withheld};
use crate::attempt::{Attempt, PYTHON};

const OUT: Attempt = Attempt { group: "links, files out", expected: Withheld, ..PYTHON };
const IN: Attempt = Attempt {
    group: "links, files in",
    program: "print('ran')",
    expected: Refused(422, "FILE_WRITE_FAILED"),
    ..PYTHON
};
const OWN: Attempt = Attempt { group: "links", ..PYTHON };
const ASKED: &str = r#"{"request": {"outputPaths": ["/sandbox/out"]}}"#;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt { name: "an output file that links to /etc/shadow", program: "os.symlink('/etc/shadow', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that links to the environment of process 1", program: "os.symlink('/proc/1/environ', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that links to the memory of whoever reads it", program: "os.symlink('/proc/self/mem', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that links to the environment of whoever reads it", program: "os.symlink('/proc/self/environ', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that links to the root of process 1", program: "os.symlink('/proc/1/root/etc/passwd', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that links to the link of whoever reads it", program: "os.symlink('/proc/self/fd/3', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that links to a device without end", program: "os.symlink('/dev/zero', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that links to itself", program: "os.symlink('/sandbox/out', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that is a named pipe", program: "os.mkfifo('/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file that is a socket", program: "socket.socket(socket.AF_UNIX).bind('/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output folder that links to the root of process 1", program: "os.symlink('/proc/1/root', '/sandbox/out')", more: ASKED, ..OUT },
    Attempt { name: "an output file larger than memory", program: "os.truncate(os.open('/sandbox/out', os.O_CREAT | os.O_WRONLY), 1 << 40)", more: ASKED, ..OUT },
    Attempt { name: "output paths that leave the sandbox", program: "pass", more: r#"{"request": {"outputPaths": ["../../etc/shadow", "/etc/shadow", "/proc/1/environ", "/proc/1/root/etc/passwd", "/isol8/../etc/shadow"]}}"#, ..OUT },
    Attempt { name: "a program text written through a link to a file of the image", more: r#"{"request": {"setupScript": "ln -s /etc/passwd /sandbox/main.py"}}"#, ..IN },
    Attempt { name: "a program text written through a link to the runner itself", more: r#"{"request": {"setupScript": "ln -s /isol8/isol8-runner /sandbox/main.py"}}"#, ..IN },
    Attempt { name: "a program text written through a link to the output of process 1", more: r#"{"request": {"setupScript": "ln -s /proc/1/fd/1 /sandbox/main.py"}}"#, ..IN },
    Attempt { name: "a program text written through a link to a descriptor of whoever writes it", more: r#"{"request": {"setupScript": "ln -s /proc/self/fd/3 /sandbox/main.py"}}"#, ..IN },
    Attempt { name: "a folder in the place of the program text", more: r#"{"request": {"setupScript": "mkdir /sandbox/main.py"}}"#, ..IN },
    Attempt { name: "hard links to files of others", program: "say(*(tried(os.link, path, '/sandbox/x') for path in ('/etc/shadow', '/etc/passwd', '/isol8/isol8-runner', '/proc/1/environ')))", expected: Prints("EXDEV"), ..OWN },
    Attempt { name: "files of others, and one's own given away (chown)", program: "
open('/sandbox/mine', 'w').close(); os.symlink('/etc/passwd', '/sandbox/link')
say(tried(os.chown, '/sandbox/mine', 0, 0), tried(os.lchown, '/sandbox/link', 0, 0), tried(os.chown, '/etc/passwd', 100, 101), tried(os.chown, '/sandbox', 0, 0))", expected: PrintsAs("EPERM EROFS", "EPERM or EROFS"), in_gvisor: Differs(Prints("EPERM"), "it looks at the owner before it looks at the file system"), ..OWN },
    Attempt { name: "an archive with absolute names, parents and links", program: "
import io, tarfile
with tarfile.open('/tmp/evil.tar', 'w') as archive:
    for name in ('/etc/evil', '../../../../etc/evil', '/isol8/evil'):
        entry = tarfile.TarInfo(name); entry.size = 1; archive.addfile(entry, io.BytesIO(b'x'))
    link = tarfile.TarInfo('way'); link.type = tarfile.SYMTYPE; link.linkname = '/etc'; archive.addfile(link)
    entry = tarfile.TarInfo('way/evil'); entry.size = 1; archive.addfile(entry, io.BytesIO(b'x'))
subprocess.run(['tar', '--absolute-names', '-xf', '/tmp/evil.tar'], cwd='/sandbox', stderr=subprocess.DEVNULL)
print([path for path in ('/etc/evil', '/isol8/evil') if os.path.lexists(path)])", expected: PrintsAs("[]", "nothing written outside"), ..OWN },
    Attempt { name: "a folder swapped for a link, over and over, under the one who empties it", program: "
os.makedirs('/tmp/d/x')
if os.fork() == 0:
    os.setsid()
    while True:
        for act in ((os.rename, '/tmp/d', '/tmp/e'), (os.symlink, '/etc', '/tmp/d'), (os.unlink, '/tmp/d'), (os.rename, '/tmp/e', '/tmp/d')):
            try: act[0](*act[1:])
            except OSError: pass
time.sleep(0.1); print('left')", expected: PrintsAs("left", "the image is as it was"), ..OWN },
    Attempt { name: "the image after all that", program: "print(os.path.getsize('/etc/passwd') > 100, tried(os.listdir, '/etc'), os.path.exists('/etc/evil'))", expected: PrintsAs("True ALLOWED False", "unchanged"), ..OWN },
];
