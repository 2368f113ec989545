//! What goes on beside a running program: its output is published, its input fetched. Both end by
//! themselves when the program's ends of the wires are dropped.

use shared::execution::{Input, Job};
use shared::id::{JobId, TenantId};
use shared::redis::Publication;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::engine::{Console, Live};
use crate::input::Feeder;
use crate::publish::{self, Feed, Publisher};

/// The program's ends.
pub(crate) struct Wires {
    feed: Option<Feed>,
    input: Option<mpsc::Receiver<Input>>,
}

/// The queue's ends.
pub(crate) struct Attendants {
    publisher: Option<(Publisher, Publication)>,
    feeder: Option<Feeder>,
}

/// Lays the wires that a job asks for.
pub(crate) fn attend(
    context: &Context,
    id: JobId,
    job: &Job,
    publication: impl FnOnce(u64) -> Publication,
) -> (Wires, Attendants) {
    let (feed, publisher) = job.stream.then(publish::stream).unzip();
    let (feeder, input) = job.listens().then(|| context.inputs.listen(id)).unzip();
    // Each phase may take its time, and what was published must outlive the last of them.
    let publisher = publisher.map(|it| (it, publication(job.timeout_ms.saturating_mul(2))));
    (Wires { feed, input }, Attendants { publisher, feeder })
}

impl Wires {
    pub(crate) fn console(&mut self) -> Console<'_> {
        Console {
            live: self.feed.as_mut().map(|feed| feed as &mut dyn Live),
            input: self.input.as_mut(),
            ..Console::default()
        }
    }
}

impl Attendants {
    /// Serves until the wires are dropped and all output is published; returns how many events it
    /// was. Cancels `run` if the job is not this worker's any more.
    pub(crate) async fn serve(
        self,
        context: &Context,
        tenant: &TenantId,
        run: &CancellationToken,
    ) -> u64 {
        let Self { publisher, feeder } = self;
        let publish = async {
            let Some((publisher, publication)) = publisher else { return 0 };
            let events = publisher.run(&context.queue, &publication, run).await;
            context.metrics.streamed(events);
            events
        };
        let feed = async {
            if let Some(feeder) = feeder {
                feeder.run(&context.queue, tenant).await;
            }
        };
        tokio::join!(publish, feed).0
    }
}
