//! What the fuzzer feeds the readers of single fields with (`fuzz/`): words that callers write, which gateway and worker
//! both act on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr as _;

use crate::config::{NetworkFilter, RemoteCode};
use crate::execution::{Missed, Overlap, PackageSet, Timetable, matches_pattern};
use crate::labels::Labels;
use crate::net::{AddressRange, AddressRules, Host, HostFilter, NameServer};
use crate::remote_code::RemoteCodeRules;
use crate::runtime::Runtime;
use crate::size::parse_bytes;
use crate::timestamp::{from_iso8601, iso8601};
use crate::webhook::WebhookSecret;

/// Most that a double counts without leaving any out.
const MAX_EXACT: u64 = 1 << 53;

/// Takes `bytes` for a moment, in milliseconds since the epoch (eight bytes), then a line with a time zone and one with a
/// pattern. Runs come after the moment, in order, and what was missed is caught up with.
///
/// # Panics
/// If that is not so.
pub fn schedule(bytes: &[u8]) {
    let Some((moment, text)) = bytes.split_first_chunk() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    let Some((timezone, cron)) = text.split_once('\n') else { return };
    // Up to the year 2200: nobody's clock is beyond.
    let after_ms = u64::from_le_bytes(*moment) % 7_258_118_400_000;
    for missed in [Missed::Skip, Missed::Once, Missed::All] {
        let (cron, timezone) = (Some(cron.to_owned()), timezone.to_owned());
        let table = Timetable { cron, at: None, timezone, missed, overlap: Overlap::Allow };
        if table.check().is_err() {
            return;
        }
        let Some(due_ms) = table.next_after(after_ms).expect("it was checked") else { return };
        assert!(due_ms > after_ms, "a run comes later than the one before");
        for late_ms in [0, 3_600_000, 30 * 86_400_000] {
            let step = table.step(due_ms, due_ms + late_ms).expect("it was checked");
            assert!(step.next_ms.is_none_or(|next_ms| next_ms > due_ms), "{step:?}");
        }
    }
}

/// Takes `bytes` for what stands in one field. What can be read must be read the same once it is written.
///
/// # Panics
/// If it is not.
pub fn field(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(size) = parse_bytes("field", text) {
        assert!(size < MAX_EXACT);
        assert_eq!(parse_bytes("field", &size.to_string()).ok(), Some(size));
    }
    for runtime in Runtime::ALL {
        if let Ok(set) = PackageSet::from_list(runtime, text) {
            assert_eq!(PackageSet::from_list(runtime, &set.to_string()).ok().as_ref(), Some(&set));
            for name in set.iter() {
                assert!(!name.starts_with(['-', '.', '/']) && !name.contains(char::is_whitespace));
            }
        }
    }
    if let Ok(labels) = Labels::from_str(text) {
        assert_eq!(Labels::from_str(&labels.to_string()).ok(), Some(labels));
    }
    if let Some(ms) = from_iso8601(text) {
        assert_eq!(from_iso8601(&iso8601(ms)), Some(ms));
    }
    if let Ok(secret) = WebhookSecret::new(text) {
        assert!((24..=64).contains(&secret.key().len()));
    }
    let settings = RemoteCode { enabled: true, ..RemoteCode::default() };
    let rules = RemoteCodeRules::new(&settings).expect("the usual rules are valid");
    if let Ok(remote) = rules.check_request(text, None, false, &AddressRules::default()) {
        assert_eq!(remote.url.scheme(), "https");
        assert!(remote.url.username().is_empty() && remote.url.password().is_none());
    }
}

/// Takes `bytes` for an address (sixteen of them), then lines: a host, and patterns that allow, or with a `!`, deny.
///
/// # Panics
/// If a host is not read the same once it is written, or addresses that lead to one machine are judged differently.
pub fn network(bytes: &[u8]) {
    let Some((address, text)) = bytes.split_first_chunk::<16>() else { return };
    judge(Ipv6Addr::from(*address));
    let Ok(text) = str::from_utf8(text) else { return };
    let mut lines = text.lines();
    let host = lines.next().unwrap_or_default();
    read_addresses(host);
    let Ok(host) = host.parse::<Host>() else { return };
    assert_eq!(host.to_string().parse().as_ref(), Ok(&host));
    let (denied, allowed): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('!'));
    for pattern in &allowed {
        let _ = matches_pattern(pattern, &host.to_string());
    }
    let filter = NetworkFilter {
        whitelist: allowed.into_iter().map(str::to_owned).collect(),
        blacklist: denied.into_iter().map(|line| line[1..].to_owned()).collect(),
    };
    let Ok(compiled) = HostFilter::compile("filter", &filter) else { return };
    let denies_all =
        HostFilter::compile("filter", &NetworkFilter { blacklist: vec![".".into()], ..filter });
    assert!(!denies_all.is_ok_and(|it| it.allows(&host)), "a deny list wins");
    let _ = compiled.allows(&host);
}

fn judge(address: Ipv6Addr) {
    let rules = AddressRules::default();
    let verdict = rules.refuses(IpAddr::V6(address));
    if let Some(inner) = address.to_ipv4_mapped() {
        assert_eq!(verdict, rules.refuses(IpAddr::V4(inner)), "{address}");
    }
    let [.., a, b, c, d] = address.octets();
    let inner = Ipv4Addr::new(a, b, c, d);
    let [.., high, low] = address.segments();
    // Whatever network it is translated in, it is the same machine.
    for wrapped in [
        inner.to_ipv6_mapped(),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
    ] {
        assert_eq!(rules.refuses(wrapped.into()), rules.refuses(inner.into()), "{wrapped}");
    }
}

fn read_addresses(text: &str) {
    if let Ok((host, _)) = Host::with_port(text) {
        assert_eq!(host.to_string().parse(), Ok(host));
    }
    if let Ok(range) = text.parse::<AddressRange>() {
        assert_eq!(range.to_string().parse(), Ok(range));
    }
    if let Ok(server) = text.parse::<NameServer>() {
        assert_eq!(server.to_string().parse(), Ok(server));
    }
    // As a worker is told its own.
    let _ = Labels::try_from(BTreeMap::from([(text.to_owned(), text.to_owned())]));
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn kept_schedules() {
        replay("schedule", super::schedule);
    }

    #[test]
    fn kept_fields() {
        replay("field", super::field);
    }

    #[test]
    fn kept_networks() {
        replay("network", super::network);
    }
}
