//! `isol8 worker`: runs jobs for a fleet.

use std::process::ExitCode;

use anyhow::ensure;
use shared::redis::Queue;
use tokio_util::sync::CancellationToken;

use super::build;
use crate::args::WorkerArgs;
use crate::{printer, roles, settings};

pub(crate) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let mut config = settings::load()?.config;
    settings::apply_queue(&mut config, args.queue)?;
    settings::apply_slots(&mut config, &args.slots)?;
    if args.listen.is_some() {
        config.worker.listen = args.listen;
    }
    ensure!(config.redis.url.is_some(), "a worker needs the fleet's queue: give --redis URL");

    let stop = CancellationToken::new();
    let working = async {
        let queue = Queue::open(&config.redis)?;
        build::missing_prebuilt(&config, &stop).await?;
        let worker = roles::build_worker(&config, &stop).await?;
        printer::line("[INFO] isol8 worker ready");
        worker.run(queue, stop.clone()).await
    };
    roles::run_until_signalled(Box::pin(working), &stop).await?;
    Ok(ExitCode::SUCCESS)
}
