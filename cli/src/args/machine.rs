//! Commands about this machine: images, cleaning up, and looking whether all is well.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Runtime to build upon.
    #[arg(long, value_name = "RUNTIME")]
    pub(crate) base: String,
    /// What the image is called.
    #[arg(long, value_name = "NAME")]
    pub(crate) tag: String,
    /// Package to bake in; may be repeated, or separated by commas.
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) install: Vec<String>,
    /// Shell line, or file of them, kept with the image as its setup script; may be repeated.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) setup: Vec<String>,
    /// Python module to import once, ahead of the jobs; may be repeated, or separated by commas.
    #[arg(long, value_name = "MODULE")]
    pub(crate) preload: Vec<String>,
    /// Build even if the image is what is wanted.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JsonArgs {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SbomArgs {
    /// Runtime or image; without one, isol8 itself.
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Only the hash of what is in each.
    #[arg(long)]
    pub(crate) hash: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Do not ask.
    #[arg(long)]
    pub(crate) force: bool,
    /// Also remove the images.
    #[arg(long)]
    pub(crate) images: bool,
    /// Tell what was found and whether it was removed as JSON; without --force nothing is removed.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) queue: super::servers::QueueArgs,
    /// Where the server's own Redis keeps its data.
    #[arg(long, env = "ISOL8_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write one page per command into this directory, instead of the first one to standard output.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
