//! Connections to the outside: the filter first, then the name, then its addresses; only an address that
//! was judged is dialled.

use std::net::SocketAddr;
use std::time::Duration;

use shared::net::{Host, ResolveError};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::gate::Access;
use super::journal::Underway;
use super::meter::Metered;
use super::refusal::Refusal;
use super::target::Target;

/// How long finding and reaching a host may take.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// A request as the journal knows it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    /// None for `CONNECT`.
    pub(super) path: Option<&'a str>,
}

impl Asked<'_> {
    fn words(&self, host: &Host) -> String {
        match self.path {
            None => format!("CONNECT to {host}"),
            Some(_) => format!("request to {host}"),
        }
    }
}

impl Access {
    /// Notes that a request is blocked; the answer to it.
    fn block(
        &self,
        asked: Asked<'_>,
        target: &Target,
        reason: &str,
        rule: Option<String>,
    ) -> Refusal {
        self.journal.block(asked.method, target, asked.path, reason);
        Refusal::Blocked { what: asked.words(&target.host), rule }
    }

    /// Lets a host pass that the job may name, at a port where it may be reached.
    ///
    /// # Errors
    /// If it may not; that is in the journal then.
    pub(super) fn check(&self, asked: Asked<'_>, target: &Target) -> Result<(), Refusal> {
        if !self.allows(&target.host) {
            return Err(self.block(asked, target, "filter_mismatch", None));
        }
        if !self.allows_port(target) {
            let why = format!("port {} is not among those that may be reached", target.port);
            return Err(self.block(asked, target, "port_mismatch", Some(why)));
        }
        Ok(())
    }

    /// Notes that nobody was reached, and why; the answer to that.
    pub(super) fn unreachable(&self, target: &Target, why: &str) -> Refusal {
        self.journal.fail(target, why);
        Refusal::Unreachable { host: target.host.to_string(), port: target.port }
    }

    /// The addresses that may be dialled for a request.
    ///
    /// # Errors
    /// If there are none; what is blocked is in the journal then.
    async fn judge(
        &self,
        asked: Asked<'_>,
        target: &Target,
        port: u16,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let host = &target.host;
        self.check(asked, target)?;
        if let Some(limit) = self.meter.exhausted() {
            self.journal.block(asked.method, target, asked.path, "byte_limit");
            return Err(Refusal::Exhausted { limit });
        }
        match self.resolver.resolve(host, port, &self.addresses, deadline).await {
            Ok(addresses) => Ok(addresses),
            Err(error @ ResolveError::Refused { .. }) => {
                Err(self.block(asked, target, "address_refused", Some(error.to_string())))
            }
            Err(error) => {
                tracing::debug!(%error, "a host was not found for a program");
                let _tried = self.journal.allow(asked.method, &host.to_string(), asked.path);
                Err(self.unreachable(target, &error.to_string()))
            }
        }
    }

    /// Connects to where a request is to go, and notes it in the journal. `port` is where it is dialled:
    /// another one than the program asked for, if the worker speaks TLS in its stead.
    ///
    /// # Errors
    /// If it may not, or nobody answers there.
    pub(super) async fn dial(
        &self,
        asked: Asked<'_>,
        target: &Target,
        port: u16,
    ) -> Result<(Metered<TcpStream>, Underway), Refusal> {
        let deadline = Instant::now() + DIAL_LIMIT;
        let addresses = self.judge(asked, target, port, deadline).await?;
        let underway = self.journal.allow(asked.method, &target.host.to_string(), asked.path);
        let mut why = String::new();
        for address in addresses {
            match timeout_at(deadline, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Only a delay is at stake.
                    let _ = stream.set_nodelay(true);
                    self.journal.reach(target);
                    return Ok((Metered::new(stream, self.meter.clone()), underway));
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, %address, "no connection for a program");
                    why = error.kind().to_string();
                }
                Err(_elapsed) => {
                    why = format!("no answer within {} s", DIAL_LIMIT.as_secs());
                    break;
                }
            }
        }
        Err(self.unreachable(target, &why))
    }
}
