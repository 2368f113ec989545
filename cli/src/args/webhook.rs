//! Who is to be told how a job or a batch ended.

use std::path::PathBuf;

use clap::Args;

/// Environment variable with the secret: a flag would show it to whoever lists processes.
pub(crate) const SECRET_VARIABLE: &str = "ISOL8_WEBHOOK_SECRET";

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Webhook")]
pub(crate) struct WebhookArgs {
    /// Address that is told how it ended; signed with ISOL8_WEBHOOK_SECRET, or what the server has.
    #[arg(long, value_name = "URL")]
    pub(crate) webhook: Option<String>,
    /// File with the secret to sign with, whsec_ and base64.
    #[arg(long, value_name = "FILE", requires = "webhook")]
    pub(crate) webhook_secret_file: Option<PathBuf>,
    /// Tell of this alone: of a job succeeded, failed, cancelled, expired or dead_letter, of a batch completed,
    /// failed or cancelled; may be repeated.
    #[arg(long, value_name = "EVENT", requires = "webhook")]
    pub(crate) webhook_event: Vec<String>,
}
