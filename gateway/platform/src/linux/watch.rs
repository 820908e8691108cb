//! Watching the device: an address or the link changed, by us or by anybody else.
//!
//! The kernel's messages only say **that** something changed; what is there now is asked for anew, so that neither a
//! lost message nor one out of order matters.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, link::LinkFlags},
    sys::SocketAddr,
};
use tokio::time::{Instant, timeout_at};

use super::{host, rtnl};
use crate::HostError;

/// A burst is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(3);

/// A burst is cut after this long: a fifth of the time in which an address must take effect.
const LONGEST_BURST: Duration = Duration::from_millis(20);

/// What the device is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It is there.
    Present {
        /// The kernel's number for it: another one than before means another device.
        ifindex: u32,
        /// Whether it is administratively up.
        up: bool,
        /// Its IPv4 addresses, in the kernel's order.
        addresses: Vec<Ipv4Net>,
    },
    /// There is no device of that name.
    Gone,
}

/// Tells each time what a device is like.
pub struct DeviceWatch {
    device: String,
    handle: Handle,
    events: Events,
    last: Option<DeviceState>,
    /// A message has come since the device was last asked. Kept here, for when `next` is dropped in between.
    stale: bool,
    /// The link has been down since [`DeviceWatch::take_went_down`] was last called, however briefly.
    went_down: bool,
}

type Events = Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send + Unpin>;

impl std::fmt::Debug for DeviceWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceWatch").field("device", &self.device).finish_non_exhaustive()
    }
}

impl DeviceWatch {
    /// Watches the device called `device`, in the namespace that this thread is in. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn new(device: &str) -> Result<Self, HostError> {
        Ok(Self {
            device: device.to_owned(),
            handle: rtnl::connect().map_err(no_socket)?,
            events: subscribe()?,
            last: None,
            stale: true,
            went_down: false,
        })
    }

    /// The device as it is now, the first time at once, then each time something of it changed. Cancel-safe: a change
    /// that is not delivered is delivered by the next call.
    ///
    /// # Errors
    /// When the kernel cannot be asked any more.
    pub async fn next(&mut self) -> Result<DeviceState, HostError> {
        loop {
            if !self.stale {
                self.burst().await?;
            }
            let state = self.query().await?;
            self.stale = false;
            if self.last.as_ref() != Some(&state) || self.went_down {
                self.last = Some(state.clone());
                return Ok(state);
            }
        }
    }

    /// Takes what the caller has found by asking for himself: the next change is one from there. Otherwise a change that he has
    /// seen and that is undone before [`DeviceWatch::next`] asks would leave him with it for ever.
    pub fn learnt(&mut self, state: DeviceState) {
        self.last = Some(state);
    }

    /// Whether the link has been down since the last call. It may be up again by the time that it is asked for, without the
    /// routes that it had.
    pub fn take_went_down(&mut self) -> bool {
        std::mem::take(&mut self.went_down)
    }

    /// Notes what only the message tells.
    fn note(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        let Some(DeviceState::Present { ifindex, .. }) = self.last else { return };
        match &message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                self.went_down |= link.header.index == ifindex && !link.header.flags.contains(LinkFlags::Up);
            }
            // Nobody knows what was in the lost ones.
            NetlinkPayload::Overrun(_) => self.went_down = true,
            _ => {}
        }
    }

    /// Waits for a message, and until the burst that it begins is over.
    async fn burst(&mut self) -> Result<(), HostError> {
        let mut end = None;
        loop {
            let event = match end {
                None => self.events.next().await,
                Some(end) => match timeout_at((Instant::now() + QUIET).min(end), self.events.next()).await {
                    Ok(event) => event,
                    Err(_) => return Ok(()),
                },
            };
            match event {
                Some((message, _)) if !tells(&message) => {}
                Some((message, _)) => {
                    self.note(&message);
                    self.stale = true;
                    end.get_or_insert_with(|| Instant::now() + LONGEST_BURST);
                }
                None => {
                    // The socket failed: what was missed is seen by asking.
                    (self.stale, self.went_down) = (true, true);
                    self.events = subscribe()?;
                    return Ok(());
                }
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(());
            }
        }
    }

    async fn query(&self) -> Result<DeviceState, HostError> {
        let Some(link) = rtnl::link(&self.handle, &self.device).await? else {
            return Ok(DeviceState::Gone);
        };
        let facts = rtnl::facts(&link);
        let held = host::addresses(&self.handle).await?;
        let addresses =
            held.into_iter().filter(|(index, _)| *index == facts.ifindex).map(|(_, net)| net).collect();
        Ok(DeviceState::Present { ifindex: facts.ifindex, up: facts.up, addresses })
    }
}

fn no_socket(source: std::io::Error) -> HostError {
    HostError::Refused { what: "watch the addresses of the host".into(), source }
}

fn subscribe() -> Result<Events, HostError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups).map_err(no_socket)?;
    tokio::spawn(connection);
    Ok(Box::new(messages))
}

/// Whether `message` may be about addresses or links. An overrun (ENOBUFS: the kernel dropped messages) may be about
/// anything.
fn tells(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => matches!(
            inner,
            RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
                | RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_)
        ),
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}
