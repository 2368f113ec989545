//! Redis' own log of changes, read back: how often each job ended, by whom, and who had it then. It is
//! written before anything is answered, so nothing that anybody saw is missing in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One ending of a job, as Redis has written it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The worker whose ending it is; empty: the queue's own.
    pub(super) by: String,
    /// The worker that had the job then; empty: none.
    pub(super) holder: String,
}

#[derive(Clone, Debug, Default)]
struct Job {
    holder: String,
    endings: Vec<Ended>,
    is_item: bool,
}

/// What the log says.
pub(super) struct Log {
    /// The endings of every job.
    pub(super) endings: BTreeMap<String, Vec<Ended>>,
    /// Those of them that were items of batches.
    pub(super) items: BTreeSet<String>,
}

/// Reads the logs of a server, whose `directory` that is.
///
/// # Errors
/// If the log is not there or cannot be read as one.
pub(super) fn read_log(directory: &Path) -> Result<Log, String> {
    let broken = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(broken)? {
        let path = entry.map_err(broken)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // appendonly.aof.<number>.incr.aof
        if let Some(name) = name.strip_suffix(".incr.aof") {
            let number = name.rsplit('.').next().and_then(|it| it.parse::<u64>().ok());
            files.push((number.unwrap_or_default(), path));
        }
    }
    if files.is_empty() {
        return Err(format!("{}: there is no log", directory.display()));
    }
    files.sort();
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    for (_, path) in files {
        let bytes = std::fs::read(&path).map_err(broken)?;
        read(&bytes, &mut jobs).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let items = jobs.iter().filter(|(_, job)| job.is_item).map(|(id, _)| id.clone()).collect();
    let endings = jobs.into_iter().map(|(id, job)| (id, job.endings)).collect();
    Ok(Log { endings, items })
}

/// Reads commands; one that was cut off at the end, when the server was killed, was never answered.
fn read(mut bytes: &[u8], jobs: &mut BTreeMap<String, Job>) -> Result<(), String> {
    while !bytes.is_empty() {
        let Some((words, rest)) = command(bytes)? else { return Ok(()) };
        bytes = rest;
        apply(&words, jobs);
    }
    Ok(())
}

/// The first command, and what comes after it; none if it is not all there.
type Command<'a> = Option<(Vec<&'a [u8]>, &'a [u8])>;

fn command(bytes: &[u8]) -> Result<Command<'_>, String> {
    let Some((count, mut rest)) = number(bytes, b'*')? else { return Ok(None) };
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let Some((length, after)) = number(rest, b'$')? else { return Ok(None) };
        // With the line end behind it.
        let Some((word, after)) = after.split_at_checked(length) else { return Ok(None) };
        let Some(after) = after.get(2..) else { return Ok(None) };
        words.push(word);
        rest = after;
    }
    Ok(Some((words, rest)))
}

fn number(bytes: &[u8], mark: u8) -> Result<Option<(usize, &[u8])>, String> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
    let text = text.strip_prefix(char::from(mark));
    let number = text.and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| format!("no command begins with {:?}", &bytes[..end]))?;
    Ok(Some((number, &bytes[end + 2..])))
}

fn apply(words: &[&[u8]], jobs: &mut BTreeMap<String, Job>) {
    let [name, key, rest @ ..] = words else { return };
    let Some(id) = job_of(key) else { return };
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    if name.eq_ignore_ascii_case(b"HDEL") && rest.contains(&&b"worker"[..]) {
        jobs.entry(id).or_default().holder.clear();
    } else if name.eq_ignore_ascii_case(b"HSET") {
        let field =
            |name: &[u8]| rest.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
        let job = jobs.entry(id).or_default();
        job.is_item |= field(b"batch").is_some();
        if let Some(worker) = field(b"worker") {
            job.holder = text(worker);
        }
        if field(b"state") == Some(b"finished") {
            let by = field(b"ended_by").map(text).unwrap_or_default();
            let holder = job.holder.clone();
            job.endings.push(Ended { by, holder });
        }
    }
}

/// The job whose record it is: `v1:{s<n>}:job:<id>`.
fn job_of(key: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    let (shard, id) = key.split_once(":job:")?;
    (shard.starts_with("v1:{s") && shard.ends_with('}')).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(commands: &[&[&str]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for words in commands {
            bytes.extend(format!("*{}\r\n", words.len()).bytes());
            for word in *words {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
            }
        }
        bytes
    }

    #[test]
    fn endings_are_found_with_who_had_the_job() {
        let bytes = written(&[
            &["SELECT", "0"],
            &["HSET", "v1:{s0}:job:a", "state", "running", "worker", "w1", "batch", "x"],
            &["HDEL", "v1:{s0}:job:a", "entry", "worker"],
            &["HSET", "v1:{s0}:job:a", "state", "running", "worker", "w2"],
            &["HSET", "v1:{s0}:job:a", "state", "finished", "result", "a\r\nb", "ended_by", "w2"],
            &["HSET", "v1:{s1}:job:b", "state", "finished", "ended_by", ""],
        ]);
        let mut jobs = BTreeMap::new();
        // Cut off in the middle of a further command.
        let cut = [&bytes[..], b"*3\r\n$4\r\nHSET\r\n$9\r\nv1"].concat();
        read(&cut, &mut jobs).unwrap();
        let ended = |by: &str, holder: &str| Ended { by: by.into(), holder: holder.into() };
        assert_eq!(jobs["a"].endings, [ended("w2", "w2")]);
        assert_eq!(jobs["b"].endings, [ended("", "")]);
        assert!(jobs["a"].is_item && !jobs["b"].is_item);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert!(read(b"REDIS0010\r\n", &mut BTreeMap::new()).is_err());
    }
}
