//! Which addresses sources may be fetched from (METHOD M5): those of the public
//! Internet, unless the operator permits others. The path of a source comes from
//! whoever edits a channel; a name or a redirect must not lead into the node's own
//! network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

/// Resolves names and hands out permitted addresses only, so that what is
/// connected to is what was checked, whatever the name says a moment later.
#[derive(Debug)]
pub struct CheckedResolver {
    /// Whether private and local addresses are permitted too.
    pub allow_private_addresses: bool,
}

/// A name or an address that leads where sources may not come from.
#[derive(Debug, Error)]
#[error("{0} is a private or local address")]
pub struct RefusedAddress(pub IpAddr);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private_addresses = self.allow_private_addresses;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let permitted: Vec<SocketAddr> = found
                .iter()
                .copied()
                .filter(|address| allow_private_addresses || is_public(address.ip()))
                .collect();
            match (permitted.is_empty(), found.first()) {
                (true, Some(refused)) => Err(RefusedAddress(refused.ip()).into()),
                _ => Ok(Box::new(permitted.into_iter()) as Addrs),
            }
        })
    }
}

/// Whether an address belongs to the public Internet: everything that is
/// reserved for one host, one link, one site or no use at all is not.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol_assignments = a == 192 && b == 0 && c == 0;
    let benchmarking = a == 198 && (b == 18 || b == 19);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || shared
        || protocol_assignments
        || benchmarking)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let [a, b, c, d, e, f, high, low] = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    // Translated and tunnelled addresses lead to the IPv4 address inside.
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        return is_public_v4(embedded(high, low));
    }
    if a == 0x2002 {
        return is_public_v4(embedded(b, c));
    }
    // Only 2000::/3 is given out; Teredo and documentation are carved out of it.
    let global = (a & 0xe000) == 0x2000;
    let teredo = a == 0x2001 && b == 0;
    let documentation = a == 0x2001 && b == 0xdb8;
    global && !teredo && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_count_as_public() {
        let public = |text: &str| is_public(text.parse().expect("an address"));
        for good in ["93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert!(public(good), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "ff02::1",
        ] {
            assert!(!public(bad), "{bad}");
        }
    }
}
