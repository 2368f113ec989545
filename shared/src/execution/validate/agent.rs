//! What is asked of requests for the agent.

use super::Asked;
use crate::config::NetworkFilter;
use crate::error::Error;
use crate::execution::request::{ExecutionRequest, Network, NetworkChoice};
use crate::runtime::Runtime;

/// Longest prompt: the kernel passes no longer word to a program.
const MAX_PROMPT_BYTES: usize = (128 << 10) - 2;

/// Refuses an agent that could not reach its model, or could reach everything.
pub(super) fn check(
    request: &ExecutionRequest,
    asked: &Asked<'_>,
    server: &NetworkFilter,
) -> Result<(), Error> {
    let choice = asked.options.network.unwrap_or_else(|| asked.defaults.network.into());
    let network = match choice {
        NetworkChoice::Always(network) => network,
        // Its model is asked while it runs.
        NetworkChoice::Phases { run, .. } => run,
    };
    let own = asked.options.network_filter.as_ref();
    let has_hosts =
        own.is_some_and(|own| !own.whitelist.is_empty()) || !server.whitelist.is_empty();
    match network {
        Network::None => {
            return Err(Error::invalid(
                "Agent runtime requires network access: set network to filtered, with its model's \
                 host in networkFilter.whitelist, or to host",
            ));
        }
        Network::Filtered if !has_hosts => {
            return Err(Error::invalid(
                "Agent runtime requires at least one network whitelist entry: its model's host",
            ));
        }
        Network::Filtered | Network::Host => {}
    }
    let prompt = request.code.as_deref().unwrap_or_default();
    if prompt.len() > MAX_PROMPT_BYTES {
        return Err(Error::invalid(format!(
            "The prompt has {} bytes; the most is {MAX_PROMPT_BYTES}. Put what is long into a file \
             and name it in the prompt.",
            prompt.len()
        )));
    }
    if prompt.contains('\0') {
        return Err(Error::invalid("The prompt contains a NUL character"));
    }
    Ok(())
}

/// The agent's options, word by word.
pub(super) fn flags(runtime: Runtime, flags: Option<&str>) -> Result<Vec<String>, Error> {
    let Some(flags) = flags.filter(|flags| !flags.trim().is_empty()) else {
        return Ok(Vec::new());
    };
    if runtime != Runtime::Agent {
        return Err(Error::invalid(format!(
            "agentFlags are for the agent runtime; this request is for {runtime}"
        )));
    }
    if flags.contains('\0') {
        return Err(Error::invalid("agentFlags contain a NUL character"));
    }
    shell_words::split(flags)
        .map_err(|_| Error::invalid("agentFlags have a quotation mark that is never closed"))
}
