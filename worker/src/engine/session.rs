//! A session: one sandbox that its tenant keeps, with an interpreter that lives on from call to call.
//! It belongs to one task; nothing in it runs at the same time as anything else.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use runner::protocol::Kind;
use shared::audit::SecurityEvent;
use shared::config::NetworkFilter;
use shared::execution::{
    EgressPhases, ExecutionResult, FileEntry, Job, MAX_SECRET_BYTES, Network, NetworkChange,
    PackageSet, SessionState,
};
use shared::id::{JobId, SessionId, TenantId};
use shared::isolation::Isolation;
use shared::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::fault::JobError;
use super::mask::Masker;
use super::pool::Lent;
use super::program::Interpreter;
use super::{
    Acquired, Console, Engine, EngineError, LinkError, environment, files, mask_report,
    milliseconds, result, run, tell_blocked, tell_network, values_of_secrets,
};
use crate::egress::Gate;

/// Secret values remembered, and their bytes, unless one call alone has more; the oldest are forgotten
/// first.
const MAX_SECRETS: usize = 256;
const MAX_SECRETS_BYTES: usize = MAX_SECRET_BYTES;

/// A session's sandbox. Dropped, it is destroyed; [`close`](Self::close) also waits for that.
pub struct Session {
    id: SessionId,
    lent: Lent,
    interpreter: Interpreter,
    /// Values of all calls so far: what one call was given may come out in a later one.
    secrets: VecDeque<String>,
    masker: Masker,
    is_broken: bool,
    /// Which parts of a call may reach the filtered network.
    way_out: EgressPhases,
    /// The session's own rules for it.
    filter: NetworkFilter,
    /// Until the first call has a result: how long its caller waited for packages and sandbox.
    opening_ms: Option<(f64, f64)>,
    packages: PackageSet,
    /// The program that ran last.
    last: Option<LastProgram>,
}

/// Who answers for what runs on in a session.
struct LastProgram {
    id: JobId,
    runtime: Runtime,
    metadata: BTreeMap<String, String>,
}

/// What a session's programs tried after its last call, and must not.
pub struct Aftermath {
    /// The program that ran last.
    pub id: JobId,
    /// Its language.
    pub runtime: Runtime,
    /// What its caller had to say about it.
    pub metadata: BTreeMap<String, String>,
    /// Requests that were blocked; at least one.
    pub events: Vec<SecurityEvent>,
}

impl Engine {
    /// Opens a session in a sandbox as `job` needs it; later calls get no other. `heard` gets what the
    /// installer of its packages was refused.
    ///
    /// # Errors
    /// If there is no such image, or no sandbox can be had.
    pub async fn open_session(
        &self,
        tenant: &TenantId,
        id: &SessionId,
        job: &Job,
        heard: &mut Vec<SecurityEvent>,
        cancel: &CancellationToken,
    ) -> Result<Session, EngineError> {
        let Acquired { mut lent, install, sandbox } =
            self.acquire(tenant, job, heard, cancel).await?;
        let way_out = self.open_way_out(lent.sandbox(), job)?;
        Ok(Session {
            id: id.clone(),
            lent,
            interpreter: Interpreter::default(),
            secrets: VecDeque::new(),
            masker: Masker::of_values(std::iter::empty()),
            is_broken: false,
            way_out,
            filter: job.egress.as_ref().map(|egress| egress.filter.clone()).unwrap_or_default(),
            opening_ms: Some((milliseconds(install), milliseconds(sandbox))),
            packages: job.packages.clone(),
            last: None,
        })
    }
}

impl Session {
    /// Runs a program: code in the living interpreter, a command line in a process of its own.
    ///
    /// # Errors
    /// If it cannot be run. The session goes on unless it [`is_broken`](Self::is_broken).
    pub async fn execute(
        &mut self,
        id: JobId,
        job: &Job,
        console: &mut Console<'_>,
        cancel: &CancellationToken,
    ) -> Result<ExecutionResult, EngineError> {
        environment::check(job)?;
        self.check_packages(job)?;
        self.check_isolation(job)?;
        self.learn_secrets(job);
        let metadata = job.metadata.clone();
        self.last = Some(LastProgram { id, runtime: job.runtime, metadata });
        let container_id = self.lent.sandbox().id.clone();
        let (sandbox, interpreter) = (self.lent.sandbox(), Some(&mut self.interpreter));
        if let Some(gate) = sandbox.gate() {
            let none = BTreeMap::new();
            gate.keep_secrets(job.egress.as_ref().map_or(&none, |egress| &egress.secrets));
            gate.set_log(job.egress.as_ref().is_some_and(|egress| egress.log));
        }
        let masker = &self.masker;
        let ran = run::run(sandbox, job, masker, interpreter, self.way_out, console, cancel).await;
        // What earlier calls have left running must not get through while a later one is set up.
        self.way_out.setup = self.way_out.run;
        let report = self.lent.sandbox().gate().map(Gate::report);
        let report = report.map(|report| tell_blocked(report, &self.masker, console));
        let ran = self.note(ran)?;
        let state_lost = ran.state_lost;
        let mut result = result(id, job, container_id, ran);
        tell_network(&mut result, report);
        let opening_ms = self.opening_ms.take();
        (result.timings.install_ms, result.timings.sandbox_ms) = opening_ms.unwrap_or_default();
        result.isolation = self.lent.sandbox().profile.isolation;
        result.timings.cold = opening_ms.is_some() && self.lent.cold;
        let (id, opened) = (self.id.clone(), opening_ms.is_some());
        result.session = Some(SessionState { id, opened, state_lost });
        Ok(result)
    }

    /// The packages of the first call are those of all.
    fn check_packages(&self, job: &Job) -> Result<(), JobError> {
        if self.packages.covers(&job.packages) {
            return Ok(());
        }
        let is_missing = |name: &&str| !self.packages.iter().any(|own| own == *name);
        let missing: Vec<&str> = job.packages.iter().filter(is_missing).collect();
        Err(JobError::SessionPackages { packages: missing.join(", ") })
    }

    /// The isolation of the first call is that of all; a call that wants more than a container gets that or is
    /// refused.
    fn check_isolation(&mut self, job: &Job) -> Result<(), JobError> {
        let own = self.lent.sandbox().profile.isolation;
        if job.isolation == own || job.isolation == Isolation::Container {
            return Ok(());
        }
        Err(JobError::SessionIsolation { own: own.name(), asked: job.isolation.name() })
    }

    fn learn_secrets(&mut self, job: &Job) {
        if remember(&mut self.secrets, values_of_secrets(job)) {
            self.masker = Masker::of_values(self.secrets.iter().map(String::as_str));
        }
    }

    /// Begins to write a file; [`write_piece`](Self::write_piece) and [`end_write`](Self::end_write)
    /// must follow.
    ///
    /// # Errors
    /// If the path is far too long.
    pub fn begin_write(&mut self, path: &str, mode: u32) -> Result<(), EngineError> {
        let begun = files::begin_write(self.lent.sandbox(), path, mode);
        self.note(begun)
    }

    /// Writes the next piece of a file; returns when there is room for one more.
    ///
    /// # Errors
    /// If the sandbox is broken. Whether the file can be written shows at its end.
    pub async fn write_piece(&mut self, piece: &[u8]) -> Result<(), EngineError> {
        let written = files::write_piece(self.lent.sandbox(), piece).await;
        self.note(written)
    }

    /// Ends a file.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn end_write(&mut self) -> Result<(), EngineError> {
        let ended = files::end_write(self.lent.sandbox()).await;
        self.note(ended)
    }

    /// Begins to read a file of at most `max_bytes`; [`read_piece`](Self::read_piece) must follow, to
    /// the end. Returns its size.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn begin_read(&mut self, path: &str, max_bytes: u64) -> Result<u64, EngineError> {
        let begun = files::begin_read(self.lent.sandbox(), path, max_bytes).await;
        self.note(begun)
    }

    /// The next piece of a file; `None` at its end.
    ///
    /// # Errors
    /// If reading fails half-way.
    pub async fn read_piece(&mut self) -> Result<Option<Bytes>, EngineError> {
        let read = files::read_piece(self.lent.sandbox()).await;
        self.note(read)
    }

    /// What is in a directory, and whether there is more than fits.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn list(&mut self, path: &str) -> Result<(Vec<FileEntry>, bool), EngineError> {
        let listed = files::list(self.lent.sandbox(), path).await;
        self.note(listed)
    }

    /// Removes a file, or a directory with all that is in it.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub async fn remove(&mut self, path: &str) -> Result<(), EngineError> {
        let removed = files::remove(self.lent.sandbox(), path).await;
        self.note(removed)
    }

    /// Changes what the session may reach, for programs that run on in it, too: their connections are
    /// broken off. Returns what it may reach from now on.
    ///
    /// # Errors
    /// If it was opened without a way out.
    pub fn change_network(
        &mut self,
        change: NetworkChange,
    ) -> Result<(EgressPhases, NetworkFilter), EngineError> {
        let sandbox = self.lent.sandbox();
        let sealing = NetworkChange { mode: Some(Network::None), ..NetworkChange::default() };
        let Some(gate) = sandbox.gate() else {
            // What has no way out is sealed already.
            let sealed = (EgressPhases { setup: false, run: false }, self.filter.clone());
            return if change == sealing { Ok(sealed) } else { Err(JobError::NoWayOut.into()) };
        };
        let NetworkChange { mode, whitelist, blacklist } = change;
        let filter = NetworkFilter {
            whitelist: whitelist.unwrap_or_else(|| self.filter.whitelist.clone()),
            blacklist: blacklist.unwrap_or_else(|| self.filter.blacklist.clone()),
        };
        gate.set_filter(&filter).map_err(|error| JobError::Network(error.to_string()))?;
        if let Some(mode) = mode {
            let is_open = mode == Network::Filtered;
            self.way_out = EgressPhases { setup: is_open, run: is_open };
        }
        sandbox.renew_way_out(self.way_out.run);
        self.filter = filter.clone();
        Ok((self.way_out, filter))
    }

    /// Returns when the sandbox has died. To be awaited while nothing is done in it; dropping the
    /// future loses nothing.
    pub async fn died(&mut self) -> EngineError {
        loop {
            let error = match self.lent.sandbox().link.next().await {
                // What a background process still had to say, or credit of a program that ended.
                Ok(frame) if matches!(frame.kind, Kind::Stdout | Kind::Stderr | Kind::StdinAck) => {
                    continue;
                }
                Ok(frame) => LinkError::OutOfTurn(frame.kind),
                Err(error) => error,
            };
            self.is_broken = true;
            return error.into();
        }
    }

    /// Whether the sandbox is of no use any more, and all that was in it lost.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Removes the sandbox; returns when it is gone, with what is not told of its programs yet.
    pub async fn close(mut self) -> Option<Aftermath> {
        let report = self.lent.sandbox().take_down_gate().await;
        self.lent.destroy().await;
        let mut report = report.filter(|report| !report.events.is_empty())?;
        mask_report(&mut report, &self.masker);
        let LastProgram { id, runtime, metadata } = self.last?;
        Some(Aftermath { id, runtime, metadata, events: report.events })
    }

    fn note<T>(&mut self, outcome: Result<T, EngineError>) -> Result<T, EngineError> {
        self.is_broken |= !matches!(outcome, Ok(_) | Err(EngineError::Job(_)));
        self.is_broken |= self.lent.sandbox().is_lost;
        outcome
    }
}

/// Adds the values of a call to `known`, as the latest, and forgets the oldest of the others when they
/// are too many. Whether there were new ones.
fn remember<'a>(known: &mut VecDeque<String>, values: impl Iterator<Item = &'a str>) -> bool {
    let mut of_call = 0;
    let mut is_new = false;
    for value in values {
        of_call += 1;
        match known.iter().position(|old| old == value) {
            Some(at) => drop(known.remove(at)),
            None => is_new = true,
        }
        known.push_back(value.to_owned());
    }
    let mut bytes: usize = known.iter().map(String::len).sum();
    while known.len() > of_call && (known.len() > MAX_SECRETS || bytes > MAX_SECRETS_BYTES) {
        bytes -= known.pop_front().map_or(0, |oldest| oldest.len());
    }
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_forgets_the_oldest_secrets_and_never_those_of_the_call() {
        let mut known = VecDeque::new();
        let large = |name: &str| name.repeat(MAX_SECRETS_BYTES / 2);
        let mut tell = |values: &[String]| {
            let is_new = remember(&mut known, values.iter().map(String::as_str));
            (is_new, known.iter().map(|value| &value[..1]).collect::<String>())
        };
        assert_eq!(tell(&[large("a")]), (true, "a".into()));
        assert_eq!(tell(&[large("b")]), (true, "ab".into()));
        assert_eq!(tell(&[large("a")]), (false, "ba".into()));
        assert_eq!(tell(&[large("c")]), (true, "ac".into()));
        assert_eq!(tell(&[large("d"), large("e"), large("f")]), (true, "def".into()));
    }
}
