//! Server-Sent Events as isol8 writes them: one `data: ` line of JSON for each event. All other
//! lines, heartbeats among them, mean nothing.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;

use super::{Delivery, EventStream};
use crate::client::Client;
use crate::error::ClientError;
use crate::execute::Execution;

/// A longer line is no event of any isol8 server.
const MAX_LINE_BYTES: usize = 16 << 20;

pub(super) async fn execute(
    client: &Client,
    execution: &Execution,
) -> Result<EventStream, ClientError> {
    let body = execution.to_body(client.session_of(execution))?;
    let request = client.request(Method::POST, &["execute", "stream"]).body(body);
    let response = client.send_ok("Stream failed", request).await?;
    Ok(EventStream::new(events(client, response)))
}

struct Reading<T> {
    pieces: BoxStream<'static, Result<Bytes, ClientError>>,
    parser: Parser,
    ready: VecDeque<T>,
    is_at_end: bool,
}

/// The events of an answer.
pub(crate) fn events<T: DeserializeOwned + Send + 'static>(
    client: &Client,
    response: Response,
) -> BoxStream<'static, Result<Delivery<T>, ClientError>> {
    let client = client.clone();
    let pieces = response
        .bytes_stream()
        .map(move |piece| piece.map_err(|error| client.unreachable(error)))
        .boxed();
    let reading =
        Reading { pieces, parser: Parser::default(), ready: VecDeque::new(), is_at_end: false };
    stream::unfold(reading, |mut reading| async move {
        loop {
            if let Some(event) = reading.ready.pop_front() {
                return Some((Ok(Delivery::Event(event)), reading));
            }
            if reading.is_at_end {
                let reason = "the connection was closed".to_owned();
                return Some((Ok(Delivery::End(reason)), reading));
            }
            match reading.pieces.next().await {
                Some(Ok(piece)) => {
                    if let Err(error) = reading.parser.read(&piece, &mut reading.ready) {
                        return Some((Err(error), reading));
                    }
                }
                Some(Err(error)) => return Some((Err(error), reading)),
                None => {
                    reading.is_at_end = true;
                    reading.ready.extend(reading.parser.finish());
                }
            }
        }
    })
    .boxed()
}

/// Puts lines together from pieces that end anywhere.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
}

impl Parser {
    fn read<T: DeserializeOwned>(
        &mut self,
        mut piece: &[u8],
        events: &mut VecDeque<T>,
    ) -> Result<(), ClientError> {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&piece[..end]);
            events.extend(event(&self.line));
            self.line.clear();
            piece = &piece[end + 1..];
        }
        self.line.extend_from_slice(piece);
        if self.line.len() > MAX_LINE_BYTES {
            let reason = format!("a line of more than {MAX_LINE_BYTES} bytes is no event");
            return Err(ClientError::StreamEnded { reason });
        }
        Ok(())
    }

    /// The last line, which may lack its end.
    fn finish<T: DeserializeOwned>(&mut self) -> Option<T> {
        event(&std::mem::take(&mut self.line))
    }
}

/// What is not an event is passed over, as isol8's client does.
fn event<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(line.strip_prefix(b"data: ")?.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{EventType, StreamEvent};

    #[test]
    fn events_are_found_wherever_the_pieces_end() {
        let wire = ": heartbeat\n\ndata: {\"type\":\"stdout\",\"data\":\"é\\n\",\"phase\":\"code\"}\r\n\n\
                    event: x\ndata:{\"type\":\"stdout\"}\ndata: {broken\n\n\
                    data: {\"type\":\"later\",\"data\":\"?\"}\n\ndata: {\"type\":\"exit\",\"data\":\"0\"}";
        for size in 1..=wire.len() {
            let (mut parser, mut events) = (Parser::default(), VecDeque::<StreamEvent>::new());
            for piece in wire.as_bytes().chunks(size) {
                parser.read(piece, &mut events).unwrap();
            }
            events.extend(parser.finish());
            let seen: Vec<_> =
                events.iter().map(|event| (event.kind, event.data.as_str())).collect();
            assert_eq!(
                seen,
                [(EventType::Stdout, "é\n"), (EventType::Other, "?"), (EventType::Exit, "0")],
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let (mut parser, mut events) = (Parser::default(), VecDeque::<StreamEvent>::new());
        let piece = vec![b'x'; MAX_LINE_BYTES];
        parser.read(&piece, &mut events).unwrap();
        assert!(matches!(parser.read(b"x", &mut events), Err(ClientError::StreamEnded { .. })));
    }
}
