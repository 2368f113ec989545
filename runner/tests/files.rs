//! Files in and out of a sandbox, also while a program runs: listing, removing, the outcome of writing.

mod harness;

use harness::*;
use runner::protocol::*;

fn list(sandbox: &mut Sandbox, path: &str) -> Result<Directory, FileError> {
    sandbox.send(Kind::ListDirectory, &ListDirectory { path: path.to_owned() });
    answer(sandbox, Kind::Directory).map(|frame| frame.message())
}

fn remove(sandbox: &mut Sandbox, path: &str) -> Result<(), FileError> {
    sandbox.send(Kind::RemoveFile, &RemoveFile { path: path.to_owned() });
    answer(sandbox, Kind::Synced).map(drop)
}

fn sync(sandbox: &mut Sandbox) -> Result<(), FileError> {
    sandbox.send_data(Kind::Sync, b"");
    answer(sandbox, Kind::Synced).map(drop)
}

fn answer(sandbox: &mut Sandbox, expected: Kind) -> Result<Frame, FileError> {
    let frame = sandbox.next();
    match frame.kind {
        Kind::FileError => Err(frame.message()),
        kind => {
            assert_eq!(kind, expected);
            Ok(frame)
        }
    }
}

fn names(directory: &Directory) -> Vec<&str> {
    directory.entries.iter().map(|entry| entry.name.as_str()).collect()
}

#[test]
fn a_directory_is_listed() {
    let mut sandbox = Sandbox::new("bash");
    assert!(list(&mut sandbox, "").expect("it is there").entries.is_empty());
    sandbox.shell("mkdir b; ln -s /etc link; mkfifo pipe; touch -d @1000.5 b; : > '\u{fc}'; printf 12345 > a; chmod 640 a");
    let directory = list(&mut sandbox, "/sandbox").expect("it is there");
    assert_eq!(names(&directory), ["a", "b", "link", "pipe", "\u{fc}"]);
    let kinds: Vec<_> = directory.entries.iter().map(|entry| entry.kind).collect();
    use EntryKind::{File, Other, Symlink};
    assert_eq!(kinds, [File, EntryKind::Directory, Symlink, Other, File]);
    assert_eq!((directory.entries[0].size_bytes, directory.entries[0].mode), (5, 0o640));
    assert_eq!(directory.entries[1].modified_ms, 1_000_500);
    assert!(!directory.truncated);

    assert!(names(&list(&mut sandbox, "link").expect("a link to a directory")).contains(&"passwd"));
    assert_eq!(list(&mut sandbox, "a").expect_err("a file").errno, 20);
    let missing = list(&mut sandbox, "none").expect_err("nothing there");
    assert_eq!((missing.path.as_str(), missing.errno), ("none", 2));
    assert_eq!(list(&mut sandbox, "/root").expect_err("not for the sandbox user").errno, 13);

    sandbox.shell(
        "mkdir many; cd many; n=$(printf %0200d 0); for i in $(seq 5000); do : > $n$i; done",
    );
    let many = list(&mut sandbox, "many").expect("it is there");
    assert!(many.truncated && many.entries.len() > 1000, "{}", many.entries.len());
}

#[test]
fn nothing_of_processes_is_given_out() {
    let mut sandbox = Sandbox::new("bash");
    sandbox.shell("ln -s /proc/self/status mine; ln -s /proc/cpuinfo machine; ln -s /proc all");
    for path in ["mine", "machine", "/proc/version"] {
        assert_eq!(sandbox.get_file(path).expect_err(path).errno, 13, "{path}");
    }
    for path in ["all", "/proc", "/proc/self"] {
        assert_eq!(list(&mut sandbox, path).expect_err(path).errno, 13, "{path}");
    }
}

#[test]
fn a_program_text_is_not_given_to_what_is_no_file() {
    let mut sandbox = Sandbox::new("bash");
    sandbox.shell("ln -s /dev/null main.sh");
    let start = with_code(&["bash", "/sandbox/main.sh"], "/sandbox/main.sh", "echo ran");
    let failed = sandbox.run(&start).failed.expect("it cannot be run");
    assert_eq!((failed.stage, failed.errno), (Stage::File, 22));
}

#[test]
fn files_and_trees_are_removed_and_nothing_else() {
    let mut sandbox = Sandbox::new("bash");
    sandbox.shell(
        "mkdir -p tree/a/b tree/c keep /tmp/x; chmod 0 tree/c; echo x > tree/a/b/f; echo x > keep/f; \
         ln -s /sandbox/keep tree/link; ln -s /sandbox/keep link; ln -s keep/f filelink; : > file; : > /tmp/x/f",
    );
    for path in ["tree", "file", "filelink", "/tmp/x"] {
        remove(&mut sandbox, path).expect(path);
    }
    let refused = |error: Result<(), FileError>| error.expect_err("refused").errno;
    for (path, errno) in [
        ("", 13),
        ("/sandbox", 13),
        ("/tmp/", 13),
        ("/etc/passwd", 13),
        ("../etc/passwd", 13),
        ("keep/../../etc/passwd", 13),
        ("none", 2),
        ("none/file", 2),
        ("link/f", 20),
    ] {
        assert_eq!(refused(remove(&mut sandbox, path)), errno, "{path}");
    }
    remove(&mut sandbox, "link").expect("the link itself");
    assert_eq!(
        sandbox.shell("find . /tmp -mindepth 1 | sort; cat keep/f").out(),
        "./keep\n./keep/f\nx\n"
    );
}

#[test]
fn sync_tells_how_writing_went_and_once_only() {
    let mut sandbox = Sandbox::new("bash");
    sync(&mut sandbox).expect("nothing to write");
    sandbox.put_file("good", b"x");
    sync(&mut sandbox).expect("written");
    sandbox.put_file("/etc/bad", b"x");
    sandbox.put_file("after", b"x");
    let error = sync(&mut sandbox).expect_err("not for the sandbox user");
    assert_eq!(error.path, "/etc/bad");
    sync(&mut sandbox).expect("told once");
    assert_eq!(sandbox.shell("echo *").out(), "good\n");
    sandbox.put_file("/etc/bad", b"x");
    let failed = sandbox.shell("true").failed.expect("a failed file fails the start");
    assert_eq!((failed.stage, failed.path.as_str()), (Stage::File, "/etc/bad"));
}

#[test]
fn files_go_on_while_a_program_runs() {
    let mut sandbox = Sandbox::new("bash");
    let script = "echo on; while [ ! -e go ]; do sleep 0.02; done";
    sandbox.send(Kind::Start, &Start { keep_background: true, ..shell(script) });
    while sandbox.next().kind != Kind::Stdout {}
    sandbox.put_file("d/data", b"hello");
    sync(&mut sandbox).expect("written");
    assert_eq!(sandbox.get_file("d/data").expect("written"), b"hello");
    assert_eq!(names(&list(&mut sandbox, "").expect("it is there")), ["d"]);
    remove(&mut sandbox, "d").expect("ours");
    assert!(sandbox.get_file("d/data").is_err());
    sandbox.put_file("go", b"");
    sandbox.send_data(Kind::Sync, b"");
    let mut synced = false;
    loop {
        let frame = sandbox.next();
        match frame.kind {
            Kind::Synced => synced = true,
            Kind::Exited => break,
            kind => panic!("unexpected {kind:?}"),
        }
    }
    assert!(synced || sandbox.next().kind == Kind::Synced);
}

#[test]
#[ignore = "a measurement, not a check"]
fn throughput() {
    let mut sandbox = Sandbox::with(&Settings { runtime: "bash", ..Settings::default() });
    let content: Vec<u8> = (0..100 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let speed = |began: std::time::Instant| 100.0 * 1.048_576 / began.elapsed().as_secs_f64();
    for _ in 0..2 {
        let began = std::time::Instant::now();
        sandbox.put_file("big", &content);
        sync(&mut sandbox).expect("written");
        println!("in  {:.0} MB/s", speed(began));
        let began = std::time::Instant::now();
        assert!(sandbox.get_file("big").expect("written") == content);
        println!("out {:.0} MB/s", speed(began));
    }
}
