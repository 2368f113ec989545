//! The operating system image everything is built on: present, else pulled, else bootstrapped from
//! the machine's own package mirror. So it works with a registry, without one, and with neither if
//! the image was brought along.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio_util::io::ReaderStream;
use worker::engine::docker::Docker;
use worker::engine::images::{Versions, bootstrapped_image};

use super::apt::{Source, read_sources};
use super::packages::{BOOTSTRAP, ensure};
use super::{Privilege, Tell, run};

/// How long bootstrapping may take on a slow mirror.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(1200);

/// Size of the pieces in which a root file system is handed to the engine.
const PIECE_BYTES: usize = 256 * 1024;

/// An operating system image, and the package sources to use in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OsImage {
    /// Its reference.
    pub(crate) reference: String,
    /// One-line sources; empty leaves the image's own.
    pub(crate) apt_sources: String,
}

/// Finds or makes the image. `configured` is a reference somebody asked for.
///
/// # Errors
/// If it can't be had in any way, saying what was tried.
pub(crate) async fn obtain(
    docker: &Docker,
    configured: Option<&str>,
    privilege: Privilege,
    tell: Tell<'_>,
) -> anyhow::Result<OsImage> {
    let debian = Versions::embedded().debian;
    if let Some(reference) = configured {
        if docker.image_info(reference).await?.is_none() {
            tell(&format!("pulling {reference}"));
            docker.pull_image(reference, |line| tell(line)).await.with_context(|| {
                format!("the base image {reference} is neither on this machine nor to be pulled")
            })?;
        }
        return Ok(OsImage { reference: reference.into(), apt_sources: String::new() });
    }
    let sources = read_sources(Path::new("/"));
    if docker.image_info(&debian.image).await?.is_some() {
        return Ok(published(debian.image, &debian.suite, &sources));
    }
    let Origin { suite, source } = origin(&sources, &debian.suite);
    let (repository, tag) = bootstrapped_image(&suite);
    let own = format!("{repository}:{tag}");
    if docker.image_info(&own).await?.is_none() {
        tell(&format!("pulling {}", debian.image));
        let Err(pull_error) = docker.pull_image(&debian.image, |line| tell(line)).await else {
            return Ok(published(debian.image, &debian.suite, &sources));
        };
        let Some(source) = source else {
            bail!(
                "{} can't be pulled ({pull_error}), and this machine has no Debian or Ubuntu \
                 package source to make a base image from. Bring one along and name it with \
                 --base-image.",
                debian.image
            );
        };
        ensure(&BOOTSTRAP, privilege, tell).await?;
        bootstrap(docker, &source, privilege, tell).await.with_context(|| {
            format!("no registry offers {} ({pull_error}), and making one failed", debian.image)
        })?;
    }
    Ok(OsImage { reference: own, apt_sources: lines(&sources, &suite) })
}

/// A published image brings no certificates, so it can't use sources that need them.
fn published(reference: String, suite: &str, sources: &[Source]) -> OsImage {
    let lines = lines(sources, suite);
    let apt_sources = if lines.contains("https://") { String::new() } else { lines };
    OsImage { reference, apt_sources }
}

/// The machine's sources of one release.
fn lines(sources: &[Source], release: &str) -> String {
    sources.iter().filter(|source| source.is_of(release)).map(Source::to_line).collect()
}

/// What can be bootstrapped here.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    suite: String,
    source: Option<Source>,
}

/// The wanted release where the machine's mirror has it; else the machine's own release.
fn origin(sources: &[Source], wanted: &str) -> Origin {
    if let Some(source) = sources.iter().find(|source| source.suite == wanted) {
        return Origin { suite: wanted.into(), source: Some(source.clone()) };
    }
    // A Debian archive carries every current release; an Ubuntu one carries no Debian.
    let is_debian = |source: &&Source| source.uri.trim_end_matches('/').ends_with("/debian");
    if let Some(source) = sources.iter().find(is_debian) {
        let source =
            Source { suite: wanted.into(), components: vec!["main".into()], ..source.clone() };
        return Origin { suite: wanted.into(), source: Some(source) };
    }
    // The first source of an installed machine is its own release.
    let own = sources.iter().find(|source| !source.suite.contains(['-', '/'])).cloned();
    Origin { suite: own.as_ref().map_or(wanted, |source| &source.suite).to_owned(), source: own }
}

async fn bootstrap(
    docker: &Docker,
    source: &Source,
    privilege: Privilege,
    tell: Tell<'_>,
) -> anyhow::Result<()> {
    tell(&format!("bootstrapping {} from this machine's package mirror", source.suite));
    // Not below /tmp, which is often small, or mounted so that programs there can't run.
    let folder = tempfile::Builder::new()
        .prefix("isol8-bootstrap-")
        .tempdir_in("/var/tmp")
        .context("making a folder in /var/tmp")?;
    let root = folder.path().join("root");
    let mut command = privilege.command("debootstrap", "bootstrap a base image")?;
    command
        .args(["--variant=minbase", "--include=ca-certificates"])
        .arg(format!("--components={}", source.components.join(",")))
        .args(source.is_trusted.then_some("--no-check-gpg"))
        .arg(&source.suite)
        .arg(&root)
        .arg(&source.uri);
    let result = run(&mut command, "bootstrap a base image", BOOTSTRAP_LIMIT).await;
    let result = match result {
        Ok(_) => import(docker, &root, &source.suite, privilege, tell).await,
        Err(error) => Err(error),
    };
    // Its files belong to root, so root removes them.
    let mut command = privilege.command("rm", "bootstrap a base image")?;
    command.args(["-rf", "--one-file-system", "--"]).arg(&root);
    run(&mut command, "remove the bootstrap folder", Duration::from_secs(60)).await?;
    result
}

async fn import(
    docker: &Docker,
    root: &Path,
    suite: &str,
    privilege: Privilege,
    tell: Tell<'_>,
) -> anyhow::Result<()> {
    tell("importing the base image");
    let mut command: Command = privilege.command("tar", "bootstrap a base image")?;
    command
        .args(["--numeric-owner", "--exclude=./var/cache/apt/archives/*.deb"])
        .args(["--exclude=./var/lib/apt/lists/*", "--exclude=./var/cache/apt/*.bin"])
        .args(["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "-C"])
        .arg(root)
        .args(["-cf", "-", "."])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let mut child = command.spawn().context("tar could not be started")?;
    let stdout = child.stdout.take().context("tar has no output")?;
    let (repository, tag) = bootstrapped_image(suite);
    let stream = ReaderStream::with_capacity(stdout, PIECE_BYTES);
    docker.import_image(stream, repository, &tag).await?;
    let status = child.wait().await.context("waiting for tar")?;
    if !status.success() {
        // Half an image is worse than none: the next run would build on it.
        docker.remove_image(&format!("{repository}:{tag}")).await?;
        bail!("packing the base image failed: tar ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::apt::parse_lines;
    use super::*;

    #[test]
    fn wanted_release_comes_from_the_machines_own_mirror() {
        let sources = parse_lines(
            "deb http://m.example/security bookworm-security main\n\
             deb http://m.example/debian bookworm main contrib\n",
        );
        let origin = origin(&sources, "bookworm");
        assert_eq!(origin.source.as_ref(), Some(&sources[1]));
        assert_eq!(
            lines(&sources, "bookworm"),
            "deb http://m.example/security bookworm-security main\n\
             deb http://m.example/debian bookworm main contrib\n"
        );
    }

    #[test]
    fn another_debian_release_shares_its_mirror() {
        let sources = parse_lines("deb http://m.example/debian/ trixie main non-free\n");
        let origin = origin(&sources, "bookworm");
        let source = origin.source.expect("same archive");
        assert_eq!(
            (source.suite.as_str(), source.components.as_slice()),
            ("bookworm", &["main".to_owned()][..])
        );
        // Its own suites are no use inside an image of another release.
        assert_eq!(lines(&sources, "bookworm"), "");
    }

    #[test]
    fn ubuntu_bootstraps_itself() {
        let sources = parse_lines(
            "deb http://m.example/ubuntu noble-updates main\n\
             deb http://m.example/ubuntu noble main universe\n",
        );
        let origin = origin(&sources, "bookworm");
        assert_eq!((origin.suite.as_str(), origin.source.as_ref()), ("noble", Some(&sources[1])));
    }

    #[test]
    fn without_sources_nothing_can_be_bootstrapped() {
        assert_eq!(origin(&[], "bookworm"), Origin { suite: "bookworm".into(), source: None });
    }

    #[test]
    fn encrypted_mirrors_are_left_out_of_images_without_certificates() {
        let image = |text| published("debian".into(), "bookworm", &parse_lines(text)).apt_sources;
        assert_eq!(image("deb https://m.example/debian bookworm main"), "");
        assert_ne!(image("deb http://m.example/debian bookworm main"), "");
    }
}
