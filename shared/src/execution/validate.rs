//! Admission: from a request as written to a job that can run, or to an error that names what is
//! wrong and what would be right. Nothing after this step looks at client input unchecked.

mod agent;
mod network;
mod paths;
mod rules;

use std::collections::{BTreeMap, HashMap};

use rules::Rules;
pub use rules::matches_pattern;

use super::call::NetworkChange;
use super::content::FileContent;
use super::egress::BoundSecret;
use super::job::{InputFile, Job, Limits, Source};
use super::packages::PackageSet;
use super::request::{
    ExecuteEnvelope, ExecutionOptions, ExecutionRequest, Network, NetworkChoice, SecretOption,
};
use crate::config::{Config, Defaults, NetworkFilter, Policy, Seccomp};
use crate::error::Error;
use crate::id::TenantId;
use crate::isolation::Isolation;
use crate::remote_code::RemoteCodeRules;
use crate::runtime::Runtime;
use crate::size::parse_bytes;

/// As isol8's own.
const DEFAULT_PIDS: u32 = 64;
const DEFAULT_OUTPUT_BYTES: u64 = 1 << 20;
/// Files that may be asked for in one result.
const MAX_OUTPUT_PATHS: usize = 100;
/// Bytes that the values of a job's secrets may have together: each is looked for in all output, in
/// many spellings.
pub const MAX_SECRET_BYTES: usize = 64 << 10;
/// Least a container can start with.
pub(crate) const MIN_MEMORY_BYTES: u64 = 6 << 20;
/// The runner, a shell, a pipeline.
pub(crate) const MIN_PIDS: u32 = 8;
/// One page.
pub(crate) const MIN_DISK_BYTES: u64 = 4096;
/// Less would be no time at all.
pub(crate) const MIN_CORES: f64 = 0.01;

/// The rules requests are checked against and completed from.
#[derive(Clone, Debug)]
pub struct Admission {
    defaults: Defaults,
    seccomp: Seccomp,
    /// Hosts that requests may name.
    hosts: NetworkFilter,
    remote_code: RemoteCodeRules,
    general: Rules,
    /// For tenants with ceilings of their own.
    tenants: HashMap<TenantId, Rules>,
}

impl Admission {
    /// Rules of a configuration.
    ///
    /// # Errors
    /// If a size or a pattern in the configuration is malformed.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let tenants = config.policy.tenants.iter().map(|(name, own)| {
            let tenant = TenantId::new(name);
            let rules = Rules::of_tenant(config.policy.of(&tenant), name, own)?;
            Ok((tenant, rules))
        });
        Ok(Self {
            defaults: config.defaults.clone(),
            seccomp: config.security.seccomp.clone(),
            hosts: config.network.clone(),
            remote_code: RemoteCodeRules::new(&config.remote_code)?,
            general: Rules::general(config.policy.clone())?,
            tenants: tenants.collect::<Result<_, Error>>()?,
        })
    }

    /// What holds for `tenant`.
    #[must_use]
    pub fn policy(&self, tenant: &TenantId) -> &Policy {
        &self.rules(tenant).policy
    }

    /// Checks a change of what a session of `tenant` may reach.
    ///
    /// # Errors
    /// An invalid-request or policy error for the caller.
    pub fn admit_network(&self, tenant: &TenantId, change: &NetworkChange) -> Result<(), Error> {
        network::check_change(self.rules(tenant), change)
    }

    /// The kind of isolation that a request of `tenant` with these options gets.
    ///
    /// # Errors
    /// An invalid-request or policy error for the caller.
    pub fn isolation(
        &self,
        tenant: &TenantId,
        options: &ExecutionOptions,
    ) -> Result<Isolation, Error> {
        Asked { rules: self.rules(tenant), defaults: &self.defaults, options }.isolation()
    }

    fn rules(&self, tenant: &TenantId) -> &Rules {
        self.tenants.get(tenant).unwrap_or(&self.general)
    }

    /// Checks a request of `tenant` and fills in what it leaves open: from the defaults, or with
    /// the tenant's ceiling where that is lower. Sessions are not looked at.
    ///
    /// # Errors
    /// An invalid-request, policy or not-supported error for the caller.
    pub fn admit(&self, tenant: &TenantId, envelope: ExecuteEnvelope) -> Result<Job, Error> {
        let ExecuteEnvelope { request, options, session_id: _, queue: _ } = envelope;
        let asked =
            Asked { rules: self.rules(tenant), defaults: &self.defaults, options: &options };
        let runtime = Runtime::from_name(&request.runtime)?;
        if runtime == Runtime::Agent {
            agent::check(&request, &asked, &self.hosts)?;
        }
        let (plain, bound) = secrets(options.secrets.clone())?;
        let (network, egress) = asked.network(&self.hosts, bound)?;
        let packages = asked.packages(runtime, &request.install_packages)?;
        Ok(Job {
            image: asked.image(runtime)?,
            substitutes: asked.substitutes(&packages),
            packages,
            source: self.source(tenant, runtime, &request)?,
            agent_flags: agent::flags(runtime, request.agent_flags.as_deref())?,
            timeout_ms: asked.timeout_ms(&request)?,
            network,
            egress,
            isolation: asked.isolation()?,
            seccomp: asked.seccomp(&self.seccomp)?,
            limits: asked.limits()?,
            workdir: paths::workdir(request.workdir.as_deref())?,
            files: input_files(request.files)?,
            output_paths: output_paths(request.output_paths)?,
            setup_script: request.setup_script.filter(|script| !script.trim().is_empty()),
            env: environment("env", request.env)?,
            secrets: plain,
            stdin: request.stdin.filter(|stdin| !stdin.is_empty()),
            metadata: request.metadata,
            runtime,
            stream: false,
            interactive: false,
            signals: false,
        })
    }
}

impl Admission {
    /// Changes the limits of an admitted job that `options` names; others stay as they are.
    ///
    /// # Errors
    /// An invalid-request or policy error for the caller.
    pub fn change_limits(
        &self,
        tenant: &TenantId,
        job: &mut Job,
        options: &ExecutionOptions,
    ) -> Result<(), Error> {
        let asked = Asked { rules: self.rules(tenant), defaults: &self.defaults, options };
        let (new, old) = (asked.limits()?, job.limits);
        if options.timeout_ms.is_some() {
            job.timeout_ms = asked.timeout_ms(&ExecutionRequest::default())?;
        }
        fn pick<T>(is_named: bool, new: T, old: T) -> T {
            if is_named { new } else { old }
        }
        job.limits = Limits {
            memory_bytes: pick(options.memory_limit.is_some(), new.memory_bytes, old.memory_bytes),
            cpu_millis: pick(options.cpu_limit.is_some(), new.cpu_millis, old.cpu_millis),
            pids: pick(options.pids_limit.is_some(), new.pids, old.pids),
            sandbox_bytes: pick(
                options.sandbox_size.is_some(),
                new.sandbox_bytes,
                old.sandbox_bytes,
            ),
            tmp_bytes: pick(options.tmp_size.is_some(), new.tmp_bytes, old.tmp_bytes),
            readonly_root: pick(
                options.readonly_root_fs.is_some(),
                new.readonly_root,
                old.readonly_root,
            ),
            max_output_bytes: pick(
                options.max_output_size.is_some(),
                new.max_output_bytes,
                old.max_output_bytes,
            ),
        };
        Ok(())
    }

    /// Picks the one program source; a blank one counts as absent.
    fn source(
        &self,
        tenant: &TenantId,
        runtime: Runtime,
        request: &ExecutionRequest,
    ) -> Result<Source, Error> {
        let sources = (present(&request.code), present(&request.code_url), present(&request.cmd));
        if present(&request.code_hash).is_some() && sources.1.is_none() {
            return Err(Error::invalid(
                "codeHash is what the text at codeUrl is checked against; leave it out where the program is given as \
                 code or cmd",
            ));
        }
        Ok(match sources {
            (Some(text), None, None) => {
                Source::Code { text: text.to_owned(), extension: extension(runtime, request, "")? }
            }
            (None, Some(url), None) => self.remote(tenant, runtime, request, url)?,
            (None, None, Some(command)) if command.contains('\0') => {
                return Err(Error::invalid("cmd contains a NUL character"));
            }
            (None, None, Some(command)) => Source::Command { command: command.to_owned() },
            (None, None, None) => {
                return Err(Error::invalid(
                    "Give exactly one of code, codeUrl and cmd; none was given",
                ));
            }
            _ => {
                return Err(Error::invalid(
                    "code, codeUrl and cmd are mutually exclusive: give one of them",
                ));
            }
        })
    }

    fn remote(
        &self,
        tenant: &TenantId,
        runtime: Runtime,
        request: &ExecutionRequest,
        url: &str,
    ) -> Result<Source, Error> {
        let allows_insecure = request.allow_insecure_code_url;
        let (hash, addresses) = (request.code_hash.as_deref(), &self.rules(tenant).addresses);
        let remote = self.remote_code.check_request(url, hash, allows_insecure, addresses)?;
        Ok(Source::Url {
            extension: extension(runtime, request, remote.url.path())?,
            url: remote.url.into(),
            hash: remote.hash,
            allows_insecure,
        })
    }
}

/// The options of one request, beside the rules they are checked by.
struct Asked<'a> {
    rules: &'a Rules,
    defaults: &'a Defaults,
    options: &'a ExecutionOptions,
}

impl Asked<'_> {
    fn limits(&self) -> Result<Limits, Error> {
        let Self { rules, defaults, options } = self;
        let disk = |field: &'static str, given: &Option<String>, default: &str| {
            let ceiling = rules.max_disk_bytes;
            let bytes = match given {
                Some(given) => parse_bytes(field, given)?,
                None => parse_bytes(field, default)?.min(ceiling),
            };
            at_least(field, bytes, MIN_DISK_BYTES, "bytes")?;
            rules.at_most(field, bytes, ceiling, "bytes", "maxDisk")
        };
        Ok(Limits {
            memory_bytes: self.memory_bytes()?,
            cpu_millis: self.cpu_millis()?,
            pids: self.pids()?,
            sandbox_bytes: disk("sandboxSize", &options.sandbox_size, &defaults.sandbox_size)?,
            tmp_bytes: disk("tmpSize", &options.tmp_size, &defaults.tmp_size)?,
            readonly_root: self.readonly_root()?,
            max_output_bytes: rules.at_most(
                "maxOutputSize",
                options
                    .max_output_size
                    .unwrap_or_else(|| DEFAULT_OUTPUT_BYTES.min(rules.policy.max_output_bytes)),
                rules.policy.max_output_bytes,
                "bytes",
                "maxOutputBytes",
            )?,
        })
    }

    fn memory_bytes(&self) -> Result<u64, Error> {
        let ceiling = self.rules.max_memory_bytes;
        let bytes = match &self.options.memory_limit {
            Some(given) => parse_bytes("memory limit", given)?,
            None => parse_bytes("memory limit", &self.defaults.memory_limit)?.min(ceiling),
        };
        at_least("memoryLimit", bytes, MIN_MEMORY_BYTES, "bytes")?;
        self.rules.at_most("memoryLimit", bytes, ceiling, "bytes", "maxMemory")
    }

    fn pids(&self) -> Result<u32, Error> {
        let ceiling = self.rules.policy.max_pids;
        let Some(given) = self.options.pids_limit else {
            return Ok(DEFAULT_PIDS.min(ceiling));
        };
        let floor = i64::from(MIN_PIDS);
        if given < floor {
            return Err(too_little("pidsLimit", given, floor, "processes"));
        }
        let pids = u32::try_from(given).unwrap_or(u32::MAX);
        self.rules.at_most("pidsLimit", pids, ceiling, "processes", "maxPids")
    }

    fn cpu_millis(&self) -> Result<u64, Error> {
        let ceiling = self.rules.policy.max_cpu;
        let cores = self.options.cpu_limit.unwrap_or_else(|| self.defaults.cpu_limit.min(ceiling));
        if !(cores.is_finite() && cores >= MIN_CORES) {
            return Err(too_little("cpuLimit", cores, MIN_CORES, "cores"));
        }
        let cores = self.rules.at_most("cpuLimit", cores, ceiling, "cores", "maxCpu")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0.01 and a ceiling of some thousand cores"
        )]
        Ok((cores * 1000.0) as u64)
    }

    fn readonly_root(&self) -> Result<bool, Error> {
        if self.rules.policy.allow_writable_root {
            return Ok(self.options.readonly_root_fs.unwrap_or(self.defaults.readonly_root_fs));
        }
        if self.options.readonly_root_fs == Some(false) {
            return Err(self.rules.forbids("readonlyRootFs false", "allowWritableRoot"));
        }
        Ok(true)
    }

    fn timeout_ms(&self, request: &ExecutionRequest) -> Result<u64, Error> {
        let ceiling = self.rules.policy.max_timeout_ms;
        let timeout_ms = request
            .timeout_ms
            .or(self.options.timeout_ms)
            .unwrap_or_else(|| self.defaults.timeout_ms.min(ceiling));
        at_least("timeoutMs", timeout_ms, 1, "ms")?;
        self.rules.at_most("timeoutMs", timeout_ms, ceiling, "ms", "maxTimeoutMs")
    }

    fn isolation(&self) -> Result<Isolation, Error> {
        let (own, allowed) = (self.defaults.isolation, &self.rules.policy.isolation);
        let is_allowed = |kind: Isolation| match &allowed[..] {
            // Whatever else there is, a container is the weakest.
            [] => kind == own || kind != Isolation::Container,
            allowed => allowed.contains(&kind),
        };
        let kind = match (self.options.isolation, allowed.first()) {
            (Some(asked), _) if !is_allowed(asked) => {
                let what = format!("isolation \"{}\"", asked.name());
                return Err(self.rules.forbids(&what, "isolation"));
            }
            (Some(asked), _) => asked,
            (None, Some(first)) if !is_allowed(own) => *first,
            (None, _) => own,
        };
        let network = self.options.network.unwrap_or_else(|| self.defaults.network.into());
        if kind != Isolation::Container && network == NetworkChoice::Always(Network::Host) {
            return Err(Error::invalid(format!(
                "network host is the machine's own, and isolation \"{}\" keeps programs apart from the machine: \
                 use network filtered, or isolation container",
                kind.name()
            )));
        }
        Ok(kind)
    }

    /// `own` is the server's, which needs no leave.
    fn seccomp(&self, own: &Seccomp) -> Result<Seccomp, Error> {
        let asked = self.options.security.as_ref().and_then(|security| security.seccomp.as_ref());
        match asked {
            Some(asked) if asked != own && !self.rules.policy.seccomp.contains(asked) => {
                let what = format!("security.seccomp \"{}\"", asked.name());
                Err(self.rules.forbids(&what, "seccomp"))
            }
            asked => Ok(asked.unwrap_or(own).clone()),
        }
    }

    fn packages(&self, runtime: Runtime, names: &[String]) -> Result<PackageSet, Error> {
        let packages = PackageSet::new(runtime, names)?;
        if !packages.is_empty() && !self.rules.policy.allow_packages {
            return Err(self.rules.forbids("installPackages", "allowPackages"));
        }
        Ok(packages)
    }

    /// Images that have the packages may stand in for the runtime's own, if the tenant may use them.
    fn substitutes(&self, packages: &PackageSet) -> Vec<String> {
        if packages.is_empty() || self.named_image().is_some() {
            return Vec::new();
        }
        let own = "isol8:*".to_owned();
        self.rules.policy.images.iter().cloned().chain([own]).collect()
    }

    fn named_image(&self) -> Option<&str> {
        self.options.image.as_deref().filter(|image| !image.is_empty())
    }

    fn image(&self, runtime: Runtime) -> Result<String, Error> {
        let Some(image) = self.named_image() else {
            return Ok(runtime.image().to_owned());
        };
        if !is_image_reference(image) {
            return Err(Error::invalid(format!("image \"{image}\" is not an image reference")));
        }
        if !self.rules.allows_image(image) {
            return Err(self.rules.forbids(&format!("image \"{image}\""), "images"));
        }
        Ok(image.to_owned())
    }
}

/// Whether `text` can name an image; not whether there is one.
pub(crate) fn is_image_reference(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c))
}

fn at_least(field: &str, value: u64, floor: u64, unit: &str) -> Result<(), Error> {
    if value < floor {
        return Err(too_little(field, value, floor, unit));
    }
    Ok(())
}

fn too_little<T: std::fmt::Display>(field: &str, value: T, floor: T, unit: &str) -> Error {
    Error::invalid(format!("{field} is {value}; the least is {floor} {unit}"))
}

fn present(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

/// The extension asked for, else that of the file at `path` if it is one of the runtime's own.
fn extension(runtime: Runtime, request: &ExecutionRequest, path: &str) -> Result<String, Error> {
    let Some(extension) = request.file_extension.as_deref().filter(|text| !text.is_empty()) else {
        let of_path = path.rsplit_once('.').filter(|_| Runtime::from_path(path) == Some(runtime));
        return Ok(match of_path {
            Some((_, extension)) => format!(".{extension}"),
            None => runtime.default_extension().to_owned(),
        });
    };
    let plain = extension.strip_prefix('.').unwrap_or(extension);
    let is_plain = !plain.is_empty()
        && plain.len() <= 16
        && plain.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !is_plain {
        return Err(Error::invalid(format!(
            "fileExtension \"{extension}\" must be a dot and letters or digits, like .py"
        )));
    }
    Ok(format!(".{plain}"))
}

fn input_files(files: BTreeMap<String, FileContent>) -> Result<Vec<InputFile>, Error> {
    files
        .into_iter()
        .map(|(path, content)| Ok(InputFile { path: paths::file("files", &path)?, content }))
        .collect()
}

fn output_paths(paths: Option<Vec<String>>) -> Result<Option<Vec<String>>, Error> {
    // The result is keyed by what the client asked for, so the original spelling is kept.
    if let Some(paths) = &paths {
        if paths.len() > MAX_OUTPUT_PATHS {
            let count = paths.len();
            return Err(Error::invalid(format!(
                "outputPaths has {count} entries; the most is {MAX_OUTPUT_PATHS}. Return an archive instead."
            )));
        }
        for path in paths {
            if path.is_empty() || !paths::is_path(path) {
                return Err(Error::invalid(format!("outputPaths: \"{path}\" is not a path")));
            }
        }
    }
    Ok(paths)
}

/// Secrets that the program gets, and those that it gets placeholders of.
type Secrets = (BTreeMap<String, String>, BTreeMap<String, BoundSecret>);

fn secrets(secrets: BTreeMap<String, SecretOption>) -> Result<Secrets, Error> {
    let (mut plain, mut bound) = Secrets::default();
    for (name, secret) in secrets {
        match secret {
            SecretOption::Plain(value) => drop(plain.insert(name, value)),
            SecretOption::Bound(secret) => drop(bound.insert(name, secret)),
        }
    }
    let values = bound.iter().map(|(name, secret)| (name.clone(), secret.value.clone()));
    environment("secrets", values.collect())?;
    let bytes: usize =
        plain.values().chain(bound.values().map(|it| &it.value)).map(String::len).sum();
    if bytes > MAX_SECRET_BYTES {
        return Err(Error::invalid(format!(
            "secrets have {bytes} bytes together; the most is {MAX_SECRET_BYTES}. Send what is larger, \
             and need not be masked in output, as a file."
        )));
    }
    Ok((environment("secrets", plain)?, bound))
}

fn environment(
    field: &str,
    variables: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    for (name, value) in &variables {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(format!(
                "{field}: \"{name}\" is not a variable name (no '=' and not empty)"
            )));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!("{field}: the value of {name} contains NUL")));
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests;
