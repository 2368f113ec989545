//! One script: its text, the constants in front of it, and how it is called.

use std::fmt::Write as _;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs, cmd};

use crate::redis::client::Client;
use crate::redis::keys;

/// Flags of every script that adds nothing from outside: a Redis that is out of memory must still
/// let jobs end, since that is what frees memory.
pub(in crate::redis) const ALLOW_OOM: &str = "#!lua flags=allow-oom\n";

/// Largest ending that travels inside its pub/sub message, in bytes. Redis drops subscribers whose
/// buffer grows too large; larger endings are read from the record instead.
pub(in crate::redis) const PUBLISH_LIMIT_BYTES: usize = 64 << 10;

/// How long the record of a job with a webhook is kept at least, until that was told, in ms: longer than
/// all tries of a delivery take together (`config::Webhooks`), and a day more in case no worker lives.
const WEBHOOK_TTL_MS: u64 = 3 * 86_400_000;

/// Most placements of a shard: each has lines of its own, that workers read.
const MAX_PLACEMENTS: u64 = 128;

/// What the scripts are told once, when they are loaded, rather than with every call.
pub(in crate::redis) struct Constants {
    pub(in crate::redis) result_ttl_ms: u64,
    /// How long a dead letter is kept, at least.
    pub(in crate::redis) dead_letter_ttl_ms: u64,
    pub(in crate::redis) max_deliveries: u32,
    /// How long a session is its owner's without renewal.
    pub(in crate::redis) lease_ms: u64,
    /// Ending, as JSON, of a job whose workers all died.
    pub(in crate::redis) worker_lost: String,
    /// Of the calls of a session whose worker died.
    pub(in crate::redis) session_lost: String,
    /// Of a job that was cancelled before it ran.
    pub(in crate::redis) cancelled: String,
    /// Of a job that did not begin in time.
    pub(in crate::redis) expired: String,
    /// Whether the keys of a tenant may be on their way to another server of a cluster.
    pub(in crate::redis) may_migrate: bool,
}

impl Constants {
    pub(super) fn to_lua(&self) -> String {
        let numbers = [
            ("PUBLISH_LIMIT_BYTES", PUBLISH_LIMIT_BYTES as u64),
            ("RESULT_TTL_MS", self.result_ttl_ms),
            ("DEAD_LETTER_TTL_MS", self.dead_letter_ttl_ms),
            ("WEBHOOK_TTL_MS", WEBHOOK_TTL_MS),
            ("MAX_DELIVERIES", self.max_deliveries.into()),
            ("LEASE_MS", self.lease_ms),
            ("MAX_PLACEMENTS", MAX_PLACEMENTS),
        ];
        let texts = [
            ("GROUP", keys::GROUP),
            ("REPLIES", keys::REPLY_PREFIX),
            ("WORKERS", keys::WORKER_PREFIX),
            ("PLACEMENTS", keys::NEW_PLACEMENTS),
            ("STOPS", keys::STOPS),
            ("WORKER_LOST", &self.worker_lost),
            ("SESSION_LOST", &self.session_lost),
            ("CANCELLED", &self.cancelled),
            ("EXPIRED", &self.expired),
        ];
        let mut lua = String::new();
        for (name, number) in numbers {
            let _infallible = writeln!(lua, "local {name} = {number}");
        }
        for (name, text) in texts {
            // Everything up to the closing bracket is taken as it is.
            let _infallible = writeln!(lua, "local {name} = [==[{text}]==]");
        }
        if self.may_migrate {
            lua.push_str(include_str!("functions/migration.lua"));
        }
        lua
    }
}

/// One of the steps that a script takes in one call.
#[derive(Debug)]
pub(in crate::redis) struct Step {
    keys: [String; 2],
    arguments: Vec<Vec<u8>>,
}

impl Step {
    pub(super) fn new(keys: [String; 2]) -> Self {
        Self { keys, arguments: Vec::with_capacity(8) }
    }

    #[must_use]
    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        argument.write_redis_args(&mut self.arguments);
        self
    }

    /// How much of the call it takes, about, in bytes.
    pub(in crate::redis) fn size(&self) -> usize {
        self.arguments.iter().map(Vec::len).sum()
    }
}

pub(in crate::redis) struct Script {
    code: String,
    hash: String,
}

impl Script {
    /// A script on its own.
    pub(in crate::redis) fn new(flags: &str, body: &str) -> Self {
        Self::behind(flags, &[], body)
    }

    /// A script behind what it uses.
    pub(super) fn behind(flags: &str, parts: &[&str], body: &str) -> Self {
        let code = format!("{flags}{}{body}", parts.concat());
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    pub(super) fn load(&self) -> Cmd {
        let mut command = cmd("SCRIPT");
        command.arg("LOAD").arg(&self.code);
        command
    }

    pub(in crate::redis) fn call(&self, keys: &[String]) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len()).arg(keys);
        command
    }

    /// A call that takes several steps; `common` is what holds for all of them.
    pub(super) fn call_for<A: ToRedisArgs>(&self, common: &[A], steps: &[Step]) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&self.hash).arg(2 * steps.len());
        for step in steps {
            command.arg(&step.keys);
        }
        command.arg(common);
        for step in steps {
            command.arg(&step.arguments);
        }
        command
    }

    /// Runs a call; loads the script first if Redis has forgotten it (restart, `SCRIPT FLUSH`).
    pub(in crate::redis) async fn run<T: FromRedisValue>(
        &self,
        client: &Client,
        call: &Cmd,
    ) -> RedisResult<T> {
        match client.run(call).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                client.run_where::<String>(&self.load(), call).await?;
                client.run(call).await
            }
            outcome => outcome,
        }
    }
}
