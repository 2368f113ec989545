//! Files of any size, in and out of a session, piece by piece: a slow client slows the sandbox, and
//! no file lies whole in this process or in Redis.

use std::pin::{Pin, pin};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use shared::execution::{Call, Content, FileReply};
use shared::id::{JobId, TransferId};
use shared::redis::{JobState, TransferReceiver, TransferSender};
use shared::{Error, ErrorCode};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::files::{INLINE_WRITE_BYTES, Place, too_large, unexpected};
use super::pieces::Pieces;
use super::slots::Slot;
use crate::body::{Room, announced, discard, next_piece};
use crate::connection::Pace;

/// How long a client may take nothing.
const IDLE: Duration = Duration::from_secs(30);
/// How long the sandbox may be busy with earlier calls before it comes to this one. A client that
/// leaves while its body waits to be read is not noticed before.
const TURN: Duration = Duration::from_secs(120);
/// After a transfer broke, how long the worker may take to say why.
const LAST_WORD: Duration = Duration::from_secs(5);
/// How much of a refused file is taken in and thrown away.
const DISCARDED_BYTES: usize = 32 << 20;
/// Pieces that may wait for the client.
const PIECES: usize = 2;

/// A file on its way to the client.
pub(crate) enum Download {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece.
    Pieces(Pieces),
}

/// Writes a file that is here already, and takes up `room`.
///
/// # Errors
/// As [`upload`].
pub(crate) async fn write(
    place: &Place,
    path: String,
    mode: u32,
    bytes: Bytes,
    room: Room,
) -> Result<u64, Error> {
    place.check_size(bytes.len() as u64)?;
    if bytes.len() <= INLINE_WRITE_BYTES {
        return place.write(path, mode, bytes, room).await;
    }
    send(place, path, mode, &mut Body::from(bytes)).await
}

/// Writes a file as it comes; returns how large it was.
///
/// # Errors
/// `PAYLOAD_TOO_LARGE`, that the client stopped sending, that the file cannot be written, or that
/// there are too many transfers already.
pub(crate) async fn upload(
    place: &Place,
    path: String,
    mode: u32,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<u64, Error> {
    let length = announced(headers);
    if length.is_some_and(|length| length <= INLINE_WRITE_BYTES as u64) {
        // Small enough for a moment in memory, and so quick that it needs no turn.
        let (bytes, room) = place.state.files.intake.read(&place.tenant, headers, body).await?;
        return place.write(path, mode, bytes, room).await;
    }
    let sent = match place.check_size(length.unwrap_or(0)) {
        Ok(()) => send(place, path, mode, &mut body).await,
        Err(error) => Err(error),
    };
    if sent.is_err() {
        // Else the client, still sending, would never see the answer.
        discard(body, DISCARDED_BYTES).await;
    }
    sent
}

async fn send(place: &Place, path: String, mode: u32, body: &mut Body) -> Result<u64, Error> {
    let _slot = place.state.files.slots.take(&place.tenant).await?;
    let id = TransferId::generate();
    let sender = place.state.queue.transfer(&place.tenant, id).sender(TURN).await?;
    let content = Content::Transfer(id);
    let asked = place.ask(Call::Write { path, mode, content }).await?;
    let call = asked.call();
    let mut reply = pin!(asked.reply());
    let fed = tokio::select! {
        // The call ended before the file did: only an error can be the reason.
        reply = &mut reply => return written(reply?),
        fed = feed(body, place.state.files.intake.pace(), sender, place.max_bytes()) => fed,
    };
    match fed {
        Ok(()) => written(reply.await?),
        Err(Broken::Client(error)) => Err(error),
        Err(Broken::Transfer(error)) => Err(reason(place, call, reply, error).await),
    }
}

fn written(reply: FileReply) -> Result<u64, Error> {
    match reply {
        FileReply::Written { size_bytes } => Ok(size_bytes),
        other => Err(unexpected(&other)),
    }
}

/// Who is at fault that a file did not arrive.
enum Broken {
    Client(Error),
    Transfer(Error),
}

/// Sends a body to its end.
async fn feed(
    body: &mut Body,
    pace: Pace,
    mut sender: TransferSender,
    max_bytes: u64,
) -> Result<(), Broken> {
    let mut total = 0_u64;
    let mut account = pace.begin();
    loop {
        let refused = match next_piece(body, &mut account).await {
            Ok(None) => return sender.finish().await.map_err(Broken::Transfer),
            Ok(Some(piece)) => {
                total += piece.len() as u64;
                if total <= max_bytes {
                    sender.send(piece).await.map_err(Broken::Transfer)?;
                    continue;
                }
                too_large(max_bytes)
            }
            Err(error) => error,
        };
        if let Err(error) = sender.abort(refused.message()).await {
            debug!(%error, "the worker was not told that a file will not come");
        }
        return Err(Broken::Client(refused));
    }
}

/// Reads a file.
///
/// # Errors
/// `PAYLOAD_TOO_LARGE`, that it cannot be read, or that there are too many transfers already.
pub(crate) async fn read(place: &Place, path: String) -> Result<Download, Error> {
    // Most files are small. For those that are not, asking twice costs little beside the rest.
    match place.read(path.clone()).await {
        Err(error) if error.code() == ErrorCode::PayloadTooLarge => {}
        outcome => return outcome.map(Download::Whole),
    }
    let slot = place.state.files.slots.take(&place.tenant).await?;
    let id = TransferId::generate();
    let mut receiver = place.state.queue.transfer(&place.tenant, id).receiver(TURN).await?;
    let call = Call::Read { path, max_bytes: place.max_bytes(), transfer: Some(id) };
    let asked = place.ask(call).await?;
    let call = asked.call();
    let mut reply: Reply = Box::pin(asked.reply());
    let first = tokio::select! {
        biased;
        first = receiver.next() => match first {
            Ok(first) => first,
            Err(error) => return Err(reason(place, call, reply, error).await),
        },
        ended = &mut reply => match ended? {
            FileReply::Read { content: Some(content), .. } => return Ok(Download::Whole(content.0)),
            FileReply::Read { .. } => receiver.next().await?,
            other => return Err(unexpected(&other)),
        },
    };
    let Some(first) = first else { return Ok(Download::Whole(Bytes::new())) };
    let (pieces, taken) = mpsc::channel(PIECES);
    let pump = pump(receiver, first, pieces, reply, slot);
    place.state.tasks.spawn(pump);
    Ok(Download::Pieces(Pieces::new(taken)))
}

type Reply = Pin<Box<dyn Future<Output = Result<FileReply, Error>> + Send>>;

/// Why a transfer broke: the session has not come to it, or what the sandbox says, if it does.
async fn reason(
    place: &Place,
    call: JobId,
    reply: impl Future<Output = Result<FileReply, Error>>,
    error: Error,
) -> Error {
    if matches!(place.state.queue.state(&place.tenant, call).await, Ok(JobState::Queued)) {
        let message = format!(
            "The session was busy with earlier calls for {} s. Try again when they have ended",
            TURN.as_secs()
        );
        return Error::new(ErrorCode::QueueFull, message).with_source(error);
    }
    match timeout(LAST_WORD, reply).await {
        Ok(Err(reason)) => reason,
        Ok(Ok(_)) | Err(_) => error,
    }
}

/// Passes pieces on until the file ends, the client leaves or stands still, or the transfer breaks.
/// Dropped half-way, the receiver tells the worker, and `reply` cancels the call.
async fn pump(
    mut receiver: TransferReceiver,
    first: Bytes,
    pieces: mpsc::Sender<Option<Bytes>>,
    reply: Reply,
    _slot: Slot,
) {
    let mut piece = Some(first);
    loop {
        let is_last = piece.is_none();
        match timeout(IDLE, pieces.send(piece)).await {
            Ok(Ok(())) if is_last => break,
            Ok(Ok(())) => {}
            Ok(Err(_)) => return debug!("a client left before its file was there"),
            Err(_) => return debug!("a client stopped taking its file"),
        }
        piece = match receiver.next().await {
            Ok(piece) => piece,
            // The client sees the answer break off.
            Err(error) => return debug!(%error, "a file was not sent to its end"),
        };
    }
    // The call ends by itself now; its answer has nothing to add.
    if let Ok(Err(error)) = timeout(LAST_WORD, reply).await {
        debug!(%error, "a file was sent, but its call failed");
    }
}
