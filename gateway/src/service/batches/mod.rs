//! Batches: taking one in as it comes, looking at it, waiting for its end and stopping it.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod merge;
pub(crate) mod results;
mod split;

use std::time::{Duration, Instant};

use axum::body::Body;
use sha2::{Digest as _, Sha256};
use shared::execution::Priority;
use shared::id::{BatchId, TenantId};
use shared::isolation::Isolation;
use shared::redis::{BatchRecord, BatchTerms, BatchUpload, Once, Sealed};
use shared::webhook::SubjectKind;
use shared::{Error, ErrorCode};
use tokio::time::{sleep, timeout};
use tracing::debug;

use self::merge::{Head, Item};
pub(crate) use self::split::Form;
use self::split::{Part, Splitter};
use super::admit::Refusals;
use super::durability::{Confirmed, confirm_batch};
use crate::body::{self, Room};
use crate::state::State;

/// How long an upload may take.
const UPLOAD_TIME: Duration = Duration::from_secs(3600);
/// Items of this size come in without waiting for room.
const SMALL_BYTES: usize = 64 << 10;
/// Items that are read in one go, while other requests wait.
const ITEMS_PER_TURN: u64 = 32;
/// How long what runs of a stopped batch may take to stop: a worker may have died, and then its leases have to
/// run out first.
const CONFIRMATION: Duration = Duration::from_secs(60);
/// First and longest pause between two looks at a batch.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A batch that was taken in.
pub(crate) struct Submitted {
    pub(crate) sealed: Sealed,
    pub(crate) items: u64,
    pub(crate) confirmed: Confirmed,
}

/// Takes a batch in. Nothing of it begins before all of it is there and right.
///
/// # Errors
/// Admission errors that name the line or the item, and queue errors.
pub(crate) async fn submit(
    state: &State,
    tenant: &TenantId,
    form: Form,
    key: Option<&[u8]>,
    mut body: Body,
) -> Result<Submitted, Error> {
    let _turn = state.uploads.take(tenant).await?;
    // Boxed: it is large, and lies in the futures of all that is around it.
    let reading = timeout(UPLOAD_TIME, Box::pin(read(state, tenant, form, key, &mut body)));
    let outcome = match state.closing.run_until_cancelled(reading).await {
        Some(Ok(outcome)) => outcome,
        Some(Err(_)) => {
            let seconds = UPLOAD_TIME.as_secs();
            Err(Error::invalid(format!("The batch did not arrive within {seconds} s")))
        }
        None => {
            let words = "This gateway stops, and the batch was not whole yet. Submit it again.";
            Err(Error::new(ErrorCode::QueueUnavailable, words))
        }
    };
    if outcome.is_err() {
        // Else the client, still sending, would never see the answer.
        body::discard(body, state.intake.max_bytes()).await;
    }
    outcome
}

/// A batch as far as it has come in.
struct Incoming {
    head: Head,
    /// Of all items: they stand in one line.
    isolation: Isolation,
    upload: BatchUpload,
}

async fn read(
    state: &State,
    tenant: &TenantId,
    form: Form,
    key: Option<&[u8]>,
    body: &mut Body,
) -> Result<Submitted, Error> {
    let mut splitter = Splitter::new(form, state.intake.max_bytes());
    let mut incoming = None;
    let mut digest = Sha256::new();
    let mut room: Room = None;
    let mut account = state.intake.pace().begin();
    while let Some(mut piece) = body::next_piece(body, &mut account).await? {
        if key.is_some() {
            digest.update(&piece);
        }
        while let Some(part) = splitter.next(&mut piece)? {
            take(state, tenant, &mut incoming, part).await.map_err(|error| at(&splitter, error))?;
        }
        if splitter.buffered() <= SMALL_BYTES {
            room = None;
        } else if room.is_none() {
            room = state.intake.room(tenant, state.intake.max_bytes()).await?;
        }
        if let Some(Incoming { upload, .. }) = &mut incoming {
            upload.sign().await?;
        }
    }
    if let Some(part) = splitter.finish()? {
        take(state, tenant, &mut incoming, part).await.map_err(|error| at(&splitter, error))?;
    }
    let Some(Incoming { head, upload, .. }) = incoming.filter(|it| it.upload.items() > 0) else {
        return Err(Error::invalid("A batch needs at least one item"));
    };
    let once = key.map(|key| Once::of_batch(key, &digest.finalize()));
    let items = upload.items();
    let sealed = upload.seal(once.as_ref()).await?;
    debug!(batch = %sealed.id, items, is_repeated = sealed.is_repeated, "batch taken in");
    let asked = head.queue.and_then(|queue| queue.durability);
    let confirmed = confirm_batch(state, tenant, sealed.id, asked).await?;
    Ok(Submitted { sealed, items, confirmed })
}

/// The error of a part, with where that is.
fn at(splitter: &Splitter, error: Error) -> Error {
    if matches!(error.code(), ErrorCode::QueueUnavailable | ErrorCode::Internal) {
        return error;
    }
    let located = Error::new(error.code(), format!("{}: {}", splitter.place(), error.message()));
    match error.retry_after() {
        Some(wait) => located.with_retry_after(wait),
        None => located,
    }
}

/// Takes in the head, or one item.
async fn take(
    state: &State,
    tenant: &TenantId,
    incoming: &mut Option<Incoming>,
    part: Part,
) -> Result<(), Error> {
    let item = match (part, &mut *incoming) {
        (Part::Item(item), Some(incoming)) => (item, incoming),
        (Part::Head(head) | Part::Item(head), _) => {
            *incoming = Some(open(state, tenant, &head).await?);
            return Ok(());
        }
    };
    let (bytes, Incoming { head, isolation, upload, .. }) = item;
    let mut item: Item = body::parse(&bytes)?;
    drop(bytes);
    let name = item.name()?;
    let envelope = head.with(item)?;
    let refusals = Refusals::new(state, tenant, None, &envelope.request);
    let job =
        state.admission.admit(tenant, envelope).inspect_err(|error| refusals.record(error))?;
    if job.isolation != *isolation {
        return Err(Error::invalid(
            "options.isolation: the items of a batch all have that of its head; make a batch of each kind",
        ));
    }
    upload.add(name, &job).await?;
    if upload.items() % ITEMS_PER_TURN == 0 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn open(state: &State, tenant: &TenantId, head: &[u8]) -> Result<Incoming, Error> {
    let head: Head = body::parse(head)?;
    // What no item could be right with is said of the template.
    let template = head.with(Item::default())?;
    let isolation = state.admission.isolation(tenant, &template.options)?;
    let mut queue = head.queue.clone().unwrap_or_default();
    if !queue.suits_batches() {
        return Err(Error::invalid(
            "queue: the items of a batch begin as others end. Of a batch, only tags, retentionMs, priority, \
             labels, durability, webhook and the retries of its items can be chosen",
        ));
    }
    // Whoever waits for an answer goes before a million that nobody waits for one by one.
    queue.priority = queue.priority.or(Some(Priority::Low));
    let webhook = queue.webhook.take();
    let mut items = queue.into_terms(state.admission.policy(tenant), state.job_retention_ms)?;
    items.labels.add_isolation([isolation]);
    let admit = |it| state.webhooks.admit(tenant, SubjectKind::Batch, it);
    let webhook = webhook.map(admit).transpose()?;
    let terms = BatchTerms { items, failure_budget: head.failure_budget, webhook };
    let (quota, limits) = (state.quota(tenant), state.batch_limits(tenant));
    let upload = state.queue.upload_batch(tenant, quota, limits, terms).await?;
    Ok(Incoming { head, isolation, upload })
}

/// A batch, at its end or after `patience`, whichever comes first.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn find(
    state: &State,
    tenant: &TenantId,
    id: BatchId,
    patience: Duration,
) -> Result<BatchRecord, Error> {
    let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let record = state.queue.batch(tenant, id).await?;
        let left = patience.saturating_sub(begun.elapsed());
        if record.state == "finished" || left.is_zero() || state.closing.is_cancelled() {
            return Ok(record);
        }
        state.closing.run_until_cancelled(sleep(pause.min(left))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Stops a batch and waits until nothing of it runs any more. One that has ended stays as it is.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`, also if workers do not confirm in time.
pub(crate) async fn cancel(
    state: &State,
    tenant: &TenantId,
    id: BatchId,
) -> Result<BatchRecord, Error> {
    let (begun, mut pause) = (Instant::now(), Duration::from_millis(1));
    while !state.queue.cancel_batch(tenant, id).await? {
        if begun.elapsed() > CONFIRMATION || state.closing.is_cancelled() {
            return Err(Error::new(
                ErrorCode::QueueUnavailable,
                format!(
                    "Batch {id} is being stopped, but not all workers that run items of it have confirmed it \
                     yet. Look at the batch again in a moment"
                ),
            ));
        }
        state.closing.run_until_cancelled(sleep(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    state.queue.batch(tenant, id).await
}
