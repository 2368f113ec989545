//! Which machines may be reached on behalf of user code: hosts read strictly, addresses judged by
//! what they lead to, names resolved to addresses that passed. Whoever dials takes the addresses
//! from here and never a name, so that a name cannot change its mind in between.

mod address;
mod filter;
mod host;
mod range;
mod resolve;
mod servers;

pub use address::{AddressRules, Reason};
pub use filter::{HostFilter, HostPatterns};
pub use host::{Host, HostError};
pub use range::AddressRange;
pub use resolve::{Lookup, ResolveError, Resolver, Turn};
pub use servers::NameServer;
