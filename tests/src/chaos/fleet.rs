//! A fleet under test: its processes, their ways to Redis, and what can be done to them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::Kind;
use super::plan::{Fault, Member};
use super::proxy::Proxy;
use super::store::Store;
use crate::api::KEY;
use crate::binary;
use crate::node::{Node, START_TIMEOUT};

/// Where the gateways listen by now; none while one starts.
#[derive(Clone, Debug, Default)]
pub(super) struct Doors {
    ports: Arc<Mutex<Vec<Option<u16>>>>,
}

impl Doors {
    /// The port of a gateway.
    #[must_use]
    pub(super) fn port(&self, gateway: usize) -> Option<u16> {
        self.lock().get(gateway).copied().flatten()
    }

    fn set(&self, gateway: usize, port: Option<u16>) {
        let mut ports = self.lock();
        if ports.len() <= gateway {
            ports.resize(gateway + 1, None);
        }
        ports[gateway] = port;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<u16>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place of the fleet, and the process that fills it now.
struct Seat {
    role: &'static str,
    proxy: Option<Proxy>,
    node: Option<Node>,
    lives: usize,
}

/// What is to be undone.
#[derive(Clone, Copy, Debug)]
enum Recovery {
    Start(Member),
    Continue(Member),
    Flow(Member),
    Open(Member),
    StartRedis,
}

/// The fleet.
pub(super) struct Fleet {
    kind: Kind,
    directory: PathBuf,
    /// Dropped before the store: members sign off from it.
    seats: Vec<Seat>,
    /// Processes that were killed or have ended; what they have written is evidence.
    retired: Vec<Node>,
    store: Store,
    doors: Doors,
    recoveries: Vec<(Instant, Recovery)>,
    gateways: usize,
}

impl Fleet {
    /// Starts one in `directory`, and waits until it takes requests. Must be called inside a Tokio
    /// runtime, in which its proxies live.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub(super) fn start(kind: Kind, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("the directory is the run's own");
        let config = directory.join("isol8.config.json");
        std::fs::write(config, settings(kind).to_string()).expect("it is writable");
        let store = match kind {
            Kind::Failover => Store::replicated(directory),
            Kind::NoOp | Kind::Docker => Store::single(directory),
        };
        let (gateways, workers) = kind.members();
        let mut fleet = Self {
            kind,
            directory: directory.to_owned(),
            seats: Vec::new(),
            retired: Vec::new(),
            store,
            doors: Doors::default(),
            recoveries: Vec::new(),
            gateways,
        };
        for number in 0..gateways + workers {
            let role = if number < gateways { "gateway" } else { "worker" };
            let socket = directory.join(format!("proxy-{number}.sock"));
            let target = fleet.store.queue().socket().to_owned();
            let proxy = (kind != Kind::Failover).then(|| Proxy::start(&socket, &target));
            fleet.seats.push(Seat { role, proxy, node: None, lives: 0 });
            fleet.launch(number);
        }
        fleet.await_ready();
        fleet
    }

    /// Where its gateways listen.
    #[must_use]
    pub(super) fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Its Redis.
    #[must_use]
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Where its workers put down what they have committed, each life in a directory of its own.
    #[must_use]
    pub(super) fn audits(&self) -> PathBuf {
        self.directory.join("audit")
    }

    /// All processes, those that have ended too.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.retired.iter().chain(self.seats.iter().filter_map(|seat| seat.node.as_ref()))
    }

    fn launch(&mut self, member: Member) {
        let seat = &mut self.seats[member];
        let name = format!("{}-{member}-{}", seat.role, seat.lives);
        seat.lives += 1;
        let socket = seat.proxy.as_ref().map_or_else(|| Path::new(""), Proxy::socket);
        let url = self.store.url(seat.role, socket);
        let mut command = binary::command(&self.directory);
        command.arg(seat.role).args(["--redis", &url]);
        let password = self.store.queue().password_file(seat.role);
        command.env("ISOL8_REDIS__PASSWORD_FILE", password);
        command.env("ISOL8_AUDIT__LOG_DIR", self.directory.join("audit").join(&name));
        match seat.role {
            "gateway" => command.args(["--key", KEY]),
            _ if self.kind == Kind::Docker => &mut command,
            _ => command.arg("--no-op"),
        };
        seat.node = Some(Node::start(&name, command));
        if member < self.gateways {
            self.doors.set(member, None);
        }
    }

    /// Begins a fault. What undoes it comes due later.
    pub(super) fn inject(&mut self, fault: Fault) {
        let now = Instant::now();
        let mut undo = |after_ms: u64, recovery| {
            self.recoveries.push((now + Duration::from_millis(after_ms), recovery));
        };
        match fault {
            Fault::Kill { member, back_after_ms } => {
                undo(back_after_ms, Recovery::Start(member));
                self.retire(member, |node| node.kill());
            }
            Fault::Terminate { member } => {
                undo(0, Recovery::Start(member));
                // It goes on ending while the next one starts, as in a rolling update.
                self.retire(member, |node| {
                    // One that stands still would not see that it is told to stop.
                    node.signal(Signal::SIGCONT);
                    node.signal(Signal::SIGTERM);
                });
            }
            Fault::Pause { member, for_ms } => {
                undo(for_ms, Recovery::Continue(member));
                self.signal(member, Signal::SIGSTOP);
            }
            Fault::Cut { member } => self.with_proxy(member, Proxy::cut),
            Fault::Stall { member, for_ms } => {
                undo(for_ms, Recovery::Flow(member));
                self.with_proxy(member, |proxy| proxy.stall(true));
            }
            Fault::Isolate { member, for_ms } => {
                undo(for_ms, Recovery::Open(member));
                self.with_proxy(member, |proxy| proxy.close(true));
            }
            Fault::LoseAnswers { member, count } => {
                self.with_proxy(member, |proxy| proxy.lose_answers(count));
            }
            Fault::KillRedis { back_after_ms } => {
                undo(back_after_ms, Recovery::StartRedis);
                self.store.kill();
            }
            Fault::StopRedis { back_after_ms } => {
                undo(back_after_ms, Recovery::StartRedis);
                self.store.stop();
            }
            Fault::FailOver => self.store.fail_over(),
        }
    }

    /// Undoes what is due, and finds out where gateways listen that have started meanwhile.
    pub(super) fn tend(&mut self) {
        let now = Instant::now();
        let (due, later) = self.recoveries.drain(..).partition(|(at, _)| *at <= now);
        self.recoveries = later;
        for (_, recovery) in due {
            self.recover(recovery);
        }
        for member in 0..self.gateways {
            if self.doors.port(member).is_none()
                && let Some(node) = &self.seats[member].node
            {
                self.doors.set(member, port_of(node));
            }
        }
    }

    fn recover(&mut self, recovery: Recovery) {
        match recovery {
            Recovery::Start(member) => self.launch(member),
            Recovery::Continue(member) => self.signal(member, Signal::SIGCONT),
            Recovery::Flow(member) => self.with_proxy(member, |proxy| proxy.stall(false)),
            Recovery::Open(member) => self.with_proxy(member, |proxy| proxy.close(false)),
            Recovery::StartRedis => self.store.start_again(),
        }
    }

    /// Undoes everything now, and waits until all members are there.
    ///
    /// # Panics
    /// If one does not start.
    pub(super) fn calm(&mut self) {
        for (_, recovery) in std::mem::take(&mut self.recoveries) {
            self.recover(recovery);
        }
        for seat in &self.seats {
            if let Some(proxy) = &seat.proxy {
                proxy.lose_answers(0);
            }
        }
        self.await_ready();
    }

    fn await_ready(&mut self) {
        for member in 0..self.seats.len() {
            let Some(node) = &mut self.seats[member].node else { continue };
            if member >= self.gateways {
                node.await_line("isol8 worker ready", START_TIMEOUT);
            } else {
                self.doors.set(member, Some(node.await_port()));
            }
        }
    }

    /// Asks all to stop, gateways first; what went wrong.
    pub(super) fn stop(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for seat in &mut self.seats {
            let Some(mut node) = seat.node.take() else { continue };
            wrong.extend(node.stop().err());
            self.retired.push(node);
        }
        for node in &mut self.retired {
            wrong.extend(node.stop().err());
        }
        wrong
    }

    fn retire(&mut self, member: Member, end: impl FnOnce(&mut Node)) {
        if member < self.gateways {
            self.doors.set(member, None);
        }
        if let Some(mut node) = self.seats[member].node.take() {
            if node.try_wait().is_none() {
                end(&mut node);
            }
            self.retired.push(node);
        }
    }

    fn signal(&mut self, member: Member, signal: Signal) {
        if let Some(node) = &mut self.seats[member].node
            && node.try_wait().is_none()
        {
            node.signal(signal);
        }
    }

    fn with_proxy(&self, member: Member, act: impl FnOnce(&Proxy)) {
        if let Some(proxy) = &self.seats[member].proxy {
            act(proxy);
        }
    }
}

fn port_of(node: &Node) -> Option<u16> {
    let line = node.log().find("listening on http://localhost:").into_iter().next()?;
    line.rsplit(':').next()?.trim().parse().ok()
}

fn settings(kind: Kind) -> serde_json::Value {
    json!({
        "maxConcurrent": if kind == Kind::Docker { 3 } else { 8 },
        "worker": {
            "prewarm": ["bash"],
            "shutdownGraceMs": 5000,
            "name": format!("chaos-{}", kind.name()),
        },
        "gateway": {"host": "127.0.0.1", "port": 0, "shutdownGraceMs": 5000},
        // What has ended is kept until the checker has seen it.
        "redis": {"leaseMs": 3000, "renewMs": 500, "shards": 2, "resultTtlMs": 7_200_000},
        "audit": {"enabled": true, "includeOutput": true},
        // One of the tenants may run little at once: its jobs wait in its backlog.
        "policy": {"tenants": {"tenant-0": {"maxConcurrentJobs": 4}}},
    })
}
