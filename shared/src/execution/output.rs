//! Output on its way from a running program to whoever watches, and input the other way.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Which part of a job a piece of output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The setup script.
    Setup,
    /// The program.
    Code,
}

/// An output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Something that happened in a running job. Its events are numbered from 0, so that a reader
/// knows what it missed. The end of the program itself is not one: that is the job's ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub number: u64,
    /// The part of the job.
    pub phase: Phase,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The program wrote something.
    Output {
        /// Where to.
        stream: Stream,
        /// Bytes of this stream and phase that came before.
        offset: u64,
        /// What; secrets are masked already. A piece never ends within a UTF-8 character.
        data: Bytes,
    },
    /// The setup script ended well.
    SetupEnded,
    /// The job begins anew: what came before was written by an attempt that came to nothing.
    Restarted,
}

impl EventKind {
    /// The wire form: `<phase><kind> <offset>\n<data>`.
    #[must_use]
    pub fn encode(&self, phase: Phase) -> Vec<u8> {
        let phase = match phase {
            Phase::Setup => 's',
            Phase::Code => 'c',
        };
        match self {
            Self::Output { stream, offset, data } => {
                let kind = match stream {
                    Stream::Stdout => 'o',
                    Stream::Stderr => 'e',
                };
                let mut wire = format!("{phase}{kind} {offset}\n").into_bytes();
                wire.extend_from_slice(data);
                wire
            }
            Self::SetupEnded => format!("{phase}x 0\n").into_bytes(),
            Self::Restarted => format!("{phase}r 0\n").into_bytes(),
        }
    }
}

impl Event {
    /// Reads the wire form; `None` if it is none.
    #[must_use]
    pub fn decode(number: u64, wire: &[u8]) -> Option<Self> {
        let head_end = wire.iter().position(|byte| *byte == b'\n')?;
        let head = std::str::from_utf8(&wire[..head_end]).ok()?;
        let (labels, offset) = head.split_once(' ')?;
        let phase = match labels.chars().next()? {
            's' => Phase::Setup,
            'c' => Phase::Code,
            _ => return None,
        };
        let stream = match labels.get(1..)? {
            "o" => Stream::Stdout,
            "e" => Stream::Stderr,
            "r" => return Some(Self { number, phase, kind: EventKind::Restarted }),
            "x" => return Some(Self { number, phase, kind: EventKind::SetupEnded }),
            _ => return None,
        };
        let data = Bytes::copy_from_slice(&wire[head_end + 1..]);
        let kind = EventKind::Output { stream, offset: offset.parse().ok()?, data };
        Some(Self { number, phase, kind })
    }
}

/// What a caller sends to a running program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// The end of its standard input.
    StdinEnd,
    /// A signal, by its Linux number.
    Signal(i32),
}

impl Input {
    /// The wire form: one letter and what belongs to it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Stdin(data) => [b"d", data.as_ref()].concat(),
            Self::StdinEnd => b"e".to_vec(),
            Self::Signal(number) => format!("s{number}").into_bytes(),
        }
    }

    /// Reads the wire form; `None` if it is none.
    #[must_use]
    pub fn decode(wire: &[u8]) -> Option<Self> {
        let (letter, rest) = wire.split_first()?;
        match letter {
            b'd' => Some(Self::Stdin(Bytes::copy_from_slice(rest))),
            b'e' => Some(Self::StdinEnd),
            b's' => Some(Self::Signal(std::str::from_utf8(rest).ok()?.parse().ok()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        let data = Bytes::from_static(b"a\nb\xff 1\n");
        let kinds = [
            EventKind::Output { stream: Stream::Stdout, offset: 0, data: data.clone() },
            EventKind::Output { stream: Stream::Stderr, offset: u64::MAX, data },
            EventKind::SetupEnded,
            EventKind::Restarted,
        ];
        for kind in kinds {
            for phase in [Phase::Setup, Phase::Code] {
                let read = Event::decode(7, &kind.encode(phase));
                assert_eq!(read, Some(Event { number: 7, phase, kind: kind.clone() }));
            }
        }
        for wire in ["", "co", "co x\n", "zo 1\n", "cz 1\n", "\u{e9}o 1\n"] {
            assert_eq!(Event::decode(0, wire.as_bytes()), None, "{wire}");
        }
    }

    #[test]
    fn inputs_survive_the_wire() {
        let inputs = [Input::Stdin(Bytes::from_static(b"e\0")), Input::StdinEnd, Input::Signal(15)];
        for input in inputs {
            assert_eq!(Input::decode(&input.encode()), Some(input));
        }
        for wire in ["", "x", "sINT"] {
            assert_eq!(Input::decode(wire.as_bytes()), None, "{wire}");
        }
    }
}
