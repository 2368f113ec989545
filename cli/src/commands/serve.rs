//! `isol8 serve`: gateway, worker and queue in one process.

use std::pin::Pin;
use std::process::ExitCode;

use shared::config::Config;
use shared::redis::Queue;
use tokio_util::sync::CancellationToken;

use super::build;
use crate::args::ServeArgs;
use crate::roles::{self, RedisServer};
use crate::{printer, settings};

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    if args.update {
        printer::info("--update: nothing to do; the server is part of this command");
    }
    let mut config = settings::load()?.config;
    let master_key = settings::apply_listen(&mut config, args.listen)?;
    settings::apply_queue(&mut config, args.queue)?;
    settings::apply_slots(&mut config, &args.slots)?;

    let mut redis = match (&config.redis.url, args.data_dir) {
        (Some(_), _) => None,
        (None, Some(directory)) => Some(RedisServer::start(&directory).await?),
        (None, None) => Some(RedisServer::start(&roles::default_data_directory()?).await?),
    };
    if let Some(redis) = &redis {
        config.redis.url = Some(redis.url());
        if config.redis.secrets_keys.is_none() && config.redis.secrets_key_file.is_none() {
            config.redis.secrets_key_file = Some(roles::own_secrets_key(redis.directory())?);
        }
    }
    let stop = CancellationToken::new();
    let serving = Box::pin(roles::run_until_signalled(serve(config, master_key, &stop), &stop));
    let served = match &mut redis {
        None => serving.await,
        Some(redis) => supervised(serving, redis, &stop).await,
    };
    // Also after a failed start: nothing of ours may stay behind.
    if let Some(redis) = redis {
        redis.stop().await?;
    }
    served.map(|()| ExitCode::SUCCESS)
}

/// Serves while keeping Redis running; without a Redis there is nothing to serve.
async fn supervised(
    mut serving: Pin<Box<impl Future<Output = anyhow::Result<()>>>>,
    redis: &mut RedisServer,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        served = &mut serving => served,
        lost = redis.supervise() => {
            stop.cancel();
            serving.await?;
            lost.map(|never| match never {})
        }
    }
}

async fn serve(config: Config, master_key: String, stop: &CancellationToken) -> anyhow::Result<()> {
    let queue = Queue::open(&config.redis)?;
    // The worker outlives the gateway, so that open requests still get their answers.
    let stop_worker = CancellationToken::new();
    build::missing_prebuilt(&config, stop).await?;
    let worker = roles::build_worker(&config, &stop_worker).await?;
    let listener = roles::bind_or_free(&config, stop).await?;
    roles::announce(&listener)?;
    let (numbers, audit) = (worker.metrics(), worker.audit());
    let options = gateway::Options {
        config,
        listener,
        queue: queue.clone(),
        master_key,
        audit,
        more_metrics: Some(Box::new(move || numbers.render())),
    };
    let (gateway, worker) = tokio::join!(
        async {
            let outcome = gateway::run(options, stop.clone()).await;
            stop_worker.cancel();
            outcome
        },
        async {
            let outcome = worker.run(queue, stop_worker.clone()).await;
            // A server whose worker failed must not go on taking jobs.
            stop.cancel();
            outcome
        },
    );
    gateway?;
    worker
}
