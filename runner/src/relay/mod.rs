//! Connections of programs, carried byte by byte to the worker, who decides where they lead. Nothing
//! here looks at what it carries, and no connection can hold up another one, or the link.

mod connection;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;

use runner::protocol::{
    DATA_CHUNK_BYTES, Kind, Listen, Listening, MAX_TUNNELS, ProtocolError, TUNNEL_ID_BYTES,
    parse_credit, split_tunnel_payload,
};

use self::connection::Connection;
use crate::link::{Frame, Link};
use crate::spawn::describe;

/// The listener and all open connections.
#[derive(Default)]
pub(crate) struct Relay {
    listener: Option<TcpListener>,
    connections: BTreeMap<u32, Connection>,
    next_id: u32,
    /// Whose turn it is: a busy connection must not always be the first to fill the link.
    turn: u32,
    /// Allocated with the listener: a number and a chunk behind it.
    scratch: Vec<u8>,
}

impl Relay {
    /// Opens the listener and says so.
    pub(crate) fn listen(&mut self, listen: &Listen, link: &mut Link) {
        let listening = match self.open(listen.port) {
            Ok(port) => Listening { port, error: None },
            Err(error) => Listening { port: listen.port, error: Some(describe(&error)) },
        };
        link.send_message(Kind::Listening, &listening);
    }

    fn open(&mut self, port: u16) -> io::Result<u16> {
        // Only the sandbox's own: it has no other. Descriptors of the library close on exec.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        self.listener = Some(listener);
        self.scratch = vec![0; TUNNEL_ID_BYTES + DATA_CHUNK_BYTES];
        Ok(port)
    }

    /// The listener, while there is room for one more connection.
    pub(crate) fn accepting(&self) -> Option<BorrowedFd<'_>> {
        let has_room = self.connections.len() < MAX_TUNNELS;
        self.listener.as_ref().filter(|_| has_room).map(AsFd::as_fd)
    }

    /// What to wait for on behalf of each connection.
    pub(crate) fn interests<'a>(
        &'a self,
        link_has_room: bool,
        add: &mut impl FnMut(u32, BorrowedFd<'a>, PollFlags),
    ) {
        for (id, connection) in &self.connections {
            let flags = connection.interests(link_has_room);
            // One of which nothing is wanted is left out: its hang-up would be told again and again.
            if !flags.is_empty() {
                add(*id, connection.as_fd(), flags);
            }
        }
    }

    /// Takes the connections that wait.
    pub(crate) fn accept(&mut self, link: &mut Link) {
        while self.accepting().is_some() && link.has_room() {
            let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept) else {
                return;
            };
            self.admit(stream, link);
        }
    }

    fn admit(&mut self, stream: TcpStream, link: &mut Link) {
        let id = self.next_id;
        // Dropped, so closed, if the numbers are used up or the socket is broken already.
        let (Some(next_id), Ok(connection)) = (id.checked_add(1), Connection::new(stream)) else {
            return;
        };
        self.next_id = next_id;
        self.connections.insert(id, connection);
        link.send(Kind::TunnelOpen, &id.to_le_bytes());
    }

    /// Lets connections that are ready, in the order of their numbers, take a step.
    pub(crate) fn step(&mut self, ready: &[u32], link: &mut Link) {
        let first = ready.partition_point(|id| *id < self.turn);
        for id in ready[first..].iter().chain(&ready[..first]) {
            self.turn = id + 1;
            let Some(connection) = self.connections.get_mut(id) else { continue };
            let outcome = connection.step(*id, link, &mut self.scratch);
            self.note(*id, outcome, link);
        }
    }

    /// Takes a frame about a connection. One that is over here already may be news to the worker.
    pub(crate) fn take(&mut self, frame: &Frame, link: &mut Link) -> Result<(), ProtocolError> {
        let (id, rest) = split_tunnel_payload(&frame.payload)?;
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        let outcome = match frame.kind {
            Kind::TunnelData => connection.push(id, rest, link)?,
            Kind::TunnelEnd => connection.end(id, link),
            Kind::TunnelCredit => {
                connection.credit(parse_credit(rest)?);
                Ok(())
            }
            _ => {
                connection.reset();
                self.connections.remove(&id);
                return Ok(());
            }
        };
        self.note(id, outcome, link);
        Ok(())
    }

    fn note(&mut self, id: u32, outcome: io::Result<()>, link: &mut Link) {
        if outcome.is_err() {
            link.send(Kind::TunnelAbort, &id.to_le_bytes());
            self.connections.remove(&id);
        } else if self.connections.get(&id).is_some_and(Connection::is_over) {
            self.connections.remove(&id);
        }
    }

    /// Closes every connection, and those that wait. The worker knows, having asked for the reset.
    pub(crate) fn clear(&mut self) {
        self.connections.clear();
        let Some(listener) = &self.listener else { return };
        while listener.accept().is_ok() {}
    }
}
