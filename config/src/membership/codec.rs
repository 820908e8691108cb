//! A record as bytes. Every length is bounded, and each record can be written in one way only.
//!
//! ```text
//! 0       version, 1
//! 1       1: a hub; 128: revoked
//! 2       serial, 8 bytes, the highest first
//! 10      public key, 32 bytes
//! 42      slot: its first address and prefix length, 5 bytes; zeros for a hub
//! 47      name: length, bytes
//!         hubs: number, then each as length, bytes
//!         networks: number, then each as first address and prefix length, 5 bytes
//!         endpoints: number, then each as 4, address, port; 6, address, port; or 0, length, name, port
//!         Ed25519 signature, 64 bytes (in a signed record)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;

use crate::{Endpoint, PublicKey, Slot};

use super::record::{MAX_ENDPOINTS, MAX_HUBS, MAX_NETWORKS, Record, RecordError, RecordKind};

const VERSION: u8 = 1;
const HUB: u8 = 1;
const REVOKED: u8 = 128;

/// The bytes of a record that [`Record::check`] finds nothing wrong with.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let flags = if record.is_hub() { HUB } else { 0 } | if record.revoked { REVOKED } else { 0 };
    bytes.extend([VERSION, flags]);
    bytes.extend(record.serial.to_be_bytes());
    bytes.extend(record.public_key.0);
    match record.kind {
        RecordKind::Node(slot) => net(&mut bytes, slot.net()),
        RecordKind::Hub => bytes.extend([0; 5]),
    }
    text(&mut bytes, &record.name);
    bytes.push(length(record.hubs.len()));
    for hub in &record.hubs {
        text(&mut bytes, hub);
    }
    bytes.push(length(record.networks.len()));
    for network in &record.networks {
        net(&mut bytes, *network);
    }
    bytes.push(length(record.endpoints.len()));
    for endpoint in &record.endpoints {
        match endpoint {
            Endpoint::Address(SocketAddr::V4(address)) => {
                bytes.push(4);
                bytes.extend(address.ip().octets());
            }
            Endpoint::Address(SocketAddr::V6(address)) => {
                bytes.push(6);
                bytes.extend(address.ip().octets());
            }
            Endpoint::Name { host, .. } => {
                bytes.push(0);
                text(&mut bytes, host);
            }
        }
        bytes.extend(endpoint.port().to_be_bytes());
    }
    bytes
}

/// Bounded by the check before: names by 63, hosts by 254.
fn length(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(length(text.len()));
    bytes.extend(text.bytes());
}

fn net(bytes: &mut Vec<u8>, net: Ipv4Net) {
    bytes.extend(net.addr().octets());
    bytes.push(net.prefix_len());
}

/// The record that these bytes are, all of them.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    let mut rest = Reader(bytes);
    let [version, flags] = rest.array()?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    if flags & !(HUB | REVOKED) != 0 {
        return Err(RecordError::NotCanonical);
    }
    let serial = u64::from_be_bytes(rest.array()?);
    let public_key = PublicKey(rest.array()?);
    let slot: [u8; 5] = rest.array()?;
    let kind = match flags & HUB {
        0 => {
            let net = network(slot)?;
            RecordKind::Node(Slot::new(net).map_err(RecordError::Slot)?)
        }
        _ if slot == [0; 5] => RecordKind::Hub,
        _ => return Err(RecordError::NotCanonical),
    };
    let name = rest.text()?;
    let hubs = rest.list("hubs", MAX_HUBS, Reader::text)?;
    let networks = rest.list("networks", MAX_NETWORKS, |rest| network(rest.array()?))?;
    let endpoints = rest.list("endpoints", MAX_ENDPOINTS, Reader::endpoint)?;
    if !rest.0.is_empty() {
        return Err(RecordError::Length);
    }
    let revoked = flags & REVOKED != 0;
    let record = Record { public_key, name, kind, serial, revoked, hubs, networks, endpoints };
    record.check()?;
    Ok(record)
}

fn network([a, b, c, d, prefix]: [u8; 5]) -> Result<Ipv4Net, RecordError> {
    Ipv4Net::new(Ipv4Addr::new(a, b, c, d), prefix).map_err(|_| RecordError::NotCanonical)
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(RecordError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn text(&mut self) -> Result<String, RecordError> {
        let [length] = self.array()?;
        let (head, rest) = self.0.split_at_checked(length.into()).ok_or(RecordError::Length)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).map_err(|_| RecordError::NotCanonical)
    }

    fn list<T>(
        &mut self,
        what: &'static str,
        most: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let [many] = self.array()?;
        if usize::from(many) > most {
            return Err(RecordError::Many(many.into(), what, most));
        }
        (0..many).map(|_| item(self)).collect()
    }

    fn endpoint(&mut self) -> Result<Endpoint, RecordError> {
        let [kind] = self.array()?;
        match kind {
            4 => {
                let ip = Ipv4Addr::from(self.array::<4>()?);
                Ok(Endpoint::Address(SocketAddr::from((ip, self.port()?))))
            }
            6 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                Ok(Endpoint::Address(SocketAddr::from((ip, self.port()?))))
            }
            0 => Ok(Endpoint::Name { host: self.text()?, port: self.port()? }),
            _ => Err(RecordError::NotCanonical),
        }
    }

    fn port(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
}
