//! `isol8 gateway`: the HTTP front of a fleet.

use std::process::ExitCode;

use anyhow::ensure;
use shared::audit::Audit;
use shared::redis::Queue;
use tokio_util::sync::CancellationToken;

use crate::args::GatewayArgs;
use crate::{roles, settings};

pub(crate) async fn run(args: GatewayArgs) -> anyhow::Result<ExitCode> {
    let mut config = settings::load()?.config;
    let master_key = settings::apply_listen(&mut config, args.listen)?;
    settings::apply_queue(&mut config, args.queue)?;
    ensure!(config.redis.url.is_some(), "a gateway needs the fleet's queue: give --redis URL");

    let stop = CancellationToken::new();
    let serving = async {
        let queue = Queue::open(&config.redis)?;
        let listener = roles::bind(&config).await?;
        roles::announce(&listener)?;
        let audit = Audit::start(&config.audit)?;
        let options = gateway::Options {
            config: config.clone(),
            listener,
            queue: queue.clone(),
            master_key,
            audit: audit.clone(),
            more_metrics: None,
        };
        let (served, usable) = tokio::join!(gateway::run(options, stop.clone()), async {
            // Meanwhile requests are answered 503.
            roles::await_queue(&queue, &stop).await.inspect_err(|_| stop.cancel())
        });
        audit.shutdown().await;
        usable?;
        anyhow::Ok(served?)
    };
    roles::run_until_signalled(Box::pin(serving), &stop).await?;
    Ok(ExitCode::SUCCESS)
}
