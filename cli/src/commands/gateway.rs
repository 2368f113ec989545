//! `isol8 gateway`: the HTTP front of a fleet.

use std::process::ExitCode;

use anyhow::ensure;
use tokio_util::sync::CancellationToken;

use crate::args::GatewayArgs;
use crate::{roles, settings};

pub(crate) async fn run(args: GatewayArgs) -> anyhow::Result<ExitCode> {
    let mut config = settings::load()?.config;
    let master_key = settings::apply_listen(&mut config, args.listen)?;
    settings::apply_queue(&mut config, args.queue);
    ensure!(
        config.redis.url.is_some(),
        "a gateway needs the fleet's queue: give --redis URL"
    );

    let stop = CancellationToken::new();
    let serving = async {
        if let Some(queue) = roles::connect_queue(&config, &stop).await? {
            let listener = roles::bind(&config).await?;
            roles::announce(&listener)?;
            let options = gateway::Options {
                config,
                listener,
                queue,
                master_key,
            };
            gateway::run(options, stop.clone()).await?;
        }
        stop.cancel();
        anyhow::Ok(())
    };
    tokio::try_join!(serving, async { Ok(roles::until_signalled(&stop).await?) })?;
    Ok(ExitCode::SUCCESS)
}
