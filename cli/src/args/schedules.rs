//! `isol8 schedules`: programs that a server submits as jobs when their time comes.

use clap::{Args, Subcommand};

use super::fleet::PageArgs;
use super::run::{RemoteArgs, RequestArgs};
use super::webhook::WebhookArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum SchedulesCommand {
    /// Make a schedule; its identifier is printed.
    Create(Box<CreateScheduleArgs>),
    /// List schedules, newest first.
    List(PageArgs),
    /// Show a schedule, with its last runs.
    Get {
        /// The schedule.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have a schedule submit nothing until it is resumed.
    Pause(ScheduleArgs),
    /// Have a paused schedule run again; what was due meanwhile is not made up for.
    Resume(ScheduleArgs),
    /// Submit a schedule's job now, besides its own times; its identifier is printed.
    RunNow(ScheduleArgs),
    /// Delete a schedule; jobs that it has submitted go on.
    Delete(ScheduleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// The schedule.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("when").required(true).args(["cron", "at"])))]
pub(crate) struct CreateScheduleArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// Cron pattern of five fields, or six with seconds in front, like "30 9 * * MON-FRI".
    #[arg(long, value_name = "PATTERN", help_heading = "Schedule")]
    pub(crate) cron: Option<String>,
    /// Run once, at this time (ISO 8601).
    #[arg(long, value_name = "TIME", help_heading = "Schedule")]
    pub(crate) at: Option<chrono::DateTime<chrono::Utc>>,
    /// Where the pattern's clock hangs, like Europe/Paris; UTC otherwise.
    #[arg(long, value_name = "ZONE", help_heading = "Schedule")]
    pub(crate) timezone: Option<String>,
    /// What becomes of runs that were missed: skip, once (one stands for all) or all.
    #[arg(long, value_name = "HOW", default_value = "once", help_heading = "Schedule")]
    pub(crate) missed: String,
    /// What becomes of a run while the job before has not ended: allow, skip or replace.
    #[arg(long, value_name = "HOW", default_value = "allow", help_heading = "Schedule")]
    pub(crate) overlap: String,
    /// Name, for people.
    #[arg(long, value_name = "NAME", help_heading = "Schedule")]
    pub(crate) name: Option<String>,
    /// Make it paused.
    #[arg(long, help_heading = "Schedule")]
    pub(crate) paused: bool,
    /// high, normal or low.
    #[arg(long, value_name = "NAME", help_heading = "Queue")]
    pub(crate) priority: Option<String>,
    /// Do not begin later than so long after the submission.
    #[arg(long, value_name = "MS", help_heading = "Queue")]
    pub(crate) expires: Option<u64>,
    /// How often to try the program in all.
    #[arg(long, value_name = "N", help_heading = "Queue")]
    pub(crate) max_attempts: Option<u32>,
    /// Pause before the second try.
    #[arg(long, value_name = "MS", help_heading = "Queue")]
    pub(crate) backoff: Option<u64>,
    /// How long to keep a job once it has ended.
    #[arg(long, value_name = "MS", help_heading = "Queue")]
    pub(crate) retention: Option<u64>,
    /// Word to find the jobs by; may be repeated.
    #[arg(long, value_name = "TAG", help_heading = "Queue")]
    pub(crate) tag: Vec<String>,
    #[command(flatten)]
    pub(crate) webhook: WebhookArgs,
    /// All that the server tells of it, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}
