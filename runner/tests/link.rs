//! The link itself: malformed frames, the end of the link, files in and out.

mod harness;

use harness::*;
use runner::protocol::*;

/// Sends nonsense; the runner must say so and end.
fn assert_fatal(bytes: &[u8], close: bool) {
    let mut sandbox = Sandbox::new("python");
    sandbox.send_raw(bytes);
    if close {
        sandbox.close_input();
    }
    let fatal: Fatal = sandbox.expect(Kind::Fatal);
    assert!(!fatal.message.is_empty());
    assert!(!sandbox.wait().success());
}

#[test]
fn malformed_frames_end_the_runner() {
    assert_fatal(&[255; 8], false);
    assert_fatal(&[0, 0, 0, 0, 200, 0, 0, 0], false);
    assert_fatal(&[0, 0, 0, 0, Kind::Hello as u8, 0, 0, 0], false);
    assert_fatal(&[3, 0, 0, 0, Kind::Start as u8, 0, 0, 0, b'{', b'}', b'!'], false);
    assert_fatal(&[3, 0, 0, 0, Kind::Start as u8, 0, 0, 0, b'{'], true);
}

#[test]
fn a_second_start_ends_the_runner() {
    let mut sandbox = Sandbox::new("python");
    sandbox.send(Kind::Start, &shell("sleep 60"));
    sandbox.send(Kind::Start, &shell("sleep 60"));
    while sandbox.next().kind != Kind::Fatal {}
    assert!(!sandbox.wait().success());
}

#[test]
fn closing_the_link_ends_everything() {
    let mut sandbox = Sandbox::new("python");
    sandbox.send(Kind::Start, &shell("trap '' TERM; sleep 60 & sleep 60"));
    let _: Started = sandbox.expect(Kind::Started);
    assert!(sandbox.close().success());
}

#[test]
fn frames_split_anywhere_are_understood() {
    let mut sandbox = Sandbox::new("python");
    let mut bytes = Vec::new();
    put_message(&mut bytes, Kind::Start, &shell("echo hi")).unwrap();
    for byte in bytes {
        sandbox.send_raw(&[byte]);
    }
    assert_eq!(sandbox.collect().out(), "hi\n");
}

#[test]
fn stray_frames_are_harmless() {
    let mut sandbox = Sandbox::new("python");
    sandbox.send_data(Kind::Kill, b"");
    sandbox.send_data(Kind::Stdin, b"nobody reads this");
    sandbox.send_data(Kind::StdinEnd, b"");
    sandbox.send_data(Kind::FileEnd, b"");
    sandbox.send(Kind::Signal, &Signal { number: 9 });
    sandbox.send_data(Kind::FileData, b"of no file");
    assert_eq!(sandbox.shell("echo fine").out(), "fine\n");
    sandbox.reset();
}

#[test]
fn a_job_in_one_burst() {
    let mut sandbox = Sandbox::new("python");
    sandbox.put_file("data/in.txt", b"content");
    sandbox.put_file("/tmp/other", b"more");
    sandbox.put_file("data/in.txt", b"newer");
    let start = with_code(
        &["sh", "/sandbox/sub/main.sh"],
        "/sandbox/sub/main.sh",
        "cat /sandbox/data/in.txt /tmp/other; stat -c '%a %u %g' /sandbox/data/in.txt; cat",
    );
    sandbox.send(Kind::Start, &Start { stdin: true, ..start });
    sandbox.send_data(Kind::Stdin, b"input");
    sandbox.send_data(Kind::StdinEnd, b"");
    assert_eq!(sandbox.collect().out(), "newermore644 100 101\ninput");
    sandbox.reset();
    assert_eq!(sandbox.shell("ls -A /sandbox /tmp").out(), "/sandbox:\n\n/tmp:\n");
}

#[test]
fn a_hundred_mebibytes_survive_the_round_trip() {
    let mut sandbox = Sandbox::new("python");
    let content: Vec<u8> =
        (0..100_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    sandbox.put_file("big", &content);
    assert_eq!(sandbox.shell("stat -c %s big").out(), "104857600\n");
    assert!(sandbox.get_file("big").expect("it is there") == content);
    sandbox.reset();
}

#[test]
fn only_regular_files_are_read_and_only_as_the_sandbox_user() {
    let mut sandbox = Sandbox::new("python");
    let script = "echo text > file; ln -s /proc/1/environ env; mkfifo fifo; ln -s /dev/zero zero; \
                  ln -s file link; echo x > locked; chmod 0 locked; ln -s /etc/shadow shadow";
    assert_eq!(sandbox.shell(script).exited.exit_code, 0);
    assert_eq!(sandbox.get_file("file").unwrap(), b"text\n");
    assert_eq!(sandbox.get_file("/sandbox/link").unwrap(), b"text\n");
    for (path, errno) in [
        ("env", 13),
        ("fifo", 22),
        ("zero", 22),
        ("locked", 13),
        ("shadow", 13),
        ("missing", 2),
        (".", 21),
    ] {
        assert_eq!(sandbox.get_file(path).expect_err(path).errno, errno, "{path}");
    }
    sandbox.send(Kind::ReadFile, &ReadFile { path: "file".to_owned(), max_bytes: 2 });
    assert_eq!(sandbox.expect::<FileError>(Kind::FileError).errno, 27);
}

#[test]
fn files_are_written_as_the_sandbox_user() {
    let mut sandbox = Sandbox::new("python");
    sandbox.shell("ln -s /proc/1/oom_score_adj oom; mkfifo fifo; mkdir dir");
    sandbox.put_file("oom", b"1");
    assert_eq!(sandbox.shell("cat oom /proc/1/oom_score_adj; test -L oom").out(), "10\n");
    for path in ["fifo", "dir", "/etc/new", "/isol8/isol8-runner"] {
        sandbox.put_file(path, b"1");
        let failed = sandbox.shell("true").failed.expect(path);
        assert_eq!(failed.stage, Stage::File);
        assert!(failed.path.ends_with(path), "{failed:?}");
    }
    assert_eq!(sandbox.shell("echo fine").out(), "fine\n");
}

#[test]
fn a_file_can_be_read_while_a_program_runs() {
    let mut sandbox = Sandbox::new("python");
    let script = "echo text > file; echo up; until test -e go; do sleep 0.02; done";
    sandbox.send(Kind::Start, &shell(script));
    while sandbox.next().kind != Kind::Stdout {}
    assert_eq!(sandbox.get_file("file").unwrap(), b"text\n");
    sandbox.put_file("go", b"");
    assert_eq!(sandbox.collect().exited.exit_code, 0);
}
