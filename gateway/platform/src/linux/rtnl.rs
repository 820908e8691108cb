//! What the rtnetlink users of this leaf share: a connection, errors as the kernel's codes, and links as plain facts.

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle,
    packet_core::Nla,
    packet_route::link::{InfoData, InfoKind, InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use crate::{DeviceFacts, HostError};

/// The alias (IFLA_IFALIAS) by which a device of ours is known.
pub const MARK: &str = "overlay-gw";

/// IFLA_TUN_TYPE of linux/if_link.h: one byte, IFF_TUN (1) or IFF_TAP (2).
const IFLA_TUN_TYPE: u16 = 3;

/// IFLA_TUN_NUM_QUEUES of linux/if_link.h: four bytes, given for a device that is made for several.
const IFLA_TUN_NUM_QUEUES: u16 = 8;

/// A connection to the kernel of the namespace that this thread is in, served by a task of the current runtime.
///
/// # Errors
/// When there is no netlink socket to be had.
pub fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The kernel's error in `error`, as an [`io::Error`].
pub fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// `error` as an error of the host, with what was asked.
pub fn refused(what: impl Into<String>, error: rtnetlink::Error) -> HostError {
    let (what, source) = (what.into(), io_error(error));
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => HostError::Permission { what, source },
        _ => HostError::Refused { what, source },
    }
}

/// The link called `name`, if there is one.
///
/// # Errors
/// When the kernel refuses to tell.
pub async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, HostError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(error) => match io_error(error.clone()).raw_os_error() {
            Some(libc::ENODEV) => Ok(None),
            _ => Err(refused(format!("ask for device {name}"), error)),
        },
    }
}

/// What `link` says of itself.
pub fn facts(link: &LinkMessage) -> DeviceFacts {
    let mut facts = DeviceFacts {
        ifindex: link.header.index,
        kind: "physical".to_owned(),
        marked: false,
        up: link.header.flags.contains(LinkFlags::Up),
        attached: link.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        mac: Vec::new(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) => facts.marked = alias == MARK,
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::Address(mac) => facts.mac.clone_from(mac),
            LinkAttribute::LinkInfo(infos) => {
                facts.kind = kind(infos);
                // A queue that is switched off keeps the carrier, and is nobody's at work: the number of the others tells.
                facts.attached = has_queues(infos).unwrap_or(facts.attached);
            }
            _ => {}
        }
    }
    if link.header.flags.contains(LinkFlags::Loopback) {
        "loopback".clone_into(&mut facts.kind);
    }
    facts
}

/// The name in `link`.
pub fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn kind(infos: &[LinkInfo]) -> String {
    let mut kind = String::from("unknown");
    let mut tap = false;
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Tun) => "tun".clone_into(&mut kind),
            LinkInfo::Kind(other) => kind = other.to_string(),
            LinkInfo::Data(InfoData::Tun(attributes)) => {
                tap = attributes.iter().any(is_tap);
            }
            _ => {}
        }
    }
    if kind == "tun" && tap { "tap".to_owned() } else { kind }
}

fn is_tap(nla: &InfoTun) -> bool {
    value(nla, IFLA_TUN_TYPE).is_some_and(|value| i32::from(u8::from_ne_bytes(value)) == libc::IFF_TAP)
}

/// Whether a process is attached to a device that is made for several queues; `None` for any other. A link that is down has no
/// carrier, but this.
fn has_queues(infos: &[LinkInfo]) -> Option<bool> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(attributes)) => attributes
            .iter()
            .find_map(|nla| value(nla, IFLA_TUN_NUM_QUEUES).map(|number| u32::from_ne_bytes(number) > 0)),
        _ => None,
    })
}

/// The value of an attribute, if `nla` is one of this kind and length.
fn value<const N: usize>(nla: &InfoTun, kind: u16) -> Option<[u8; N]> {
    let mut value = [0; N];
    (nla.kind() == kind && nla.value_len() == N).then(|| {
        nla.emit_value(&mut value);
        value
    })
}
