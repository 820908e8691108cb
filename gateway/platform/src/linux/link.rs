//! Wires between network namespaces: veth(4) pairs, for the demo and for tests.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        link::{InfoData, InfoVeth},
    },
};

use super::{netns, rtnl};

/// One end of a wire.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The interface's name, at most 15 bytes.
    pub name: &'a str,
    /// The network namespace that it is in.
    pub namespace: BorrowedFd<'a>,
    /// Its addresses.
    pub addresses: &'a [IpNet],
}

/// Makes a wire with the two ends up and their addresses assigned. IPv6 addresses can be used at once (no duplicate
/// address detection).
///
/// # Errors
/// What the kernel reports; without CAP_NET_ADMIN in both namespaces `PermissionDenied`.
pub fn veth(left: End<'_>, right: End<'_>) -> io::Result<()> {
    in_namespace(left.namespace, async |handle| {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(right.name)
            .setns_by_fd(right.namespace.as_raw_fd())
            .build();
        let pair = LinkVeth::new(left.name, right.name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        handle.link().add(pair.build()).execute().await.map_err(rtnl::io_error)
    })?;
    for end in [left, right] {
        in_namespace(end.namespace, async |handle| bring_up(&handle, end.name, end.addresses).await)?;
    }
    Ok(())
}

/// Brings the loopback interface of `namespace` up.
///
/// # Errors
/// What the kernel reports.
pub fn loopback_up(namespace: BorrowedFd<'_>) -> io::Result<()> {
    in_namespace(namespace, async |handle| bring_up(&handle, "lo", &[]).await)
}

/// Sets the interface called `name` in `namespace` up or down.
///
/// # Errors
/// What the kernel reports.
pub fn set_up(namespace: BorrowedFd<'_>, name: &str, up: bool) -> io::Result<()> {
    in_namespace(namespace, async |handle| {
        let link = LinkUnspec::new_with_index(index(&handle, name).await?);
        let link = if up { link.up() } else { link.down() };
        handle.link().set(link.build()).execute().await.map_err(rtnl::io_error)
    })
}

async fn index(handle: &Handle, name: &str) -> io::Result<u32> {
    let mut links = handle.link().get().match_name(name).execute();
    let link = links.try_next().await.map_err(rtnl::io_error)?;
    link.map(|link| link.header.index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

async fn bring_up(handle: &Handle, name: &str, addresses: &[IpNet]) -> io::Result<()> {
    let index = index(handle, name).await?;
    for net in addresses {
        let mut request = handle.address().add(index, net.addr(), net.prefix_len());
        if net.addr().is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        request.execute().await.map_err(rtnl::io_error)?;
    }
    let link = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(link).execute().await.map_err(rtnl::io_error)
}

/// Runs `work` within `namespace`, on a thread and a runtime of its own, so that the caller may be anywhere.
fn in_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl AsyncFnOnce(Handle) -> io::Result<T> + Send,
) -> io::Result<T> {
    netns::run_in(namespace, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { work(rtnl::connect()?).await })
    })
}
