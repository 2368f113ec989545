//! Connections of programs, carried over the link: bytes and ends both ways, windows, resets.

mod harness;

use std::time::Duration;

use harness::*;
use runner::protocol::*;

/// A sandbox whose programs can connect; also where.
fn listening() -> (Sandbox, u16) {
    let mut sandbox = Sandbox::new("python");
    sandbox.send(Kind::Listen, &Listen { port: 0 });
    let listening: Listening = sandbox.expect(Kind::Listening);
    assert_eq!(listening.error, None);
    (sandbox, listening.port)
}

fn tell(sandbox: &mut Sandbox, kind: Kind, id: u32, rest: &[u8]) {
    let mut frame = Vec::new();
    put_tunnel_frame(&mut frame, kind, id, rest);
    sandbox.send_raw(&frame);
}

/// The next frame of a connection, with its number and the rest.
fn hear(sandbox: &mut Sandbox) -> (Kind, u32, Vec<u8>) {
    loop {
        let frame = sandbox.next();
        if frame.kind.is_of_tunnel() {
            let (id, rest) = split_tunnel_payload(&frame.payload).expect("it has a number");
            return (frame.kind, id, rest.to_vec());
        }
        assert_eq!(frame.kind, Kind::Started, "{}", String::from_utf8_lossy(&frame.payload));
    }
}

#[test]
fn bytes_and_ends_go_both_ways() {
    let (mut sandbox, port) = listening();
    let program = format!(
        "import socket; s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'ping'); \
         s.shutdown(socket.SHUT_WR); print(b''.join(iter(lambda: s.recv(99), b'')).decode())"
    );
    sandbox.send(Kind::Start, &python(&program));
    assert_eq!(hear(&mut sandbox), (Kind::TunnelOpen, 0, vec![]));
    assert_eq!(hear(&mut sandbox), (Kind::TunnelData, 0, b"ping".to_vec()));
    assert_eq!(hear(&mut sandbox), (Kind::TunnelEnd, 0, vec![]));
    tell(&mut sandbox, Kind::TunnelData, 0, b"po");
    tell(&mut sandbox, Kind::TunnelData, 0, b"ng");
    tell(&mut sandbox, Kind::TunnelEnd, 0, &[]);
    // What comes for one that is over crossed its end.
    tell(&mut sandbox, Kind::TunnelData, 0, b"late");
    tell(&mut sandbox, Kind::TunnelAbort, 77, &[]);
    assert_eq!(sandbox.collect().out(), "pong\n");
}

#[test]
fn a_connection_that_nobody_reads_holds_up_nothing_else() {
    let (mut sandbox, port) = listening();
    let program = format!(
        "import socket\n\
         one, other = [socket.create_connection(('127.0.0.1', {port})) for _ in range(2)]\n\
         one.setblocking(False)\n\
         try:\n\
         \twhile True: one.send(b'x' * 65536)\n\
         except BlockingIOError: other.sendall(b'fine')\n\
         print(other.recv(9).decode())"
    );
    sandbox.send(Kind::Start, &python(&program));
    let (mut stalled, mut fine) = (0, Vec::new());
    // No more than its window comes.
    while fine != b"fine" || stalled < TUNNEL_WINDOW_BYTES {
        match hear(&mut sandbox) {
            (Kind::TunnelData, 0, data) => stalled += data.len(),
            (Kind::TunnelData, 1, data) => fine.extend(data),
            (kind, ..) => assert_eq!(kind, Kind::TunnelOpen),
        }
    }
    assert_eq!(stalled, TUNNEL_WINDOW_BYTES);
    // Credit brings more.
    tell(&mut sandbox, Kind::TunnelCredit, 0, &1000_u32.to_le_bytes());
    let (kind, id, more) = hear(&mut sandbox);
    assert_eq!((kind, id, more.len()), (Kind::TunnelData, 0, 1000));
    tell(&mut sandbox, Kind::TunnelData, 1, b"answer");
    let mut out = Vec::new();
    loop {
        let frame = sandbox.next();
        match frame.kind {
            Kind::Stdout => out.extend(frame.payload),
            Kind::Exited => break,
            kind => assert!(kind.is_of_tunnel(), "{kind:?}"),
        }
    }
    assert_eq!(out, b"answer\n");
}

#[test]
fn what_the_program_takes_comes_back_as_credit() {
    let (mut sandbox, port) = listening();
    let program = format!(
        "import socket, time; s = socket.create_connection(('127.0.0.1', {port})); \
         print(len(b''.join(iter(lambda: s.recv(65536), b''))))"
    );
    sandbox.send(Kind::Start, &python(&program));
    assert_eq!(hear(&mut sandbox), (Kind::TunnelOpen, 0, vec![]));
    let (mut sent, mut window) = (0, TUNNEL_WINDOW_BYTES);
    while sent < 10 * TUNNEL_WINDOW_BYTES {
        tell(&mut sandbox, Kind::TunnelData, 0, &vec![b'x'; window]);
        sent += std::mem::take(&mut window);
        while window == 0 {
            let (kind, id, rest) = hear(&mut sandbox);
            assert_eq!((kind, id), (Kind::TunnelCredit, 0));
            window += parse_credit(&rest).expect("four bytes");
        }
    }
    tell(&mut sandbox, Kind::TunnelEnd, 0, &[]);
    let out = loop {
        let frame = sandbox.next();
        if frame.kind == Kind::Stdout {
            break String::from_utf8_lossy(&frame.payload).into_owned();
        }
    };
    assert_eq!(out, format!("{sent}\n"));
}

#[test]
fn a_reset_closes_connections_and_keeps_the_listener() {
    let (mut sandbox, port) = listening();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo x >&3; sleep 60");
    for round in 0..2 {
        sandbox.send(Kind::Start, &start(&["bash", "-c", &connect]));
        // Numbers are never used twice.
        assert_eq!(hear(&mut sandbox), (Kind::TunnelOpen, round, vec![]));
        assert_eq!(hear(&mut sandbox), (Kind::TunnelData, round, b"x\n".to_vec()));
        sandbox.send_data(Kind::Reset, b"");
        let _: Exited = sandbox.expect(Kind::Exited);
        let done: ResetDone = sandbox.expect(Kind::ResetDone);
        assert!(done.verified, "{:?}", done.detail);
        let _: Ready = sandbox.expect(Kind::Ready);
    }
    assert!(sandbox.next_within(Duration::from_millis(100)).is_err());
}

#[test]
fn programs_have_no_descriptor_of_the_listener_and_cannot_take_its_place() {
    let (mut sandbox, port) = listening();
    let found = sandbox.run(&start(&["bash", "-c", "ls /proc/self/fd | tr '\\n' ' '"]));
    assert_eq!(found.out(), "0 1 2 3 ");
    let bind = format!("import socket\nsocket.create_server(('127.0.0.1', {port}))");
    assert!(sandbox.run(&python(&bind)).err().contains("Address already in use"));
}

#[test]
fn a_worker_that_goes_beyond_a_window_ends_the_runner() {
    let (mut sandbox, port) = listening();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; sleep 60");
    sandbox.send(Kind::Start, &start(&["bash", "-c", &connect]));
    assert_eq!(hear(&mut sandbox), (Kind::TunnelOpen, 0, vec![]));
    tell(&mut sandbox, Kind::TunnelData, 0, &vec![0; TUNNEL_WINDOW_BYTES + 1]);
    let fatal: Fatal = sandbox.expect(Kind::Fatal);
    assert!(fatal.message.contains("beyond its window"), "{}", fatal.message);
}
