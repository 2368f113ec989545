//! What a server does to its own process before it takes in anything secret.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Keeps what is in memory there: no core file, no hand-over to a crash reporter (which the limit alone does not
/// prevent, core(5)), no look into it by other processes of the same user. Root still can. And lets the process have
/// as many descriptors as it may, as each connection takes one.
///
/// Processes that it starts are left as they are, but for the limits.
pub(crate) fn harden() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warn!(%error, "cannot forbid core files");
    }
    if let Err(error) = set_dumpable(false) {
        warn!(%error, "cannot forbid memory dumps");
    }
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the number of open files");
    }
}
