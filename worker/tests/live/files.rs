//! Files of a session: small ones in the call and its answer, large ones piece by piece.

use std::time::Duration;

use bytes::Bytes;
use shared::ErrorCode;
use shared::execution::{Call, Content, FileContent, FileReply};
use shared::id::TransferId;

use crate::harness::Fleet;

const MANY: u64 = 1 << 30;

fn write(path: &str, content: impl Into<Bytes>) -> Call {
    let content = Content::Inline(FileContent(content.into()));
    Call::Write { path: path.into(), mode: 0o6755, content }
}

fn read(path: &str, max_bytes: u64) -> Call {
    Call::Read { path: path.into(), max_bytes, transfer: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_listed_and_removed() {
    let fleet = Fleet::start().await;
    fleet.python("s", "pass").await;
    let bytes: Vec<u8> =
        (0..300_000_u32).map(|number| u8::try_from(number * 7 % 251).unwrap()).collect();
    let size_bytes = bytes.len() as u64;
    let written = fleet.file("s", write("d/e/f.bin", bytes.clone())).await.unwrap();
    assert_eq!(written, FileReply::Written { size_bytes });
    let code = "import os; print(os.path.getsize('d/e/f.bin'), oct(os.stat('d/e/f.bin').st_mode))";
    assert_eq!(fleet.python("s", code).await.stdout, format!("{size_bytes} 0o100755"));
    let content = Some(FileContent(bytes.into()));
    let found = fleet.file("s", read("/sandbox/d/e/f.bin", MANY)).await.unwrap();
    assert_eq!(found, FileReply::Read { size_bytes, content });
    let listed = fleet.file("s", Call::List { path: "d/e".into() }).await.unwrap();
    let FileReply::Directory { entries, truncated } = listed else { panic!("{listed:?}") };
    assert!(!truncated);
    let found: Vec<_> =
        entries.iter().map(|it| (it.name.as_str(), it.kind.as_str(), it.mode.as_str())).collect();
    assert_eq!(found, [("f.bin", "file", "0755")]);
    assert_eq!(entries[0].size_bytes, size_bytes);
    fleet.file("s", Call::Remove { path: "/sandbox/d".into() }).await.unwrap();
    let gone = fleet.file("s", read("d/e/f.bin", MANY)).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound);
    assert!(gone.message.contains("d/e/f.bin"), "{}", gone.message);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sandbox_user_may_not_do_fails_with_a_reason_and_the_session_goes_on() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42; open('big', 'wb').write(bytes(1000))").await;
    let refused = [
        (write("/etc/passwd", "x"), "/etc/passwd", ErrorCode::FileFailed),
        (write("../../etc/passwd", "x"), "passwd", ErrorCode::FileFailed),
        (read("big", 999), "big", ErrorCode::PayloadTooLarge),
        (read("/sandbox", MANY), "/sandbox", ErrorCode::FileFailed),
        (read("/proc/1/environ", MANY), "environ", ErrorCode::FileFailed),
        (read(&"long/".repeat(1 << 19), MANY), "long/", ErrorCode::FileFailed),
        (Call::List { path: "/root".into() }, "/root", ErrorCode::FileFailed),
        (Call::Remove { path: "/etc/hostname".into() }, "hostname", ErrorCode::FileFailed),
    ];
    for (call, path, code) in refused {
        let failed = fleet.file("s", call).await.unwrap_err();
        assert_eq!(failed.code, code, "{path}");
        assert!(failed.message.contains(path), "{}", failed.message);
    }
    assert_eq!(fleet.python("s", "print(x)").await.stdout, "42");
    fleet.finish().await;
}

const LARGE_BYTES: usize = 20 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn by_transfer(path: &str, transfer: TransferId) -> Call {
    Call::Write { path: path.into(), mode: 0o644, content: Content::Transfer(transfer) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_up_and_comes_down_piece_by_piece() {
    let fleet = Fleet::start().await;
    fleet.python("s", "pass").await;
    let bytes: Bytes =
        (0..LARGE_BYTES).map(|number| u8::try_from(number * 7 % 251).unwrap()).collect();
    let size_bytes = LARGE_BYTES as u64;

    let up = TransferId::generate();
    let call = fleet.call("s", &by_transfer("large", up)).await.unwrap();
    let mut sender = fleet.queue.transfer(&fleet.tenant, up).sender(PATIENCE).await.unwrap();
    sender.send(bytes.clone()).await.unwrap();
    sender.finish().await.unwrap();
    assert_eq!(fleet.reply(call).await.unwrap(), FileReply::Written { size_bytes });
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    let code = "d = open('large', 'rb').read(); print(len(d), sum(d))";
    assert_eq!(fleet.python("s", code).await.stdout, format!("{size_bytes} {sum}"));

    let down = TransferId::generate();
    let read = Call::Read { path: "large".into(), max_bytes: MANY, transfer: Some(down) };
    let call = fleet.call("s", &read).await.unwrap();
    let mut receiver = fleet.queue.transfer(&fleet.tenant, down).receiver(PATIENCE).await.unwrap();
    let mut came = Vec::with_capacity(LARGE_BYTES);
    while let Some(piece) = receiver.next().await.unwrap() {
        came.extend_from_slice(&piece);
    }
    assert!(came == bytes, "{} bytes came, and not those that went", came.len());
    let reply = fleet.reply(call).await.unwrap();
    assert_eq!(reply, FileReply::Read { size_bytes, content: None });
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_broken_off_leaves_no_half_file_and_a_session_that_works() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42; open('large', 'wb').write(bytes(20_000_000))").await;

    let up = TransferId::generate();
    let call = fleet.call("s", &by_transfer("half", up)).await.unwrap();
    let mut sender = fleet.queue.transfer(&fleet.tenant, up).sender(PATIENCE).await.unwrap();
    sender.send(Bytes::from(vec![1; 2_000_000])).await.unwrap();
    sender.abort("the client left").await.unwrap();
    let failed = fleet.reply(call).await.unwrap_err();
    assert!(failed.message.contains("the client left"), "{}", failed.message);
    let code = "import os; print(os.path.exists('half'), x)";
    assert_eq!(fleet.python("s", code).await.stdout, "False 42");

    let down = TransferId::generate();
    let read = Call::Read { path: "large".into(), max_bytes: MANY, transfer: Some(down) };
    let call = fleet.call("s", &read).await.unwrap();
    let mut receiver = fleet.queue.transfer(&fleet.tenant, down).receiver(PATIENCE).await.unwrap();
    receiver.next().await.unwrap().expect("the file is not empty");
    receiver.abort("the client left").await.unwrap();
    fleet.reply(call).await.unwrap_err();

    // What cannot be read or written is told to the other side as well.
    let down = TransferId::generate();
    let read = Call::Read { path: "absent".into(), max_bytes: MANY, transfer: Some(down) };
    let call = fleet.call("s", &read).await.unwrap();
    let mut receiver = fleet.queue.transfer(&fleet.tenant, down).receiver(PATIENCE).await.unwrap();
    assert!(receiver.next().await.unwrap_err().message().contains("absent"));
    assert!(fleet.reply(call).await.unwrap_err().message.contains("absent"));
    let up = TransferId::generate();
    let call = fleet.call("s", &by_transfer("/etc/large", up)).await.unwrap();
    let mut sender = fleet.queue.transfer(&fleet.tenant, up).sender(PATIENCE).await.unwrap();
    sender.send(Bytes::from(vec![1; 2_000_000])).await.unwrap();
    sender.finish().await.unwrap();
    assert!(fleet.reply(call).await.unwrap_err().message.contains("/etc/large"));
    assert_eq!(fleet.python("s", "print(x)").await.stdout, "42");
    fleet.finish().await;
}
