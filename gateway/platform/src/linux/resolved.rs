//! DNS servers of the device through systemd-resolved (org.freedesktop.resolve1). /etc/resolv.conf is never touched.
//!
//! The servers are set for our link alone and no search domain is set; what other links have stays. The link takes part
//! in resolving every name (`SetLinkDefaultRoute(true)`): the domain controllers behind the overlay know names that
//! the host's other servers do not, and nobody has listed their domains. resolved asks the links side by side and takes
//! the first good answer, so the host's own names resolve as before.

use std::{net::Ipv4Addr, time::Duration};

use zbus::{Connection, DBusError, OwnedObjectPath, Variant, connection::Builder};

use crate::HostError;

const SERVICE: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";
const LINK: &str = "org.freedesktop.resolve1.Link";

/// How long one answer of the bus or of resolved is waited for: a resolved that hangs must not hold up the start.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where resolved is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BusAddress {
    /// The system bus.
    #[default]
    System,
    /// The bus at this D-Bus address, for instance `unix:path=/run/test/bus`.
    At(String),
}

/// What came of setting DNS servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsOutcome {
    /// They are set.
    Set,
    /// resolved does not run: nothing was changed, and the operator must be told.
    NoResolved,
}

/// A connection to a resolved that runs.
#[derive(Clone, Debug)]
pub struct Resolved {
    connection: Connection,
}

impl Resolved {
    /// Connects; `None` when there is no bus, or no resolved on it. Does not start one.
    pub async fn connect(bus: &BusAddress) -> Option<Self> {
        let builder = match bus {
            BusAddress::System => Builder::system(),
            BusAddress::At(address) => Builder::address(address.as_str()),
        };
        let connected = builder.method_timeout(PATIENCE).build().await;
        let connection = connected.inspect_err(|error| tracing::debug!(%error, "no bus")).ok()?;
        let bus = "org.freedesktop.DBus";
        let reply = connection
            .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "NameHasOwner", &SERVICE)
            .await
            .ok()?;
        let runs: bool = reply.body().deserialize().ok()?;
        runs.then_some(Self { connection })
    }

    /// Sets `servers` as the DNS servers of the link with the number `ifindex`.
    ///
    /// # Errors
    /// [`HostError::Dns`] with what resolved said.
    pub async fn set(&self, ifindex: u32, servers: &[Ipv4Addr]) -> Result<DnsOutcome, HostError> {
        let index = index(ifindex);
        let list: Vec<(i32, Vec<u8>)> =
            servers.iter().map(|server| (libc::AF_INET, server.octets().to_vec())).collect();
        let set = async {
            self.call("SetLinkDNS", &(index, list)).await?;
            self.call("SetLinkDefaultRoute", &(index, true)).await
        };
        match set.await {
            Ok(()) => Ok(DnsOutcome::Set),
            Err(error) if is_gone(&error) => Ok(DnsOutcome::NoResolved),
            Err(error) => Err(HostError::Dns { servers: servers.to_vec(), text: error.to_string() }),
        }
    }

    /// Gives up every setting of the link with the number `ifindex`.
    ///
    /// # Errors
    /// [`HostError::Dns`] with what resolved said.
    pub async fn revert(&self, ifindex: u32) -> Result<(), HostError> {
        match self.call("RevertLink", &(index(ifindex),)).await {
            Err(error) if !is_gone(&error) => {
                Err(HostError::Dns { servers: Vec::new(), text: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// The IPv4 DNS servers of the link with the number `ifindex`; `None` when resolved does not tell.
    pub async fn servers(&self, ifindex: u32) -> Option<Vec<Ipv4Addr>> {
        let reply = self
            .connection
            .call_method(Some(SERVICE), PATH, Some(MANAGER), "GetLink", &(index(ifindex),))
            .await
            .ok()?;
        let path: OwnedObjectPath = reply.body().deserialize().ok()?;
        let properties = Some("org.freedesktop.DBus.Properties");
        let reply =
            self.connection.call_method(Some(SERVICE), path, properties, "Get", &(LINK, "DNS")).await.ok()?;
        let body = reply.body();
        let value: Variant<'_> = body.deserialize().ok()?;
        let list = Vec::<(i32, Vec<u8>)>::try_from(value).ok()?;
        Some(
            list.into_iter().filter_map(|(_, bytes)| Some(<[u8; 4]>::try_from(bytes).ok()?.into())).collect(),
        )
    }

    async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<()>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType + Sync,
    {
        self.connection.call_method(Some(SERVICE), PATH, Some(MANAGER), method, body).await.map(drop)
    }
}

/// resolved's number for a link is a signed one.
fn index(ifindex: u32) -> i32 {
    i32::try_from(ifindex).unwrap_or(i32::MAX)
}

/// Whether `error` says that resolved went away meanwhile.
fn is_gone(error: &zbus::Error) -> bool {
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str(),
        zbus::Error::FDO(error) => return is_gone_by_name(error.name().as_str()),
        zbus::Error::InputOutput(_) => return true,
        _ => return false,
    };
    is_gone_by_name(name)
}

fn is_gone_by_name(name: &str) -> bool {
    matches!(
        name.strip_prefix("org.freedesktop.DBus.Error."),
        Some("ServiceUnknown" | "NameHasNoOwner" | "NoReply" | "Disconnected")
    )
}
