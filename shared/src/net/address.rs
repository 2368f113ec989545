//! Which addresses user code may make us dial: public ones, and what the operator adds. An IPv6
//! address that carries an IPv4 one is judged as the machine it leads to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;

use super::range::AddressRange;
use crate::error::{Error, ErrorCode};

/// Why an address may not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No address at all: `0.0.0.0/8`, `::`.
    Unspecified,
    /// The machine itself.
    Loopback,
    /// An address of the machine itself, though it is a public one.
    Own,
    /// A private network.
    Private,
    /// The network segment itself.
    LinkLocal,
    /// Behind a carrier's address translation: `100.64.0.0/10`.
    CarrierNat,
    /// A cloud's service that hands out credentials.
    Metadata,
    /// Many machines.
    Multicast,
    /// All machines.
    Broadcast,
    /// For measuring network devices.
    Benchmarking,
    /// Not assigned for use between machines.
    Reserved,
    /// A private network of IPv6: `fc00::/7`.
    UniqueLocal,
    /// A private network of IPv6, in its old form: `fec0::/10`.
    SiteLocal,
}

impl Reason {
    /// The article that goes before the name.
    #[must_use]
    pub const fn article(self) -> &'static str {
        match self {
            Self::Unspecified => "an",
            _ => "a",
        }
    }

    /// What kind of address it is, for messages and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Own => "worker's own",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::CarrierNat => "carrier-grade NAT",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Benchmarking => "benchmarking",
            Self::Reserved => "reserved",
            Self::UniqueLocal => "unique local",
            Self::SiteLocal => "site-local",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Public addresses of other machines, and those that the operator allows besides
/// (`policy.allowPrivateAddresses`).
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    allowed: Vec<AddressRange>,
    own: Vec<IpAddr>,
}

impl AddressRules {
    /// Public addresses and those in `allowed`.
    #[must_use]
    pub const fn new(allowed: Vec<AddressRange>) -> Self {
        Self { allowed, own: Vec::new() }
    }

    /// The same for whoever dials from this machine: what listens here is not for user code, even if
    /// the whole world can reach it.
    ///
    /// # Errors
    /// If the operating system does not tell the addresses of its interfaces.
    pub fn of_this_machine(allowed: Vec<AddressRange>) -> Result<Self, Error> {
        let interfaces = getifaddrs().map_err(|error| {
            let words = format!("The addresses of this machine cannot be read: {error}");
            Error::new(ErrorCode::Internal, words).with_source(error)
        })?;
        let own = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|it| it.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
        });
        Ok(Self { allowed, own: own.collect() })
    }

    /// Why `address` may not be dialled, or `None` if it may.
    #[must_use]
    pub fn refuses(&self, address: IpAddr) -> Option<Reason> {
        if self.allows(address) {
            return None;
        }
        let of_kind = match address {
            IpAddr::V4(address) => refuses_v4(address),
            IpAddr::V6(address) => match inner(address) {
                Some(inner) => inner.into_iter().find_map(|inner| self.refuses(inner.into())),
                None => refuses_v6(address),
            },
        };
        of_kind.or_else(|| self.own.contains(&address).then_some(Reason::Own))
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|range| range.contains(address))
    }
}

fn refuses_v4(address: Ipv4Addr) -> Option<Reason> {
    Some(match address.octets() {
        [169, 254, 169, 254] | [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => {
            Reason::Metadata
        }
        [0, ..] => Reason::Unspecified,
        [127, ..] => Reason::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Reason::Private,
        [169, 254, ..] => Reason::LinkLocal,
        [100, 64..=127, ..] => Reason::CarrierNat,
        [198, 18 | 19, ..] => Reason::Benchmarking,
        [192, 0, 0, _] => Reason::Reserved,
        [224..=239, ..] => Reason::Multicast,
        [255, 255, 255, 255] => Reason::Broadcast,
        [240..=255, ..] => Reason::Reserved,
        _ => return None,
    })
}

/// Only `2000::/3` is given out to the public; the rest is refused, with a name where it has one.
fn refuses_v6(address: Ipv6Addr) -> Option<Reason> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reason::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reason::Loopback,
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] => Reason::Metadata,
        [0xfc00..=0xfdff, ..] => Reason::UniqueLocal,
        [0xfe80..=0xfebf, ..] => Reason::LinkLocal,
        [0xfec0..=0xfeff, ..] => Reason::SiteLocal,
        [0xff00..=0xffff, ..] => Reason::Multicast,
        [0x2001, 0x0002, 0, ..] => Reason::Benchmarking,
        [0x2000..=0x3fff, ..] => return None,
        _ => Reason::Reserved,
    })
}

/// The IPv4 machines that an IPv6 address leads to, if it is made of any.
fn inner(address: Ipv6Addr) -> Option<Vec<Ipv4Addr>> {
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible, mapped, translated (SIIT), and translated by a network (NAT64).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => Some(vec![pair(high, low)]),
        // 6to4.
        [0x2002, high, low, ..] => Some(vec![pair(high, low)]),
        // Teredo: the relay's server, and the client behind it with its bits turned.
        [0x2001, 0, high, low, _, _, turned_high, turned_low] => {
            Some(vec![pair(high, low), pair(!turned_high, !turned_low)])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(rules: &AddressRules, address: &str) -> Option<Reason> {
        rules.refuses(address.parse().unwrap())
    }

    #[test]
    fn addresses_are_judged_by_where_they_lead() {
        let rules = AddressRules::default();
        for (reason, addresses) in [
            (Reason::Unspecified, "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0"),
            (Reason::Loopback, "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 ::127.0.0.1"),
            (Reason::Private, "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 ::ffff:10.1.2.3"),
            (Reason::LinkLocal, "169.254.0.1 169.254.169.253 fe80::1 febf::1"),
            (Reason::CarrierNat, "100.64.0.1 100.127.255.255"),
            (Reason::Metadata, "169.254.169.254 100.100.100.200 168.63.129.16 192.0.0.192"),
            (Reason::Metadata, "fd00:ec2::254 ::ffff:169.254.169.254 64:ff9b::169.254.169.254"),
            (Reason::Multicast, "224.0.0.1 239.255.255.255 ff02::1 ff05::2"),
            (Reason::Broadcast, "255.255.255.255"),
            (Reason::Benchmarking, "198.18.0.1 198.19.255.255 2001:2::1"),
            (Reason::Reserved, "240.0.0.1 255.255.255.254 192.0.0.8 100::1 64:ff9b:1::1 4000::1"),
            (Reason::UniqueLocal, "fc00::1 fdff::1"),
            (Reason::SiteLocal, "fec0::1 feff::1"),
            // 6to4, NAT64, SIIT and Teredo around private machines.
            (Reason::Private, "2002:a00:1::1 64:ff9b::10.0.0.1 ::ffff:0:10.0.0.1"),
            (Reason::Private, "2001:0:808:808::f5ff:fffe 2001:0:a00:1::f7f7:f7f7"),
        ] {
            for address in addresses.split(' ') {
                assert_eq!(refuses(&rules, address), Some(reason), "{address}");
            }
        }
    }

    #[test]
    fn public_and_documentation_addresses_pass() {
        let rules = AddressRules::default();
        for address in "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 \
            128.0.0.1 169.253.0.1 172.15.0.1 172.32.0.1 191.255.255.255 192.0.1.1 198.17.0.1 198.20.0.1 \
            223.255.255.255 192.0.2.1 198.51.100.1 203.0.113.1 2606:4700::1111 2001:db8::1 \
            ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1"
            .split_ascii_whitespace()
        {
            assert_eq!(refuses(&rules, address), None, "{address}");
        }
    }

    #[test]
    fn public_addresses_of_the_machine_itself_are_refused() {
        let mut rules = AddressRules::of_this_machine(Vec::new()).unwrap();
        assert!(rules.own.contains(&Ipv4Addr::LOCALHOST.into()), "{:?}", rules.own);
        rules.own.extend(["203.0.113.7", "2001:db8::7"].map(|it| it.parse::<IpAddr>().unwrap()));
        for address in "203.0.113.7 2001:db8::7 ::ffff:203.0.113.7 64:ff9b::203.0.113.7".split(' ')
        {
            assert_eq!(refuses(&rules, address), Some(Reason::Own), "{address}");
        }
        assert_eq!(refuses(&rules, "203.0.113.8"), None);
        assert_eq!(refuses(&rules, "127.0.0.1"), Some(Reason::Loopback));
        rules.allowed.push("203.0.113.0/24".parse().unwrap());
        assert_eq!(refuses(&rules, "203.0.113.7"), None);
    }

    #[test]
    fn the_operator_may_allow_ranges_in_whatever_spelling() {
        let ranges = ["127.0.0.0/8", "fd00:1::/32"].map(|range| range.parse().unwrap());
        let rules = AddressRules::new(ranges.to_vec());
        for address in ["127.0.0.1", "::ffff:127.9.9.9", "fd00:1::5"] {
            assert_eq!(refuses(&rules, address), None, "{address}");
        }
        assert_eq!(refuses(&rules, "10.0.0.1"), Some(Reason::Private));
        assert_eq!(refuses(&rules, "::1"), Some(Reason::Loopback));
        assert_eq!(refuses(&rules, "fd00:2::5"), Some(Reason::UniqueLocal));
    }
}
