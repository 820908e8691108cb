//! Keeps the underlay outside of the overlay: tells the sockets of each change of the host's forwarding table.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{
    UdpTransport, forwarding, iphelper,
    subscription::{Subscription, Topic},
};
use crate::underlay_routes::UnderlayRoutes;

/// How often the table is looked at without being told. Notifications are reliable; this is for a host that refuses them.
const PACE: Duration = Duration::from_secs(10);

/// After a notification: the rest of the burst that it began comes within this, and a table that never rests is read no more often.
const BURST: Duration = Duration::from_millis(50);

/// Has `transport` send nothing into the overlay's device, called `device`: from now on by the routes that there are now, and by those of
/// later as long as what is returned runs, on a tokio runtime.
pub fn keep_underlay_outside(transport: Arc<UdpTransport>, device: String) -> impl Future<Output = ()> {
    if let Err(error) = tell(&transport, &device) {
        tracing::warn!(%error, "the host's routes cannot be read; one through the overlay may take the tunnel's own datagrams");
    }
    watch(transport, device)
}

async fn watch(transport: Arc<UdpTransport>, device: String) {
    let told = Arc::new(Notify::new());
    let _subscriptions =
        Subscription::to(&[Topic::Routes, Topic::Interfaces], &told).unwrap_or_else(|error| {
            tracing::warn!(%error, "changes of routes are not notified; they are looked for every {} s", PACE.as_secs());
            Vec::new()
        });
    loop {
        // What changed before the subscription as well. Without an answer the routes that were told last stay in force.
        if let Err(error) = tell(&transport, &device) {
            tracing::debug!(%error, "the host's routes cannot be read");
        }
        if tokio::time::timeout(PACE, told.notified()).await.is_ok() {
            tokio::time::sleep(BURST).await;
        }
    }
}

/// Tells the sockets of the routes that there are now.
fn tell(transport: &UdpTransport, device: &str) -> io::Result<()> {
    transport.set_routes(UnderlayRoutes::new(forwarding::rows()?, iphelper::luid_of(device)));
    Ok(())
}
