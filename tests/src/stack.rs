//! A whole system under test: its processes, its queue, its directory. [`Stack::finish`] stops it
//! and checks that nothing is left; dropped in a failing test, it is taken down all the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Api, KEY};
use crate::binary;
use crate::docker;
use crate::isolation::{self, Isolation};
use crate::node::{Node, START_TIMEOUT};
use crate::queue::{Queue, RedisServer};

/// What its members encrypt secrets with: 32 bytes in base64.
pub const SECRETS_KEY: &str = "aXNvbDggdGVzdHM6IDMyIGJ5dGVzIG9mIGEga2V5ISE=";

/// A running system.
pub struct Stack {
    // Dropped in this order: processes first, the directory they work in last.
    nodes: Vec<Node>,
    redis: Option<RedisServer>,
    /// The Redis that `serve` started for itself.
    own_redis: Option<u32>,
    queue: Queue,
    environment: Vec<(String, String)>,
    /// Whether its jobs need a worker that says it has gVisor.
    needs_gvisor: bool,
    /// The latest gateway of a fleet.
    gateway: Option<Api>,
    is_finished: bool,
    directory: TempDir,
}

/// Settings that suit tests: a few warm sandboxes, short leases, a port that the kernel finds free.
fn configuration(changes: &Value) -> Value {
    let mut config = json!({
        "maxConcurrent": 4,
        "worker": {"prewarm": ["bash"], "shutdownGraceMs": 10_000},
        "gateway": {"host": "127.0.0.1", "port": 0, "shutdownGraceMs": 10_000},
        "redis": {"leaseMs": 3000, "renewMs": 500},
    });
    merge(&mut config, &Isolation::from_environment().settings());
    merge(&mut config, changes);
    config
}

fn merge(base: &mut Value, changes: &Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, changes) => *base = changes.clone(),
    }
}

impl Stack {
    fn prepare(config: &Value) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let config = configuration(config);
        let needs_gvisor = config["defaults"]["isolation"] == "gvisor";
        std::fs::write(directory.path().join("isol8.config.json"), config.to_string())
            .expect("the directory is writable");
        Self {
            nodes: Vec::new(),
            redis: None,
            own_redis: None,
            queue: Queue::new(directory.path().join("data/redis.sock")),
            environment: Vec::new(),
            needs_gvisor,
            gateway: None,
            is_finished: false,
            directory,
        }
    }

    /// `isol8 serve` with a Redis of its own, ready to take requests. `config` is merged into the
    /// tests' defaults.
    #[must_use]
    pub fn serve(config: &Value) -> (Self, Api) {
        Self::serve_with(config, &[])
    }

    /// The same with more environment variables.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn serve_with(config: &Value, environment: &[(&str, &str)]) -> (Self, Api) {
        let mut stack = Self::prepare(config);
        for (name, value) in environment {
            stack.environment.push(((*name).to_owned(), (*value).to_owned()));
        }
        let api = stack.serve_again();
        (stack, api)
    }

    /// Starts `isol8 serve` once more, on the data it has.
    pub fn serve_again(&mut self) -> Api {
        let index = self.launch("serve", &["--key", KEY, "--data-dir", "data"]);
        let api = Api::new(self.nodes[index].await_port());
        self.own_redis = Some(self.queue.server_pid());
        if self.needs_gvisor {
            isolation::await_gvisor(&api);
        }
        api
    }

    /// Takes note of the Redis that `serve` has started in place of one that died.
    pub fn renew_own_redis(&mut self) {
        self.own_redis = Some(self.queue.server_pid());
    }

    /// A fleet without members yet; its Redis runs.
    #[must_use]
    pub fn fleet(config: &Value) -> Self {
        let mut stack = Self::prepare(config);
        let redis = RedisServer::start(stack.directory.path());
        let key = stack.join("secrets.key");
        std::fs::write(&key, SECRETS_KEY).expect("the directory is writable");
        let key = key.display().to_string();
        stack.environment.push(("ISOL8_REDIS__SECRETS_KEY_FILE".to_owned(), key));
        stack.queue = redis.queue();
        stack.redis = Some(redis);
        stack
    }

    /// Has further members do without a variable.
    pub fn unset(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    /// Adds a gateway and waits until it listens.
    pub fn gateway(&mut self) -> Api {
        let index = self.launch_gateway();
        let api = Api::new(self.nodes[index].await_port());
        self.gateway = Some(api.clone());
        self.await_gvisor();
        api
    }

    /// Adds a gateway that may have to wait before it can listen; returns its index.
    pub fn launch_gateway(&mut self) -> usize {
        self.launch_member("gateway", &["--key", KEY])
    }

    /// Adds a worker and waits until it is ready; returns its index.
    pub fn worker(&mut self) -> usize {
        let index = self.launch_worker();
        self.nodes[index].await_line("isol8 worker ready", START_TIMEOUT);
        self.await_gvisor();
        index
    }

    /// Adds a worker with more environment variables and waits until it is ready; returns its index.
    pub fn worker_with(&mut self, environment: &[(&str, &str)]) -> usize {
        let index = self.launch_member_with("worker", &[], environment);
        self.nodes[index].await_line("isol8 worker ready", START_TIMEOUT);
        self.await_gvisor();
        index
    }

    /// Adds a worker that may have to wait before it is ready; returns its index.
    pub fn launch_worker(&mut self) -> usize {
        self.launch_member("worker", &[])
    }

    /// Waits until its gateway knows that a worker has gVisor, once there are both and jobs need it.
    fn await_gvisor(&self) {
        let has_worker = self.nodes.iter().any(|node| node.name().starts_with("worker"));
        if let Some(gateway) = self.gateway.as_ref().filter(|_| self.needs_gvisor && has_worker) {
            isolation::await_gvisor(gateway);
        }
    }

    fn launch_member(&mut self, role: &str, arguments: &[&str]) -> usize {
        self.launch_member_with(role, arguments, &[])
    }

    /// Starts a member of a fleet as the Redis user of its role.
    fn launch_member_with(
        &mut self,
        role: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> usize {
        let (url, password_file) = self.queue.access(role);
        let mut command = self.isol8();
        command.arg(role).args(arguments).args(["--redis", &url]);
        command.env("ISOL8_REDIS__PASSWORD_FILE", password_file);
        command.envs(environment.iter().copied());
        self.start(role, command)
    }

    fn launch(&mut self, role: &str, arguments: &[&str]) -> usize {
        let mut command = self.isol8();
        command.arg(role).args(arguments);
        self.start(role, command)
    }

    fn start(&mut self, role: &str, command: Command) -> usize {
        let name = format!("{role}-{}", self.nodes.len());
        self.nodes.push(Node::start(&name, command));
        self.nodes.len() - 1
    }

    /// The `isol8` command with this stack's configuration.
    #[must_use]
    pub fn isol8(&self) -> Command {
        let mut command = binary::command(self.path());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in its directory.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// One of its processes, in the order in which they were added.
    pub fn node(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// Identifier of the worker in one of its processes.
    ///
    /// # Panics
    /// If no worker got ready there.
    #[must_use]
    pub fn worker_id(&self, index: usize) -> String {
        self.nodes[index].worker_id().expect("its worker got ready")
    }

    /// The process in which a worker lives.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn process_of(&self, worker: &str) -> usize {
        let is_it = |node: &Node| node.worker_id().as_deref() == Some(worker);
        self.nodes.iter().position(is_it).unwrap_or_else(|| panic!("no process of {worker}"))
    }

    /// A look into its queue.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Its own Redis server.
    ///
    /// # Panics
    /// If it is not a fleet.
    pub fn redis(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("a fleet has its own redis")
    }

    /// Stops everything and checks that all ended well and that nothing is left behind.
    ///
    /// # Panics
    /// With all that is.
    pub fn finish(mut self) {
        let mut wrong = self.queue.leftovers();
        // In the order of a rolling shutdown: who takes requests first, who runs them last.
        self.nodes.sort_by_key(|node| node.name().starts_with("worker"));
        for node in &mut self.nodes {
            wrong.extend(node.stop().err().map(|error| format!("{error}:\n{}", node.log().text())));
        }
        for node in &self.nodes {
            let panics = node.log().find("panicked at");
            wrong.extend(panics.into_iter().map(|line| format!("{}: {line}", node.name())));
        }
        if let Some(redis) = &mut self.redis {
            let killed: usize =
                self.nodes.iter_mut().map(|node| usize::from(was_killed(node))).sum();
            let consumers = self.queue.consumers();
            if consumers > killed {
                wrong.push(format!("{consumers} workers have not signed off"));
            }
            wrong.extend(self.queue.refused());
            redis.stop();
        }
        wrong.extend(
            self.own_redis
                .filter(|pid| self.is_our_redis(*pid))
                .map(|pid| format!("the server's own redis-server, process {pid}, still runs")),
        );
        for node in &mut self.nodes {
            let Some(worker) = node.worker_id() else { continue };
            if was_killed(node) {
                docker::remove_unstarted(&worker);
            }
            let left = docker::leftovers(&worker);
            if !left.is_empty() {
                wrong.push(format!("containers of worker {worker}: {left:?}"));
                docker::remove(&left);
            }
        }
        self.is_finished = wrong.is_empty();
        assert!(wrong.is_empty(), "left behind:\n- {}", wrong.join("\n- "));
    }

    /// Whether a process is the Redis that worked in our directory.
    fn is_our_redis(&self, pid: u32) -> bool {
        std::fs::read_link(format!("/proc/{pid}/cwd"))
            .is_ok_and(|directory| directory.starts_with(self.path()))
    }

    fn show_logs(&self) {
        #![expect(clippy::print_stderr, reason = "read by whoever looks into a failed test")]
        for node in &self.nodes {
            eprintln!("--- log of {} ---\n{}", node.name(), node.log().text());
        }
    }
}

fn was_killed(node: &mut Node) -> bool {
    node.try_wait().is_some_and(|status| status.code().is_none())
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        self.show_logs();
        let workers: Vec<String> = self.nodes.iter().filter_map(Node::worker_id).collect();
        self.nodes.clear();
        if let Some(pid) = self.own_redis.filter(|pid| self.is_our_redis(*pid)) {
            let pid = i32::try_from(pid).expect("process numbers fit");
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        for worker in workers {
            docker::remove(&docker::containers(&format!("isol8.worker={worker}")));
        }
    }
}
