//! A name server on loopback whose answers the test decides on, name by name and question by question.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
/// How many bytes the head of a message has.
const HEAD_BYTES: usize = 12;

/// One line of an answer.
#[derive(Clone, Debug)]
pub enum Record {
    /// An address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name, whose records follow.
    Cname(&'static str),
}

impl Record {
    /// Number of its type, and its data.
    fn encoded(&self) -> (u16, Vec<u8>) {
        match self {
            Self::A(address) => (A, address.octets().to_vec()),
            Self::Aaaa(address) => (AAAA, address.octets().to_vec()),
            Self::Cname(name) => (CNAME, encoded(name)),
        }
    }
}

/// What to answer: for a name, and how often it was asked for before with the same type; records of the
/// other type are left out. `None`: there is no such name.
type Script = dyn Fn(&str, usize) -> Option<Vec<Record>> + Send + Sync;

/// A name server; it ends when this is dropped.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<HashMap<(String, u16), usize>>>,
    _serving: JoinSet<()>,
}

impl NameServer {
    /// One that answers as `script` says. No answer may be kept.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(
        script: impl Fn(&str, usize) -> Option<Vec<Record>> + Send + Sync + 'static,
    ) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = socket.local_addr().expect("it is bound");
        let asked = Arc::<Mutex<HashMap<_, _>>>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(socket, Arc::new(script), Arc::clone(&asked)));
        Self { address, asked, _serving: serving }
    }

    /// How often the IPv4 addresses of a name were asked for.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(&(name.to_owned(), A)).copied().unwrap_or_default()
    }
}

async fn serve(
    socket: UdpSocket,
    script: Arc<Script>,
    asked: Arc<Mutex<HashMap<(String, u16), usize>>>,
) {
    let mut question = [0; 1024];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        let Some((name, kind, end)) = parse(&question[..length]) else { continue };
        let before = {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let count = asked.entry((name.clone(), kind)).or_default();
            *count += 1;
            *count - 1
        };
        let answer = answer(&question[..end], kind, script(&name, before));
        // Whoever asked may have gone.
        let _ = socket.send_to(&answer, from).await;
    }
}

/// Name in lower case and type of a question, and where it ends.
fn parse(message: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = HEAD_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), kind, at + 4))
}

/// The answer to a question, which it repeats as it came. Records after an alias are those of its name.
fn answer(question: &[u8], kind: u16, records: Option<Vec<Record>>) -> Vec<u8> {
    let is_known = records.is_some();
    let mut name = question[HEAD_BYTES..question.len() - 4].to_vec();
    let (mut lines, mut count) = (Vec::new(), 0_u16);
    for record in records.unwrap_or_default() {
        let (its_kind, data) = record.encoded();
        if its_kind != kind && its_kind != CNAME {
            continue;
        }
        lines.extend_from_slice(&name);
        lines.extend_from_slice(&its_kind.to_be_bytes());
        // Class IN, to be kept for 0 seconds.
        lines.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
        lines.extend_from_slice(&u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
        lines.extend_from_slice(&data);
        count += 1;
        if its_kind == CNAME {
            name = data;
        }
    }
    let mut message = question[..2].to_vec();
    // An answer, recursion wanted and available; 3: there is no such name.
    message.extend_from_slice(&[0x81, if is_known { 0x80 } else { 0x83 }]);
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(&count.to_be_bytes());
    message.extend_from_slice(&[0, 0, 0, 0]);
    message.extend_from_slice(&question[HEAD_BYTES..]);
    message.extend_from_slice(&lines);
    message
}

fn encoded(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or_default());
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}
