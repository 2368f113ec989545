//! A worker that keeps sessions: programs are pretended as by `worker`, files are kept in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shared::execution::{Call, Content, Ending, Failure, FileContent, FileEntry, FileReply};
use shared::id::{TenantId, TransferId, WorkerId};
use shared::redis::{Claimed, Cleaned, Commit, NextCall, Orders, Queue, WorkerOrder};
use shared::{Error, ErrorCode};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::worker;

/// How long the other side of a transfer may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a session looks for its next call; a real worker is told.
const LOOK: Duration = Duration::from_millis(5);

type Files = BTreeMap<String, Bytes>;

/// Claims, and keeps what it opens, until it is dropped.
pub(crate) async fn run(queue: Queue, clean_ups: Arc<AtomicUsize>) {
    let worker = WorkerId::generate();
    let mut consumer = queue.consumer(worker).await.unwrap();
    let orders = queue.orders(worker).await.unwrap();
    let mut ear = JoinSet::new();
    ear.spawn(obey(queue.clone(), orders, clean_ups));
    let mut sessions = JoinSet::new();
    loop {
        let claimed = queue.claim(&mut consumer, 64, Duration::from_millis(200)).await.unwrap();
        for claimed in claimed {
            sessions.spawn(keep(queue.clone(), worker, claimed));
        }
        while sessions.try_join_next().is_some() {}
    }
}

/// Pretends to clean up: for everybody three sandboxes, for a tenant the one that is called after it.
async fn obey(queue: Queue, mut orders: Orders, clean_ups: Arc<AtomicUsize>) {
    loop {
        let WorkerOrder::CleanUp(order) = orders.next().await else { continue };
        clean_ups.fetch_add(1, Ordering::Relaxed);
        let mut cleaned = Cleaned::default();
        match &order.tenant {
            None => (0..3).for_each(|_| cleaned.containers.count(Ok(()))),
            Some(tenant) => cleaned.containers.count(Err(format!("{tenant}: is stuck"))),
        }
        if order.images {
            cleaned.images.count(Ok(()));
        }
        queue.cleaned_up(order.request, &cleaned).await.unwrap();
    }
}

/// Runs the call that came through the stream and, if it opened a session, all further ones.
async fn keep(queue: Queue, worker: WorkerId, claimed: Claimed) {
    let ending = worker::ending(&claimed.job, claimed.lease.job).await;
    let committed = queue.finish(worker, &claimed.lease, &ending).await.unwrap();
    if committed == Commit::Fenced {
        return;
    }
    let Some(session) = claimed.opens else { return };
    let mut files = Files::new();
    loop {
        match queue.next_call(worker, &session).await.unwrap() {
            NextCall::Run(call) => {
                let ending = match &call.call {
                    Call::Execute { job } => worker::ending(job, call.id).await,
                    call => answer(&queue, &session.tenant, &mut files, call).await,
                };
                // A call that was cancelled meanwhile has its ending already.
                let _fenced = queue.finish_call(worker, &session, call.id, &ending).await.unwrap();
            }
            NextCall::Idle => sleep(LOOK).await,
            NextCall::Close => return queue.end_session(worker, &session, false).await.unwrap(),
            NextCall::Lost => return,
        }
    }
}

async fn answer(queue: &Queue, tenant: &TenantId, files: &mut Files, call: &Call) -> Ending {
    let failed =
        |code, path: &str, reason| Ending::Error(Failure::new(code, format!("{path}: {reason}")));
    let missing = |path| failed(ErrorCode::NotFound, path, "No such file or directory");
    Ending::File(match call {
        Call::Write { path, content: Content::Inline(content), .. } => {
            files.insert(path.clone(), content.0.clone());
            FileReply::Written { size_bytes: content.0.len() as u64 }
        }
        Call::Write { path, content: Content::Transfer(id), .. } => {
            match receive(queue, tenant, *id).await {
                Err(error) => return Ending::Error(Failure::from(&error)),
                Ok(bytes) => {
                    let size_bytes = bytes.len() as u64;
                    files.insert(path.clone(), bytes.into());
                    FileReply::Written { size_bytes }
                }
            }
        }
        Call::Read { path, transfer, max_bytes } => {
            let Some(bytes) = files.get(path) else { return missing(path) };
            let size_bytes = bytes.len() as u64;
            if size_bytes > *max_bytes {
                return failed(ErrorCode::PayloadTooLarge, path, "File too large");
            }
            let content = transfer.is_none().then(|| FileContent(bytes.clone()));
            if let Some(id) = transfer
                && let Err(error) = offer(queue, tenant, *id, bytes.clone()).await
            {
                return Ending::Error(Failure::from(&error));
            }
            FileReply::Read { size_bytes, content }
        }
        Call::List { path } => {
            let within = |(name, bytes): (&String, &Bytes)| {
                let name = name.strip_prefix(path.as_str())?.strip_prefix('/')?.to_owned();
                let size_bytes = bytes.len() as u64;
                let (kind, mode) = ("file".into(), "0644".into());
                Some(FileEntry { name, kind, size_bytes, mode, modified_ms: 0 })
            };
            let entries = files.iter().filter_map(within).collect();
            FileReply::Directory { entries, truncated: false }
        }
        Call::Remove { path } => match files.remove(path) {
            None => return missing(path),
            Some(_) => FileReply::Removed,
        },
        call => panic!("{call:?} is not pretended"),
    })
}

async fn receive(queue: &Queue, tenant: &TenantId, id: TransferId) -> Result<Vec<u8>, Error> {
    let mut receiver = queue.transfer(tenant, id).receiver(PATIENCE).await?;
    let mut all = Vec::new();
    while let Some(piece) = receiver.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

async fn offer(
    queue: &Queue,
    tenant: &TenantId,
    id: TransferId,
    bytes: Bytes,
) -> Result<(), Error> {
    let mut sender = queue.transfer(tenant, id).sender(PATIENCE).await?;
    sender.send(bytes).await?;
    sender.finish().await
}
