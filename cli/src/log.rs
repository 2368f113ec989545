//! What is logged, and how: a server's log is for machines and those who run them, a command's for
//! the person in front of it, who gets the prefixes of all other messages.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, fmt as format};
use tracing_subscriber::registry::LookupSpan;

/// Starts the log, on standard error.
pub(crate) fn start(is_server: bool, is_debug: bool) {
    let default = match (is_debug, is_server) {
        (true, _) => {
            "debug,bollard=info,hyper=info,hyper_util=info,h2=info,reqwest=info,\
             rustls_platform_verifier=off"
        }
        // Whom a certificate belongs to is told to whoever asked for the connection.
        (false, true) => "info,rustls_platform_verifier=off",
        (false, false) => "warn,rustls_platform_verifier=off",
    };
    let filter = EnvFilter::try_from_env("ISOL8_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = format().with_env_filter(filter).with_writer(std::io::stderr);
    if is_server {
        log.with_ansi(std::io::stderr().is_terminal()).init();
    } else {
        log.with_ansi(false).event_format(Prefixed).init();
    }
}

/// `[LEVEL] message field=value`
struct Prefixed;

impl<S, N> FormatEvent<S, N> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let prefix = match *event.metadata().level() {
            Level::ERROR => "[ERR]",
            Level::WARN => "[WARN]",
            Level::INFO => "[INFO]",
            _ => "[DEBUG]",
        };
        write!(writer, "{prefix} ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
