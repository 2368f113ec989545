//! Which kinds of isolation this engine has, by which runtime, and what a sandbox needs besides for each. A job
//! names a kind; it gets that one or none.

use shared::config::Runtimes;
use shared::isolation::Isolation;

use super::EngineError;
use super::docker::EngineInfo;

/// What gVisor's kernel takes of a sandbox's memory itself: it lives in the same control group, so that much is
/// granted on top of what programs may have.
const GVISOR_MEMORY_BYTES: u64 = 64 << 20;
/// Threads of the machine for each thread of a program under gVisor's ptrace platform, whose kernel threads each
/// trace threads of their own, and for the kernel itself. One too few ends the sandbox; programs are held to their
/// number by a limit that gVisor's kernel keeps.
const GVISOR_THREADS_EACH: u32 = 64;
const GVISOR_THREADS: u32 = 512;
/// As many as any machine lets there be.
const MAX_THREADS: u32 = 4 << 20;

/// How sandboxes of one kind are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Making {
    /// Name of the OCI runtime; `None` for the engine's default.
    pub(super) runtime: Option<String>,
    /// What it really is: the engine's default runtime may be more than a container.
    pub(super) is: Isolation,
}

/// The kinds that one engine has.
#[derive(Clone, Debug)]
pub struct Kinds([(Isolation, Option<Making>); 3]);

impl Kinds {
    /// Those of an engine; `named` is where the operator says which runtimes to use.
    ///
    /// # Errors
    /// [`EngineError::NoSuchRuntime`] if the engine has none of a name.
    pub fn new(info: &EngineInfo, named: &Runtimes) -> Result<Self, EngineError> {
        let container = match &named.container {
            Some(name) => Some(known(info, "container", name)?),
            None => None,
        };
        let gvisor = find(info, Isolation::Gvisor, named.gvisor.as_deref())?;
        let kata = find(info, Isolation::Kata, named.kata.as_deref())?;
        let used = container.as_deref().unwrap_or(&info.default_runtime);
        let is_used = |kind: Isolation, found: &Option<String>| {
            found.as_deref() == Some(used) || kind.known_runtimes().contains(&used)
        };
        let is = if is_used(Isolation::Gvisor, &gvisor) {
            Isolation::Gvisor
        } else if is_used(Isolation::Kata, &kata) {
            Isolation::Kata
        } else {
            Isolation::Container
        };
        let stronger = |is, runtime: Option<String>| {
            (is, runtime.map(|name| Making { runtime: Some(name), is }))
        };
        Ok(Self([
            (Isolation::Container, Some(Making { runtime: container, is })),
            stronger(Isolation::Gvisor, gvisor),
            stronger(Isolation::Kata, kata),
        ]))
    }

    /// Each kind there is, with the name of its runtime if it is not the engine's default.
    pub fn iter(&self) -> impl Iterator<Item = (Isolation, Option<&str>)> {
        let here = self.0.iter().filter_map(|(kind, making)| Some((*kind, making.as_ref()?)));
        here.map(|(kind, making)| (kind, making.runtime.as_deref()))
    }

    /// How a sandbox of a kind is made.
    ///
    /// # Errors
    /// [`EngineError::NoIsolation`] if this engine does not have it.
    pub(super) fn making(&self, kind: Isolation) -> Result<&Making, EngineError> {
        let found =
            self.0.iter().find(|(it, _)| *it == kind).and_then(|(_, making)| making.as_ref());
        found.ok_or(EngineError::NoIsolation { isolation: kind.name() })
    }

    /// Whether a running sandbox of a kind can be given other limits.
    pub(super) fn can_be_resized(&self, kind: Isolation) -> bool {
        self.making(kind).is_ok_and(|making| making.is == Isolation::Container)
    }
}

impl Making {
    /// The control group's limit of memory, where programs may have so much.
    pub(super) fn memory_bytes(&self, programs: u64) -> u64 {
        match self.is {
            Isolation::Gvisor => programs.saturating_add(GVISOR_MEMORY_BYTES),
            Isolation::Container | Isolation::Kata => programs,
        }
    }

    /// The control group's limit of processes and threads, where programs may have so many.
    pub(super) fn threads(&self, programs: u32) -> u32 {
        let threads = programs.saturating_mul(GVISOR_THREADS_EACH).saturating_add(GVISOR_THREADS);
        match self.is {
            Isolation::Gvisor => threads.min(MAX_THREADS),
            Isolation::Container | Isolation::Kata => programs,
        }
    }

    /// The limit of processes that the sandbox's own kernel keeps, user by user. The machine's would count those
    /// of all sandboxes together.
    pub(super) fn user_processes(&self, programs: u32) -> Option<u32> {
        (self.is == Isolation::Gvisor).then_some(programs)
    }

    /// Arguments of the runner. Where the kernel is the sandbox's own, so is all that it says of memory.
    pub(super) fn arguments(&self) -> &'static [&'static str] {
        if self.is == Isolation::Container { &[] } else { &["--own-kernel"] }
    }

    /// Whether what takes too much memory brings down the whole sandbox with nobody left in it to tell.
    pub(super) fn dies_as_a_whole(&self) -> bool {
        self.is == Isolation::Gvisor
    }
}

/// The runtime of a kind.
fn find(
    info: &EngineInfo,
    kind: Isolation,
    named: Option<&str>,
) -> Result<Option<String>, EngineError> {
    match named {
        Some(Runtimes::OFF) => Ok(None),
        Some(name) => known(info, kind.name(), name).map(Some),
        None => {
            let is_there = |name: &&&str| info.runtimes.iter().any(|it| it == **name);
            Ok(kind.known_runtimes().iter().find(is_there).map(|name| (*name).to_owned()))
        }
    }
}

fn known(info: &EngineInfo, kind: &'static str, name: &str) -> Result<String, EngineError> {
    // Shims of containerd need not be registered.
    if info.runtimes.iter().any(|it| it == name) || name.starts_with("io.containerd.") {
        return Ok(name.to_owned());
    }
    Err(EngineError::NoSuchRuntime {
        isolation: kind,
        name: name.to_owned(),
        known: info.runtimes.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(runtimes: &[&str], default: &str) -> EngineInfo {
        EngineInfo {
            version: String::new(),
            cgroup_version: "2".into(),
            has_seccomp: true,
            has_limits: true,
            runtimes: runtimes.iter().map(|name| (*name).to_owned()).collect(),
            default_runtime: default.into(),
            api_version: String::new(),
            storage_driver: String::new(),
            root_directory: String::new(),
        }
    }

    fn kinds(info: &EngineInfo, named: &Runtimes) -> Vec<&'static str> {
        Kinds::new(info, named).unwrap().iter().map(|(kind, _)| kind.name()).collect()
    }

    #[test]
    fn a_kind_is_there_if_its_runtime_is_and_is_not_switched_off() {
        let engine = engine(&["runc", "runsc", "kata-qemu"], "runc");
        assert_eq!(kinds(&engine, &Runtimes::default()), ["container", "gvisor", "kata"]);
        let off = Runtimes { gvisor: Some(Runtimes::OFF.into()), ..Runtimes::default() };
        assert_eq!(kinds(&engine, &off), ["container", "kata"]);
        let wrong = Runtimes { gvisor: Some("other".into()), ..Runtimes::default() };
        let error = Kinds::new(&engine, &wrong).unwrap_err().to_string();
        assert!(error.contains("worker.runtimes.gvisor") && error.contains("runsc"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_refused_and_never_made_as_something_weaker() {
        let kinds = Kinds::new(&engine(&["runc"], "runc"), &Runtimes::default()).unwrap();
        assert_eq!(kinds.making(Isolation::Container).unwrap().runtime, None);
        for kind in [Isolation::Gvisor, Isolation::Kata] {
            let error = kinds.making(kind).unwrap_err();
            assert!(matches!(error, EngineError::NoIsolation { .. }), "{error}");
            assert!(error.to_string().contains(kind.name()));
        }
    }

    #[test]
    fn a_default_that_is_more_than_a_container_is_treated_as_what_it_is() {
        let kinds = Kinds::new(&engine(&["runc", "runsc"], "runsc"), &Runtimes::default()).unwrap();
        let making = kinds.making(Isolation::Container).unwrap();
        assert_eq!((making.is, making.user_processes(64)), (Isolation::Gvisor, Some(64)));
        assert!(!kinds.can_be_resized(Isolation::Container));
    }
}
